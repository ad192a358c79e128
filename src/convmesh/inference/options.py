"""The options of `convmesh predict`. The command line reads them before JAX is imported."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PredictOptions:
    """Options of prediction and output.

    threshold: minimum score of a detection. iou: IoU above which a detection is suppressed; None:
      the task's own. max_detections: per image. These three are for detectors.
    top_k: number of classes per image, best first; for classifiers.
    batch_size: images that are read and predicted together.
    save_txt: whether to write a text file for each image.
    """

    threshold: float = 0.3
    iou: float | None = None
    max_detections: int = 100
    top_k: int = 5
    batch_size: int = 8
    save_txt: bool = False


DEFAULT_OPTIONS = PredictOptions()
