"""The label files of YOLO: a class id and a box or a polygon in each row."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from convmesh.errors import DataError

# A side may leave the image by this fraction of its size: files have three decimals or more, and a
# corner is a centre plus half a length.
ROUNDING = 1e-3
_WANTED = "wanted class x y width height, or class and points x y"


@dataclass(frozen=True)
class Rows:
    """The rows of a label file.

    boxes: float64 [n, 4], x0 y0 x1 y1, relative. labels: int64 [n], class ids. lines: int64 [n],
    from 1. columns: how many numbers each row has. points: the rows with more than six, as written.
    sixth: of rows with six numbers, the last as written, by line.
    """

    boxes: np.ndarray
    labels: np.ndarray
    lines: np.ndarray
    columns: list[int]
    points: list[list[float]]
    sixth: dict[int, str]

    def same(self, other: Rows) -> bool:
        """Return whether both state the same boxes."""
        return np.array_equal(self.boxes, other.boxes) and np.array_equal(self.labels, other.labels)


def parse_labels(text: str) -> Rows:
    """Return the rows of a label file. Raises DataError with the first bad row, and their count.

    A sixth number is not used; `rows.Survey` decides what it is.
    """
    lines = [line.split() for line in text.splitlines()]
    return _parse_boxes(text, lines) or _parse_rows(lines)


def _parse_boxes(text: str, lines: list[list[str]]) -> Rows | None:
    """Return the rows if all are boxes without a fault, else None.

    Plain lists: a large data set has so many small files that calls of NumPy take most of the time.
    """
    columns = list(map(len, lines))
    if columns.count(5) != len(columns) or not columns or "_" in text:
        return None
    try:
        values = list(map(float, text.split()))
        labels = list(map(int, values[::5]))
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(sum(values)) or labels != values[::5] or max(map(abs, labels)) >= 2**31:
        return None
    boxes = [
        (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        for x, y, width, height in zip(
            values[1::5], values[2::5], values[3::5], values[4::5], strict=True
        )
    ]
    corners = _rounded(np.array(boxes))
    return Rows(corners, _ids(labels), _counted(len(lines)), columns, [], {})


@functools.lru_cache(1000)
def _counted(count: int) -> np.ndarray:
    return np.arange(1, count + 1)


def _parse_rows(lines: list[list[str]]) -> Rows:
    boxes, labels, numbers, errors = list[tuple](), list[int](), list[int](), list[str]()
    columns, points, sixth = list[int](), list[list[float]](), dict[int, str]()
    for i, parts in enumerate(lines, start=1):
        if not parts:
            continue
        try:
            row = _numbers(parts)
            boxes.append(_box(row, parts[0]))
        except ValueError as error:
            errors.append(f"line {i}: {error}")
            continue
        labels.append(int(row[0]))
        numbers.append(i)
        columns.append(len(row))
        if len(row) == 6:
            sixth[i] = parts[5]
        elif len(row) > 6:
            points.append(row)
    if errors:
        more = f" (and {len(errors) - 1} more lines)" if len(errors) > 1 else ""
        raise DataError(errors[0] + more)
    corners = _rounded(np.array(boxes, np.float64).reshape(-1, 4))
    return Rows(corners, _ids(labels), _ids(numbers), columns, points, sixth)


def _ids(values: list[int]) -> np.ndarray:
    return np.array(values, np.int64)


def _rounded(boxes: np.ndarray) -> np.ndarray:
    """Return boxes whose sides that leave the image by rounding alone are on its edge."""
    if len(boxes) and (boxes.min() < 0 or boxes.max() > 1):
        inside = np.clip(boxes, 0, 1)
        return np.where(np.abs(boxes - inside) <= ROUNDING, inside, boxes)
    return boxes


def _box(row: list[float], label: str) -> tuple[float, float, float, float]:
    """Return x0, y0, x1, y1 of a row; `label` is its first number as written.

    Raises ValueError if it is not a row.
    """
    if row[0] != int(row[0]) or abs(row[0]) >= 2**31:
        raise ValueError(f"class id {label} is not an integer")
    if len(row) in (5, 6):
        x, y, width, height = row[1:5]
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(row) >= 7 and len(row) % 2:
        xs, ys = row[1::2], row[2::2]
        return min(xs), min(ys), max(xs), max(ys)
    hint = "; keypoints?" if len(row) > 7 else ""
    raise ValueError(f"{len(row)} numbers, {_WANTED}{hint}")


def sixth_number_error(rows: Rows) -> str:
    """Return what is wrong with rows of six numbers whose last one is not known."""
    line, last = next(iter(rows.sixth.items()))
    what = "a track id or an angle? Remove it" if last.isdecimal() else "a confidence?"
    more = f" (and {len(rows.sixth) - 1} more lines)" if len(rows.sixth) > 1 else ""
    return f"line {line}: 6 numbers, {_WANTED}; is the last one {what}{more}"


def _numbers(parts: list[str]) -> list[float]:
    try:
        values = list(map(float, parts))
    except ValueError:
        values = [math.nan]
    if all(map(math.isfinite, values)) and "_" not in "".join(parts):
        return values
    bad = next(part for part in parts if not _is_number(part))
    raise ValueError(f"{bad!r} is not a number")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and "_" not in text
    except ValueError:
        return False
