"""The CPU cores that this process may use."""

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores of this process, at least 1: by its affinity, its container's quota and Slurm's share.

    Without any of them, all cores of the machine.
    """
    found = [os.cpu_count() or 1]
    if hasattr(os, "sched_getaffinity"):
        found.append(len(os.sched_getaffinity(0)))
    if (quota := _quota(_CGROUP)) is not None:
        found.append(quota)
    share = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if share.isdecimal() and int(share):
        found.append(int(share))
    return min(found)


def _quota(cgroup: Path) -> int | None:
    """Cores that the control group may use, rounded up; None if it has no limit."""
    for file, period_file in (
        ("cpu.max", None),  # version 2: "QUOTA PERIOD", or "max PERIOD"
        ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"),  # version 1; -1 is no limit
    ):
        try:
            words = (cgroup / file).read_text().split()
            words += (cgroup / period_file).read_text().split() if period_file else []
            quota, period = int(words[0]), int(words[1])
        except (OSError, ValueError, IndexError):
            continue
        if quota > 0 and period > 0:
            return max(1, math.ceil(quota / period))
    return None
