"""One JSON file in COCO format, read into arrays, and the problems of its entries.

`coco` finds the files of a data set and combines them.
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
from convmesh.data.problems import Problem
from convmesh.errors import DataError


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
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        what = "it is a list" if isinstance(document, list) else "it has no list `images`"
        raise NotCoco(name, f"not in COCO format: {what}")
    for key in ("annotations", "categories"):
        if not isinstance(document.get(key), list):
            raise NotCoco(name, f"not in COCO format: it has no list `{key}`")
    problems: list[Problem] = []
    images = _read_images(document["images"], name, problems)
    categories = _read_categories(document["categories"], name, problems)
    boxes = _read_boxes(document["annotations"], images, name, problems)
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
    )


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
                raise _Invalid("is not an object")
            image = CocoImage(_id(entry, "id"), _text(entry, "file_name"), _size(entry))
        except _Invalid as error:
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
                raise _Invalid("is not an object")
            number, name = _integer(entry, "id"), _text(entry, "name")
        except _Invalid as error:
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


def _read_boxes(
    entries: list, images: list[CocoImage], file: str, problems: list[Problem]
) -> _Boxes:
    """Return the valid entries of `annotations`; appends the others to `problems`."""
    indices = {image.image_id: i for i, image in enumerate(images)}
    rows, ids = list[tuple](), list[Any]()
    for i, entry in enumerate(entries):
        try:
            rows.append(_read_box(entry, indices))
        except _Invalid as error:
            problems.append(Problem(file, str(error), _location(entry, i)))
            continue
        ids.append(entry.get("id", f"at index {i}"))
    columns = np.array(rows, np.float64).reshape(-1, 8)  # exact for integers up to 2 ** 53
    order = np.argsort(columns[:, 0], kind="stable")
    image, category, x, y, width, height, area, crowd = columns[order].T
    problems += _duplicate_ids(ids, file)
    return _Boxes(
        image,
        category.astype(np.int64),
        np.stack([x, y, x + width, y + height], 1),
        area.copy(),
        crowd.astype(bool),
        _as_array(ids)[order],
    )


def _read_box(entry: Any, indices: dict[int | str, int]) -> tuple:
    """Return index of the image, category id, x, y, width, height, area and crowd flag of an entry.

    indices: of the images by their id. Raises _Invalid.
    """
    if not isinstance(entry, dict):
        raise _Invalid("is not an object")
    image = indices.get(_id(entry, "image_id"))
    if image is None:
        raise _Invalid(f"image_id {entry['image_id']!r} is not the id of an image")
    box, crowd = _box(entry), _crowd(entry)
    area = entry.get("area")
    area = box[2] * box[3] if area is None else _number(area, "area")
    if not abs(area) < _LARGEST_AREA and np.isfinite(box).all():
        raise _Invalid(f"area {area!r} is not a number of square pixels")
    return image, _integer(entry, "category_id"), *box, area, crowd


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


# Single values. Numbers in quotes are rejected: the tool that wrote them may mean something else.


class _Invalid(Exception):
    """A value is missing or has the wrong type; the message names its key."""


def _id(entry: dict, field: str) -> int | str:
    value = entry.get(field)
    if type(value) in (int, str):
        return value  # type: ignore[return-value]
    raise _Invalid(f"has no {field}" if value is None else f"{field}: {value!r} is not an id")


def _text(entry: dict, field: str) -> str:
    value = entry.get(field)
    if isinstance(value, str) and value:
        return value
    raise _Invalid(f"has no {field}" if value is None else f"{field}: {value!r} is not text")


def _integer(entry: dict, field: str) -> int:
    value = entry.get(field)
    if type(value) is int and abs(value) < 2**53:
        return value
    raise _Invalid(f"has no {field}" if value is None else f"{field}: {value!r} is not an integer")


def _number(value: Any, field: str) -> float:
    if type(value) not in (int, float) or abs(value) > _LARGEST:
        raise _Invalid(f"{field}: {value!r} is not a number")
    return value


def _size(entry: dict) -> tuple[int, int] | None:
    """Return the stated (height, width); None if it is missing or 0, which means unknown."""
    sides = []
    for field in ("height", "width"):
        value = entry.get(field)
        if value is not None and not (0 <= _number(value, field) < 2**31 and value == int(value)):
            raise _Invalid(f"{field}: {value!r} is not a number of pixels")
        sides.append(int(value or 0))
    return (sides[0], sides[1]) if all(sides) else None


def _crowd(entry: dict) -> bool:
    value = entry.get("iscrowd")
    if value not in (0, 1, None):
        raise _Invalid(f"iscrowd: {value!r} is neither 0 nor 1")
    return bool(value)


_NO_BOX = (float("nan"),) * 4
_NUMBERS = frozenset((int, float))
_LARGEST_AREA = 1e30  # float32 can hold it
_LARGEST = 1e300  # JSON may contain infinity, and integers of thousands of digits


def _box(entry: dict) -> Sequence[float]:
    """Return x, y, width, height: `bbox`, else of the polygons; NaN if the entry has neither."""
    box = entry.get("bbox")
    if box:
        if not isinstance(box, list) or len(box) != 4:
            raise _Invalid(f"bbox: {box!r} is not [x, y, width, height]")
        if not _NUMBERS.issuperset(map(type, box)):
            raise _Invalid(f"bbox: {box!r} contains a value that is not a number")
        if any(abs(value) > _LARGEST for value in box):
            raise _Invalid("bbox: contains a number that is too large")
        return box
    if box is not None and box != []:
        raise _Invalid(f"bbox: {box!r} is not [x, y, width, height]")
    outline = entry.get("segmentation")
    if not outline or not isinstance(outline, list):  # decoding a mask is not supported
        return _NO_BOX
    values = [part for part in outline if isinstance(part, list) and len(part) % 2 == 0]
    if len(values) != len(outline) or any(len(part) < 6 for part in values):
        raise _Invalid("segmentation: contains a value that is not a polygon, and there is no bbox")
    points = [_number(value, "segmentation") for part in values for value in part]
    x, y = points[::2], points[1::2]
    return min(x), min(y), max(x) - min(x), max(y) - min(y)
