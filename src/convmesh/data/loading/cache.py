"""A cache of decoded images in memory: a Source that wraps another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from convmesh.data.record import BadExample, Record, Source

# `data.cache = auto` uses at most this fraction of the free memory.
MAX_FRACTION = 0.25
_SAMPLES = 16  # images decoded to estimate the size of all
_THUMBNAIL_BYTES = 1000


class Cached(Source):
    """A source that reads each example of another source once and keeps its record.

    Safe to use from many threads; a copy in another process starts empty. Errors are not kept:
    every access to an unreadable example raises.
    """

    def __init__(self, source: Source):
        """Cache the records of `source`."""
        self._source = source
        self.classes, self.task, self.split = source.classes, source.task, source.split
        self.category_ids = source.category_ids
        self._records: list[Record | None] = [None] * len(source)

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        """Return example `index`, with read-only arrays."""
        record = self._records[index]
        if record is None:
            # Two threads may both read it; the records are equal, and the last one is kept.
            record = self._source[index]
            for array in (record.image, record.boxes, record.labels, record.crowd, record.area):
                if array is not None:
                    array.flags.writeable = False
            self._records[index] = record
        return record

    def name(self, index: int) -> str:
        """Return the name of example `index`."""
        return self._source.name(index)

    def stated_labels(self, index: int) -> np.ndarray | None:
        """Return the class ids that the files state for example `index`."""
        return self._source.stated_labels(index)

    def stated_truth(self, index: int) -> bytes:
        """Return what the files state about example `index`."""
        return self._source.stated_truth(index)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_records": len(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _records=[None] * state["_records"])


def with_cache(source: Source, wanted: str, copies: int = 1) -> Source:
    """Return `source` with a cache if `wanted` is `true`, or `auto` and it fits into memory.

    copies: the number of processes that will each have a cache.
    """
    if wanted == "true" or (wanted == "auto" and fits(source, copies)):
        return Cached(source)
    return source


def fits(source: Source, copies: int = 1) -> bool:
    """Return whether all decoded images fit into MAX_FRACTION of the free memory, by a sample."""
    budget = MAX_FRACTION * free_memory() / copies
    # Decodes no image if there are so many that even thumbnails would not fit.
    if len(source) * _THUMBNAIL_BYTES > budget:
        return False
    sizes = []
    for index in np.linspace(0, len(source) - 1, min(_SAMPLES, len(source))).astype(int):
        try:
            sizes.append(source[int(index)].image.nbytes)
        except BadExample:
            continue
    return bool(sizes and np.mean(sizes) * len(source) <= budget)


def free_memory() -> int:
    """Return the bytes of memory available to this process; 0 if unknown."""
    free = 0
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    # A container may be limited to less than the machine has (cgroups, version 2 and 1).
    for limit_file, used_file in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        limit, used = (_lines(f"/sys/fs/cgroup/{name}") for name in (limit_file, used_file))
        if limit and used and limit[0].isdigit():
            free = min(free, max(0, int(limit[0]) - int(used[0])))
    return free


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
