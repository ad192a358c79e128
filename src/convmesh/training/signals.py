"""SIGTERM, SIGINT, SIGHUP and SIGUSR1: the run saves its state and ends with status 75.

The table `Phase` states what a signal may interrupt. Only the standard library is imported here,
since a signal may arrive before JAX is imported.
"""

from __future__ import annotations

import enum
import multiprocessing
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from convmesh.distributed import console, processes
from convmesh.distributed.stop_signals import ORDERS, REPEAT_SECONDS, to_handle
from convmesh.errors import RunError, Stopped

GRACE_SECONDS = 5.0  # after which the process is ended in an interruptible phase


class Phase(enum.Enum):
    """A phase of a run, and whether a signal ends the run there (True) or is deferred (False).

    Phases are interruptible if nothing is lost: the state is saved, or does not exist yet.
    """

    LISTEN = "before the start", False  # until the handlers that close files are in place
    JOIN = "joining the other processes", False  # JAX would not leave the others in order
    OPEN = "opening data, devices and model", True
    RESTORE = "reading a checkpoint", False  # Orbax would report the interruption as a disk error
    CREATE = "initialising and compiling", True
    STEP = "training steps", False  # the loop saves and ends after the step
    EVALUATE = "evaluating a saved state", True
    CLOSE = "closing files", False  # a save in progress must be completed

    def __init__(self, what: str, interruptible: bool):
        self.what, self.interruptible = what, interruptible


class _EndHere(BaseException):
    """Raised in the main thread to end the run; not an Exception, so that no handler catches it."""


