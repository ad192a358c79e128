"""The tasks by name. To add one, write a module with its `Task` (see `base`) and add it here."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from convmesh.geometry import STRIDES
from convmesh.tasks.base import PixelScale
from convmesh.tasks.classify import Classify
from convmesh.tasks.detect import Detect


def make_task(config: ConfigDict, classes: int, model: Any = None) -> Classify | Detect:
    """The task named by `config.task`, for `classes` classes.

    A detector's strides are those of `model`; without a model, the usual ones.
    """
    height, width = config.data.image_size
    pixels = PixelScale(tuple(config.data.pixel_mean), tuple(config.data.pixel_std))
    if config.task == "detect":
        options = config.loss
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
    return Classify(classes, (height, width), pixels)
