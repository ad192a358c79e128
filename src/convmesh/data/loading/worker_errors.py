"""What it means that a worker process has ended or cannot be started, in words for the user.

A worker imports the script that started the run. If that script trains outside of a main guard, the
worker would train too: `end_if_worker_is_starting` ends it, with a status that the run explains.
Only the standard library is imported here: a worker may call that function first of all.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import re
import select
import shutil
import signal
import sys
from collections.abc import Callable
from typing import Any

from convmesh.errors import ConvmeshError, RunError, first_line

SHARED_MEMORY = "/dev/shm"
_NO_GUARD = 79  # exit status of a worker that would have trained
_GUARD = 'if __name__ == "__main__":'
# Batches of a worker in shared memory: in its queue, in the making, and read by this process.
_BATCHES_OF_WORKER = 6


def end_if_worker_is_starting() -> None:
    """Ends this process if it is a worker that imports a script without a main guard."""
    if not getattr(multiprocessing.current_process(), "_inheriting", False):
        return
    # What the run still writes must find a reader, or it fails before it sees the status.
    found = re.search(r"pipe_handle=(\d+)", " ".join(sys.orig_argv))
    try:
        pipes = [int(found[1])] if found else []
        while select.select(pipes, [], [], 0.2)[0] and os.read(pipes[0], 2**16):
            pass
    finally:
        os._exit(_NO_GUARD)


def check_main_script(workers: int) -> None:
    """Raises RunError if workers could not import the script of this process: it is no file."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    if workers and file and getattr(main, "__spec__", None) is None and not os.path.isfile(file):
        raise RunError(
            f"data.workers={workers}: each worker process imports the script, and {file} is no "
            f"file; save it as one that trains under {_GUARD}, or set data.workers=0"
        )


class Portable:
    """A function whose errors can be sent from a worker; one that cannot be would hang the run."""

    def __init__(self, function: Callable[[Any], Any]):
        """Wraps `function`, of one argument."""
        self._function = function

    def __call__(self, argument: Any) -> Any:
        """Calls the function; an error that cannot be sent becomes a RuntimeError of its text."""
        try:
            return self._function(argument)
        except Exception as error:
            try:
                pickle.loads(pickle.dumps(error))
            except Exception:
                text = f"{type(error).__name__}: {first_line(error)}"
                raise RuntimeError(text).with_traceback(error.__traceback__) from None
            raise


def explain(error: Exception, workers: int, batch_bytes: int, starting: bool = True) -> Exception:
    """The error to raise in place of `error`, which a batch of `workers` processes has raised.

    batch_bytes: the size of a batch of this process. starting: whether it was one of the first
    batches, for which workers are started. An error that a worker raised itself is
    returned as it is, without the notes that Grain adds.
    """
    error.__notes__ = []
    if isinstance(error, ConvmeshError):
        return error
    ended = re.search(r"terminated unexpectedly with exit code (-?\d+)", str(error))
    if ended:
        return RunError(_why_ended(int(ended[1]), workers, batch_bytes))
    if starting and isinstance(error, OSError) and error.errno and _is_of_no_data(error.filename):
        return RunError(_why_not_started(error, workers, batch_bytes))
    if isinstance(error, AssertionError) and "daemonic processes" in str(error):
        return RunError(
            f"data.workers={workers}: this process is itself a daemonic one of multiprocessing, "
            "which may have no worker processes; set data.workers=0"
        )
    return error


def _is_of_no_data(name: Any) -> bool:
    """Whether the file `name` of an error is none of a data set: Python, or shared memory."""
    return name in (None, sys.executable) or str(name).startswith(("/psm_", "/mp-"))


def _why_ended(status: int, workers: int, batch_bytes: int) -> str:
    setting = f"data.workers={workers}"
    if status == _NO_GUARD:
        script = getattr(sys.modules["__main__"], "__file__", None) or "the script"
        return (
            f"{setting}: each worker process imports {script}, and would train too; put the call "
            f"of convmesh.train under {_GUARD}, or set data.workers=0"
        )
    if status == -signal.SIGBUS:
        return _shared_memory_full(
            f"{setting}: a worker process was ended by SIGBUS", batch_bytes, workers
        )
    if status == -signal.SIGKILL:
        return (
            f"{setting}: a worker process was killed, probably by the kernel because memory ran "
            "out (`dmesg` says so); set fewer data.workers, or data.cache=false"
        )
    ended = f"ended with status {status}" if status >= 0 else f"was ended by {_name(-status)}"
    return (
        f"{setting}: a worker process {ended}; with data.workers=0 the error occurs in this "
        "process, where --debug shows it"
    )


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _why_not_started(error: OSError, workers: int, batch_bytes: int) -> str:
    setting = f"data.workers={workers}"
    if error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENOENT):
        return _shared_memory_full(
            f"{setting}: no shared memory for worker processes: {error.strerror}",
            batch_bytes,
            workers,
        )
    limit = {
        errno.EAGAIN: "the limit of processes (ulimit -u, or the container's) is reached",
        errno.ENOMEM: "memory has run out",
        errno.EMFILE: "the limit of open files (ulimit -n) is reached",
        errno.ENFILE: "the system's limit of open files is reached",
        errno.EPIPE: "one ended while it was starting",
    }.get(error.errno or 0, error.strerror or str(error))
    return (
        f"{setting}: the worker processes cannot be started: {limit}; set fewer, or data.workers=0"
    )


def _shared_memory_full(problem: str, batch_bytes: int, workers: int) -> str:
    """The message for a /dev/shm that is too small, with its size and what the workers need."""
    free = 0
    try:
        usage = shutil.disk_usage(SHARED_MEMORY)
        free = usage.free
        size = f" ({usage.total / 2**20:.0f} MB, {usage.free / 2**20:.0f} MB free)"
    except OSError:
        size = " (which cannot be used here)"
    need = max(2**28, workers * _BATCHES_OF_WORKER * batch_bytes)
    verdict = "may be" if free > need else "is"
    advice = f"--shm-size={-(-need // 2**20)}m"
    return (
        f"{problem}: {SHARED_MEMORY}{size}, through which workers pass batches, {verdict} too "
        f"small; set data.workers=0, or enlarge it (docker run {advice})"
    )
