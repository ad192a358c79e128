"""A folder of a data set as a tree of folders and images.

The names of the files in a folder are held as one string: a list of 14 million names would take
five times the memory.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

from convmesh.data.formats.files import is_folder, is_hidden
from convmesh.data.images import SUFFIXES
from convmesh.errors import DataError

# Folders that hold the images or labels of a layout with boxes; no class is called so.
PARTS = frozenset(
    "images image imgs img jpegimages labels label annotations annotation ann masks mask".split()
)


class Times(dict[str, tuple[int, ...]]):
    """What changes when files are added to a folder or removed from it, of each folder by its path.

    broken: whether a link to nothing was passed, which may be a folder later.
    """

    broken = False


class Folder:
    """A folder of a data set.

    Attributes:
      path: relative to the root of the data set; '' for the root.
      folders: the folders in it that have files in or below them, by name, sorted.
      loose: the number of images in this folder itself.
      images: the number of images in and below this folder.
    """

    def __init__(
        self,
        path: str,
        names: Iterable[str] = (),
        folders: Mapping[str, Folder] | None = None,
    ):
        """Hold the `names` of the files in the folder itself, and the folders in it."""
        held = sorted(names)
        self.path = path
        self._names = "/".join(held)  # which no name contains
        self.folders = {
            name: folder for name, folder in sorted((folders or {}).items()) if not folder.is_empty
        }
        self.loose = sum(map(is_image, held))
        self.images: int = self.loose + sum(folder.images for folder in self.folders.values())

    @property
    def is_empty(self) -> bool:
        """Whether there is no file in or below it."""
        return not (self._names or self.folders)

    @cached_property
    def with_images(self) -> dict[str, Folder]:
        """The folders in this one with images in or below them."""
        return {name: folder for name, folder in self.folders.items() if folder.images}

    def own_names(self) -> list[str]:
        """Return the names of the files in this folder itself, sorted."""
        return self._names.split("/") if self._names else []

    def loose_names(self) -> Iterator[str]:
        """Yield the names of the images in this folder itself, sorted."""
        return filter(is_image, self.own_names())

    def walk(self) -> Iterator[Folder]:
        """Yield this folder and all below it that have files in or below them."""
        yield self
        for folder in self.folders.values():
            yield from folder.walk()

    def names(self) -> Iterator[str]:
        """Yield the names of the images in and below this folder, without their folders."""
        for folder in self.walk():
            yield from folder.loose_names()

    def files(self) -> Iterator[str]:
        """Yield the paths of all files, relative to the root of the data set.

        They are sorted by the names of their folders, outer ones first, and then their own.
        """
        if not self.folders:
            yield from map(self.join, self.own_names())
            return
        for name in sorted([*self.own_names(), *self.folders]):
            folder = self.folders.get(name)
            if folder is None:
                yield self.join(name)
            else:
                yield from folder.files()

    def first_image(self) -> str:
        """Return the path of one image, relative to the root of the data set."""
        return next(filter(is_image, self.files()))

    def join(self, path: str) -> str:
        """Return the path of a file or folder in this folder, relative to the data set."""
        return f"{self.path}/{path}" if self.path else path


def read_tree(root: Path, times: Times | None = None) -> Folder:
    """Return `root` as a tree, without hidden files and folders; adds to `times`.

    Follows links to folders, but no cycles. Raises DataError if a folder cannot be read.
    """
    try:
        return _read(str(root), "", frozenset(), Times() if times is None else times)
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from None


def _read(place: str, path: str, parents: frozenset[str], times: Times) -> Folder:
    real = os.path.realpath(place)
    if real in parents:
        return Folder(path)
    names, inner = list[str](), list[os.DirEntry[str]]()
    times[path] = state_of(place)  # before it is read: what is added meanwhile is noticed
    with os.scandir(place) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                continue
            if is_folder(entry):
                inner.append(entry)
            else:
                names.append(entry.name)
                times.broken |= entry.is_symlink() and not os.path.exists(entry.path)
    below = f"{path}/" if path else ""
    parents |= {real}
    folders = {one.name: _read(one.path, below + one.name, parents, times) for one in inner}
    return Folder(path, names, folders)


def state_of(folder: str | Path) -> tuple[int, ...]:
    """Return what changes when files are added to a folder, or it is another one of its name.

    The first is the time of its last change, in nanoseconds. The device is left out: it has another
    number on each host.
    """
    found = os.stat(folder)
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def is_image(path: str) -> bool:
    """Return whether a file is an image by its suffix."""
    return os.path.splitext(path)[1].lower() in SUFFIXES


def count_images(images: int) -> str:
    """Return a number of images with its noun."""
    return f"{images} image{'' if images == 1 else 's'}"


def name_key(name: str) -> str:
    """Return what names have in common that differ only in case, spaces and their like."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"[\s_-]+", " ", folded).strip()
