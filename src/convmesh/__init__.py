"""convmesh: sharded training of convolutional classifiers and detectors in JAX.

Most users need only these names. Each is imported on first use, so `import convmesh` imports
neither JAX nor any other slow module.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convmesh.config import load_config
    from convmesh.distributed.devices import simulate_devices
    from convmesh.inference.evaluation import evaluate
    from convmesh.inference.prediction import Classifier, Detector
    from convmesh.training.loop import train

__all__ = ["Classifier", "Detector", "evaluate", "load_config", "simulate_devices", "train"]

_MODULES = {
    "Classifier": "convmesh.inference.prediction",
    "Detector": "convmesh.inference.prediction",
    "evaluate": "convmesh.inference.evaluation",
    "load_config": "convmesh.config",
    "simulate_devices": "convmesh.distributed.devices",
    "train": "convmesh.training.loop",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("convmesh")
    if name not in _MODULES:
        raise AttributeError(f"module 'convmesh' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
