"""The files of a data set in YOLO's layout, and how paths that are stated in them are matched.

Paths in data.yaml and in lists of images are relative to some folder, to none, or those of another
machine; names differ in case, or in composed and decomposed Unicode. All paths here are relative to
the root of the data set, with forward slashes; nothing outside of it is found.
"""

from __future__ import annotations

import functools
import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from convmesh.data.formats import split_names
from convmesh.data.formats.files import list_files, normal_name
from convmesh.data.images import SUFFIXES, UNREAD_SUFFIXES


class Match(NamedTuple):
    """The file or folder that a stated path means.

    dropped: how many of its first folders are not in the data set. kept: how many parts are.
    """

    path: str
    dropped: int
    kept: int


class Files:
    """All files in and below `root`.

    paths: of all files, sorted. images, unread, top_files: of these, images, images in formats that
    are not read, and files in the root itself. folders: that hold any, '' for the root.
    """

    def __init__(self, root: Path):
        """List the files. Raises DataError if a folder cannot be read."""
        self.root = root
        self.paths = dict.fromkeys(list_files(root))
        self.images = [path for path in self.paths if is_image(path)]
        self.unread = [path for path in self.paths if suffix(path) in UNREAD_SUFFIXES]
        self.top_files = [path for path in self.paths if "/" not in path]
        self.folders = {""}
        for folder in {os.path.dirname(path) for path in self.paths}:
            while folder and folder not in self.folders:
                self.folders.add(folder)
                folder = os.path.dirname(folder)
        tops = (os.path.abspath(root), os.path.realpath(root))
        self._tops = tuple(dict.fromkeys(top.replace(os.sep, "/") for top in tops))

    def images_in(self, folder: str) -> list[str]:
        """Return the images in and below `folder`, sorted; '' is the root."""
        if not folder:
            return list(self.images)
        first = bisect_left(self.images, f"{folder}/")
        return self.images[first : bisect_left(self.images, f"{folder}0")]  # 0 comes after /

    def find(self, path: str) -> str | None:
        """Return the file `path`, or the only one that differs in case or composition, or None."""
        return path if path in self.paths else _only(self._by_folded_path.get(fold(path)))

    def find_folder(self, path: str) -> str | None:
        """Return the folder `path`, or the only one that differs in case or composition."""
        return path if path in self.folders else _only(self._folders_by_fold.get(fold(path)))

    def named(self, *names: str) -> list[str]:
        """Return the files in the root with one of `names`, in any case, in the order of these."""
        top = {path.lower(): path for path in self.top_files}
        return [top[name] for name in names if name in top]

    @functools.cached_property
    def _by_folded_path(self) -> dict[str, list[str]]:
        return group_by(self.paths, fold)

    @functools.cached_property
    def _folders_by_fold(self) -> dict[str, list[str]]:
        return group_by(self.folders, fold)

    @functools.cached_property
    def _images_by_name(self) -> dict[str, list[str]]:
        return group_by(self.images, lambda path: fold(path.rpartition("/")[2]))

    # Stated paths.

    def inside(self, base: str, stated: str) -> str | None:
        """Return a stated path, absolute or relative to folder `base`; None if it is outside."""
        path = stated.replace("\\", "/")
        if path.startswith("/") or re.match("[A-Za-z]:", path):
            top = next((top for top in self._tops if f"{path}/".startswith(f"{top}/")), None)
            if top is None:
                return None
            path, base = path[len(top) :], ""
        parts = base.split("/") if base else []
        for part in path.split("/"):
            if part == ".." and not parts:
                return None
            if part == "..":
                parts.pop()
            elif part not in ("", "."):
                parts.append(part)
        return "/".join(parts)

    def match_image(self, stated: str, bases: Iterable[str]) -> Match | None:
        """Return the file that a line of a list means, relative to one of `bases`, or None."""
        return self._match(stated, bases, self.find, lambda dropped: False)

    def match_folder_or_list(self, stated: str, bases: Iterable[str]) -> Match | None:
        """Return the folder or the .txt file that an entry of data.yaml means, or None."""

        def find(path: str) -> str | None:
            folder = self.find_folder(path)
            file = self.find(path) if folder is None and path.lower().endswith(".txt") else None
            return folder if file is None else file

        # /x/test/images is not ROOT/images, which may hold the images of all splits.
        return self._match(stated, bases, find, lambda part: split_names.parse(part) is not None)

    def _match(
        self,
        stated: str,
        bases: Iterable[str],
        find: Callable[[str], str | None],
        needed: Callable[[str], bool],
    ) -> Match | None:
        """Return the longest match; a path is not cut behind a part that is `needed`."""
        for base in bases:
            path = self.inside(base, stated)
            found = None if path is None else find(path)
            if path is not None and found is not None:
                return Match(found, 0, path.count("/") + 1)
        parts = stated_parts(stated)
        if ".." in parts:
            return None
        for i in range(len(parts)):
            if i and needed(parts[i - 1]):
                continue
            for base in bases:
                found = find("/".join([*filter(None, [base]), *parts[i:]]))
                if found is not None:
                    return Match(found, i, len(parts) - i)
        return None

    def images_named_alike(self, stated: str) -> list[str]:
        """Return the images with the file name of a stated path, and of these the most alike.

        That is those with which it has the most last folders in common.
        """
        parts = [fold(part) for part in stated_parts(stated)]
        found = self._images_by_name.get(parts[-1], []) if parts else []
        common = [_common_end(parts, fold(path).split("/")) for path in found]
        return [path for path, n in zip(found, common, strict=True) if n == max(common)]

    def count_named(self, path: str) -> int:
        """Return how many images have the file name of `path`."""
        return len(self._images_by_name.get(fold(path.rpartition("/")[2]), ()))


def is_image(path: str) -> bool:
    """Return whether a file of this name is an image."""
    return suffix(path) in SUFFIXES


def suffix(path: str) -> str:
    """Return the end of a file name from the last dot, in lower case."""
    return os.path.splitext(path)[1].lower()


def suffixes(paths: Iterable[str]) -> str:
    """Return the different ends of file names, for messages: `.heic, .psd`."""
    return ", ".join(sorted(set(map(suffix, paths))))


def fold(path: str) -> str:
    """Return a path that is the same for names that differ in case or in Unicode's composition."""
    return normal_name(path).lower()


def stated_parts(stated: str) -> list[str]:
    """Return the parts of a stated path, without a drive and leading `..`: ../train/images."""
    parts = [part for part in stated.replace("\\", "/").split("/") if part not in ("", ".")]
    if parts and re.fullmatch("[A-Za-z]:", parts[0]):
        del parts[0]
    while parts and parts[0] == "..":
        del parts[0]
    return parts


def group_by(items: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    """Return `items` by their key."""
    found: dict[str, list[str]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def _common_end(one: Sequence[str], other: Sequence[str]) -> int:
    pairs = zip(reversed(one), reversed(other), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _only(found: list[str] | None) -> str | None:
    return found[0] if found and len(found) == 1 else None
