"""Decoded records in the memory of one process."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from typing import Any

from convmesh.data.record import Record

# Bytes of a record besides its pixels, about.
RECORD_BYTES = 1000


class KeptRecords(ABC):
    """Records by number, 0 <= number < `count`; safe to use from many threads.

    limit: bytes that they may take; beyond it none is added. shared: whether other processes read
    and add the same records.
    """

    limit: float
    shared: bool

    @abstractmethod
    def get(self, number: int) -> Record | None:
        """Return a record, with read-only arrays; None if it is not there."""

    @abstractmethod
    def add(self, number: int, record: Record) -> None:
        """Keep a record if there is room; one that is there already stays."""


class OwnMemory(KeptRecords):
    """Records that this process has for itself; a copy in another process starts empty."""

    shared = False

    def __init__(self, count: int, limit: float = math.inf):
        """Keep up to `count` records in up to `limit` bytes."""
        self.limit = limit
        self._records: list[Record | None] = [None] * count
        self._used, self._lock = 0, threading.Lock()

    def get(self, number: int) -> Record | None:
        """Return a record; None if it is not there."""
        return self._records[number]

    def add(self, number: int, record: Record) -> None:
        """Keep a record if there is room."""
        size = record.image.nbytes + RECORD_BYTES
        with self._lock:
            if self._records[number] is None and self._used + size <= self.limit:
                self._records[number] = record
                self._used += size

    def __reduce__(self) -> tuple[Any, ...]:
        return OwnMemory, (len(self._records), self.limit)


def make_read_only(record: Record) -> None:
    """Make the arrays of a record read-only, since others will get the same ones."""
    for array in (record.image, record.boxes, record.labels, record.crowd, record.area):
        if array is not None:
            array.flags.writeable = False
