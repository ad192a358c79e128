"""`--example-log FILE`: the examples of every training step, as JSON lines."""

import contextlib
import os
from pathlib import Path

import numpy as np

from convmesh.data.loading.batches import TrainBatch
from convmesh.data.order import DataOrder
from convmesh.distributed import processes
from convmesh.errors import ConfigError
from convmesh.steps.setup import Setup
from convmesh.training.hooks import Hook, RunView
from convmesh.workdir.json_lines import JsonLines
from convmesh.workdir.layout import Workdir


class ExampleLog(Hook):
    """Writes a JSON line for each training example.

    step: counted from 1. position: counted from 0 over the whole run. epoch. index: of the example
    in the split, from 0. example: its name. present: false if it could not be read and has weight
    0. partners: indices of the images mixed into it, three for a mosaic and then one for mixup,
    without those that could not be read. Each process appends its own examples, so the order of
    the lines of a step is not fixed; sorted by position, the file is the same for any number of
    processes, devices and workers.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Takes the path of the file, which is opened in `on_start`."""
        self._path = Path(os.path.expanduser(path))
        self._file: JsonLines | None = None
        self._batch: TrainBatch

    def check(self, setup: Setup, workdir: Workdir) -> None:
        """Raises ConfigError if the file's folder does not exist."""
        if not self._path.absolute().parent.is_dir():
            raise ConfigError(f"--example-log {self._path}: its folder does not exist")

    def on_start(self, run: RunView) -> None:
        """Opens the file, dropping lines of steps beyond the restored one.

        Processes may have one file or each its own.
        """
        self._order = DataOrder.of(run.data.train, run.setup.config)
        if processes.is_first():
            self._file = JsonLines(self._path, run.start_step)
        own = _identity(self._path) != processes.broadcast(_identity(self._path))
        processes.wait_for_all("example log")  # before a line is added
        if not processes.is_first():
            self._file = JsonLines(self._path, run.start_step, drops=own)

    def on_batch(self, run: RunView, step: int, batch: TrainBatch) -> None:
        """Stores the batch until its step was dispatched."""
        self._batch = batch

    def after_step(self, run: RunView, step: int) -> None:
        """Writes the examples of `step` that this process owns."""
        batch = self._batch
        config, source = run.setup.config, run.data.train
        shard, rows = run.setup.train_shard(), []
        for i in np.flatnonzero(shard.owned):
            position = (step - 1) * config.train.batch_size + int(shard.examples[i])
            index = int(batch.index[i])
            partners = [] if batch.partners is None else batch.partners[i]
            # The index is read from the batch; the epoch can only be computed.
            epoch, _ = self._order(position)
            rows.append(
                {
                    "step": step,
                    "position": position,
                    "epoch": epoch,
                    "index": index,
                    "example": source.name(index),
                    "present": bool(batch.present[i]),
                    "partners": [int(partner) for partner in partners if partner >= 0],
                }
            )
        assert self._file is not None
        self._file.add(rows)

    def before_save(self, run: RunView, step: int) -> None:
        """Flushes the file to the disk."""
        assert self._file is not None
        self._file.sync()

    def close(self, failed: bool) -> None:
        """Closes the file."""
        if self._file:
            self._file.close()


def _identity(path: Path) -> tuple[int, ...] | None:
    """What tells a file from others; None if it does not exist.

    On a network file system the device may have another number on each machine.
    """
    with contextlib.suppress(OSError):
        status = path.stat()
        return status.st_ino, status.st_size
    return None
