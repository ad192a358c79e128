"""What the decoded images of a host may take, over all processes that hold some."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from convmesh.data.loading.host_memory import physical_memory
from convmesh.data.loading.kept_records import KeptRecords, OwnMemory
from convmesh.data.loading.shared_memory import Offer, SharedMemory


@dataclass(frozen=True)
class Member:
    """What a process tells the others before there is any cache.

    index: of the process. wanted: its `data.cache`. host: see `processes.system_id`. allowed:
    bytes that `auto` may take on its host. takers: processes that may have a cache, itself and its
    data workers. offer: of shared memory.
    """

    index: int
    wanted: str
    host: str
    allowed: int
    takers: int
    offer: Offer | None


@dataclass(frozen=True)
class Budget:
    """The memory for the decoded images of a host.

    members: its processes that want a cache; the first decides for all. total: bytes for all of
    them. part: bytes for each process or data worker that has a cache of its own.
    """

    members: Sequence[Member]
    total: int
    part: int

    @classmethod
    def of(cls, members: Sequence[Member]) -> Budget:
        """Return the budget of a host; `members`: its processes that want a cache."""
        if members[0].wanted == "true":
            everything = physical_memory()
            return cls(members, everything, everything)
        total = min(member.allowed for member in members)
        return cls(members, total, total // sum(member.takers for member in members))

    @property
    def decider(self) -> int:
        """The index of the process that decides which images are kept."""
        return self.members[0].index

    @property
    def unlimited(self) -> bool:
        """Whether images are kept whatever they take."""
        return self.members[0].wanted == "true"

    def open(self, count: int) -> KeptRecords:
        """Return the shared memory of the host for `count` records, or memory of this process.

        The latter if there is nobody to share with, or the shared memory cannot be opened here.
        """
        first = self.members[0]
        if first.offer is not None and sum(member.takers for member in self.members) > 1:
            with contextlib.suppress(OSError):
                return SharedMemory(first.offer, count, self.total, self.part)
        return OwnMemory(count, self.part)

    def left_by(self, apart: Sequence[Member]) -> int:
        """Return the bytes for the shared cache if `apart` have caches of their own."""
        if self.unlimited:
            return self.total
        return self.total - self.part * sum(member.takers for member in apart)

    def choose(self, needed: Sequence[int | None], limit: float) -> list[bool]:
        """Return which splits get a cache of `limit` bytes: those that fit after the earlier ones.

        needed: bytes of all images of each split; None if unknown.
        """
        chosen: list[bool] = []
        for size in needed:
            chosen.append(self.unlimited or (size is not None and size <= limit))
            if chosen[-1]:
                limit -= size or 0
        return chosen
