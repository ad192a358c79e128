"""Ends a run whose processes can make no progress: status 76 if one was lost, 77 if one hangs.

Each process publishes its positions (`own_progress`) in the key-value store of JAX's coordination
service, in process 0, once a second. Process 0 judges all; the others only judge process 0, so that
the store has a constant number of requests from each. A process is lost if it publishes nothing for
`LOST_SECONDS`: it was killed or stopped, or its machine or network is gone. It hangs if its work
takes too long, by its own account. The rules are in `verdict`.

Three threads, since a request to a store that does not answer blocks: one exchanges, one judges,
and one holds a connection to the coordinator, to know at once when process 0 is gone.
"""

from __future__ import annotations

import atexit
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from convmesh.distributed import aborts, failure, own_progress, processes, verdict
from convmesh.distributed.own_progress import MAIN, SAVING, Activity, Position
from convmesh.distributed.verdict import Verdict
from convmesh.errors import OUT_OF_MEMORY

LOST_SECONDS = 30.0  # without a sign of life, a process is lost
SUSPECT_SECONDS = 4.0  # the same once a collective has failed, as it does when a connection breaks
# A process that does not train yet, or no more, is lost only after so many times as long: while it
# parses a large file, it may do nothing else.
_OUTSIDE_TIMES = 4
_EVERY_SECONDS = 1.0  # between two exchanges
_JUDGE_SECONDS = 0.25
_REFUSED_SECONDS = 1.0  # while connections to the coordinator are refused; see `aborts`
_SUSPENDED_SECONDS = 5.0  # a judge that was not run for so long was itself suspended
_CONFIRM_SECONDS = 2.5  # so long after the first time, all must still hang at the same points
_ABORT_SECONDS = 12.0  # so long a thread that aborts is held: until a verdict, or for nothing
_REPORT = "convmesh/report"  # key in the store, by process
_SAVING_THREAD = "async_save"  # as Orbax calls it
_XLA_ERRORS = ("JaxRuntimeError", "XlaRuntimeError")

_watchdog: Watchdog | None = None
_lost_seconds = LOST_SECONDS


def set_bounds(lost_seconds: float | None, hung_seconds: float | None) -> None:
    """Sets `LOST_SECONDS` and `own_progress.LEAST_SECONDS` of this process; None keeps one.

    Call it before `start`.
    """
    global _lost_seconds
    _lost_seconds = lost_seconds or _lost_seconds
    if hung_seconds is not None:
        own_progress.set_least(hung_seconds)


def start(coordinator: tuple[str, int] | None = None) -> None:
    """Starts the watchdog of this process, which ends the process. A second call does nothing.

    coordinator: host and port of JAX's coordination service, if there are several processes.
    """
    global _watchdog
    if _watchdog is None:
        _watchdog = Watchdog(_lost_seconds, coordinator)
        _watchdog.start()


def lost_seconds() -> float:
    """After so long without a sign of life a process is lost."""
    return _lost_seconds


def stop() -> None:
    """Stops it, since this process ends what it does, and so may the others."""
    global _watchdog
    if _watchdog is not None:
        _watchdog.stop()
        _watchdog = None


def await_verdict(error: BaseException) -> None:
    """Waits for a verdict, which ends this process, if `error` may be due to a lost process.

    A collective whose connection breaks fails before anybody knows why.
    """
    if _watchdog is not None and any(map(_is_of_devices, _chain(error))):
        _watchdog.suspect()


def _is_of_devices(error: BaseException) -> bool:
    """Whether a collective or the store may have raised `error`."""
    text = str(error)
    # Where an array is read, the error of gloo, between CPUs, is a ValueError.
    named = type(error).__name__ in _XLA_ERRORS or "Gloo" in text
    return named and OUT_OF_MEMORY not in text


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it was raised from, or while they were handled."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


