"""Text in uint8 images: its size in pixels, and how to make it fit.

ASCII is drawn by OpenCV, whose font has nothing else; other texts by Pillow, see `fonts`.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from convmesh.plots.colors import Color
from convmesh.plots.fonts import font_for, legible

FONT = cv2.FONT_HERSHEY_DUPLEX
MIN_TEXT_SCALE = 0.34  # of the font; smaller text is illegible
_PIXELS = 27  # of a TrueType font at scale 1, as high as OpenCV's


def text_size(text: str, scale: float) -> tuple[int, int, int]:
    """Return width, ascent and descent in pixels; ascent and descent are equal for every text."""
    (_, ascent), descent = cv2.getTextSize("Ag", FONT, scale, 1)
    if text.isascii():
        (width, _), _ = cv2.getTextSize(text, FONT, scale, 1)
    else:
        text = legible(text)
        width = int(np.ceil(_font(font_for(text).path, scale).getlength(text)))
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
    if text.isascii():
        cv2.putText(canvas, text, start, FONT, scale, color, 1, cv2.LINE_AA)
        return
    text = legible(text)
    width, ascent, descent = text_size(text, scale)
    x, y = start
    # Some scripts reach higher and lower than Latin letters.
    left, top = max(0, x), max(0, y - 2 * ascent)
    right, bottom = min(canvas.shape[1], x + width), min(canvas.shape[0], y + 2 * descent)
    if left >= right or top >= bottom:
        return
    mask = Image.new("L", (right - left, bottom - top))
    font = _font(font_for(text).path, scale)
    ImageDraw.Draw(mask).text((x - left, y - top), text, fill=255, font=font, anchor="ls")
    opacity = np.asarray(mask)[..., None] / 255
    area = canvas[top:bottom, left:right]
    area[:] = np.rint(area + opacity * (np.array(color) - area)).astype(np.uint8)


@functools.lru_cache(maxsize=256)
def _font(path: str, scale: float) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, max(6, round(_PIXELS * scale)))
