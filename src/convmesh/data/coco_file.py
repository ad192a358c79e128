"""One JSON file of COCO's form, read into arrays, and what is wrong with its entries.

`coco` knows which files there are, and what they are together.
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
    """A whole file, in arrays, its boxes sorted by the image they are of.

    known: the file, from the root. categories: (id, name) each. starts: int64 [images + 1], the
    first box of each image. category: the number of each box's category, int64 [n]; boxes, area,
    crowd: as in Annotated. ids: those of the boxes, as the file has them.
    """

    known: str
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
    """A file holds something else."""

    def __init__(self, known: str, what: str):
        super().__init__(f"{known}: {what}")
        self.what = what


def read_coco(path: Path, known: str) -> CocoFile:
    """Return what is in a file. Raises DataError: NotCoco where that has not COCO's form."""
    try:
        about = path.stat()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    return _read_once(path, known, (about.st_mtime_ns, about.st_size, about.st_ino))


# Training opens the set for training and for evaluation; the largest file takes half a minute.
@functools.lru_cache(maxsize=4)
def _read_once(path: Path, known: str, stamp: tuple[int, ...]) -> CocoFile:
    document = read_json(path, _without_outline)
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        what = "a list" if isinstance(document, list) else "no `images`"
        raise NotCoco(known, f"no COCO annotations: it is or has {what}")
    for name in ("annotations", "categories"):
        if not isinstance(document.get(name), list):
            raise NotCoco(known, f"has no list `{name}`")
    problems: list[Problem] = []
    images = _read_images(document["images"], known, problems)
    categories = _read_categories(document["categories"], known, problems)
    return _read_boxes(document["annotations"], images, categories, known, problems)


def _without_outline(found: dict) -> dict:
    # Outlines are nine tenths of COCO's files, and would take gigabytes of memory.
    if found.get("bbox"):
        found.pop("segmentation", None)
    return found


def _read_images(entries: list, known: str, problems: list[Problem]) -> list[CocoImage]:
    images, by_id, by_name = [], dict[Any, int](), dict[str, int]()
    for i, entry in enumerate(entries):
        try:
            if not isinstance(entry, dict):
                raise _Wrong("is no object")
            image = CocoImage(_id(entry, "id"), _text(entry, "file_name"), _size(entry))
        except _Wrong as wrong:
            problems.append(Problem(known, str(wrong), f"images[{i}]"))
            continue
        if image.image_id in by_id:
            what = f"the id {image.image_id!r} is also that of images[{by_id[image.image_id]}]"
            problems.append(Problem(known, what, f"images[{i}]"))
        elif image.file_name in by_name:
            what = f"{image.file_name} is also images[{by_name[image.file_name]}]"
            problems.append(Problem(known, what, f"images[{i}]"))
        else:
            by_id[image.image_id] = by_name[image.file_name] = i
            images.append(image)
    return images


def _read_categories(
    entries: list, known: str, problems: list[Problem]
) -> tuple[tuple[int, str], ...]:
    found: dict[int, str] = {}
    for i, entry in enumerate(entries):
        try:
            if not isinstance(entry, dict):
                raise _Wrong("is no object")
            number, name = _integer(entry, "id"), _text(entry, "name")
        except _Wrong as wrong:
            problems.append(Problem(known, str(wrong), f"categories[{i}]"))
            continue
        if found.setdefault(number, name) != name:
            what = f"category {number} is {found[number]!r} and {name!r}"
            problems.append(Problem(known, what))
    return tuple(found.items())


def _read_boxes(
    entries: list,
    images: list[CocoImage],
    categories: tuple[tuple[int, str], ...],
    known: str,
    problems: list[Problem],
) -> CocoFile:
    """Return all as arrays."""
    numbers = {image.image_id: i for i, image in enumerate(images)}
    rows, ids = list[tuple](), list[Any]()
    for i, entry in enumerate(entries):
        try:
            if not isinstance(entry, dict):
                raise _Wrong("is no object")
            image = numbers.get(_id(entry, "image_id"))
            if image is None:
                raise _Wrong(f"image_id {entry['image_id']!r} is the id of no image")
            box, crowd = _box(entry), _crowd(entry)
            area = entry.get("area")
            area = box[2] * box[3] if area is None else _number(area, "area")
            if not abs(area) < _LARGEST_AREA and np.isfinite(box).all():
                raise _Wrong(f"area {area!r} is no number of square pixels")
            rows.append((image, _integer(entry, "category_id"), *box, area, crowd))
        except _Wrong as wrong:
            problems.append(Problem(known, str(wrong), _place(entry, i)))
            continue
        ids.append(entry.get("id", f"at place {i}"))
    columns = np.array(rows, np.float64).reshape(-1, 8)  # exact for integers up to 2 ** 53
    order = np.argsort(columns[:, 0], kind="stable")
    image, category, x, y, width, height, area, crowd = columns[order].T
    problems += _twice(ids, known)
    return CocoFile(
        known,
        tuple(images),
        categories,
        starts=np.searchsorted(image, np.arange(len(images) + 1)),
        category=category.astype(np.int64),
        boxes=np.stack([x, y, x + width, y + height], 1),
        area=area.copy(),
        crowd=crowd.astype(bool),
        ids=_as_array(ids)[order],
        problems=tuple(problems),
    )


