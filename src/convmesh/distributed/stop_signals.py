"""The signals that stop a run, for the process that trains and for the launcher of several."""

import signal

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