class Watchdog:
    """The threads and what they know about the other processes."""

    def __init__(self, lost_seconds: float, coordinator: tuple[str, int] | None) -> None:
        """Starts nothing; `lost_seconds`: see `LOST_SECONDS`, `coordinator`: see `start`."""
        self._coordinator = coordinator
        self._asks: threading.Thread | None = None
        self._index, self._count = processes.index(), processes.count()
        self._lost_seconds, self._stopped = lost_seconds, threading.Event()
        self._leaves, self._wake, self._left = False, threading.Event(), threading.Event()
        self._suspects = False  # this process, or for process 0 any other
        now = time.monotonic()
        judged = range(1, self._count) if self._index == 0 else [0]
        self._heard = dict.fromkeys(judged, now)  # when a process last published
        self._numbers: dict[int, int] = {}  # of the last report of each process
        self._reports: dict[int, Mapping[str, Any]] = {}
        self._refused_since: float | None = None
        self._hung: tuple[Any, float] | None = None  # arrivals of all that hang, and since when
        self._aborts: aborts.AbortWatch | None = None
        self._aborts_since: float | None = None
        self._machines: dict[int, str] = {}  # asked for once, as the store may not answer later

    def start(self) -> None:
        """Starts the threads."""
        if self._count > 1:
            aborts.delay()
            self._aborts = aborts.AbortWatch()
            # Runs before JAX's own handler, in which this process waits for the others to end too.
            atexit.register(self._leave)
            self._asks = threading.Thread(
                target=self._exchange, name="convmesh-report", daemon=True
            )
            self._asks.start()
        if self._index:
            threading.Thread(target=self._connect, name="convmesh-connect", daemon=True).start()
        threading.Thread(target=self._judge, name="convmesh-watchdog", daemon=True).start()

    def stop(self) -> None:
        """Ends no process from now on."""
        self._stopped.set()
        self._wake.set()
        if self._asks is not None:  # Python aborts if it ends while a thread is in C++
            self._asks.join(2)

    def _leave(self) -> None:
        """Tells the others that this process will be silent from now on."""
        if not self._stopped.is_set():
            self._leaves = True
            self._wake.set()
            self._left.wait(2)
            self.stop()

    def suspect(self) -> None:
        """Waits until a suspected process must have been found lost, if one is."""
        self._suspects = True
        self._stopped.wait(SUSPECT_SECONDS + 3 * _EVERY_SECONDS)

    # The thread that asks the store.

    def _exchange(self) -> None:
        store, number = processes.coordination_client(), 0
        while not self._stopped.is_set() and not self._left.is_set():
            self._wake.wait(_EVERY_SECONDS)
            number, leaves = number + 1, self._leaves
            report = {"number": number, "suspects": self._suspects, "leaves": leaves}
            report |= _own_positions()
            wanted = f"{_REPORT}/" if self._index == 0 else f"{_REPORT}/0/"
            try:
                self._publish(report)
                found = store.key_value_dir_get(wanted)
                if len(self._machines) < self._count:
                    self._machines = processes.machines_of_all()
            except Exception:  # its silence counts
                continue
            finally:
                if leaves:
                    self._left.set()
            for name, text in found:
                self._note(int(name.split("/")[-2]), json.loads(text))

    def _publish(self, report: Mapping[str, Any]) -> None:
        key, store = f"{_REPORT}/{self._index}/now", processes.coordination_client()
        store.key_value_set(key, json.dumps(report), allow_overwrite=True)

    def _note(self, process: int, report: Mapping[str, Any]) -> None:
        if report["leaves"]:
            self._heard.pop(process, None)
        elif self._numbers.get(process) != report["number"]:
            self._numbers[process] = report["number"]
            self._reports[process], self._heard[process] = report, time.monotonic()

    # The thread that is connected to the coordinator.

    def _connect(self) -> None:
        assert self._coordinator is not None
        while not self._stopped.wait(_REFUSED_SECONDS / 4):
            try:
                with socket.create_connection(self._coordinator, self._lost_seconds) as connection:
                    self._refused_since = None
                    self._read_to_end(connection)
            except (ConnectionRefusedError, ConnectionResetError):
                self._refused_since = self._refused_since or time.monotonic()
            except OSError:  # unreachable: its silence counts
                self._refused_since = None

    def _read_to_end(self, connection: socket.socket) -> None:
        """Returns when the connection is closed, as the service does with one that asks nothing."""
        connection.settimeout(_EVERY_SECONDS)
        while not self._stopped.is_set():
            try:
                if not connection.recv(4096):
                    return
            except TimeoutError:
                continue

    # The thread that judges.

    def _judge(self) -> None:
        last = time.monotonic()
        while not self._stopped.wait(_JUDGE_SECONDS):
            now = time.monotonic()
            if now - last > _SUSPENDED_SECONDS:
                MAIN.forgive()
                SAVING.forgive()
                for process in dict(self._heard):
                    if process in self._heard:  # else it has left meanwhile
                        self._heard[process] = now
                self._hung = self._refused_since = None
            last = now
            self._hold_aborts(now)
            if (found := self._lost(now) or self._hang(now)) and not (
                self._leaves or self._stopped.is_set()
            ):
                failure.end_by_verdict(found)

    def _hold_aborts(self, now: float) -> None:
        """A thread that aborts may do so because a process was lost; else it must be let go."""
        if self._aborts is not None and self._aborts.look():
            self._suspects = True
            self._aborts_since = self._aborts_since or now
            if now - self._aborts_since > _ABORT_SECONDS:
                aborts.end()

    def _lost(self, now: float) -> Verdict | None:
        # Copied, since the other thread changes them.
        heard, reports = dict(self._heard), dict(self._reports)
        suspects = self._suspects or any(report["suspects"] for report in reports.values())
        bound = min(SUSPECT_SECONDS, self._lost_seconds) if suspects else self._lost_seconds
        times = dict.fromkeys(heard, 1)
        if not suspects:
            outside = (Activity.OUTSIDE.what, Activity.START.what)
            times |= {i: _OUTSIDE_TIMES for i in reports if reports[i]["main"]["what"] in outside}
        silent = [i for i, last in sorted(heard.items()) if now - last > times[i] * bound]
        bound *= max((times[i] for i in silent), default=1)
        refused = self._refused_since is not None and now - self._refused_since > _REFUSED_SECONDS
        if self._index and heard and refused:
            silent, bound = [0], _REFUSED_SECONDS
        if not silent:
            return None
        if silent == [0] and 0 in reports:
            main, saving = (Position(**reports[0][track]) for track in ("main", "saving"))
            if found := verdict.was_overdue(main, saving, MAIN.position().arrivals, self._named):
                return found
        return verdict.lost(silent, bound, MAIN.position().step, self._named)

    def _hang(self, now: float) -> Verdict | None:
        """The verdict of process 0 on all, once it has been the same for `_CONFIRM_SECONDS`."""
        if self._index or len(self._reports) < self._count - (1 if self._count == 1 else 0):
            return None
        reports = dict(self._reports) | {0: _own_positions()}
        main = {i: Position(**report["main"]) for i, report in reports.items()}
        saving = {i: Position(**report["saving"]) for i, report in reports.items()}
        found = verdict.hung(main, saving, self._named)
        arrivals = [(main[i].arrivals, saving[i].arrivals) for i in sorted(main)]
        if found is None:
            self._hung = None
        elif self._hung is None or self._hung[0] != arrivals:
            self._hung = arrivals, now
        elif now - self._hung[1] > _CONFIRM_SECONDS:
            return found
        return None

    def _named(self, group: Sequence[int]) -> str:
        return processes.named(group, self._machines)


def _own_positions() -> dict[str, Any]:
    saving = SAVING.position()
    # A save that has failed ends its thread; the error is raised by the main thread, in time.
    if not any(thread.name == _SAVING_THREAD for thread in threading.enumerate()):
        saving = replace(saving, bound=None)
    return {"main": asdict(MAIN.position()), "saving": asdict(saving)}
