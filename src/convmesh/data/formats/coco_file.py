"""One JSON file in COCO format, read into arrays, and the problems of its entries.

`coco` finds the files of a data set and combines them.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convmesh.data.documents import read_json
from convmesh.data.formats.coco_values import (
    LARGEST_AREA,
    Invalid,
    read_box,
    read_crowd,
    read_id,
    read_integer,
    read_number,
    read_size,
    read_text,
)
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


def _read_boxes(
    entries: list, images: list[CocoImage], file: str, problems: list[Problem]
) -> _Boxes:
    """Return the valid entries of `annotations`; appends the others to `problems`."""
    indices = {image.image_id: i for i, image in enumerate(images)}
    rows, ids = list[tuple](), list[Any]()
    for i, entry in enumerate(entries):
        try:
            rows.append(_read_box(entry, indices))
        except Invalid as error:
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

    indices: of the images by their id. Raises Invalid.
    """
    if not isinstance(entry, dict):
        raise Invalid("is not an object")
    image = indices.get(read_id(entry, "image_id"))
    if image is None:
        raise Invalid(f"image_id {entry['image_id']!r} is not the id of an image")
    box, crowd = read_box(entry), read_crowd(entry)
    area = entry.get("area")
    area = box[2] * box[3] if area is None else read_number(area, "area")
    if not abs(area) < LARGEST_AREA and np.isfinite(box).all():
        raise Invalid(f"area {area!r} is not a number of square pixels")
    return image, read_integer(entry, "category_id"), *box, area, crowd


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
