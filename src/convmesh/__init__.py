"""convmesh: sharded training of convolutional classifiers and detectors in JAX.

The names below are all that most users need. Each is imported when it is first used, so that
`import convmesh` starts neither JAX nor anything else that is slow.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convmesh.config import load_config
    from convmesh.devices import simulate_devices
    from convmesh.evaluation import evaluate
    from convmesh.prediction import Classifier, Detector
    from convmesh.training import train

__all__ = ["Classifier", "Detector", "evaluate", "load_config", "simulate_devices", "train"]

_HOME = {
    "Classifier": "convmesh.prediction",
    "Detector": "convmesh.prediction",
    "evaluate": "convmesh.evaluation",
    "load_config": "convmesh.config",
    "simulate_devices": "convmesh.devices",
    "train": "convmesh.training",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("convmesh")
    if name not in _HOME:
        raise AttributeError(f"module 'convmesh' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
