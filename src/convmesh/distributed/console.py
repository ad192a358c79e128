"""Printing to the console, on process 0 only.

Only the standard library is imported here: a line may be printed before JAX is imported.
"""

import os
import sys
from typing import TextIO

from convmesh.distributed import processes

# Folder: what it is a local copy of, by which messages name it.
shown_as: dict[str, str] = {}


def shown(text: str) -> str:
    """`text`, with the addresses of what local copies are made of."""
    for folder, address in shown_as.items():
        text = text.replace(folder, address)
    return text


def print_result(text: str) -> None:
    """Prints a line of a command's result to standard output, on process 0 only."""
    if processes.is_first():
        print_line(text, sys.stdout)


def print_status(text: str) -> None:
    """Prints a status line to standard error, on process 0 only."""
    if processes.is_first():
        print_line(text)


def print_line(text: str, stream: TextIO | None = None) -> None:
    """Prints a line to `stream`, standard error by default; never raises.

    If the reader of a pipe has ended, as with `| head`, the program continues without output.
    """
    try:
        print(shown(text), file=stream or sys.stderr, flush=True)
    except (OSError, ValueError):
        # Flushing at exit would fail again and change the exit status.
        null = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(null, descriptor)
