"""One JSON file in COCO format, read into arrays, and the problems of its entries.

`dataset` finds the files of a data set and combines them.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convmesh.data.documents import read_json
from convmesh.data.formats import unread
from convmesh.data.formats.coco.units import BoxColumns, wrong_units
from convmesh.data.formats.coco.unlike import BARE, what_else
from convmesh.data.formats.coco.values import (
    LARGEST_AREA,
    Invalid,
    is_text_of_integer,
    misspelt,
    read_box,
    read_crowd,
    read_id,
    read_integer,
    read_number,
    read_size,
    read_text,
    without_box,
)
from convmesh.data.problems import Problem
from convmesh.errors import DataError

# The keys that are read.
_FIELDS = {
    "images": ("id", "file_name", "height", "width"),
    "categories": ("id", "name"),
    "annotations": ("image_id", "category_id", "bbox", "segmentation", "area", "iscrowd"),
}
_UNKNOWN = (np.nan, np.nan)  # size of an image


@dataclass(frozen=True)
class CocoImage:
    """An entry of `images`. size: (height, width) or None."""

    image_id: int | str
    file_name: str
    size: tuple[int, int] | None


@dataclass(frozen=True)
class CocoFile:
    """The contents of a file as arrays, with the boxes sorted by image.

    name: of the file, relative to the root. categories: (id, name) pairs. starts: int64
    [images + 1], index of the first box of each image. category: int64 [n], category id of each
    box; boxes, area, crowd: as in AnnotatedImage. ids: ids of the annotations, as in the file.
    boxless: what annotations have instead of a box, how many, and the id of the first.
    """

    name: str
    images: tuple[CocoImage, ...]
    categories: tuple[tuple[int, str], ...]
    starts: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    ids: np.ndarray
    problems: tuple[Problem, ...]
    boxless: tuple[tuple[str, tuple[int, Any]], ...]


class NotCoco(DataError):
    """The JSON file is not in COCO format; what: the reason without the file's name."""

    def __init__(self, name: str, what: str):
        super().__init__(f"{name}: {what}")
        self.what = what


