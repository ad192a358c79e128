"""Reads batches some steps before they are used, and places them on the mesh meanwhile.

An error of reading is so known in time to save, and no step waits for the copy of its batch.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from convmesh.data.loading.background import lower_thread_priority
from convmesh.data.loading.batches import Batches, DataCounts
from convmesh.distributed import processes
from convmesh.training.same_examples import Check

# Batches on the devices beside that of the step: one in `ReadAhead` (of several processes two), one
# in `Placed`.
BATCHES_AHEAD = 2
CLOSE_SECONDS = 10.0  # that the end of a run waits for a read that hangs


class ReadBatch(NamedTuple):
    """A batch, the same on the mesh, and the counts of the examples up to it."""

    batch: Any
    on_mesh: Any
    counts: DataCounts


class Placed:
    """A thread that reads the batches of `steps` one after another and places them on the mesh.

    One waits to be used, or is being read. An error ends it, and is raised in place of its batch.
    """

    def __init__(self, batches: Batches, steps: range, place: Callable[[int, Any], Any]) -> None:
        """Starts the thread; `close` ends it. `place(step, batch)` copies to the devices."""
        self._batches, self._steps, self._place = batches, steps, place
        self._ready: queue.Queue[ReadBatch | BaseException] = queue.Queue()
        self._room = threading.Semaphore(1)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True, name="place batches")
        self._thread.start()

    def __next__(self) -> ReadBatch:
        found = self._ready.get()
        if isinstance(found, BaseException):
            raise found
        self._room.release()
        return found

    def close(self) -> None:
        """Waits for the batch that is being read, at most CLOSE_SECONDS, and ends the thread."""
        self._closed.set()
        self._room.release()
        self._thread.join(CLOSE_SECONDS)

    def _read(self) -> None:
        lower_thread_priority()
        for step in self._steps:
            self._room.acquire()
            if self._closed.is_set():
                return
            found: ReadBatch | BaseException
            try:
                batch = next(self._batches)
                found = ReadBatch(batch, self._place(step, batch), self._batches.counts)
            except BaseException as error:  # of the data, of a worker, of the system, of the device
                found = error
            self._ready.put(found)
            if isinstance(found, BaseException):
                return


class ReadAhead:
    """The `steps` next batches of a run. While one is used, later ones are read already.

    A process that cannot read a batch cannot take its step, and with several processes no other one
    can: so all must stop at an earlier step. What one process wants is agreed on one step later
    (`StepAgreement`), so with several processes two batches are read ahead, else one.
    """

    def __init__(self, batches: Placed, steps: int, check: Check | None = None) -> None:
        """Takes nothing yet. `check` compares each batch between processes."""
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
            read = None
            try:
                read = next(self._batches)
            except Exception as error:
                self.error = error
            if self._check is not None:
                self.error = self._check(read and read.batch, self.error)
            if self.error is None and read is not None:
                self._left -= 1
                self._read.append(read)
