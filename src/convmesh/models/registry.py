"""The models by name: linen modules of `layers`, written as for one device.

To add a model, write a file with its linen module and add a line to `MODELS`. The module has the
attributes `classes` and `dtype`, and may have `norm_group` (with batch norm) and `remat` (with
residual blocks). A classifier is called as `model(images, train) -> logits [batch, classes]`; a
detector returns a `detector.DetectorOutput` and has `strides`. Layers named as in `depth` can be
frozen. Names are torchvision's if it has the model.
"""

import importlib
from typing import Any

from convmesh.errors import ConfigError, nearest

# name: (task, module, attribute); modules are imported when needed
MODELS = {
    "small_cnn": ("classify", "convmesh.models.small_cnn", "SmallCNN"),
    "resnet18": ("classify", "convmesh.models.resnet", "ResNet18"),
    "resnet34": ("classify", "convmesh.models.resnet", "ResNet34"),
    "resnet50": ("classify", "convmesh.models.resnet", "ResNet50"),
    "detector_nano": ("detect", "convmesh.models.detector", "DetectorNano"),
    "detector_small": ("detect", "convmesh.models.detector", "DetectorSmall"),
    "detector_medium": ("detect", "convmesh.models.detector", "DetectorMedium"),
    "detector_large": ("detect", "convmesh.models.detector", "DetectorLarge"),
    "detector_resnet50": ("detect", "convmesh.models.detector", "DetectorResNet50"),
    "detector_resnet50_p7": ("detect", "convmesh.models.detector", "DetectorResNet50P7"),
    "detector_tiny": ("detect", "convmesh.models.detector", "DetectorTiny"),
}


def check_model(name: str, task: str) -> None:
    """Raises ConfigError if there is no model `name` for `task`."""
    names = [n for n, (its_task, *_) in MODELS.items() if its_task == task]
    if name not in names:
        raise ConfigError(
            f"model.name={name!r}: no such model for task {task!r}{nearest(name, names)}; "
            f"the models are {', '.join(names)}"
        )


def make_model(
    name: str, task: str, classes: int, dtype: Any, norm_group: int = 0, remat: bool = False
) -> Any:
    """The model `name` for `classes` classes, with compute dtype `dtype`.

    `norm_group` is the number of examples that batch norm normalises together, 0 for the global
    batch; `remat` recomputes the activations of its blocks in the backward pass. Raises ConfigError
    as `check_model`, and if the model has no batch norm or no blocks for these options.
    """
    check_model(name, task)
    _, module, attribute = MODELS[name]
    model = getattr(importlib.import_module(module), attribute)(classes=classes, dtype=dtype)
    for key, value, missing in (
        ("norm_group", norm_group, "batch norm; leave it at 0"),
        ("remat", remat, "blocks; leave it at false"),
    ):
        if value and not hasattr(model, key):
            raise ConfigError(f"model.{key}={value}: {name} has no {missing}")
        if value:
            model = model.clone(**{key: value})
    return model
