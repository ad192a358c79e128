"""Failure handling of several processes: if one fails, all end, with its message.

A failing process reports its error in the key-value store of JAX's coordination service. A watcher
thread in every other process polls for such a report and ends its own process, even where the main
thread is inside a collective that would never return. A process that can report nothing is noticed
by the `watchdog`.
"""

from __future__ import annotations

import atexit
import faulthandler
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, NoReturn

from convmesh.distributed import processes
from convmesh.distributed.verdict import Verdict
from convmesh.errors import HUNG, PEER_LOST, ConfigError, first_line

POLL_SECONDS = 0.5  # between two polls for another process's failure
ACKNOWLEDGE_SECONDS = 5  # how long a failing process waits until the others have read its report
LAUNCHER = "CONVMESHLAUNCHER"  # environment variable: process id of the `launch.run_locally` parent

_FAILED, _ACKNOWLEDGED = "convmesh/failed", "convmesh/acknowledged"  # keys in the store
_watching = False
_ending = threading.Lock()  # never released by the thread that ends the process
_stop_watching = threading.Event()


@dataclass(frozen=True)
class Failure:
    """The report of a failing process to the others."""

    process: int
    message: str
    status: int  # the exit status of all processes


def watched() -> bool:
    """Whether a failure of this process ends others (`launch.start` has joined them)."""
    return _watching


def finish() -> None:
    """Waits until all processes are done, so that a failure of one still ends all of them."""
    if _watching:
        processes.wait_for_all("finish")


def fail(message: str, status: int) -> NoReturn:
    """Ends all processes with `status`. Call it from the main thread.

    If all processes fail with the same `message`, each prints it, or only process 0 where they
    share a terminal. Otherwise this process prints it with its number, and the others print which
    process has failed.
    """
    with _ending:
        _fail(message.removeprefix("convmesh: ").removeprefix("error: "), status)


def _fail(message: str, status: int) -> NoReturn:
    client, index = processes.coordination_client(), processes.index()
    failure = _report(client, Failure(index, message, status))
    reported, same_message = failure.process == index, failure.message == message
    numbered = f"convmesh: error: process {index} of {processes.count()}: {message}"
    # A wrong call or config is wrong in every process: no number.
    for_all = f"convmesh: error: {message}" if status == ConfigError.exit_code else numbered
    if not same_message:
        _print_failure_of_another(failure)
    elif index == 0 or not (reported or launched()):
        print_now(for_all)
    if_alone, if_same = (
        (numbered, "" if launched() else for_all) if reported and index else ("", "")
    )
    _end(client, failure, same_message, if_alone, if_same)


def end_by_verdict(verdict: Verdict) -> NoReturn:
    """Ends all processes as the watchdog's verdict says, as far as they can be reached."""
    # Who holds it may be waiting for a lost process; for process 0 in vain, and not for long.
    _ending.acquire(timeout=0.5 if 0 in verdict.processes else ACKNOWLEDGE_SECONDS + 1)
    index = processes.index()
    failure = Failure(index, verdict.message, verdict.status)
    if index == 0 or not launched() or 0 in verdict.processes:
        _print_verdict(failure)
    if index == 0 and processes.count() > 1:
        # In a thread, in case that the store does not answer either.
        number = processes.count() - len({*verdict.processes} - {0}) * (verdict.status == PEER_LOST)
        report = threading.Thread(target=_report_to_others, args=(failure, number), daemon=True)
        report.start()
        report.join(2 * ACKNOWLEDGE_SECONDS)
    exit_now(verdict.status)


def _report_to_others(failure: Failure, number: int) -> None:
    """Reports a failure, from process 0, and lets `number` processes read it."""
    client = processes.coordination_client()
    _report(client, failure)
    client.key_value_set(f"{_ACKNOWLEDGED}/0", "")
    _wait_until_acknowledged(client, number)


def _print_verdict(failure: Failure) -> None:
    """Prints a verdict; if the run hangs, first what each thread of this process is doing."""
    if failure.status == HUNG:
        print_now(f"convmesh: process {processes.index()} of {processes.count()} is at:")
        faulthandler.dump_traceback(2, all_threads=True)
    print_now(f"convmesh: error: {failure.message}")


def _report(client: Any, failure: Failure) -> Failure:
    """Stores a failure; returns the first that was stored, which may be another process's."""
    try:
        client.key_value_set(_FAILED, json.dumps(asdict(failure)))
        return failure
    except Exception:
        return _read_failure(client) or failure


