"""Text in uint8 images: its size in pixels, and how to make it fit."""

from __future__ import annotations

import cv2
import numpy as np

from convmesh.plots.colors import Color
from convmesh.plots.scripts import is_plain
from convmesh.plots.typeset import Typeset, typeset

FONT = cv2.FONT_HERSHEY_DUPLEX  # of printable ASCII; other texts have the fonts of `fonts`
MIN_TEXT_SCALE = 0.34  # of the font; smaller text is illegible
_PIXELS_PER_EM = 27.5  # at scale 1: capitals are as high as those of FONT
_MIN_PIXELS_PER_EM = 12  # below which ideographs are illegible


def text_size(text: str, scale: float) -> tuple[int, int, int]:
    """Return width, ascent and descent in pixels; ascent and descent are equal for every text."""
    (_, ascent), descent = cv2.getTextSize("Ag", FONT, scale, 1)
    if not is_plain(text):
        return _typeset(text, scale).width, ascent, descent
    (width, _), _ = cv2.getTextSize(text, FONT, scale, 1)
    return width, ascent, descent


def fit_text(text: str, width: int, scale: float) -> tuple[str, float]:
    """Return a text and font scale that fit `width` pixels.

    The scale shrinks first, down to MIN_TEXT_SCALE. After that the middle of the text is replaced
    by dots; its end is kept, which holds the score.
    """
    while text_size(text, scale)[0] > width and scale > MIN_TEXT_SCALE:
        scale = max(MIN_TEXT_SCALE, scale * 0.95)
    full, kept = text, len(text)
    while text_size(text, scale)[0] > width and kept > 2:
        kept -= 1
        end = min(5, kept // 2)
        text = full[: kept - end] + "..." + full[len(full) - end :]
    return text, scale


def put_text(
    canvas: np.ndarray, text: str, start: tuple[int, int], scale: float, color: Color
) -> None:
    """Draw `text` in place; `start` is the left end of its baseline (x, y)."""
    if is_plain(text):
        cv2.putText(canvas, text, start, FONT, scale, color, 1, cv2.LINE_AA)
        return
    drawn = _typeset(text, scale)
    left, top = start[0] + drawn.left, start[1] - drawn.ascent
    height, width = drawn.ink.shape
    x0, y0 = max(left, 0), max(top, 0)
    place = canvas[y0 : max(top + height, 0), x0 : max(left + width, 0)]
    ink = drawn.ink[y0 - top :, x0 - left :][: place.shape[0], : place.shape[1], None] / 255
    place[:] = np.round(place * (1 - ink) + np.array(color) * ink)


def _typeset(text: str, scale: float) -> Typeset:
    return typeset(text, max(_MIN_PIXELS_PER_EM, round(_PIXELS_PER_EM * scale, 1)))
