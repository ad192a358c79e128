"""Errors that a user can cause: one or two lines that name the file, key or value and the way out.

The command line prints the message alone and ends with `exit_code`; a traceback needs `--debug`.
"""

import difflib


class ConvmeshError(Exception):
    """The run failed for a reason that its message explains to the user."""

    exit_code = 1


class ConfigError(ConvmeshError):
    """The call or the config is wrong: nothing was run and nothing was written."""

    exit_code = 2


class DataError(ConvmeshError):
    """A file of the data set is missing, unreadable or wrong."""


class RunError(ConvmeshError):
    """The run itself cannot go on: its disk is full, or its loss is no number any more."""


def nearest(word: str, known) -> str:
    """The hint "; did you mean ...?" if one of `known` is like `word`, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


class Stopped(ConvmeshError):
    """A signal ended the run after its state was saved: run it again to go on."""

    exit_code = 75
