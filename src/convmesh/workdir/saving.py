"""How Orbax saves a checkpoint: its phases, its checkpointer, and how a save fails.

Orbax writes to a temporary folder; in its saving thread, the checksums are added, everything is
fsynced, and the folder is renamed. Each process saves the arrays that it holds. With a workdir in
an object store the folder is a local copy, so process 0 saves all arrays, and then writes the
files to the store.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import orbax.checkpoint as ocp
from orbax.checkpoint.multihost import get_barrier_sync_fn
from orbax.checkpoint.path import atomicity

from convmesh.distributed import processes
from convmesh.distributed.own_progress import SAVING, Activity
from convmesh.workdir import atomic_files, checksums

# The phases of a save, in order. `at_phase` is called as each is reached: tests crash there.
PHASES = ("copied", "written", "checksummed", "committed", "pruning", "pruned")
at_phase: Callable[[str], None] = lambda phase: None  # noqa: E731

_DISK_ERRORS = tuple(  # the system's texts, which C++ libraries put into longer messages
    os.strerror(number)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.ENOENT)
)


def checkpointer(
    renamed: Callable[[], None], committed: Callable[[], None], alone: bool
) -> ocp.AsyncCheckpointer:
    """Orbax's checkpointer of the three items.

    renamed, committed: called in the saving thread once a checkpoint is complete on the disk, and
    once `renamed` has returned. alone: whether this process saves and restores without the others.
    """
    folder = type(
        "CheckpointFolder",
        (_CheckpointFolder,),
        {"renamed": lambda path: renamed(), "committed": lambda path: committed()},
    )
    own = processes.index()
    with_whom = ocp.options.MultiprocessingOptions()
    if alone:
        with_whom = ocp.options.MultiprocessingOptions(
            primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process{own}"
        )
    given = {"multiprocessing_options": with_whom}
    return ocp.AsyncCheckpointer(
        ocp.CompositeCheckpointHandler(
            model=ocp.StandardCheckpointHandler(**given),
            training=ocp.StandardCheckpointHandler(**given),
            meta=ocp.JsonCheckpointHandler(**given),
            composite_options=ocp.CompositeOptions(**given),
        ),
        async_options=ocp.AsyncOptions(
            barrier_sync_fn=_wait_for_itself if alone else _wait_for_saving_threads
        ),
        temporary_path_class=folder,
        **given,
    )


class _CheckpointFolder(atomicity.AtomicRenameTemporaryPath):
    """The temporary folder of a checkpoint; checksums are added before it is renamed."""

    renamed: Callable[[], None]
    committed: Callable[[], None]

    async def finalize(self) -> None:
        """Commits the checkpoint, in the saving thread of process 0."""
        at_phase("written")
        self._checkpoint_metadata_store.wait_until_finished()
        checksums.write_checksums(Path(self._tmp_path))
        at_phase("checksummed")
        os.rename(self._tmp_path, self._final_path)
        atomic_files.sync_folder(self._final_path.parent)
        self.renamed()
        at_phase("committed")
        self.committed()
        if processes.count() == 1:
            SAVING.enter(Activity.IDLE)


def _wait_for_itself(*, key: str, timeout_ms: int) -> None:
    """Orbax's barrier if one process saves."""
    if "commit_complete" in key:
        SAVING.enter(Activity.IDLE)


def _wait_for_saving_threads(*, key: str, timeout_ms: int) -> None:
    """Orbax's barrier of the saving threads, in which the watchdog sees who has come how far."""
    SAVING.arrive()
    get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)
    if "commit_complete" in key:
        SAVING.enter(Activity.IDLE)


def wait_for_saving_thread() -> None:
    """Waits for the saving thread, found by the name that Orbax gives it.

    After `Thread.join` was interrupted by an exception, later calls return immediately.
    """
    while any(thread.name == "async_save" for thread in threading.enumerate()):
        time.sleep(0.005)


def reason_of(error: BaseException) -> str:
    """The reason of a failed write, in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error)
    line = next(iter(text.strip().splitlines()), type(error).__name__)
    return next((reason for reason in _DISK_ERRORS if reason in text), line[:200])
