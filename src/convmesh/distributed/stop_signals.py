"""The signals that stop a run, for the process that trains and for the launcher of several."""

import contextlib
import signal
from collections.abc import Iterator

# Within this time after the first, signals are one: `timeout` and `uv run` pass on a signal that
# the process group has got as well, and a session that closes sends SIGHUP and SIGTERM.
REPEAT_SECONDS = 1.0

ORDERS = (signal.SIGTERM, signal.SIGINT)  # a later second one ends the run at once
# The terminal is gone; a time limit is near (Slurm's --signal=USR1@120). However many come, the run
# saves first. Windows has neither.
NOTICES = tuple(getattr(signal, name) for name in ("SIGHUP", "SIGUSR1") if hasattr(signal, name))


def to_handle() -> tuple[int, ...]:
    """ORDERS, and those of NOTICES that would end this process: `nohup` has SIGHUP ignored."""
    return ORDERS + tuple(n for n in NOTICES if signal.getsignal(n) == signal.SIG_DFL)


def to_ignore() -> tuple[int, ...]:
    """All of them, for a helper process that the run still needs when it saves."""
    return ORDERS + NOTICES


@contextlib.contextmanager
def blocked_for_helpers() -> Iterator[None]:
    """A context in which helper processes are started: they inherit all these signals blocked.

    A signal to the whole process group would end a helper that does not ignore it yet. This process
    loses no signal: what comes meanwhile is handled by another thread, or afterwards.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, to_ignore())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_in_helper() -> None:
    """Ignores all these signals in a helper process from now on, and unblocks them."""
    for number in to_ignore():
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, to_ignore())
