"""The memory of this host: how much there is, and how much of it is free."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_CGROUPS = "/sys/fs/cgroup"


def physical_memory() -> int:
    """Return the bytes of memory that this host has, or a larger number if unknown."""
    if not hasattr(os, "sysconf"):
        return sys.maxsize
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def free_memory() -> int:
    """Return the bytes of memory available to this process; 0 if unknown.

    A container or a job may be limited to less than the host has (cgroups, version 1 and 2).
    """
    free = 0
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    for limit, used in _limits():
        free = min(free, max(0, limit - used))
    return free


def _limits() -> Iterator[tuple[int, int]]:
    """Yield the limit and the use, in bytes, of each limited cgroup that this process is in."""
    for folder, limit_file, used_file, cache in (
        *((folder, "memory.max", "memory.current", "inactive_file") for folder in _folders("", "")),
        *(
            (folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            for folder in _folders("memory", "memory")
        ),
    ):
        limit, used = (_lines(f"{folder}/{name}") for name in (limit_file, used_file))
        if limit and used and limit[0].isdigit():
            # Of the use, the system gives up the contents of files that it merely remembers.
            stated = (line.split() for line in _lines(f"{folder}/memory.stat"))
            remembered = sum(int(n) for name, n in stated if name == cache)
            yield int(limit[0]), int(used[0]) - remembered


def _folders(controller: str, mounted: str) -> list[str]:
    """Return the folders of the cgroup that has `controller`, and of the groups it is in."""
    root = PurePosixPath(_CGROUPS, mounted)
    paths = [PurePosixPath("/")]
    for line in _lines("/proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            paths = [PurePosixPath(path), *PurePosixPath(path).parents]
    return [str(root / path.relative_to("/")) for path in paths if ".." not in path.parts]


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
