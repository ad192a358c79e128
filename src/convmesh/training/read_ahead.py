"""Reads batches some steps before they are used, so that an error is known in time to save."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from convmesh.data.loading.batches import Batches, DataCounts
from convmesh.distributed import processes
from convmesh.training.same_examples import Check


class ReadBatch(NamedTuple):
    """A batch, and the counts of the examples up to it."""

    batch: Any
    counts: DataCounts


class ReadAhead:
    """The `steps` next batches of a run. While one is used, later ones are read already.

    A process that cannot read a batch cannot take its step, and with several processes no other one
    can: so all must stop at an earlier step. What one process wants is agreed on one step later
    (`StepAgreement`), so with several processes two batches are read ahead, else one.
    """

    def __init__(self, batches: Batches, steps: int, check: Check | None = None) -> None:
        """Reads nothing yet. `check` compares each batch between processes."""
        self._batches, self._left, self._check = batches, steps, check
        self._ahead = 1 if processes.count() == 1 else 2
        self._read: deque[ReadBatch] = deque()
        self.error: Exception | None = None  # why no more batches can be read

    def __iter__(self) -> Iterator[ReadBatch]:
        """Yields each batch. Raises the error if it came too early for a step before it."""
        self._fill()
        if self.error is not None and len(self._read) < self._ahead:
            raise self.error
        while self._read:
            yield self._read.popleft()
            self._fill()
        if self.error is not None:
            raise self.error

    def _fill(self) -> None:
        while self.error is None and self._left and len(self._read) <= self._ahead:
            batch = None
            try:
                batch = next(self._batches)
            except Exception as error:  # of the data, of a worker, of the system
                self.error = error
            if self._check is not None:
                self.error = self._check(batch, self.error)
            if self.error is None:
                self._left -= 1
                self._read.append(ReadBatch(batch, self._batches.counts))
