"""The label files of YOLO: a class id and a box or a polygon in each row."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from convmesh.errors import DataError

# A side may leave the image by this fraction of its size: files have three decimals or more, and a
# corner is a centre plus half a length.
ROUNDING = 1e-3


@dataclass(frozen=True)
class Rows:
    """boxes: float64 [n, 4], relative. labels: int64 [n], class ids. lines: int64 [n], from 1."""

    boxes: np.ndarray
    labels: np.ndarray
    lines: np.ndarray


def parse_labels(text: str) -> Rows:
    """Return the rows of a label file. Raises DataError with the first bad row, and their count."""
    boxes, labels, lines, errors = list[tuple](), list[int](), list[int](), list[str]()
    for i, line in enumerate(text.splitlines(), start=1):
        parts = line.split()
        if not parts:
            continue
        try:
            label, box = _parse_row(parts)
        except ValueError as error:
            errors.append(f"line {i}: {error}")
            continue
        boxes.append(box)
        labels.append(label)
        lines.append(i)
    if errors:
        more = f" (and {len(errors) - 1} more lines)" if len(errors) > 1 else ""
        raise DataError(errors[0] + more)
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    inside = np.clip(corners, 0, 1)
    corners = np.where(np.abs(corners - inside) <= ROUNDING, inside, corners)
    return Rows(corners, np.array(labels, np.int64), np.array(lines, np.int64))


def _parse_row(parts: list[str]) -> tuple[int, tuple[float, float, float, float]]:
    """Return the class id and x0, y0, x1, y1 of a row. Raises ValueError if it is not a row."""
    values = [_number(part) for part in parts]
    label = values[0]
    if label != int(label) or abs(label) >= 2**31:
        raise ValueError(f"class id {parts[0]} is not an integer")
    if len(values) == 5:
        _, x, y, width, height = values
        return int(label), (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    if len(values) >= 7 and len(values) % 2:
        xs, ys = values[1::2], values[2::2]
        return int(label), (min(xs), min(ys), max(xs), max(ys))
    hint = "; is the last one a confidence?" if len(values) == 6 else ""
    hint = "; keypoints?" if len(values) > 7 else hint
    raise ValueError(
        f"{len(values)} numbers, wanted class x y width height, or class and points x y{hint}"
    )


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a number")
    return value