def _place(entry: Any, i: int) -> str:
    has = isinstance(entry, dict) and isinstance(entry.get("id"), int | str)
    return f"annotation {entry['id']}" if has else f"annotation at place {i}"


def _as_array(ids: list) -> np.ndarray:
    """Return the ids as integers where they are, which is ten times less than objects."""
    if all(type(number) is int and abs(number) < 2**63 for number in ids):
        return np.array(ids, np.int64)
    array = np.empty(len(ids), object)
    array[:] = ids
    return array


def _twice(ids: list, known: str) -> list[Problem]:
    """Return a warning for each id that several annotations have."""
    if len(set(map(str, ids))) == len(ids):
        return []
    counts = Counter(map(str, ids))
    return [
        Problem(known, f"{count} annotations have the id {name}", error=False)
        for name, count in counts.items()
        if count > 1
    ]


# Single values. Numbers in quotes are refused: what wrote them may have meant something else.


class _Wrong(Exception):
    """A value is not of its kind; the text says which."""


def _id(entry: dict, field: str) -> int | str:
    value = entry.get(field)
    if type(value) in (int, str):
        return value  # type: ignore[return-value]
    raise _Wrong(f"has no {field}" if value is None else f"{field}: {value!r} is no id")


def _text(entry: dict, field: str) -> str:
    value = entry.get(field)
    if isinstance(value, str) and value:
        return value
    raise _Wrong(f"has no {field}" if value is None else f"{field}: {value!r} is no text")


def _integer(entry: dict, field: str) -> int:
    value = entry.get(field)
    if type(value) is int and abs(value) < 2**53:
        return value
    raise _Wrong(f"has no {field}" if value is None else f"{field}: {value!r} is no whole number")


def _number(value: Any, field: str) -> float:
    if type(value) not in (int, float) or abs(value) > _LARGEST:
        raise _Wrong(f"{field}: {value!r} is no number")
    return value


def _size(entry: dict) -> tuple[int, int] | None:
    """Return the stated (height, width); None where it is not stated, or 0, which means that."""
    sides = []
    for field in ("height", "width"):
        value = entry.get(field)
        if value is not None and not (0 <= _number(value, field) < 2**31 and value == int(value)):
            raise _Wrong(f"{field}: {value!r} is no number of pixels")
        sides.append(int(value or 0))
    return (sides[0], sides[1]) if all(sides) else None


def _crowd(entry: dict) -> bool:
    value = entry.get("iscrowd")
    if value not in (0, 1, None):
        raise _Wrong(f"iscrowd: {value!r} is neither 0 nor 1")
    return bool(value)


_NO_BOX = (float("nan"),) * 4
_NUMBERS = frozenset((int, float))
_LARGEST_AREA = 1e30  # of what float32 holds
_LARGEST = 1e300  # JSON may hold infinite numbers, and whole ones of thousands of digits


def _box(entry: dict) -> Sequence[float]:
    """Return x, y, width, height: `bbox`, or around the polygons; NaN if the file has neither."""
    box = entry.get("bbox")
    if box:
        if not isinstance(box, list) or len(box) != 4:
            raise _Wrong(f"bbox: {box!r} is not [x, y, width, height]")
        if not _NUMBERS.issuperset(map(type, box)):
            raise _Wrong(f"bbox: {box!r} holds what is no number")
        if any(abs(value) > _LARGEST for value in box):
            raise _Wrong("bbox: holds a number that is too large")
        return box
    if box is not None and box != []:
        raise _Wrong(f"bbox: {box!r} is not [x, y, width, height]")
    outline = entry.get("segmentation")
    if not outline or not isinstance(outline, list):  # a mask would have to be decoded
        return _NO_BOX
    values = [part for part in outline if isinstance(part, list) and len(part) % 2 == 0]
    if len(values) != len(outline) or any(len(part) < 6 for part in values):
        raise _Wrong("segmentation: holds what is no polygon, and there is no bbox")
    points = [_number(value, "segmentation") for part in values for value in part]
    x, y = points[::2], points[1::2]
    return min(x), min(y), max(x) - min(x), max(y) - min(y)
