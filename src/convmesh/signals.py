"""SIGTERM and SIGINT: the run saves what it has done and ends with status 75.

Only the standard library is imported here: a signal may come before JAX is imported.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager

from convmesh.errors import RunError, Stopped

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

    def __init__(self, ends_process: bool = False):
        """Hears nothing until it is entered."""
        self.received = ""  # name of the first signal
        self.told = "before it had begun; run it again"  # what the run has done
        self._ends_process = ends_process
        self._noted = self._raised = self._closed = False
        self._alone = True

    @contextmanager
    def noted(self):
        """Within, a signal is only noted."""
        before, self._noted = self._noted, True
        try:
            yield
        finally:
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

    def finish(self) -> None:
        """From here on signals are only noted: what is closed now must be closed whole.

        (Python's `Thread.join`, left by an exception, takes the thread for ended.)
        """
        self._noted = True

    def together(self) -> None:
        """From here on there are other processes, and signals are only noted."""
        self._alone = False

    def _end_if_received(self) -> None:
        if self.received and self._alone and not self._noted and not self._closed:
            self._raised = True
            raise _EndHere

    def _handle(self, number, frame) -> None:
        if self.received:
            if self._ends_process:
                self._end_now(number)
            signal.default_int_handler(number, frame)
        self.received = signal.Signals(number).name
        self._end_if_received()

    def message(self) -> str:
        """What is told when the run has stopped."""
        return f"stopped by {self.received} {self.told}"

    # The thread that hears signals while the main thread does not.

    def _listen(self) -> None:
        heard = 0
        while byte := os.read(self._read_end, 1):
            if byte[0] in _NUMBERS:
                heard += 1
                if heard > 1:
                    self._end_now(byte[0])
                threading.Thread(target=self._insist, args=(byte[0],), daemon=True).start()
        os.close(self._read_end)

    def _insist(self, number: int) -> None:
        """Ends the process if it could have ended for GRACE seconds and has not."""
        since = time.monotonic()
        while not self._closed:
            if self._noted or not self._alone or _saving():
                since = time.monotonic()
            elif time.monotonic() - since > GRACE:
                self.received = signal.Signals(number).name
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
        for number, handler in self._before.items():
            signal.signal(number, handler)
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
    print(message, file=sys.stderr, flush=True)
    os._exit(status)
