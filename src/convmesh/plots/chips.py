"""Chips: small filled rectangles that hold a box's class name and score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convmesh.plots.colors import Color, text_color_on
from convmesh.plots.fonts import legible_names
from convmesh.plots.text import MIN_TEXT_SCALE, fit_text, put_text, text_size

DEFAULT_TEXT_SCALE = 0.42  # in small pictures, and where there are many boxes
MAX_COVERED = 0.15  # fraction of a picture that chips may cover before they get smaller

Rectangle = tuple[int, int, int, int]  # x0, y0, x1, y1, half open
Corners = tuple[tuple[int, int], tuple[int, int]]  # first and last pixel of a box's outline


@dataclass(frozen=True)
class Chip:
    """A text, the scale of its font, and the size of its rectangle in pixels."""

    text: str
    scale: float
    width: int
    height: int


def chip_texts(names: Sequence[str], scores: Sequence[float] | np.ndarray | None) -> list[str]:
    """Return the text of each chip: the name, and the score with two digits if there are scores."""
    names = legible_names([str(name) for name in names])
    if scores is None:
        return names
    return [f"{name} {score:.2f}" for name, score in zip(names, scores, strict=True)]


def fit_chip(canvas: np.ndarray, text: str, scale: float | None = None) -> Chip | None:
    """Return a chip that fits the canvas, or None if no text fits at all.

    `scale` of the font defaults to the canvas's own. A long text gets smaller, then shorter.
    """
    height, width = canvas.shape[:2]
    scale = _canvas_text_scale(canvas) if scale is None else scale
    while _chip_size("", scale)[1] > height and scale > MIN_TEXT_SCALE:
        scale = max(MIN_TEXT_SCALE, scale * 0.9)
    text, scale = fit_text(text, width - 2 * _padding(scale), scale)
    chip = Chip(text, scale, *_chip_size(text, scale))
    return chip if chip.width <= width and chip.height <= height else None


def place_chip(
    canvas: np.ndarray, corners: Corners, chip: Chip, occupied: np.ndarray, thickness: int
) -> Rectangle:
    """Return the rectangle of a chip near its box.

    The candidates are at the corners and sides of the box. The first that overlaps no other chip is
    chosen, else the one that overlaps least.

    Args:
      canvas: [height, width, 3]; the rectangle is inside it.
      corners: of the box's outline.
      chip: fits the canvas.
      occupied: [n, 4], rectangles of the chips placed so far.
      thickness: of the box's outline in pixels.
    """
    height, width = canvas.shape[:2]
    w, h = chip.width, chip.height
    best, least = (0, 0, w, h), math.inf
    for x, y in _candidates(corners, chip, thickness):
        left, top = min(max(x, 0), width - w), min(max(y, 0), height - h)
        rectangle = (left, top, left + w, top + h)
        overlap = overlap_area(rectangle, occupied)
        if top != y:  # moved into the picture, so over its own box
            overlap += 0.5
        if overlap < least:
            best, least = rectangle, overlap
        if least == 0:
            break
    return best


def overlap_area(rectangle: Rectangle, others: np.ndarray) -> float:
    """Return the summed areas that `others` [n, 4] have in common with it, in square pixels."""
    if not len(others):
        return 0.0
    w = np.minimum(others[:, 2], rectangle[2]) - np.maximum(others[:, 0], rectangle[0])
    h = np.minimum(others[:, 3], rectangle[3]) - np.maximum(others[:, 1], rectangle[1])
    return float((w.clip(0) * h.clip(0)).sum())


def draw_chip(canvas: np.ndarray, rectangle: Rectangle, chip: Chip, color: Color) -> None:
    """Draw a chip in place, filled with `color`."""
    x0, y0, x1, y1 = rectangle
    canvas[y0:y1, x0:x1] = color
    _, _, descent = text_size(chip.text, chip.scale)
    padding = _padding(chip.scale)
    start = (x0 + padding, y1 - padding - descent + 1)
    put_text(canvas, chip.text, start, chip.scale, text_color_on(color))


def chip_text_scale(canvas: np.ndarray, texts: Sequence[str]) -> float:
    """Return the font scale at which these chips cover at most MAX_COVERED, if that is legible."""
    full = _canvas_text_scale(canvas)
    most = MAX_COVERED * canvas.shape[0] * canvas.shape[1]
    shrunk = full * math.sqrt(min(1.0, most / max(1.0, chips_area(texts, full))))
    return max(shrunk, min(DEFAULT_TEXT_SCALE, full))


def chips_area(texts: Sequence[str], scale: float) -> float:
    """Return the summed area of the chips with these texts, in square pixels."""
    return float(sum(math.prod(_chip_size(text, scale)) for text in texts))


def _candidates(corners: Corners, chip: Chip, thickness: int) -> list[tuple[int, int]]:
    """Upper left corners (x, y) of a chip around its box, best first."""
    (x0, y0), (x1, y1) = corners
    w, h, half = chip.width, chip.height, thickness // 2 + 1
    left, right, top, bottom = x0 - half, x1 + half + 1 - w, y0 - half, y1 + half + 1
    middle = (left + right) // 2
    return [
        (left, top - h),
        (left, top),
        (left, bottom),
        (right, top - h),
        (right, bottom),
        (left, bottom - h),
        (right, top),
        (right, bottom - h),
        (middle, top - h),
        (middle, bottom),
        (left - w + thickness, top),  # beside the box
        (x1 + half + 1, top),
        (left - w + thickness, bottom - h),
        (x1 + half + 1, bottom - h),
    ]


def _canvas_text_scale(canvas: np.ndarray) -> float:
    return max(DEFAULT_TEXT_SCALE, min(canvas.shape[:2]) / 1300)


def _padding(scale: float) -> int:
    return max(2, round(7 * scale))


def _chip_size(text: str, scale: float) -> tuple[int, int]:
    """Width and height in pixels."""
    width, ascent, descent = text_size(text, scale)
    return width + 2 * _padding(scale), ascent + descent + 2 * _padding(scale) - 2
