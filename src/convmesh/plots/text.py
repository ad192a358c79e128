"""Text in uint8 images: its size in pixels, and how to make it fit."""

from __future__ import annotations

import cv2
import numpy as np

from convmesh.plots.colors import Color

FONT = cv2.FONT_HERSHEY_DUPLEX
MIN_TEXT_SCALE = 0.34  # of the font; smaller text is illegible


def text_size(text: str, scale: float) -> tuple[int, int, int]:
    """Return width, ascent and descent in pixels; ascent and descent are equal for every text."""
    (width, _), _ = cv2.getTextSize(text, FONT, scale, 1)
    (_, ascent), descent = cv2.getTextSize("Ag", FONT, scale, 1)
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
    cv2.putText(canvas, text, start, FONT, scale, color, 1, cv2.LINE_AA)
