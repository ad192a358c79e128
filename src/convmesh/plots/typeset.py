"""Draws text of any script as a mask of ink, with the fonts of `fonts`."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import cv2
import numpy as np

from convmesh.plots.fonts import LOCK, OPENCV, open_font, opencv_font
from convmesh.plots.scripts import Run, runs


@dataclass(frozen=True)
class Typeset:
    """A drawn text.

    ink: uint8 [height, width], 255 where a pixel is covered. left: of its first column, from the
    text's start. ascent: rows of it above the baseline. width: of the text, blanks included.
    """

    ink: np.ndarray
    left: int
    ascent: int
    width: int

    @property
    def descent(self) -> int:
        """Rows of ink below the baseline."""
        return self.ink.shape[0] - self.ascent


@functools.lru_cache(maxsize=4096)
def typeset(text: str, size: float, preferred: str | None = None) -> Typeset:
    """Draw a text at `size` in pixels per em; `preferred` is the path of the font tried first."""
    with LOCK:
        parts, pen = [], 0.0
        for run in runs(text, preferred):
            drawn = _drawn(run, size)
            parts.append((round(pen) + drawn.left, drawn))
            pen += drawn.width
    left = min([0, *(x for x, _ in parts)])
    right = max([0, *(x + drawn.ink.shape[1] for x, drawn in parts)])
    ascent = max([0, *(drawn.ascent for _, drawn in parts)])
    descent = max([0, *(drawn.descent for _, drawn in parts)])
    ink = np.zeros((ascent + descent, right - left), np.uint8)
    for x, drawn in parts:
        height, width = drawn.ink.shape
        top = ascent - drawn.ascent
        place = ink[top : top + height, x - left : x - left + width]
        np.maximum(place, drawn.ink, out=place)
    return Typeset(ink, left, ascent, math.ceil(pen))


@functools.lru_cache(maxsize=4096)  # a name's, too, which is drawn with many scores
def _drawn(run: Run, size: float) -> Typeset:
    return _opencv_run(run, size) if run.font == OPENCV else _file_run(run, size)


def _file_run(run: Run, size: float) -> Typeset:
    font = open_font(run.font, size)
    font.set_text(run.text)  # shapes it: Arabic letters are joined, Indic ones reordered
    font.draw_glyphs_to_bitmap()
    ink = np.array(font.get_image(), np.uint8)
    width, height = (length / 64 for length in font.get_width_height())
    above = height - font.get_descent() / 64
    left = math.floor(font.get_bitmap_offset()[0] / 64)
    # One row of padding is above the ink.
    return Typeset(ink, left, min(math.floor(above) + 1, ink.shape[0]), math.ceil(width))


def _opencv_run(run: Run, size: float) -> Typeset:
    pixels, margin = max(1, round(size)), math.ceil(size)
    canvas = np.zeros((3 * margin, (len(run.text) + 3) * margin), np.uint8)
    start = (margin, 2 * margin)
    (end, _), _ = cv2.putText(canvas, run.text, start, (255,), opencv_font(), pixels, 400)
    rows, columns = np.flatnonzero(canvas.any(1)), np.flatnonzero(canvas.any(0))
    if not rows.size:
        return Typeset(np.zeros((0, 0), np.uint8), 0, 0, end - margin)
    ink = canvas[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Typeset(ink, int(columns[0]) - margin, 2 * margin - int(rows[0]), end - margin)
