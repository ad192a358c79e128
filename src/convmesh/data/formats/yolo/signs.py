"""The signs of YOLO's layout in a folder, by the names of files and a few lines of label files."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from convmesh.data.documents import read_text
from convmesh.data.formats.evidence import Evidence
from convmesh.data.formats.files import is_hidden
from convmesh.data.formats.split_names import parse
from convmesh.data.formats.yolo.description import YAML
from convmesh.data.formats.yolo.files import is_image
from convmesh.data.formats.yolo.names import is_name_file
from convmesh.errors import DataError

_FOLDERS = 50  # in one folder, that are looked into
_ENTRIES = 20_000  # of one folder, that are looked at
_DEPTH = 3  # levels of folders in `labels` that are looked into
_LABELS = 5  # label files that are opened in one folder
_ROW = re.compile(r"\s*\d+(\s+[-+.\deE]+){4,}\s*(\n|$)")


def shows(root: Path, evidence: Evidence) -> bool:
    """Return whether folder `root` shows `evidence` of the layout.

    That is data.yaml or obj.data; folders `images` and `labels`, the latter with text files; such
    a folder `labels` alone, with the names of classes; or images with label files beside them.
    """
    here = _Listing(root)
    names = {name.lower() for name in here.files}
    if evidence is Evidence.DESCRIPTION:
        # Roboflow's COCO export may contain a data.yaml. In the other direction COCO's annotations
        # in ROOT/annotations prove nothing: YOLO's tools keep them with the same images.
        described = "obj.data" in names or bool(names & {*YAML})
        return described and not any(root.glob("*/_annotations.coco.json"))
    if evidence is Evidence.LAYOUT:
        return bool(names & {*YAML}) or _has_labels(here, here.has_names, 0)
    return False


class _Listing:
    """The files and folders in a folder, without hidden ones: the first of very many."""

    def __init__(self, path: Path):
        self.path, self.files, self.folders = path, list[str](), list[str]()
        try:
            with os.scandir(path) as entries:
                for entry in itertools.islice(entries, _ENTRIES):
                    if not is_hidden(entry.name):
                        (self.folders if entry.is_dir() else self.files).append(entry.name)
        except OSError:  # opening it says so
            pass
        self.folders.sort()
        self.has_names = any(map(is_name_file, self.files))

    def below(self) -> list[_Listing]:
        return [_Listing(self.path / name) for name in self.folders[:_FOLDERS]]

    def folder(self, name: str) -> Path | None:
        """Return the folder `name`, in any case, or None."""
        found = [folder for folder in self.folders if folder.lower() == name]
        return self.path / found[0] if found else None


def _has_labels(here: _Listing, has_names: bool, depth: int) -> bool:
    """Return whether images have label files, in `labels` or beside them, here or below.

    Below are the folders of `here` and those of splits and of images.
    """
    labels = here.folder("labels")
    has_names = has_names or here.has_names
    # Label Studio exports labels without the images: opening the data set says so.
    if labels and (here.folder("images") or has_names and len(here.folders) == 1):
        if _holds_labels(labels, has_names):
            return True
    if _has_labels_beside_images(here, has_names):
        return True
    name = here.path.name.lower()
    if depth and not (name == "images" or parse(name)) or depth > 2:
        return False
    return any(_has_labels(inner, has_names, depth + 1) for inner in here.below())


def _holds_labels(folder: Path, has_names: bool) -> bool:
    """Return whether there is text in `folder` or below: not only masks, JSON or tables.

    If the names of the classes are there, it may also hold nothing: opening the data set says so.
    """
    empty = True
    for name in itertools.islice(_first_files(_Listing(folder), _DEPTH), _ENTRIES):
        if name[-4:].lower() == ".txt" and not is_name_file(name):
            return True
        empty = False
    return empty and has_names


def _first_files(here: _Listing, depth: int) -> Iterator[str]:
    yield from here.files
    if depth:
        for inner in here.below():
            yield from _first_files(inner, depth - 1)


def _has_labels_beside_images(here: _Listing, has_names: bool) -> bool:
    """Return whether text files with the names of images hold rows of numbers, not captions.

    If the names of the classes are there, such files may also be empty.
    """
    images = {os.path.splitext(name)[0] for name in here.files if is_image(name)}
    texts = {os.path.splitext(name)[0]: name for name in here.files if name[-4:].lower() == ".txt"}
    paired = sorted(images & texts.keys())
    for stem in paired[:_LABELS]:
        try:
            text = read_text(here.path / texts[stem])
        except DataError:
            continue
        if text.strip():
            return has_names or _ROW.match(text) is not None
    return bool(paired) and has_names
