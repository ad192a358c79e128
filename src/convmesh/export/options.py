"""The options of `convmesh export`. The command line reads them before JAX is imported."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ExportOptions:
    """What is written.

    format: "onnx" or "stablehlo". step, best: which checkpoint, by default the newest. batch: the
    number of images of a call, None: any. precision: "float32" or "float16", of the network. nms:
    "inside", or "none" for all candidates of a detector without suppression.
    """

    format: str = "onnx"
    step: int | None = None
    best: bool = False
    batch: int | None = None
    precision: str = "float32"
    nms: str = "inside"
