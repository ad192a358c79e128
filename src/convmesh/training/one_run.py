"""Checks that the processes of a job are one run: same config, data, devices and workdir.

They are compared before anything is compiled or written; see `convmesh.distributed.same_run`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from ml_collections import ConfigDict

from convmesh.config import same_for_all_processes
from convmesh.data.same_splits import check_same_splits
from convmesh.data.splits import RunData
from convmesh.distributed import processes, same_run
from convmesh.errors import ConfigError, RunError
from convmesh.training.hooks import Hook
from convmesh.workdir.layout import Workdir
from convmesh.workdir.lock import RunLock
from convmesh.workdir.store_lock import StoreLock

# How long the folder of process 0 may take to appear to another process of the same machine, and of
# another: NFS remembers for up to 30 seconds that a file did not exist.
SECONDS_UNTIL_SEEN, SECONDS_OVER_NETWORK = 2.0, 35.0
_POLL_SECONDS = 0.2


def check_same_config(config: ConfigDict, hooks: Sequence[Hook]) -> None:
    """Raises ConfigError, on every process, if programs, configs or hooks differ.

    Except for keys that only say where files lie and how they are read.
    """
    if processes.count() == 1:
        return
    names = ", ".join(type(hook).__name__ for hook in hooks) or "none"
    stated = {**same_for_all_processes(config), "hooks": names}
    same_run.check_same_program({})
    same_run.check_same(stated, "start every process with the same config and flags")


def check_same_data(data: RunData) -> None:
    """Raises DataError, on every process, if their training or evaluation splits differ."""
    check_same_splits({"training": data.train, "evaluation": data.eval})


def check_same_workdir(workdir: Workdir, lock: RunLock | StoreLock, is_sharded: bool) -> None:
    """Raises ConfigError, on every process, if not all see the workdir that process 0 has locked,
    RunError if it could not write its lock.

    is_sharded: whether each process saves a part of the state.
    """
    if processes.count() == 1:
        return
    token = processes.broadcast(lock.token)
    if not token:
        raise RunError(f"{workdir.root}: cannot be written; is the disk full?")
    seconds = SECONDS_UNTIL_SEEN if processes.are_on_one_host() else SECONDS_OVER_NETWORK
    deadline = time.monotonic() + seconds
    while not (seen := lock.holds(token)) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    blind = [i for i, sees in enumerate(processes.gather(seen)) if not sees]
    if not blind:
        return
    paths = processes.gather(str(workdir.root.absolute()))
    why = "with this mesh each process saves its own part of the model there"
    if not is_sharded:
        why = "a run that resumes reads its checkpoint on every process"
    raise ConfigError(
        f"--workdir {paths[0]}: {processes.named(blind)} cannot see the folder of process 0 at "
        f"{paths[blind[0]]}; give a folder on a file system that all share, since {why}"
    )
