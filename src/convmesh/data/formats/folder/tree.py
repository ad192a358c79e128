"""A folder of a data set as a tree of folders and images, from one list of its files."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from functools import cached_property

from convmesh.data.images import SUFFIXES

# Folders that hold the images or labels of a layout with boxes; no class is called so.
PARTS = frozenset(
    "images image imgs img jpegimages labels label annotations annotation ann masks mask".split()
)


class Folder:
    """A folder of a data set: path, relative to the root of the data set; '' for the root."""

    def __init__(self, path: str, below: Sequence[str]):
        """Hold `below`: the paths of all files in and below the folder, relative to it."""
        self.path, self._below = path, below

    @cached_property
    def folders(self) -> dict[str, Folder]:
        """The folders in this one that have files in or below them, by name."""
        grouped: dict[str, list[str]] = {}
        for path in self._below:
            name, separator, rest = path.partition("/")
            if separator:
                grouped.setdefault(name, []).append(rest)
        return {name: Folder(self.join(name), grouped[name]) for name in sorted(grouped)}

    @cached_property
    def loose(self) -> list[str]:
        """The names of the images in this folder itself."""
        return [path for path in self._below if "/" not in path and is_image(path)]

    @cached_property
    def images(self) -> int:
        """The number of images in and below this folder."""
        return sum(map(is_image, self._below))

    @property
    def with_images(self) -> dict[str, Folder]:
        """The folders in this one with images in or below them."""
        return {name: folder for name, folder in self.folders.items() if folder.images}

    def names(self) -> list[str]:
        """Return the names of the images in and below this folder, without their folders."""
        return [os.path.basename(path) for path in self._below if is_image(path)]

    def files(self) -> list[str]:
        """Return the paths of all files, relative to the root of the data set, sorted."""
        paths = map(self.join, self._below)
        return sorted(paths, key=lambda path: path.split("/"))

    def first_image(self) -> str:
        """Return the path of one image, relative to the root of the data set."""
        return self.join(next(path for path in self._below if is_image(path)))

    def join(self, path: str) -> str:
        """Return the path of a file or folder in this folder, relative to the data set."""
        return f"{self.path}/{path}" if self.path else path


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
