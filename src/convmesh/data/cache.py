"""Decoded images kept in memory: a Source around another."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from convmesh.data.record import BadExample, Record, Source, category_ids

# `data.cache = auto` takes no more than this part of the free memory.
SHARE_OF_FREE = 0.25
_SAMPLES = 16


class Cached:
    """A source that reads each example once and keeps its record.

    Safe to use from many threads; a copy in another process starts empty. Examples that cannot be
    read are not kept: each reading raises again.
    """

    def __init__(self, source: Source):
        """Keep the records of `source`."""
        self._source = source
        self.classes, self.task, self.split = source.classes, source.task, source.split
        self.category_ids = category_ids(source)
        self._records: list[Record | None] = [None] * len(source)

    def __len__(self) -> int:
        """Return how many examples there are."""
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        """Return example `index`; its arrays must not be changed, and cannot be."""
        record = self._records[index]
        if record is None:
            # Two threads may both read it: the last one is kept, and they are equal.
            record = self._source[index]
            for array in (record.image, record.boxes, record.labels, record.crowd, record.area):
                if array is not None:
                    array.flags.writeable = False
            self._records[index] = record
        return record

    def name(self, index: int) -> str:
        """Return the name of example `index`."""
        return self._source.name(index)

    def below(self, index: int) -> tuple[Source, int]:
        """Return the source that example `index` is kept of, and its number there."""
        return self._source, index

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_records": len(self)}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _records=[None] * state["_records"])


def with_cache(source: Source, wanted: str, copies: int = 1) -> Source:
    """Return `source` with a cache if `wanted` is `true`, or `auto` and it fits.

    copies: how many processes will hold one.
    """
    if wanted == "true" or (wanted == "auto" and fits(source, copies)):
        return Cached(source)
    return source


def fits(source: Source, copies: int = 1) -> bool:
    """Say whether all decoded images fit in a quarter of the free memory, judged by a few."""
    budget = SHARE_OF_FREE * free_memory() / copies
    # Without decoding one: not if even thumbnails are too many.
    if len(source) * 1000 > budget:
        return False
    sizes = []
    for index in np.linspace(0, len(source) - 1, min(_SAMPLES, len(source))).astype(int):
        try:
            sizes.append(source[int(index)].image.nbytes)
        except BadExample:
            continue
    return bool(sizes and np.mean(sizes) * len(source) <= budget)


def free_memory() -> int:
    """Return the bytes that this process may still take; 0 where that cannot be told."""
    free = 0
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    # A container may have less than the machine (control groups, version 2 and 1).
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        most, now = (_lines(f"/sys/fs/cgroup/{name}") for name in (limit, used))
        if most and now and most[0].isdigit():
            free = min(free, max(0, int(most[0]) - int(now[0])))
    return free


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
