"""The same training step in PyTorch, in a separate process: `convmesh bench --compare torch`.

Two libraries in one process share an allocator and keep threads spinning: in the same process as
torch, a step of ours took 1.5 times as long. `convmesh.bench.torch_step` is the program of that
process; nothing here imports torch.
"""

import dataclasses
import importlib.util
import pickle
import subprocess
import sys
import time

from ml_collections import ConfigDict

from convmesh.config import to_json
from convmesh.errors import ConfigError, DataError
from convmesh.steps.setup import Setup

REST = 0.2  # seconds for the threads of one process to sleep before the other's turn


@dataclasses.dataclass(frozen=True)
class ResNetSizes:
    """As the fields of `convmesh.models.resnet.ResNet`."""

    blocks: tuple[int, ...]
    bottleneck: bool = False


@dataclasses.dataclass(frozen=True)
class DetectorSizes:
    """As the fields of `convmesh.models.detector.Detector` and its backbone."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    features: int


# The models that torch_step builds.
MODELS: dict[str, ResNetSizes | DetectorSizes] = {
    "resnet18": ResNetSizes((2, 2, 2, 2)),
    "resnet34": ResNetSizes((3, 4, 6, 3)),
    "resnet50": ResNetSizes((3, 4, 6, 3), bottleneck=True),
    "detector_nano": DetectorSizes((40, 48, 96, 144), (0, 1, 1, 1), 40),
    "detector_tiny": DetectorSizes((8, 8, 16, 16), (1, 1, 1, 1), 16),
}
# The keys for which torch_step supports only one value.
ONLY_VALUES = {
    "train.accumulate": 1,
    "train.frozen_stages": 0,
    "train.frozen_norms": "false",
    "model.backbone": "",
    "model.norm_group": 0,
    "model.remat": False,
    "optimizer.backbone_rate": 1,
    "optimizer.layer_decay": 1,
    "loss.assignment": "aligned",
    "loss.balance": 0,
    "model.dropout": 0,
    "model.stochastic_depth": 0,
}
OPTIMIZERS = ("adamw", "sgd")  # of torch_step


def check_supported(config: ConfigDict) -> None:
    """Raises ConfigError if the step in PyTorch does not support the config."""
    if config.model.name not in MODELS:
        raise ConfigError(
            f"bench --compare torch: model.name={config.model.name} is not among its models: "
            f"{', '.join(MODELS)}"
        )
    if config.precision == "float64":
        raise ConfigError(
            "bench --compare torch: precision=float64 is not supported; use float32 or bfloat16"
        )
    if config.optimizer.name not in OPTIMIZERS:
        raise ConfigError(
            f"bench --compare torch: optimizer.name={config.optimizer.name} is not supported; use "
            f"{' or '.join(OPTIMIZERS)}"
        )
    # The step mixes the images of classifiers; those of detectors come mixed from the input.
    for name in ("mixup", "cutmix") if config.task == "classify" else ():
        if config.data.augment[name]:
            raise ConfigError(
                f"bench --compare torch: data.augment.{name}={config.data.augment[name]} is not "
                "supported; set it to 0"
            )
    for key, value in ONLY_VALUES.items():
        group, name = key.split(".")
        current = config[group].get(name, value) if group in config else value
        if current != value:
            shown = "''" if value == "" else value
            raise ConfigError(
                f"bench --compare torch: {key}={current} is not supported; set it to {shown}"
            )


class TorchBaseline:
    """The recipe's training step in PyTorch, on the same devices; a context manager.

    Attributes:
      name: "torch" and its version.
      parameters: number of parameters of the model.
    """

    def __init__(self, setup: Setup) -> None:
        """Starts the process.

        Raises ConfigError if torch is not installed or its step does not support the config,
        DataError if the process fails.
        """
        if importlib.util.find_spec("torch") is None:
            raise ConfigError(
                "bench --compare torch: PyTorch is not installed; pip install 'convmesh[torch]'"
            )
        check_supported(setup.config)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "convmesh.bench.torch_step"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        on_gpu = setup.mesh.devices.flat[0].platform == "gpu"
        config = setup.config.copy_and_resolve_references()
        config.precision = setup.precision
        request = pickle.dumps((to_json(config), setup.classes, on_gpu))
        self._send(len(request).to_bytes(8, "little") + request)
        self.name = self._receive()
        if not self.name.startswith("torch "):
            self.close()
            raise ConfigError(f"bench --compare torch: {self.name}")
        self.parameters = int(self._receive())

    def step(self) -> float:
        """Runs a step and returns its seconds."""
        time.sleep(REST)
        self._send(b"\n")
        seconds = float(self._receive())
        time.sleep(REST)
        return seconds

    def _send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def _receive(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode().strip()
        if not line:
            self.close()
            raise DataError("bench --compare torch: its process failed; see above")
        return line

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> "TorchBaseline":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
