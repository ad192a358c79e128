"""Lists of images: text files with one path a line."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace

from convmesh.data.documents import read_text
from convmesh.data.formats.tally import Tally
from convmesh.data.formats.yolo.files import Files, Match, is_image, stated_parts
from convmesh.data.problems import Problem
from convmesh.errors import DataError

_WITH_BOXES = re.compile(r"\S+\.\w{3,4}\s+(\d+,){3,}\d+")  # of keras-yolo3
_BY_NAME = "lines are matched by the name of the file alone"
_ELSEWHERE = "images are in other folders than the list states"


def is_list(files: Files, file: str) -> bool:
    """Return whether the first line of a text file that is not empty is the path of an image."""
    lines = (line.strip() for line in read_text(files.root / file).splitlines())
    return is_image(next(filter(None, lines), ""))


def read_list(
    files: Files, file: str, bases: Sequence[str], split: str
) -> tuple[list[str], list[Problem]]:
    """Return the images that a file lists, including missing ones, and what must be said of them.

    bases: folders that paths may be relative to, besides that of the file. Raises DataError for a
    line that leads outside of the root or may mean several images.
    """
    bases = list(dict.fromkeys((os.path.dirname(file), *bases)))
    reader = _Reader(files, file, bases)
    for i, line in enumerate(read_text(files.root / file).splitlines(), start=1):
        if line.strip():
            reader.add(i, line.strip().strip("'\""))
    return reader.images, reader.problems(split)


class _Reader:
    """The images of a list, and how those lines were matched that state another path.

    images: found or missing.
    """

    def __init__(self, files: Files, file: str, bases: Sequence[str]):
        self._files, self._file, self._bases = files, file, bases
        self.images: list[str] = []
        self._missing: list[str] = []
        self._tally = Tally()
        self._meant_by: dict[str, tuple[int, str]] = {}  # of inexact matches: image -> line, path

    def add(self, i: int, stated: str) -> None:
        """Add line `i`. Raises DataError."""
        match = self._files.match_image(stated, self._bases) or self._elsewhere_match(i, stated)
        if match is None:
            self.images.append(self._missing_path(i, stated))
            self._missing.append(stated)
            return
        if match.dropped:
            self._check_alone(i, stated, match)
        if match.dropped and match.kept == 1:
            if self._files.count_named(match.path) > 1:
                self._refuse(i, stated, self._files.images_named_alike(stated))
            self._tally.add(_BY_NAME, f"{match.path} for {stated}")
        self.images.append(match.path)

    def _elsewhere_match(self, i: int, stated: str) -> Match | None:
        """Return the image with the file name that is stated, in a folder that is not."""
        if self._files.inside(self._bases[-1], stated) is None and ".." in stated_parts(stated):
            return None
        alike = self._files.images_named_alike(stated)
        if len(alike) > 1:
            self._refuse(i, stated, alike)
        if not alike:
            return None
        self._tally.add(_ELSEWHERE, f"{alike[0]} for {stated}")
        return Match(alike[0], 1, 2)

    def _check_alone(self, i: int, stated: str, match: Match) -> None:
        """Raise DataError if another line that states another path was matched to this image."""
        parts = "/".join(stated_parts(stated))
        line, other = self._meant_by.setdefault(match.path, (i, parts))
        if other != parts:
            raise DataError(
                f"{self._file}: lines {line} and {i}: {other} and {parts} would both be"
                f" {match.path}, since their folders are not in {self._files.root}; correct the"
                " paths"
            )

    def _refuse(self, i: int, stated: str, found: Sequence[str]) -> None:
        names = ", ".join(sorted(found)[:3])
        raise DataError(f"{self._file}: line {i}: {stated} may be any of {names}; correct the path")

    def _missing_path(self, i: int, stated: str) -> str:
        """Return the path where an image should be. Raises DataError if that is outside."""
        if _WITH_BOXES.fullmatch(stated.split("\t")[0]) or _WITH_BOXES.match(stated):
            raise DataError(
                f"{self._file}: line {i}: boxes behind the image, {stated[:60]!r}, are not read;"
                " convert them to one label file for each image, see docs/data.md"
            )
        paths = [self._files.inside(base, stated) for base in self._bases]
        parts = stated_parts(stated)
        if ".." not in parts:
            paths.append("/".join(parts))
        found = next((path for path in paths if path is not None), None)
        if found is None:
            raise DataError(f"{self._file}: line {i}: {stated} leads outside {self._files.root}")
        return found

    def problems(self, split: str) -> list[Problem]:
        """Return what must be said about the lines."""
        found = []
        if self._missing and len(self._missing) == len(self.images):
            what = f"none of the {len(self.images)} images that it lists exists, such as"
            what += f" {self._missing[0]}; are they in {self._files.root}?"
            found.append(Problem(self._file, what, split=split))
        return found + [replace(p, split=split) for p in self._tally.problems(self._file)]
