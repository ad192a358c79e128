"""A file of weights that is open for reading: every read is checked against the file's size."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

import numpy as np

from convmesh.errors import DataError

_LONGEST_REASON = 400  # characters of a message that a file may fill


class Refused(Exception):
    """The content of a file is not what can be read; the message does not name the file."""


class BinaryFile:
    """A regular file that is open for reading.

    path: as the user gave it. file: the open file. size: bytes.
    """

    def __init__(self, path: str | os.PathLike[str], file: BufferedReader):
        self.path, self.file = path, file
        self.size = os.fstat(file.fileno()).st_size

    def read(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset` on. Raises Refused where the file has fewer."""
        self.check(offset, count)
        self.file.seek(offset)
        data = self.file.read(count)
        if len(data) != count:
            raise Refused("it became shorter while it was read")
        return data

    def array(self, offset: int, dtype: np.dtype, count: int) -> np.ndarray:
        """Return `count` numbers from `offset` on, [count]. Raises Refused as `read` does."""
        self.check(offset, count * dtype.itemsize)
        data = np.empty(count, dtype)
        self.file.seek(offset)
        if self.file.readinto(data.view(np.uint8).data) != data.nbytes:
            raise Refused("it became shorter while it was read")
        return data

    def check(self, offset: int, count: int) -> None:
        """Raise Refused unless the file has `count` bytes from `offset` on."""
        if offset < 0 or count < 0 or offset + count > self.size:
            raise Refused(
                f"it is cut short or damaged: it has {self.size} bytes, and says that bytes"
                f" {offset} to {offset + count} hold weights"
            )


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[BinaryFile]:
    """Open a regular file; a pipe or a device, which could block, is refused.

    Raises DataError with the path and the reason.
    """
    try:
        with open(path, "rb", opener=_open_nonblocking) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise DataError(f"{path}: not a regular file")
            yield BinaryFile(path, file)
    except IsADirectoryError:
        raise DataError(f"{path}: a folder; name the file of weights{_inside(path)}") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or printable(str(error))}") from None
    except ValueError as error:  # a name with a null byte
        raise DataError(f"{printable(str(path))}: {error}") from None


def _inside(path: str | os.PathLike[str]) -> str:
    """Return a hint at the files of weights in a folder, or ''."""
    suffixes = {".safetensors", ".pth", ".pt", ".bin", ".h5", ".keras"}
    try:
        names = sorted(p.name for p in Path(path).iterdir() if p.suffix in suffixes)
    except OSError:
        return ""
    return f" in it, such as {printable(names[0])}" if names else ""


def _open_nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def printable(text: str) -> str:
    """Return text from a file for a message: one line of limited length, no control characters."""
    shown = "".join(c if c.isprintable() else "?" for c in text[: _LONGEST_REASON + 1])
    return shown if len(shown) <= _LONGEST_REASON else shown[:_LONGEST_REASON] + "..."
