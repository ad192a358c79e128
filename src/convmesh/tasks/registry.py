"""The tasks by name. To add one, write a module with its `Task` (see `base`) and add it here.

A detector of another design has a task of its own: its model names it in the attribute
`detection`, and it is a row of `DETECTIONS`.
"""

from __future__ import annotations

import importlib
from typing import Any

from ml_collections import ConfigDict

from convmesh.config.keys import KEYS
from convmesh.errors import ConfigError
from convmesh.geometry import STRIDES
from convmesh.tasks.base import PixelScale, Task
from convmesh.tasks.classify import Classify
from convmesh.tasks.detect import Detect

# The attribute `detection` of a model: module, and class of the task (a `detection.Detection`),
# made as cls(classes, image_size, pixels=..., **model.detection_options).
DETECTIONS: dict[str, tuple[str, str]] = {
    "retinanet": ("convmesh.tasks.retinanet", "RetinaNetDetection"),
    "fcos": ("convmesh.tasks.fcos", "FCOSDetection"),
    "ssd": ("convmesh.tasks.ssd", "SSD"),
    "faster_rcnn": ("convmesh.tasks.faster_rcnn", "FasterRCNNDetection"),
}


def make_task(config: ConfigDict, classes: int, model: Any = None) -> Task:
    """The task named by `config.task`, for `classes` classes.

    A detector's task and strides are those of `model`; without a model, those of the dense
    detector. Raises ConfigError for a key of another detector's loss.
    """
    height, width = config.data.image_size
    pixels = PixelScale(tuple(config.data.pixel_mean), tuple(config.data.pixel_std))
    if config.task == "classify":
        smoothing = config.loss.label_smoothing
        return Classify(classes, (height, width), pixels, smoothing=smoothing)
    options = config.loss
    if name := getattr(model, "detection", ""):
        for key, value in options.items():
            if KEYS[f"loss.{key}"].task == "detect" and value != KEYS[f"loss.{key}"].default:
                raise ConfigError(
                    f"loss.{key}={value}: {config.model.name} has a loss of its own; leave it at "
                    f"{KEYS[f'loss.{key}'].default}"
                )
        module, attribute = DETECTIONS[name]
        task = getattr(importlib.import_module(module), attribute)
        return task(classes, (height, width), pixels=pixels, **model.detection_options)
    return Detect(
        classes,
        (height, width),
        class_weight=options.class_weight,
        distribution_weight=options.distribution_weight,
        box_confidence=options.box_confidence,
        assignment=options.assignment,
        strides=STRIDES if model is None else model.strides,
        pixels=pixels,
    )
