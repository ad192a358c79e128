"""Single values of a COCO file: ids, numbers, boxes.

Ids are accepted as numbers with a point (1.0) and as digits in quotes ('1'); the latter are
counted. Other numbers in quotes are rejected: the tool that wrote them may mean something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# What tools call the keys of an image, an annotation or a category, without capitals and signs.
_KEYS = {
    "id": "id",
    "filename": "file_name",
    "height": "height",
    "width": "width",
    "imageid": "image_id",
    "categoryid": "category_id",
    "bbox": "bbox",
    "boundingbox": "bbox",
    "box": "bbox",
    "area": "area",
    "iscrowd": "iscrowd",
    "segmentation": "segmentation",
    "name": "name",
    "images": "images",
    "annotations": "annotations",
    "categories": "categories",
}


class Invalid(Exception):
    """A value is missing or has the wrong type; the message names its key."""


def misspelt(keys: Iterable[str], fields: Sequence[str]) -> dict[str, str]:
    """Return those of `fields` that are not in `keys`, but there in another spelling."""
    keys = list(keys)
    wanted = set(fields).difference(keys)
    found = dict[str, str]()
    for key in keys:
        field = _KEYS.get(re.sub(r"[\W_]", "", str(key).lower()), "")
        if field in wanted:
            found.setdefault(field, key)
    return found


def _missing(entry: Mapping[str, Any], field: str) -> Invalid:
    """Return the error for a field that `entry` does not have."""
    other = misspelt(entry, (field,)).get(field)
    return Invalid(f"has no {field}" + (f", but {other!r}: rename it" if other else ""))


def is_text_of_integer(value: Any) -> bool:
    """Return whether `value` is the text of an integer, as '12' but not '012'."""
    return isinstance(value, str) and bool(re.fullmatch(r"0|-?[1-9][0-9]{0,15}", value))


def read_id(entry: dict, field: str) -> int | str:
    """Return an integer or a text. Raises Invalid."""
    value = entry.get(field)
    if type(value) is float and value.is_integer():
        return int(value)
    if type(value) in (int, str):
        return value  # type: ignore[return-value]
    raise _missing(entry, field) if value is None else Invalid(f"{field}: {value!r} is not an id")


def read_text(entry: dict, field: str) -> str:
    """Return a text that is not empty. Raises Invalid."""
    value = entry.get(field)
    if isinstance(value, str) and value:
        return value
    raise _missing(entry, field) if value is None else Invalid(f"{field}: {value!r} is not text")


def read_integer(entry: dict, field: str) -> int:
    """Return an integer that float64 holds exactly, which may be in quotes. Raises Invalid."""
    value: Any = entry.get(field)
    if type(value) is float and value.is_integer() or is_text_of_integer(value):
        value = int(value)
    if type(value) is int and abs(value) < 2**53:
        return value
    if value is None:
        raise _missing(entry, field)
    raise Invalid(f"{field}: {value!r} is not an integer; write it as one")


def read_number(value: Any, field: str) -> float:
    """Return `value`, if it is a number; `field` names it. Raises Invalid."""
    if type(value) not in (int, float) or abs(value) > _LARGEST:
        raise Invalid(f"{field}: {value!r} is not a number{_unquote(value)}")
    return value


def _unquote(value: Any) -> str:
    return "; write it without quotes" if isinstance(value, str) else ""


def read_size(entry: dict) -> tuple[int, int] | None:
    """Return the stated (height, width); None if it is missing or 0, which means unknown.

    Raises Invalid.
    """
    sides = []
    for field in ("height", "width"):
        value = entry.get(field)
        if value is not None and not (
            0 <= read_number(value, field) < 2**31 and value == int(value)
        ):
            raise Invalid(f"{field}: {value!r} is not a number of pixels")
        sides.append(int(value or 0))
    return (sides[0], sides[1]) if all(sides) else None


def read_crowd(entry: dict) -> bool:
    """Return `iscrowd`. Raises Invalid."""
    value = entry.get("iscrowd")
    if value not in (0, 1, None):
        raise Invalid(f"iscrowd: {value!r} is neither 0 nor 1{_unquote(value)}")
    return bool(value)


_NO_BOX = (float("nan"),) * 4
_NUMBERS = frozenset((int, float))
LARGEST_AREA = 1e30  # float32 can hold it
_LARGEST = 1e300  # JSON may contain infinity, and integers of thousands of digits


def read_box(entry: dict) -> Sequence[float]:
    """Return x, y, width, height: `bbox`, else of the polygons; NaN if the entry has neither."""
    box = entry.get("bbox")
    if box:
        if not isinstance(box, list) or len(box) != 4:
            raise Invalid(f"bbox: {box!r} is not [x, y, width, height]")
        if not _NUMBERS.issuperset(map(type, box)):
            quoted = any(isinstance(value, str) for value in box)
            advice = "; write them without quotes" if quoted else ""
            raise Invalid(f"bbox: {box!r} contains a value that is not a number{advice}")
        if any(abs(value) > _LARGEST for value in box):
            raise Invalid("bbox: contains a number that is too large")
        return box
    if box is not None and box != []:
        raise Invalid(f"bbox: {box!r} is not [x, y, width, height]")
    other = misspelt(entry, ("bbox",))
    if other:
        raise Invalid(f"has no bbox, but {other['bbox']!r}; call it bbox: [x, y, width, height]")
    outline = entry.get("segmentation")
    if not outline or not isinstance(outline, list):  # decoding a mask is not supported
        return _NO_BOX
    values = [part for part in outline if isinstance(part, list) and len(part) % 2 == 0]
    if len(values) != len(outline) or any(len(part) < 6 for part in values):
        raise Invalid("segmentation: contains a value that is not a polygon, and there is no bbox")
    points = [read_number(value, "segmentation") for part in values for value in part]
    x, y = points[::2], points[1::2]
    return min(x), min(y), max(x) - min(x), max(y) - min(y)


def without_box(entry: dict) -> str:
    """Return what an entry for which `read_box` returns NaN has instead, in the plural, or ''."""
    if isinstance(entry.get("segmentation"), dict):
        return "a mask (RLE in segmentation)"
    if entry.get("keypoints"):
        return "keypoints"
    return ""
