"""Errors that a user can cause: one or two lines that name the file, key or value and a remedy.

The command line prints the message and exits with `exit_code`; `--debug` adds the traceback.
"""

import difflib
import errno
from collections.abc import Iterable, Sequence

# Exit statuses of a run that the watchdog ends; the same command resumes it.
PEER_LOST, HUNG = 76, 77

# The errno of a lock on a file system that has none.
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EBADF)

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"  # in the message of XLA's error


class ConvmeshError(Exception):
    """The run failed for a reason that its message explains to the user."""

    exit_code = 1


class ConfigError(ConvmeshError):
    """The command or the config is wrong; nothing was run or written."""

    exit_code = 2


class DataError(ConvmeshError):
    """A file of the data set is missing, unreadable or invalid."""


class RunError(ConvmeshError):
    """The run cannot continue: the disk is full, or the loss is not finite."""


class StoreError(DataError, RunError):
    """An object store does not answer, which says nothing about what it holds: it may later."""

    exit_code = 74


class StoreRefusal(StoreError):
    """An object store does not permit what it did before: its permission was taken or expired."""

    exit_code = 1


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def some(names: Sequence[str], shown: int = 3) -> str:
    """The first of `names` for a message, and how many there are."""
    more = f", ... ({len(names)} in all)" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def nearest(word: str, known: Iterable[str]) -> str:
    """The hint "; did you mean ...?" if one of `known` is similar to `word`, else ""."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


class Stopped(ConvmeshError):
    """A signal ended the run after its state was saved; the same command resumes it."""

    exit_code = 75
