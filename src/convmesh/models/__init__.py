"""Models: linen modules written as for one device, and the plain dict of their names.

To add one: write its file, and add its line here. A classifier is called as
`model(images, train) -> logits [batch, classes]`; a detector gives a `detector.DetectorOutput` and
has `strides`.
"""

import importlib

from convmesh.errors import ConfigError, nearest

# name: (task, module, attribute), imported when asked for
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
    """Raises ConfigError for a name that is not there, or is a model of the other task."""
    names = [n for n, (its_task, *_) in MODELS.items() if its_task == task]
    if name not in names:
        raise ConfigError(
            f"model.name={name!r}: no such model for task {task!r}{nearest(name, names)}; "
            f"there are: {', '.join(names)}"
        )


def make_model(name: str, task: str, classes: int, dtype, norm_group: int = 0, remat: bool = False):
    """The model called `name`, for that many classes, computing in `dtype`.

    `norm_group` is the number of examples that batch norm takes together, 0 for the whole batch;
    `remat` computes the inside of its blocks again in the backward pass. Raises ConfigError as
    `check_model`, and for either one given to a model without batch norm or without blocks.
    """
    check_model(name, task)
    _, module, attribute = MODELS[name]
    model = getattr(importlib.import_module(module), attribute)(classes=classes, dtype=dtype)
    for key, value, what in (
        ("norm_group", norm_group, "batch norm; leave it at 0"),
        ("remat", remat, "blocks; leave it at false"),
    ):
        if value and not hasattr(model, key):
            raise ConfigError(f"model.{key}={value}: {name} has no {what}")
        if value:
            model = model.clone(**{key: value})
    return model
