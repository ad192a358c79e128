"""Which label file belongs to which image in YOLO's layout.

It has the path of the image with the last folder `images` replaced by `labels`, or lies beside the
image. Names are compared without regard to case and composition where none is the same.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from convmesh.data.formats.tally import counted
from convmesh.data.formats.yolo.files import Files, fold, group_by, suffix, suffixes
from convmesh.data.formats.yolo.names import is_name_file
from convmesh.data.problems import Problem

_SHOWN = 3  # names of folders in a message
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
            and path not in self._labels_of_unread
            and ("labels" in path.lower().split("/")[:-1] or os.path.dirname(path) in folders)
            and not _DOCUMENT.match(path.rpartition("/")[2].lower())
        ]

    @functools.cached_property
    def _labels_of_unread(self) -> dict[str, str]:
        """The images in formats that are not read, by their label file."""
        return {label: image for image in self._files.unread for label in self._find(image)}

    def elsewhere(self, image: str) -> str:
        """Return a text file of no image that has the name of `image` in another folder, or ''."""
        return self._alone_by_name.get(_name(image), "")

    @functools.cached_property
    def _alone_by_name(self) -> dict[str, str]:
        paired = {label for labels in self._labels.values() for label in labels}
        alone = (path for path in self._texts if path not in paired)
        return {_name(path): path for path in alone if not _DOCUMENT.match(_name(path))}

    def problems(self, extra: Mapping[str, Sequence[str]]) -> list[Problem]:
        """Return warnings about label files without an image, and images that are not used.

        extra: the images of folders that are no split and are not asked for, by its name.
        """
        orphans, unread = self.orphans, self._left_out_as_unread()
        found = list(_about(orphans, "label files have no image, such as {}"))
        what = f"images are in a format that is not read ({suffixes(unread)}), such as {{}}; left"
        found += _about(unread, f"{what} out: convert them to JPEG or PNG")
        parts = {name: [i for i in images if self.of(i)] for name, images in extra.items()}
        names = [name for name, images in parts.items() if images]
        shown = ", ".join([*names[:_SHOWN], *(["..."] if len(names) > _SHOWN else [])])
        what = "labelled images are in no split, such as {}; used only if data.train_split or"
        what += f" data.eval_split names their folder: {shown}"
        found += _about([image for images in parts.values() for image in images], what)
        unused = [image for image in self._labels if image not in self._used]
        labelled = [image for image in unused if self.of(image)]
        found += _about(labelled, "labelled images are in no split, such as {}")
        known = set(orphans)
        others = {image: self.elsewhere(image) for image in unused if not self.of(image)}
        others = {image: text for image, text in others.items() if text and text not in known}
        text = next(iter(others.values()), "")
        what = f"images are in no split, such as {{}}, whose label file may be {text}"
        return [*found, *_about(list(others), what)]

    def _left_out_as_unread(self) -> list[str]:
        """Return images in formats that are not read, unless converted or documents."""
        if not self._files.unread:
            return []
        labelled = {*self._labels_of_unread.values()}
        folders = {os.path.dirname(image) for image in self._used}
        converted = {os.path.splitext(image)[0] for image in self._files.images}
        return [
            path
            for path in self._files.unread
            if os.path.splitext(path)[0] not in converted
            and (path in labelled or suffix(path) != ".pdf" and os.path.dirname(path) in folders)
        ]


def _about(paths: Sequence[str], what: str) -> Iterator[Problem]:
    """Yield a warning about files: `what` begins with a plural and its verb, {} is the first."""
    if paths:
        what = counted(len(paths), what.format(paths[0]))
        yield Problem(os.path.dirname(paths[0]) or ".", what, error=False)


def _name(path: str) -> str:
    """Return the name of a file without folders and suffix, to compare."""
    return fold(os.path.splitext(path.rpartition("/")[2])[0])


def label_places(image: str) -> list[str]:
    """Return the paths where the label file of an image may lie, the most usual first."""
    stem = os.path.splitext(image)[0]
    parts = stem.split("/")
    found = []
    for i in range(len(parts) - 2, -1, -1):
        if parts[i].lower() == "images":
            found.append("/".join([*parts[:i], "labels", *parts[i + 1 :]]) + ".txt")
    return [*found, stem + ".txt"]
