"""What every detection task has: the options of its predictions, and what follows on the host."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convmesh.data.placement import Placement
from convmesh.geometry import pairwise_intersection_union
from convmesh.tasks import average_precision, detection_report
from convmesh.tasks.base import PixelScale, Task
from convmesh.tasks.matching import Images, match


@dataclasses.dataclass(frozen=True)
class Detection(Task):
    """The base of detection tasks, for images of `image_size` (height, width).

    A subclass has `sums`, which includes the counts `images`, `positive_points`,
    `boxes_without_point` and `boxes_truncated`, and `predict`, which returns detections of each
    image, best first, in pixels of the network's input: `boxes` [batch, n, 4], `labels` int32,
    `scores`, `class_confidence`, `box_confidence`, `valid` bool, each [batch, n], n <=
    max_detections. Its defaults of the options are those of its model.
    """

    classes: int
    image_size: tuple[int, int]
    score_threshold: float = 0.001  # for evaluation; drawings use a higher one
    iou_threshold: float = 0.65  # of non-maximum suppression
    max_detections: int = 100
    pixels: PixelScale = PixelScale()

    best_metric = "AP"

    def finish(self, sums: dict[str, Any]) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The loss and its parts, divided by the total of all images; and counts."""
        total = self.divisor(sums)
        numbers = {name: v / total for name, v in sums.items() if name.startswith("loss/")}
        numbers["positive_points"] = sums["positive_points"] / jnp.maximum(sums["images"], 1)
        for name in ("boxes_without_point", "boxes_truncated"):
            numbers[name] = sums[name]
        return sums["loss"] / total, numbers

    def to_host(self, output: dict[str, Any], placement: Placement) -> dict[str, Any]:
        """The valid detections of one image, with boxes in pixels of the original image.

        `output`: `predict`'s arrays of that image. `placement`: of the image in the input.
        """
        found = {name: np.asarray(value)[output["valid"]] for name, value in output.items()}
        shift = np.tile(placement.offset, 2)
        height, width = placement.original_size
        boxes = (found["boxes"] - shift) / placement.scale
        found["boxes"] = np.clip(boxes, 0, np.array([width, height] * 2)).astype(np.float32)
        del found["valid"]
        return found

    def distinct(self, found: dict[str, Any]) -> dict[str, Any]:
        """The detections of `to_host` after class-agnostic suppression at `iou_threshold`.

        For drawings and predictions; evaluation keeps the detections of every class.
        """
        return keep_distinct(found, self.iou_threshold)

    def metrics(self, truth: Images, found: Images, classes: Sequence[str]) -> dict[str, float]:
        """AP and AR as COCO defines them, of `found` (`to_host`) against `truth`.

        Also `best_threshold`, the score threshold with the best F1, and that `F1`.
        """
        metrics = average_precision.coco_metrics(truth, found, classes)
        return metrics | detection_report.best_f1(match(truth, found, classes))

    def results(
        self, found: Images, classes: Sequence[str], category_ids: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """`found` in the COCO results format; `category_ids`: the data set's id of each class."""
        return average_precision.coco_results(found, classes, category_ids)

    def table(self, metrics: Mapping[str, float | None], classes: Sequence[str]) -> str:
        """The metrics as a table for the console."""
        return average_precision.ap_table(metrics, classes)


def keep_distinct(found: dict[str, Any], threshold: float) -> dict[str, Any]:
    """The detections of one image, best first, after greedy suppression across the classes.

    found: `boxes` [n, 4] and other arrays [n, ...]. A detection is dropped if its IoU with a better
    one that is kept is above `threshold`.
    """
    both, union = pairwise_intersection_union(found["boxes"], found["boxes"])
    overlaps = both > threshold * union
    kept: list[int] = []
    for i in range(len(overlaps)):
        if not overlaps[i, kept].any():
            kept.append(i)
    is_array = lambda value: isinstance(value, np.ndarray)  # noqa: E731
    return {k: v[kept] if is_array(v) else v for k, v in found.items()}