class StopSignal:
    """While open, signals stop the run: SIGTERM, SIGINT, and SIGHUP and SIGUSR1 unless ignored.

    In an interruptible phase the run ends immediately. In any other, the signal is stored in
    `received`, and the loop saves and ends after the current step. While XLA compiles, no Python
    runs, so a thread ends the process GRACE_SECONDS later.

    Signals within REPEAT_SECONDS are one. A later second SIGTERM or SIGINT ends the process at
    once; SIGHUP and SIGUSR1 never do. Both only with `ends_process`: a caller in Python, such as a
    notebook, keeps its process and gets KeyboardInterrupt at the second signal.

    With several processes, each only stores the signal, since all must stop at the same step.
    """

    def __init__(self, ends_process: bool = False, alone: bool = True) -> None:
        """Handlers are installed on enter; the first phase defers signals.

        `alone`: there are no other processes (yet, see `joining`).
        """
        self.received = ""  # name of the first signal, of this process or another
        # Describes the progress of the run, for the message of a stop.
        self.status: Callable[[], str] = lambda: "before the run had started; run it again"
        self._ends_process, self._alone = ends_process, alone
        self._phase, self._raised, self._closed = Phase.LISTEN, False, False
        self._ordered_at: float | None = None  # when the first of ORDERS came

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """Sets the phase within the context, and restores the previous one afterwards.

        After an exception the phase is CLOSE: nothing may interrupt the closing of files.
        """
        before, self._phase = self._phase, phase
        self._end_if_received()
        try:
            yield
        except BaseException:
            self._phase = Phase.CLOSE
            raise
        self._phase = before
        self._end_if_received()

    @contextmanager
    def joining(self) -> Iterator[None]:
        """Phase JOIN, in which this process may join others."""
        with self.during(Phase.JOIN):
            yield
            self._alone = processes.count() == 1

    def enter(self, phase: Phase) -> None:
        """Sets the phase from here on."""
        self._phase = phase
        self._end_if_received()

    def end_if_any_received(self) -> None:
        """Raises Stopped, in all processes, if any of them has received a signal."""
        if any(processes.gather(bool(self.received))):
            self.received = self.received or "a signal to another process"
            raise Stopped(self.message())

    def message(self) -> str:
        """The message of a stopped run."""
        return f"stopped by {self.received} {self.status()}"

    @property
    def _deferred(self) -> bool:
        return not self._phase.interruptible

    def _end_if_received(self) -> None:
        if self.received and self._alone and not self._deferred and not self._closed:
            self._raised = True
            raise _EndHere

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # With `ends_process`, the listening thread counts the signals.
        if not self._ends_process and number in ORDERS:
            now = time.monotonic()
            if self._ordered_at is None:
                self._ordered_at = now
            elif now - self._ordered_at >= REPEAT_SECONDS:
                signal.default_int_handler(number, frame)
        if not self.received:
            self._hear(number)
        self._end_if_received()

    def _hear(self, number: int) -> None:
        self.received = signal.Signals(number).name

    # The thread that receives signals while the main thread is blocked.

    def _listen(self) -> None:
        graced = ordered = False
        while read := os.read(self._read_end, 1024):
            numbers = [number for number in read if number in self._before]
            if numbers and not graced:
                graced = True
                thread = threading.Thread(target=self._end_after_grace, args=(numbers[0],))
                thread.daemon = True
                thread.start()
            orders = [number for number in numbers if number in ORDERS]
            if orders and ordered:
                self._end_now(orders[0])
            elif orders:
                ordered = True
                # Their times are not known, as this thread may be late, but what is there after a
                # second has come within it.
                time.sleep(REPEAT_SECONDS)
                if select.select([self._read_end], [], [], 0)[0]:
                    os.read(self._read_end, 1024)
        os.close(self._read_end)

    def _end_after_grace(self, number: int) -> None:
        """Ends the process once it has been interruptible for GRACE_SECONDS."""
        since = time.monotonic()
        while not self._closed:
            deferred = self._deferred and self._phase is not Phase.JOIN
            if deferred or not self._alone or _is_saving():
                since = time.monotonic()
            elif time.monotonic() - since > GRACE_SECONDS:
                self._hear(number)
                _end(f"convmesh: {self.message()}", Stopped.exit_code)
            time.sleep(0.05)

    def _end_now(self, number: int) -> None:
        if self._closed:  # saved, or failed: the status stays
            return
        name = signal.Signals(number).name
        _end(f"convmesh: ended at once by a second signal, {name}", 128 + number)

    def __enter__(self) -> StopSignal:
        self._before = {}
        try:
            for number in to_handle():
                self._before[number] = signal.signal(number, self._handle)
        except ValueError:  # not in the main thread, which alone can install handlers
            return self
        if self._ends_process:
            self._read_end, self._write_end = os.pipe()
            os.set_blocking(self._write_end, False)
            self._wakeup_before = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
            threading.Thread(target=self._listen, name="signals", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._closed = True
        # Another signal would change the exit status of a run that has saved; and with several
        # processes, one that has saved still waits for the others.
        ignore = self._ends_process and self.received
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if ignore else handler)
        if self._ends_process and self._before:
            signal.set_wakeup_fd(self._wakeup_before)
            os.close(self._write_end)
        # Some libraries convert _EndHere to an error of their own. The error of a failed save
        # must not be replaced.
        if kind is not None and self._raised and not issubclass(kind, RunError):
            raise Stopped(self.message()) from None


_open: StopSignal | None = None  # one for the process, like the signal handlers


@contextmanager
def listening(ends_process: bool = False) -> Iterator[StopSignal]:
    """A StopSignal in phase OPEN, or the one that a caller has already opened.

    The command line opens one (with `ends_process`) before it joins other processes.
    """
    global _open
    if _open is not None:
        yield _open
        return
    with StopSignal(ends_process, alone=processes.count() == 1) as stop:
        _open = stop
        try:
            stop.enter(Phase.OPEN)
            yield stop
        finally:
            _open = None


def _is_saving() -> bool:
    """Whether a checkpoint is being written; Orbax names the thread."""
    return any(thread.name == "async_save" for thread in threading.enumerate())


def _end(message: str, status: int) -> None:
    """Ends the process and its workers immediately."""
    for child in multiprocessing.active_children():
        child.kill()
    # In a thread, since writing to standard error may block if nothing reads it.
    printer = threading.Thread(target=console.print_line, args=(message,), daemon=True)
    printer.start()
    printer.join(1)
    os._exit(status)