def read_coco(path: Path, name: str) -> CocoFile:
    """Return the contents of a file; name: of the file in messages.

    Raises NotCoco if the file is not in COCO format, DataError if it is unreadable or no JSON.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    return _read_cached(path, name, (status.st_mtime_ns, status.st_size, status.st_ino))


# A run opens the data set for training and for evaluation; the largest file takes half a minute.
# `version` is part of the key, so that a changed file is read again.
@functools.lru_cache(maxsize=4)
def _read_cached(path: Path, name: str, version: tuple[int, ...]) -> CocoFile:
    document = read_json(path, _without_outline)
    what = what_else(document)
    if what:
        tool = unread.name_document(path) if what in BARE else ""
        raise NotCoco(name, f"not in COCO format: {what}{f'; {tool}' if tool else ''}")
    for key, fields in _FIELDS.items():
        _check_keys(document[key], key, fields, name)
    problems: list[Problem] = []
    images = _read_images(document["images"], name, problems)
    categories = _read_categories(document["categories"], name, problems)
    annotations = _Annotations(document["annotations"], images, name)
    boxes = annotations.boxes
    quoted = sum(isinstance(c.get("id"), str) for c in document["categories"] if type(c) is dict)
    problems += [*annotations.problems, *_quoted(name, "category ids", quoted + annotations.quoted)]
    return CocoFile(
        name,
        tuple(images),
        categories,
        starts=np.searchsorted(boxes.image, np.arange(len(images) + 1)),
        category=boxes.category,
        boxes=boxes.corners,
        area=boxes.area,
        crowd=boxes.crowd,
        ids=boxes.ids,
        problems=tuple(problems),
        boxless=tuple(annotations.boxless.items()),
    )


def _check_keys(entries: list, noun: str, fields: Sequence[str], file: str) -> None:
    """Raise NotCoco if entries have one of `fields` in another spelling only."""
    objects = [entry for entry in entries if isinstance(entry, dict)]
    keys = set[str]().union(*objects)
    for key in sorted(keys.difference(fields)):
        for field in misspelt((key,), fields):
            count = sum(key in entry and field not in entry for entry in objects)
            if count:
                what = f"{noun} have `{key}` instead of `{field}`: {count} of {len(entries)}"
                raise NotCoco(file, f"{what}; rename it")


def _quoted(file: str, what: str, count: int) -> list[Problem]:
    """Return a warning if `count` is not 0."""
    said = f"{what} in quotes: {count}; taken as the numbers that they are"
    return [Problem(file, said, error=False)] if count else []


def _without_outline(entry: dict) -> dict:
    # Outlines are nine tenths of COCO's files, and would take gigabytes of memory.
    if entry.get("bbox"):
        entry.pop("segmentation", None)
    return entry


def _read_images(entries: list, file: str, problems: list[Problem]) -> list[CocoImage]:
    """Return the valid entries of `images`; appends the others to `problems`."""
    images, by_id, by_name = [], dict[Any, int](), dict[str, int]()
    for i, entry in enumerate(entries):
        try:
            if not isinstance(entry, dict):
                raise Invalid("is not an object")
            image = CocoImage(read_id(entry, "id"), read_text(entry, "file_name"), read_size(entry))
        except Invalid as error:
            problems.append(Problem(file, str(error), f"images[{i}]"))
            continue
        if image.image_id in by_id:
            what = f"the id {image.image_id!r} is also that of images[{by_id[image.image_id]}]"
            problems.append(Problem(file, what, f"images[{i}]"))
        elif image.file_name in by_name:
            what = f"{image.file_name} is also images[{by_name[image.file_name]}]"
            problems.append(Problem(file, what, f"images[{i}]"))
        else:
            by_id[image.image_id] = by_name[image.file_name] = i
            images.append(image)
    return images


def _read_categories(
    entries: list, file: str, problems: list[Problem]
) -> tuple[tuple[int, str], ...]:
    """Return (id, name) of the valid entries of `categories`; appends the others to `problems`."""
    found: dict[int, str] = {}
    for i, entry in enumerate(entries):
        try:
            if not isinstance(entry, dict):
                raise Invalid("is not an object")
            number, name = read_integer(entry, "id"), read_text(entry, "name")
        except Invalid as error:
            problems.append(Problem(file, str(error), f"categories[{i}]"))
            continue
        if found.setdefault(number, name) != name:
            what = f"category {number} is {found[number]!r} and {name!r}"
            problems.append(Problem(file, what))
    return tuple(found.items())


@dataclass(frozen=True)
class _Boxes:
    """All boxes of a file, sorted by `image`: float64 [n], index of the image."""

    image: np.ndarray
    category: np.ndarray
    corners: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    ids: np.ndarray


class _Annotations:
    """The entries of `annotations`.

    boxes: of the valid entries. problems: the others, and what the valid ones have in common.
    quoted: number of category ids in quotes. boxless: number of entries without a box and the id of
    the first, by what they have instead.
    """

    def __init__(self, entries: list, images: list[CocoImage], file: str):
        self._indices = {image.image_id: i for i, image in enumerate(images)}
        self.quoted = self._converted = 0
        self.problems, self.boxless = list[Problem](), dict[str, tuple[int, Any]]()
        rows, ids = list[tuple](), list[Any]()
        for i, entry in enumerate(entries):
            try:
                rows.append(self._row(entry))
            except Invalid as error:
                self.problems.append(Problem(file, str(error), _location(entry, i)))
                continue
            ids.append(entry.get("id", f"at index {i}"))
            if rows[-1][2] != rows[-1][2]:
                self._count_boxless(entry, ids[-1])
        columns = np.array(rows, np.float64).reshape(-1, 8)  # exact for integers up to 2 ** 53
        sizes = np.array([image.size or _UNKNOWN for image in images], np.float64).reshape(-1, 2)
        self.problems += _duplicate_ids(ids, file)
        self.problems += _quoted(file, "ids of images in annotations", self._converted)
        units = BoxColumns(columns[:, 2:6], sizes[columns[:, 0].astype(np.int64)], columns[:, 6])
        if what := wrong_units(units):
            self.problems.append(Problem(file, what))
        order = np.argsort(columns[:, 0], kind="stable")
        image, category, x, y, width, height, area, crowd = columns[order].T
        self.boxes = _Boxes(
            image,
            category.astype(np.int64),
            np.stack([x, y, x + width, y + height], 1),
            np.where(np.isnan(area), width * height, area),
            crowd.astype(bool),
            _as_array(ids)[order],
        )

    def _row(self, entry: Any) -> tuple:
        """Return index of the image, category id, x, y, width, height, area and crowd flag.

        The area is NaN if it is not stated. Raises Invalid.
        """
        if not isinstance(entry, dict):
            raise Invalid("is not an object")
        image = self._image(read_id(entry, "image_id"))
        box, crowd = read_box(entry), read_crowd(entry)
        area = entry.get("area")
        used = box[2] * box[3] if area is None else read_number(area, "area")
        if not abs(used) < LARGEST_AREA and np.isfinite(box).all():
            raise Invalid(f"area {used!r} is not a number of square pixels")
        category = read_integer(entry, "category_id")
        self.quoted += isinstance(entry["category_id"], str)
        return image, category, *box, np.nan if area is None else area, crowd

    def _image(self, number: int | str) -> int:
        """Return the index of the image with an id, also if one of them is in quotes."""
        index = self._indices.get(number)
        if index is None:
            other = int(number) if is_text_of_integer(number) else str(number)
            index = self._indices.get(other)
            if index is None:
                raise Invalid(f"image_id {number!r} is not the id of an image")
            self._converted += 1
        return index

    def _count_boxless(self, entry: dict, number: Any) -> None:
        what = without_box(entry)
        if what:
            count, first = self.boxless.get(what, (0, number))
            self.boxless[what] = count + 1, first


def _location(entry: Any, i: int) -> str:
    has_id = isinstance(entry, dict) and isinstance(entry.get("id"), int | str)
    return f"annotation {entry['id']}" if has_id else f"annotation at index {i}"


def _as_array(ids: list) -> np.ndarray:
    """Return the ids as int64 if they are integers, which takes a tenth of the memory."""
    if all(type(number) is int and abs(number) < 2**63 for number in ids):
        return np.array(ids, np.int64)
    array = np.empty(len(ids), object)
    array[:] = ids
    return array


def _duplicate_ids(ids: list, file: str) -> list[Problem]:
    """Return a warning for each id that several annotations have."""
    if len(set(map(str, ids))) == len(ids):
        return []
    counts = Counter(map(str, ids))
    return [
        Problem(file, f"{count} annotations have the id {number}", error=False)
        for number, count in counts.items()
        if count > 1
    ]
