"""A rival in a process of its own, that takes a step whenever it is asked to.

Of its own, since two libraries in one process share an allocator and keep threads spinning: beside
torch a step of ours took half as long again.
"""

import importlib.util
import pickle
import subprocess
import sys
import time

from convmesh.config import to_json
from convmesh.errors import ConfigError, DataError

REST = 0.2  # seconds for a process's threads to go to sleep before the other's turn


class Torch:
    """The recipe's training step in PyTorch, on the same devices; a context manager."""

    def __init__(self, setup):
        """Raises ConfigError where torch is not installed or has no such model."""
        if importlib.util.find_spec("torch") is None:
            raise ConfigError(
                "bench --compare torch: PyTorch is not installed; pip install 'convmesh[torch]'"
            )
        self._process = subprocess.Popen(
            [sys.executable, "-m", "convmesh.bench.torch_rival"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        on_gpu = setup.mesh.devices.flat[0].platform == "gpu"
        told = pickle.dumps((to_json(setup.config), setup.classes, on_gpu))
        self._ask(len(told).to_bytes(8, "little") + told)
        self.name = self._answer()
        if self.name.startswith("no "):
            self.close()
            raise ConfigError(f"bench --compare torch: {self.name}")
        self.parameters = int(self._answer())

    def step(self) -> float:
        """Takes a step; returns its seconds."""
        time.sleep(REST)
        self._ask(b"\n")
        seconds = float(self._answer())
        time.sleep(REST)
        return seconds

    def _ask(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode().strip()
        if not line:
            raise DataError("bench --compare torch: its process failed; see above")
        return line

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
