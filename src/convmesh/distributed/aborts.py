"""Threads of C++ that abort the process, held until the watchdog has said what is to blame.

JAX's client aborts when the connection to the coordinator breaks, and gloo when its messages do
not fit each other after a peer has died. The process would end with status 134 before anybody knows
which process was lost.

No Python can run in a thread that aborts. So SIGABRT is handled by C's `sleep`, for 6 seconds: the
handler's argument is the number of the signal. A thread in that handler blocks SIGABRT, by which it
is found (on Linux); a second signal then lets it wait in C's `pause`. If it holds the lock of
Python's interpreter, nothing finds it, and the process ends after the 6 seconds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

_ABORT_BIT = 1 << (signal.SIGABRT - 1)


def delay() -> None:
    """Makes an abort of this process wait for 6 seconds before it ends."""
    if sys.platform != "win32":
        _handle(signal.SIGABRT, "sleep")
    if sys.platform == "linux":
        _handle(_hold_signal(), "pause")


def end() -> None:
    """Aborts this process without a delay; any thread may call it."""
    libc = _libc()  # Python's own `signal` is for the main thread, and abort() may be locked
    libc.signal(signal.SIGABRT, None)  # SIG_DFL
    os.kill(os.getpid(), signal.SIGABRT)


class AbortWatch:
    """Finds and holds the threads of this process that abort; call `look` every second or so."""

    def __init__(self) -> None:
        """The signals that threads block now are none of an abort."""
        self._before = _blocked_signals() if sys.platform == "linux" else {}
        self._held: set[int] = set()

    def look(self) -> bool:
        """Holds the threads that abort; returns whether there are any."""
        if sys.platform == "linux":
            for thread, blocked in _blocked_signals().items():
                # A new thread may abort before it is seen; none blocks SIGABRT alone otherwise.
                before = self._before.setdefault(thread, 0 if blocked == _ABORT_BIT else blocked)
                if blocked == before | _ABORT_BIT != before and thread not in self._held:
                    self._held.add(thread)
                    if hasattr(_libc(), "tgkill"):  # glibc 2.30 and later
                        _libc().tgkill(os.getpid(), thread, _hold_signal())
        return bool(self._held)


def _hold_signal() -> int:
    return signal.SIGRTMAX - 2


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    return libc


def _handle(number: int, function: str) -> None:
    libc = _libc()
    libc.signal(number, ctypes.cast(getattr(libc, function), ctypes.c_void_p))


def _blocked_signals() -> dict[int, int]:
    """The mask of blocked signals of each thread of this process."""
    found = {}
    for folder in Path("/proc/self/task").iterdir():
        try:
            text = (folder / "status").read_text()
        except OSError:  # it has ended
            continue
        found[int(folder.name)] = int(text.partition("SigBlk:")[2].split(maxsplit=1)[0], 16)
    return found