def _read_failure(client: Any) -> Failure | None:
    try:
        return Failure(**json.loads(client.key_value_try_get(_FAILED)))
    except Exception:  # no failure yet, or process 0 is gone, which JAX itself notices
        return None


def _end(
    client: Any,
    failure: Failure,
    same_message: bool = False,
    if_alone: str = "",
    if_same: str = "",
) -> NoReturn:
    """Ends this process, in an order that lets all others read the failure first.

    When process 0 ends, so does the key-value store; and when the failing process ends, gloo's
    connections break, with a less useful error in the others. `if_same` is printed if process 0 has
    failed with the same message, else `if_alone`.
    """
    index = processes.index()
    if failure.process == index and index != 0:
        acknowledged = _wait_until_acknowledged(client, processes.count() - 1)
        line = if_same if acknowledged.get(0) == "same" else if_alone
        if line:
            print_now(line)
    try:
        client.key_value_set(f"{_ACKNOWLEDGED}/{index}", "same" if same_message else "")
    except Exception:
        pass
    if index == 0:
        _wait_until_acknowledged(client, processes.count())
        time.sleep(POLL_SECONDS)
    exit_now(failure.status)


def _wait_until_acknowledged(client: Any, number: int) -> dict[int, str]:
    """Waits until `number` processes have acknowledged a failure, or ACKNOWLEDGE_SECONDS.

    Returns what each has stored, "same" or "", by its process number.
    """
    found: dict[int, str] = {}
    deadline = time.monotonic() + ACKNOWLEDGE_SECONDS
    while len(found) < number and time.monotonic() < deadline:
        try:
            entries = client.key_value_dir_get(f"{_ACKNOWLEDGED}/")
        except Exception:
            break
        found = {int(key.rpartition("/")[2]): value for key, value in entries}
        time.sleep(0.05)
    return found


def _print_failure_of_another(failure: Failure) -> None:
    if failure.status == HUNG:
        return _print_verdict(failure)
    # Processes started by `launch.run_locally` share one terminal: process 0 prints for all.
    if failure.status == PEER_LOST:
        if not launched():
            _print_verdict(failure)
    elif processes.index() == 0 or not launched():
        print_now(f"convmesh: error: process {failure.process} failed: {failure.message}")


def print_now(line: str) -> None:
    """Prints a line to standard error, without waiting for any other thread."""
    # Not through sys.stderr: a blocked main thread may hold its lock.
    os.write(2, f"{line}\n".encode())


def exit_now(status: int) -> NoReturn:
    """Ends this process without waiting for the others."""
    # Not sys.exit: at a normal exit JAX waits for the other processes to exit as well.
    flush = threading.Thread(target=lambda: (sys.stdout.flush(), sys.stderr.flush()), daemon=True)
    flush.start()
    flush.join(1)
    os._exit(status)


def watch(before: Callable[[BaseException], None] = lambda error: None) -> None:
    """Starts the thread that ends this process when another fails; reports uncaught exceptions.

    `before`: is called before an exception is reported.
    """
    global _watching
    _watching = True
    processes.introduce()
    poll = threading.Thread(target=_poll_for_failures, name="convmesh-watch", daemon=True)
    poll.start()
    # Registered after JAX's own handler, so it runs before: JAX destroys the client in its own.
    atexit.register(_stop, poll)
    default_hook = sys.excepthook

    def fail_after_traceback(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        default_hook(kind, error, traceback)
        before(error)
        fail(f"{kind.__name__}: {first_line(error)}", 1)

    sys.excepthook = fail_after_traceback


def _stop(poll: threading.Thread) -> None:
    """Ends the thread: Python aborts if it ends itself while a thread is in C++."""
    _stop_watching.set()
    poll.join(1)


def _poll_for_failures() -> None:
    client, was_launched = processes.coordination_client(), launched()
    while not _stop_watching.wait(POLL_SECONDS):
        if was_launched and not launched():
            was_launched = False
            os.kill(os.getpid(), signal.SIGTERM)  # the launcher is gone and forwards no signal
        failure = _read_failure(client)
        if failure is None:
            continue
        if failure.status == ConfigError.exit_code:
            time.sleep(2 * POLL_SECONDS)  # the main thread is about to raise the same error
        with _ending:
            _print_failure_of_another(failure)
            _end(client, failure)


def launched() -> bool:
    """Whether `launch.run_locally` has started this process and forwards signals to it."""
    return os.environ.get(LAUNCHER) == str(os.getppid())
