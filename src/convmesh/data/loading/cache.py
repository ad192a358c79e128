"""Caches of decoded images in memory: Sources that wrap others, and where they keep the images.

The processes of a host and their data workers share one cache, so that each image is held once.
Where they cannot, each has its own, within its part of what the host may use.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from ml_collections import ConfigDict

from convmesh.data.loading.cache_budget import Budget, Member
from convmesh.data.loading.host_memory import free_memory
from convmesh.data.loading.kept_records import (
    RECORD_BYTES,
    KeptRecords,
    OwnMemory,
    make_read_only,
)
from convmesh.data.loading.shared_memory import offered
from convmesh.data.record import BadExample, Record, Source
from convmesh.data.splits import RunData
from convmesh.data.survey import evenly_spaced
from convmesh.distributed import processes

# `data.cache = auto` uses at most this fraction of the free memory of a host.
MAX_FRACTION = 0.25


class Cached(Source):
    """A source that reads each example of another source once and keeps its record.

    Safe to use from many threads. Errors are not kept: every access to an unreadable example
    raises.
    """

    def __init__(self, source: Source, kept: KeptRecords | None = None, first: int = 0):
        """Keep the records of `source` in `kept`, from number `first` on; None: in this process."""
        self._source, self._first = source, first
        self._kept = OwnMemory(len(source)) if kept is None else kept
        self.classes, self.task, self.split = source.classes, source.task, source.split
        self.category_ids = source.category_ids

    @property
    def shared(self) -> bool:
        """Whether other processes, such as data workers, read and fill the same cache."""
        return self._kept.shared

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        """Return example `index`, with read-only arrays."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        record = self._kept.get(self._first + index)
        if record is None:
            # Two threads may both read it; the records are equal, and the first one is kept.
            record = self._source[index]
            make_read_only(record)
            self._kept.add(self._first + index, record)
        return record

    def name(self, index: int) -> str:
        """Return the name of example `index`."""
        return self._source.name(index)

    def single_labels(self) -> np.ndarray | None:
        """Return the class id of each example, as the source does."""
        return self._source.single_labels()

    def stated_labels(self, index: int) -> np.ndarray | None:
        """Return the class ids that the files state for example `index`."""
        return self._source.stated_labels(index)

    def stated_truth(self, index: int) -> bytes:
        """Return what the files state about example `index`."""
        return self._source.stated_truth(index)

    def stated_size(self, index: int) -> bytes:
        """Return the size of the image file of example `index`."""
        return self._source.stated_size(index)

    def stored_bits(self, index: int) -> int:
        """Return the bits of a channel of the image file of example `index`."""
        return self._source.stored_bits(index)


def with_caches(data: RunData, config: ConfigDict) -> RunData:
    """Return `data` with caches, as `data.cache` says, and a line about them in `cached`.

    Every process must call it, with the same data. Raises DataError if an image of a sample cannot
    be used.
    """
    if config.data.decode == "crop":  # an image is another one each time
        (evaluated,), said = cached([data.eval], config)
        line = "images to train on are decoded for each crop (data.decode)"
        return replace(data, eval=evaluated, cached=f"{said}; {line}" if said else line)
    (train, evaluated), said = cached([data.train, data.eval], config)
    return replace(data, train=train, eval=evaluated, cached=said)


def cached(sources: Sequence[Source], config: ConfigDict) -> tuple[list[Source], str]:
    """Return `sources`, with a cache or as they are, and a line that says what stays in memory.

    `data.cache = auto` gives a source a cache if all its images fit into what those before it leave
    of the memory allowed; `true` gives all a cache. Calls and errors as of `with_caches`.
    """
    # An unchecked config may still hold True instead of `true`.
    wanted, workers = str(config.data.cache).lower(), config.data.workers
    several = processes.count() > 1 or workers > 0
    with offered(wanted != "false" and several) as offer:
        allowed = int(MAX_FRACTION * free_memory())
        own = Member(processes.index(), wanted, processes.system_id(), allowed, 1 + workers, offer)
        # Nobody fills a cache before all have read how much memory is free.
        members = [member for member in processes.gather(own) if member.wanted != "false"]
        if wanted == "false":
            if members:  # which gather twice
                processes.gather(None)
            return list(sources), ""
        budget = Budget.of([member for member in members if member.host == own.host])
        kept = budget.open(sum(map(len, sources)))
        firsts = itertools.accumulate(map(len, sources), initial=0)
        caches = [Cached(source, kept, n) for source, n in zip(sources, firsts, strict=False)]
        decides = budget.decider == own.index
        sizes = [_bytes_of(source, budget.total) for source in sources] if decides else []
        # After this, all have opened what is offered.
        answers = processes.gather((kept.shared, sizes))
    sharing = [member for member in budget.members if answers[member.index][0]]
    if kept.shared:
        kept.limit = budget.left_by([one for one in budget.members if one not in sharing])
    needed = answers[budget.decider][1]
    chosen = budget.choose(needed, kept.limit)
    where = _shared_by(sharing) if kept.shared else _apart(budget)
    used = [c if keep else source for c, keep, source in zip(caches, chosen, sources, strict=True)]
    return used, _said(used, needed, budget, where)


def _bytes_of(source: Source, most: int) -> int | None:
    """Return the bytes of all decoded images, by a sample; None if none of it can be read."""
    least = len(source) * RECORD_BYTES
    if least > most:  # whatever the images are
        return least
    sizes = []
    for index in evenly_spaced(len(source)):
        with contextlib.suppress(BadExample):
            sizes.append(source[index].image.nbytes + RECORD_BYTES)
    return int(np.mean(sizes) * len(source)) if sizes else None


def _said(
    sources: Sequence[Source], needed: Sequence[int | None], budget: Budget, where: str
) -> str:
    """Return the line about the caches of `sources`, which need so many bytes."""
    total, kept, size, missing = 0, 0, 0, []
    for source, bytes_needed in zip(sources, needed, strict=True):
        total += len(source)
        if isinstance(source, Cached):
            kept, size = kept + len(source), size + (bytes_needed or 0)
        else:
            takes = "of unknown size" if bytes_needed is None else f"about {_size(bytes_needed)}"
            missing.append(f"{source.split} ({takes})")
    line = f"{kept} of {total} decoded images stay in memory"
    if kept:
        line += f", about {_size(size)}{where}"
    if missing:
        line += (
            f"; those of {' and '.join(missing)} do not fit into {_size(budget.total)},"
            f" {MAX_FRACTION:.0%} of the free memory, and are decoded each time (data.cache)"
        )
    return line


def _shared_by(members: Sequence[Member]) -> str:
    workers = sum(member.takers - 1 for member in members)
    if len(members) == 1:
        return f", in one cache for this process and its {workers} data workers"
    also = f" and their {workers} data workers" if workers else ""
    return f", in one cache for the {len(members)} processes of this host{also}"


def _apart(budget: Budget) -> str:
    takers = sum(member.takers for member in budget.members)
    return f", in each of {takers} processes, which cannot share them" if takers > 1 else ""


def _size(number: int) -> str:
    if number >= 1e9:
        return f"{number / 1e9:.1f} GB"
    return f"{number / 1e6:.{0 if number >= 1e7 else 1}f} MB"
