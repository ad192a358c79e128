"""`--debug-ledger FILE`: which example stood where in which step, for anybody to check."""

import numpy as np

from convmesh import processes
from convmesh.data import Source
from convmesh.data.loader import Batch, example_at
from convmesh.journal import Journal
from convmesh.share import Share


class Ledger:
    """Writes a JSON line for each example that a training step was given.

    step: counted from 1. position: counted from 0 over the whole run. epoch. index: of the example
    in the split, from 0. example: its name. present: false if it could not be read, and weighed
    nothing. partners: indices of the images mixed into it, three of a mosaic and then one blended
    in, without those that could not be read. Each process adds the examples that are
    its own, so that the lines of a step stand in any order; sorted by position, the file is the
    same for any number of processes, devices and workers.
    """

    def __init__(self, path, start_step: int, source: Source, config, share: Share):
        """Opens the file, dropping what it holds of steps beyond `start_step`."""
        self._source, self._share, self._seed = source, share, config.train.seed
        self._batch_size = config.train.batch_size
        if processes.is_first():
            self._journal = Journal(path, start_step)
        processes.wait_for_all("ledger")
        if not processes.is_first():
            self._journal = Journal(path, drops=False)

    def take(self, step: int, batch: Batch, partners: np.ndarray | None = None) -> None:
        """Notes the examples of `batch`, which step `step` trains on; partners as in `Batches`."""
        rows = []
        for i in np.flatnonzero(self._share.owned):
            position = (step - 1) * self._batch_size + int(self._share.examples[i])
            index = int(batch["index"][i])
            # What the batch holds is told; where it stands in an epoch can only be computed.
            epoch, _ = example_at(position, len(self._source), self._seed)
            rows.append(
                {
                    "step": step,
                    "position": position,
                    "epoch": epoch,
                    "index": index,
                    "example": self._source.name(index),
                    "present": bool(batch["present"][i]),
                    "partners": [] if partners is None else partners[i][partners[i] >= 0].tolist(),
                }
            )
        self._journal.add(rows)

    def sync(self) -> None:
        """Brings what was noted to the disk."""
        self._journal.sync()

    def close(self) -> None:
        """Closes the file."""
        self._journal.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
