"""Single values of a COCO file: ids, numbers, boxes.

Numbers in quotes are rejected: the tool that wrote them may mean something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Invalid(Exception):
    """A value is missing or has the wrong type; the message names its key."""


def read_id(entry: dict, field: str) -> int | str:
    """Return an integer or a text. Raises Invalid."""
    value = entry.get(field)
    if type(value) in (int, str):
        return value  # type: ignore[return-value]
    raise Invalid(f"has no {field}" if value is None else f"{field}: {value!r} is not an id")


def read_text(entry: dict, field: str) -> str:
    """Return a text that is not empty. Raises Invalid."""
    value = entry.get(field)
    if isinstance(value, str) and value:
        return value
    raise Invalid(f"has no {field}" if value is None else f"{field}: {value!r} is not text")


def read_integer(entry: dict, field: str) -> int:
    """Return an integer that float64 holds exactly. Raises Invalid."""
    value = entry.get(field)
    if type(value) is int and abs(value) < 2**53:
        return value
    raise Invalid(f"has no {field}" if value is None else f"{field}: {value!r} is not an integer")


def read_number(value: Any, field: str) -> float:
    """Return `value`, if it is a number; `field` names it. Raises Invalid."""
    if type(value) not in (int, float) or abs(value) > _LARGEST:
        raise Invalid(f"{field}: {value!r} is not a number")
    return value


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
        raise Invalid(f"iscrowd: {value!r} is neither 0 nor 1")
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
            raise Invalid(f"bbox: {box!r} contains a value that is not a number")
        if any(abs(value) > _LARGEST for value in box):
            raise Invalid("bbox: contains a number that is too large")
        return box
    if box is not None and box != []:
        raise Invalid(f"bbox: {box!r} is not [x, y, width, height]")
    outline = entry.get("segmentation")
    if not outline or not isinstance(outline, list):  # decoding a mask is not supported
        return _NO_BOX
    values = [part for part in outline if isinstance(part, list) and len(part) % 2 == 0]
    if len(values) != len(outline) or any(len(part) < 6 for part in values):
        raise Invalid("segmentation: contains a value that is not a polygon, and there is no bbox")
    points = [read_number(value, "segmentation") for part in values for value in part]
    x, y = points[::2], points[1::2]
    return min(x), min(y), max(x) - min(x), max(y) - min(y)
