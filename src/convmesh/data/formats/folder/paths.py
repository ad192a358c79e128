"""A sequence of millions of paths in little memory, or in files that processes share."""

from __future__ import annotations

import contextlib
import os
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

_NAMES, _ENDS = "names.bin", "ends.npy"  # files of `Paths.save`
_AT_ONCE = 65_536  # names that are decoded together


class Paths(Sequence[str]):
    """Paths of files, of which those of one folder follow each other.

    Held are all names in one block of bytes, and where each ends: 8 bytes more than a name.
    """

    def __init__(
        self, folders: Sequence[str], starts: Sequence[int], names: np.ndarray, ends: np.ndarray
    ):
        """Hold runs of files of one folder: `folders` [runs], and `starts` [runs], of each.

        names: uint8, of all files, in UTF-8. ends: uint64 [files], where each ends in `names`.
        """
        self._folders, self._starts = list(folders), list(starts)
        self._names, self._ends = names, ends
        self._saved: Path | None = None

    @classmethod
    def of(cls, paths: Iterable[str]) -> Paths:
        """Hold `paths`."""
        folders, starts, names, ends = list[str](), list[int](), bytearray(), array("Q")
        for path in paths:
            folder, _, name = path.rpartition("/")
            if not folders or folder != folders[-1]:
                folders.append(folder)
                starts.append(len(ends))
            names += os.fsencode(name)
            ends.append(len(names))
        held = np.frombuffer(names, np.uint8) if names else np.zeros(0, np.uint8)
        return cls(folders, starts, held, np.array(ends, np.uint64))

    def __len__(self) -> int:
        """Return the number of paths."""
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        """Return path `index`. Raises IndexError."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        begin = int(self._ends[index - 1]) if index else 0
        name = os.fsdecode(self._names[begin : int(self._ends[index])].tobytes())
        folder = self._folders[bisect_right(self._starts, index) - 1]
        return f"{folder}/{name}" if folder else name

    def __iter__(self) -> Iterator[str]:
        """Yield all paths, which is quicker than one by one."""
        return self.part(0, len(self))

    def part(self, start: int, stop: int) -> Iterator[str]:
        """Yield the paths from index `start` to `stop`, excluded."""
        run = bisect_right(self._starts, start) - 1
        while start < stop:
            last = min([stop, start + _AT_ONCE, *self._starts[run + 1 : run + 2]])
            folder = f"{self._folders[run]}/" if self._folders[run] else ""
            begin = int(self._ends[start - 1]) if start else 0
            ends = (self._ends[start:last] - np.uint64(begin)).tolist()
            block = self._names[begin : begin + ends[-1]].tobytes()
            before = 0
            for end in ends:
                yield folder + os.fsdecode(block[before:end])
                before = end
            start = last
            run += self._starts[run + 1 : run + 2] == [start]

    # Files.

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the names to files in `folder`; return the rest for `load`, as JSON holds it."""
        self._names.tofile(folder / _NAMES)
        np.save(folder / _ENDS, self._ends)
        for name in (_NAMES, _ENDS):
            with (folder / name).open("rb") as file:
                os.fsync(file.fileno())
        return {"folders": self._folders, "starts": self._starts}

    @classmethod
    def load(cls, folder: Path, rest: dict[str, Any]) -> Paths:
        """Return what `save` wrote; the memory of the names is shared by all processes.

        Raises OSError or ValueError if the files cannot be read.
        """
        size = (folder / _NAMES).stat().st_size
        names = np.memmap(folder / _NAMES, np.uint8, "r") if size else np.zeros(0, np.uint8)
        ends = np.load(folder / _ENDS, mmap_mode="r")
        if int(ends[-1] if len(ends) else 0) != size:
            raise ValueError(f"{folder / _NAMES}: cut short")
        found = cls(rest["folders"], rest["starts"], names, ends)
        found._saved = folder
        with contextlib.suppress(OSError):  # another user's, or read-only
            os.utime(folder.parent)  # it is in use, see `folder_index._remove_old`
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the files' folder, not the names, if they are in files."""
        if self._saved is not None:
            rest = {"folders": self._folders, "starts": self._starts}
            return Paths.load, (self._saved, rest)
        return Paths, (self._folders, self._starts, self._names, self._ends)
