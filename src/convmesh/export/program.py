"""What an exported file computes: images of any size in, the task's results in their pixels out."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convmesh.data.augmentation.eval_view import EvalView
from convmesh.export.input_view import boxes_to_original, view_in_graph
from convmesh.ops.forms import plain_form
from convmesh.steps.setup import Setup
from convmesh.steps.step import predict_step

IMAGE = "image"  # the input
DTYPES = {"float32": jnp.float32, "float16": jnp.float16}
NO_SUPPRESSION = 1.0  # a threshold of IoU that none is above


@dataclasses.dataclass(frozen=True, eq=False)  # jit needs a hash
class Program:
    """A run's model with its pre- and post-processing, for evaluation.

    variables: host arrays. batch: the number of images, or None for any.
    """

    setup: Setup
    variables: Any
    batch: int | None = None

    def __call__(self, variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        """The results for `images` uint8 [batch, height, width, 3] RGB, all of one size.

        A detector's: `boxes` float32 [batch, n, 4], x0 y0 x1 y1 in pixels of the image, best first;
        `labels` int32, `scores`, `class_confidence`, `box_confidence` float32 and `valid` bool,
        [batch, n]. A classifier's: `probabilities` float32 [batch, classes].
        """
        setup = self.setup
        pixels, scale, offset = view_in_graph(images, EvalView.of(setup.config))
        outputs = predict_step(variables, pixels, setup.model, setup.task)
        if setup.config.task == "detect":
            height, width = images.shape[1:3]
            boxes = boxes_to_original(outputs["boxes"], scale, offset, height, width)
            outputs = outputs | {"boxes": boxes}
        return outputs

    @property
    def shape(self) -> str:
        """The shape of the input, with names for the sizes that may be any."""
        return f"{self.batch or 'batch'}, height, width, 3"

    @property
    def image(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of the input, with symbols for the sizes that may be any."""
        shape = jax.export.symbolic_shape(self.shape)
        return jax.ShapeDtypeStruct(shape, np.uint8)

    def trace(self) -> tuple[Any, dict[str, jax.ShapeDtypeStruct]]:
        """The traced program (a closed jaxpr of the leaves of variables and the images), and the
        shape of each result, in the order of the jaxpr's.
        """
        with plain_form():
            jaxpr, outputs = jax.make_jaxpr(self, return_shape=True)(self.variables, self.image)
        return jaxpr, dict(sorted(outputs.items()))


def exported_setup(setup: Setup, precision: str, nms: str) -> Setup:
    """`setup` for an export: the model computes in `precision`; `nms` "none" suppresses nothing.

    Without suppression the result has all candidates of the task, not max_detections.
    """
    task = setup.task
    if nms == "none":
        count = getattr(task, "candidates", task.max_detections)
        task = dataclasses.replace(task, iou_threshold=NO_SUPPRESSION, max_detections=count)
    return dataclasses.replace(setup, model=setup.model.clone(dtype=DTYPES[precision]), task=task)


def metadata(setup: Setup, precision: str, nms: str, imported: bool = False) -> dict[str, Any]:
    """What an exported file says about itself, in the order of its importance.

    imported: whether the run began as a file of weights, not with random ones.
    """
    config = setup.config
    view = EvalView.of(config)
    detect = config.task == "detect"
    fit = "letterbox" if detect else "centre crop"
    resize = f"shorter side to {view.resize}, {view.interpolation}" if view.resize else fit
    return {
        "classes": list(setup.classes),
        "task": config.task,
        "model": setup.model_name,
        "input": "uint8 [batch, height, width, 3], RGB, upright, any height and width",
        "preprocessing": {
            "inside": True,
            "image_size": list(view.size),
            "resize": resize,
            "mean": list(setup.task.pixels.mean),
            "std": list(setup.task.pixels.std),
        },
        "precision": precision,
        **({"nms": nms, "iou_threshold": setup.task.iou_threshold} if detect else {}),
        "license": _licence(config.init_from, imported),
        "convmesh": importlib.metadata.version("convmesh"),
    }


def _licence(init_from: str, imported: bool) -> str:
    if imported:
        return (
            "These weights, or those that they were trained from, were imported into convmesh "
            "(Apache-2.0) from a file of weights; its licence and those of the images that they "
            "learned from apply."
        )
    start = f"weights of init_from={init_from}" if init_from else "random weights"
    return (
        "These weights belong to whoever trained them. They were trained with convmesh "
        f"(Apache-2.0) from {start}; the licences of what they started from and of the images they "
        "learned from apply."
    )
