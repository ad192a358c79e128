"""Models: linen modules written as for one device, and the plain dict of their names.

To add one: write its file, and add its line here. A classifier is called as
`model(images, train) -> logits [batch, classes]`; a detector gives a `detector.DetectorOutput`.
"""

import importlib

from convmesh.errors import ConfigError, nearest

# name: (task, module, attribute), imported when asked for
MODELS = {
    "small_cnn": ("classify", "convmesh.models.small_cnn", "SmallCNN"),
    "resnet18": ("classify", "convmesh.models.resnet", "ResNet18"),
    "detector_nano": ("detect", "convmesh.models.detector", "DetectorNano"),
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


def make_model(name: str, task: str, classes: int, dtype):
    """The model called `name`, for that many classes, computing in `dtype`.

    Raises ConfigError as `check_model`.
    """
    check_model(name, task)
    _, module, attribute = MODELS[name]
    return getattr(importlib.import_module(module), attribute)(classes=classes, dtype=dtype)
