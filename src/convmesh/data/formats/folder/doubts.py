"""Folders of images that look like no classes: the classes are in a table, or in folders below."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Collection, Iterator
from itertools import combinations, islice
from pathlib import Path

from convmesh.data.formats import split_names
from convmesh.data.formats.files import contents, normal_name
from convmesh.data.formats.folder.folder_tree import PARTS, Folder, is_image, name_key
from convmesh.errors import DataError, some

_IMAGE_PARTS = frozenset("images image imgs img jpegimages".split())
_TABLES = (".csv", ".tsv", ".xlsx", ".xls")
_NAMED = re.compile(r"label|train|annot|target|ground.?truth|solution")  # a table, by its name
_LABEL = re.compile(r"label|class|target|level|categor|diagnos|dx|species|breed|type")  # a column
_ROWS = 200  # of a table, that are looked at
_FIRST = 2**16  # bytes of a table that are looked at
_FOLDERS = 50  # more folders are not compared with each other
# Names of folders that hold a data set, and of those that lie beside one.
_CONTAINER = re.compile(
    r"(.*[\W_])?(data|datasets?|images?|imgs?|archive|input|raw|photos|pictures)\d*"
)
_BESIDE = re.compile(
    r"(docs?|static|assets?|src|source|scripts?|notebooks?|figures?|figs?|plots?|media|examples?"
    r"|screenshots?|results?|outputs?|runs?|web|app|public|samples?([\W_].*)?|demo)"
)


def refuse_table(root: Path, top: Folder) -> None:
    """Raise DataError if a table of labels is beside the folders of images in `root`.

    A table that has the names of the folders as values agrees with them.
    """
    places = [root, root.parent] if root.name.lower() in PARTS else [root]
    for place in places:
        for name in contents(place).others:
            if name.lower().endswith(_TABLES) and _labels_images(place / name, top):
                raise DataError(
                    f"{place / name}: a table of labels, which is not read, beside the folders"
                    f" {some(list(top.with_images))}: put the images of each class into one folder"
                    " of its name, or list the folders in data.classes if they are the classes"
                )


def _labels_images(table: Path, top: Folder) -> bool:
    """Return whether the first columns of a table are names of the images in the folders."""
    stem = table.stem.lower()
    folders = {name for name in map(name_key, top.with_images) if not split_names.parse(name)}
    named = bool(_NAMED.search(stem))
    if any(stem.startswith(name) for name in folders):  # COVID.metadata.csv is about one class
        return False
    if table.suffix.lower().startswith(".xls"):
        return named
    header, *rows = _read_rows(table) or [[]]
    if len(header) < 2 or not (named or any(_LABEL.search(cell.lower()) for cell in header)):
        return False
    if folders & {name_key(cell) for row in (header, *rows) for cell in row}:
        return False
    images = {_image_key(path) for folder in top.with_images.values() for path in folder.names()}
    # Numbers of rows may be names of images by chance.
    keys = (_image_key(cell) for row in (header, *rows) for cell in row[:2])
    return any(key in images and (named or not key.isdecimal()) for key in keys if key)


def _image_key(name: str) -> str:
    """Return the name of an image without folders, suffix, and zeros at its beginning."""
    name = os.path.basename(name.strip().replace("\\", "/")).lower()
    return (os.path.splitext(name)[0] if is_image(name) else name).lstrip("0") or name[:1]


def _read_rows(table: Path) -> list[list[str]]:
    try:
        with table.open("rb") as file:
            text = file.read(_FIRST).decode("utf-8", "replace").lstrip("\ufeff")
        lines = text.splitlines()[:_ROWS]
        delimiter = max("\t;,", key=lines[0].count) if lines else ","
        return list(csv.reader(lines, delimiter=delimiter))
    except (OSError, csv.Error):
        return []


def refuse_outer(root: Path, top: Folder) -> None:
    """Raise DataError if the classes seem to be in a folder of `top`, or in two copies of it."""
    inner = {name: _below(folder) for name, folder in top.with_images.items()}
    holders = {
        name: folder
        for name, folder in inner.items()
        # A copy of what is beside it is left out.
        if len(_classes(folder)) > 1 and not {*_classes(folder)} <= {*inner} - {name}
    }
    for one, other in combinations(islice(holders, _FOLDERS), 2):
        first, second = holders[one], holders[other]
        levels = _level(first) != _level(second)
        same = sorted({*_classes(first)} & {*_classes(second)})
        if len(same) > 1 and (levels or name_key(one) == name_key(other)):
            raise DataError(
                f"{first.path} and {second.path} hold the same folders, {some(same)}: if those are"
                f" the classes, set data.root to one of the two, such as {root / first.path}; else"
                " list the outer ones in data.classes"
            )
    others = [name for name in inner if name not in holders]
    if len(holders) == 1:
        ((name, folder),) = holders.items()
        if _CONTAINER.fullmatch(name.lower()) or (
            others and all(_BESIDE.fullmatch(other.lower()) for other in others)
        ):
            beside = f" and not in {some(others)}" if others else ""
            raise DataError(
                f"{folder.path}: the classes look to be the folders in it,"
                f" {some(_classes(folder))}{beside}: set data.root to {root / folder.path}, or list"
                f" {some([name, *others])} in data.classes"
            )


def _level(folder: Folder) -> int:
    return sum(name.lower() not in PARTS for name in folder.path.split("/"))


def _below(folder: Folder) -> Folder:
    """Return `folder`, or the only folder with images in it, and so on."""
    while len(folder.with_images) == 1 and _few_loose(folder):
        (folder,) = folder.with_images.values()
    return folder


def _few_loose(folder: Folder) -> bool:
    """Return whether almost all images are in the folders in `folder`: a logo may be beside."""
    loose = folder.loose
    return loose <= max(2, folder.images // 20) and 2 * loose < folder.images


def _classes(folder: Folder) -> list[str]:
    """Return the folders in `folder` that may be classes, if almost all images are in them."""
    names = [name for name in folder.with_images if name.lower() not in PARTS]
    return names if _few_loose(folder) else []


def classes_in_classes(folders: Collection[tuple[str, str, list[str]]]) -> Iterator[str]:
    """Yield the path of each folder in a class that has the name of another class.

    folders: name and path of each class, and the folders in and below it that hold images.
    """
    names = {name_key(name) for name, _, _ in folders}
    for own, path, holding in folders:
        found = set[str]()
        for folder in holding:
            parts = folder[len(path) + 1 :].split("/")
            for i, part in enumerate(parts):
                if name_key(part) in names - {name_key(own)}:
                    found.add("/".join([path, *parts[: i + 1]]))
        yield from sorted(found)


def masks_in(folder: Folder) -> list[str]:
    """Return the folders of masks or labels in a class folder that has images apart from them."""
    folder = _below(folder)
    masks = [name for name in folder.with_images if name.lower() in PARTS - _IMAGE_PARTS]
    images = folder.loose or any(name.lower() in _IMAGE_PARTS for name in folder.with_images)
    return [folder.join(normal_name(name)) for name in masks] if images else []
