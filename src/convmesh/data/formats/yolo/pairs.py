"""Which label file belongs to which image in YOLO's layout.

It has the path of the image with the last folder `images` replaced by `labels`, or lies beside the
image. Names are compared without regard to case and composition where none is the same.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable

from convmesh.data.formats.tally import counted
from convmesh.data.formats.yolo.files import Files, fold, group_by
from convmesh.data.formats.yolo.names import is_name_file
from convmesh.data.problems import Problem

# Text files that archives contain and that are no labels.
_DOCUMENT = re.compile(r"(readme|licen[sc]e|citation|about|notes|requirements)\b.*")


class Pairs:
    """The label files of a data set by image."""

    def __init__(self, files: Files, used: Iterable[str], lists: Iterable[str]):
        """Pair all images; used: those in splits; lists: text files that are no labels."""
        self._files = files
        others = set(lists)
        self._texts = {
            path: None
            for path in files.paths
            if path[-4:].lower() == ".txt" and path not in others and not is_name_file(path)
        }
        self._labels = {image: self._find(image) for image in files.images}
        self._used = {image for image in used if image in files.paths}
        self._owners: dict[str, list[str]] = {}
        for image in files.images:
            if image in self._used:
                for label in self._labels[image]:
                    self._owners.setdefault(label, []).append(image)

    def of(self, image: str) -> tuple[str, ...]:
        """Return the label files of an image: none, one, or that in `labels` and that beside it."""
        return self._labels.get(image, ())

    def exists(self, image: str) -> bool:
        """Return whether the file of an image, which a list states, exists."""
        return image in self._files.paths

    def owners(self, label: str) -> list[str]:
        """Return the used images to which a label file belongs."""
        return self._owners.get(label, [])

    def _find(self, image: str) -> tuple[str, ...]:
        places = label_places(image)
        found = [place for place in (places[0], places[-1]) if place in self._texts]
        if not found:
            alike = (self._by_fold.get(fold(place), []) for place in places)
            found = next((labels for labels in alike if labels), [])
        return tuple(dict.fromkeys(found))

    @functools.cached_property
    def _by_fold(self) -> dict[str, list[str]]:
        return group_by(self._texts, fold)

    # What is to be said.

    def missing(self, images: Iterable[str]) -> list[str]:
        """Return those of `images`, which exist, that have no label file."""
        return [image for image in images if not self.of(image)]

    @functools.cached_property
    def orphans(self) -> list[str]:
        """Label files that belong to no image."""
        paired = {label for labels in self._labels.values() for label in labels}
        folders = {os.path.dirname(label) for label in paired}
        return [
            path
            for path in self._texts
            if path not in paired
            and ("labels" in path.lower().split("/")[:-1] or os.path.dirname(path) in folders)
            and not _DOCUMENT.match(path.rpartition("/")[2].lower())
        ]

    def problems(self) -> list[Problem]:
        """Return warnings about label files without an image, and images that no split has."""
        found = []
        if self.orphans:
            what = counted(
                len(self.orphans), f"label files have no image, such as {self.orphans[0]}"
            )
            found.append(Problem(os.path.dirname(self.orphans[0]) or ".", what, error=False))
        unused = [i for i, labels in self._labels.items() if labels and i not in self._used]
        if unused:
            what = counted(len(unused), f"labelled images are in no split, such as {unused[0]}")
            found.append(Problem(os.path.dirname(unused[0]) or ".", what, error=False))
        return found


def label_places(image: str) -> list[str]:
    """Return the paths where the label file of an image may lie, the most usual first."""
    stem = os.path.splitext(image)[0]
    parts = stem.split("/")
    found = []
    for i in range(len(parts) - 2, -1, -1):
        if parts[i].lower() == "images":
            found.append("/".join([*parts[:i], "labels", *parts[i + 1 :]]) + ".txt")
    return [*found, stem + ".txt"]
