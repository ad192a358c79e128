"""SIGTERM and SIGINT: the run saves what it has done and ends with status 75.

Only the standard library is imported here: a signal may come before JAX is imported.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager

from convmesh.errors import RunError, Stopped

REPEATS = 1.0  # seconds in which a signal that is passed on may come twice
GRACE = 5.0  # seconds in which a run that has nothing to save ends, even while XLA compiles
_NUMBERS = (signal.SIGTERM, signal.SIGINT)


class _EndHere(BaseException):
    """Raised where the main thread is; no `except Exception` on the way out may take it."""


class StopSignal:
    """While open, SIGTERM and SIGINT stop the run; a second one ends it at once.

    There are two ways to stop. While steps are done (`noted`) a signal is kept in `received`, and
    the loop saves and ends after the step that is under way. Everywhere else nothing is lost, since
    the state is saved or was not made yet: the run ends where it is. What does not run Python,
    as a compilation, hears no signal, so a thread ends the process GRACE seconds later; and it ends
    it at the second signal. Both only if `ends_process`: who calls from Python, as in a
    notebook, keeps the process, and gets KeyboardInterrupt at the second signal.

    Of several processes each only notes a signal, since all must stop at the same step.
    """

    def __init__(self, ends_process: bool = False, alone: bool = True, launched: bool = False):
        """Hears nothing until it is entered, and ends nothing until `begin`.

        `alone`: there are no other processes. `launched`: by one that passes signals on, so that
        the same one may come twice.
        """
        self.received = ""  # name of the first signal, of this process or another
        # What the run has done, in words; called when they are needed.
        self.told: Callable[[], str] = lambda: "before it had begun; run it again"
        self._ends_process, self._alone = ends_process, alone
        self._repeats = REPEATS if launched else 0.0
        self._noted, self._raised, self._closed = True, False, False
        self._heard: list[tuple[int, float]] = []

    def begin(self) -> None:
        """From here on a signal ends the run where it is."""
        self._noted = False
        self._end_if_received()

    @contextmanager
    def noted(self):
        """Within, a signal is only noted."""
        before, self._noted = self._noted, True
        yield  # after an exception they are noted still: what it closes is to be closed whole
        self._noted = before
        self._end_if_received()

    @contextmanager
    def at_once(self):
        """Within, a signal ends the run where it is, also inside `noted`."""
        before, self._noted = self._noted, False
        self._end_if_received()
        try:
            yield
        finally:
            self._noted = before

    def note_only(self) -> None:
        """From here on, but within `at_once`, signals are only noted.

        What is closed is then closed whole. Python hears a signal where it next calls a function,
        which may be the `__exit__` of what holds the parts of a run: none would be closed.
        """
        self._noted = True

    def _end_if_received(self) -> None:
        if self.received and self._alone and not self._noted and not self._closed:
            self._raised = True
            raise _EndHere

    def _handle(self, number, frame) -> None:
        # Where the process may be ended, the thread that listens counts them.
        if not self._ends_process and self._is_second(number):
            signal.default_int_handler(number, frame)
        if not self.received:
            self._hear(number)
        self._end_if_received()

    def _hear(self, number: int) -> None:
        self.received = signal.Signals(number).name

    def _is_second(self, number: int) -> bool:
        """Notes a signal; whether it is another one than the first."""
        self._heard.append((number, time.monotonic()))
        first, since = self._heard[0]
        repeated = number == first and self._heard[-1][1] - since < self._repeats
        return len(self._heard) > 1 and not repeated

    def message(self) -> str:
        """What is told when the run has stopped."""
        return f"stopped by {self.received} {self.told()}"

    # The thread that hears signals while the main thread does not.

    def _listen(self) -> None:
        while byte := os.read(self._read_end, 1):
            if byte[0] in _NUMBERS:
                if self._is_second(byte[0]):
                    self._end_now(byte[0])
                if len(self._heard) == 1:
                    threading.Thread(target=self._insist, args=(byte[0],), daemon=True).start()
        os.close(self._read_end)

    def _insist(self, number: int) -> None:
        """Ends the process if it could have ended for GRACE seconds and has not."""
        since = time.monotonic()
        while not self._closed:
            if self._noted or not self._alone or _saving():
                since = time.monotonic()
            elif time.monotonic() - since > GRACE:
                self._hear(number)
                _end(f"convmesh: {self.message()}", Stopped.exit_code)
            time.sleep(0.05)

    def _end_now(self, number: int) -> None:
        name = signal.Signals(number).name
        _end(f"convmesh: ended at once by a second signal, {name}", 128 + number)

    def __enter__(self):
        self._before = {}
        try:
            for number in _NUMBERS:
                self._before[number] = signal.signal(number, self._handle)
        except ValueError:  # not in the main thread: signals are somebody else's
            return self
        if self._ends_process:
            self._read_end, self._write_end = os.pipe()
            os.set_blocking(self._write_end, False)
            self._wakeup_before = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
            threading.Thread(target=self._listen, name="signals", daemon=True).start()
        return self

    def __exit__(self, kind, error, traceback):
        self._closed = True
        # One more signal would change the exit status of a run that was stopped and has saved; and
        # of several processes, one that has saved still waits for the others.
        deaf = self._ends_process and self.received
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if deaf else handler)
        if self._ends_process and self._before:
            signal.set_wakeup_fd(self._wakeup_before)
            os.close(self._write_end)
        # Some make an error of their own of what passes through them; a save that failed is one.
        if kind is not None and self._raised and not issubclass(kind, RunError):
            raise Stopped(self.message()) from None


def _saving() -> bool:
    """Whether a checkpoint is being written; Orbax names the thread."""
    return any(thread.name == "async_save" for thread in threading.enumerate())


def _end(message: str, status: int) -> None:
    """Ends the process and its workers, whatever its threads are at."""
    for child in multiprocessing.active_children():
        child.kill()
    # In a thread: who reads standard error may be gone, or not read.
    teller = threading.Thread(target=tell, args=(message,), daemon=True)
    teller.start()
    teller.join(1)
    os._exit(status)


def tell(message: str, stream=None) -> None:
    """Prints a line (on standard error), or not where nobody reads any more: that ends no run."""
    try:
        print(message, file=stream or sys.stderr, flush=True)
    except (OSError, ValueError):
        # What is still to be printed would fail again as Python ends, and change the exit status.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)
