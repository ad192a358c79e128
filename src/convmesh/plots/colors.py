"""RGB colours of classes, boxes and text, for uint8 images."""

from __future__ import annotations

import colorsys
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

Color = tuple[int, int, int]

# Also distinct for colour-blind readers: no two are closer than 20 in CIELAB under simulated
# protanopia, deuteranopia or tritanopia. Found by a search. Further classes get computed hues.
PALETTE: tuple[Color, ...] = (
    (205, 0, 0),
    (0, 180, 255),
    (255, 230, 0),
    (0, 150, 90),
    (180, 0, 255),
    (230, 150, 30),
    (60, 255, 255),
    (180, 90, 150),
    (180, 255, 150),
    (60, 90, 180),
)
GREY: Color = (160, 160, 160)
WHITE: Color = (255, 255, 255)
DARK: Color = (24, 24, 24)
BACKGROUND: Color = (248, 248, 248)
TEXT: Color = (40, 40, 40)
CORRECT: Color = (16, 124, 52)
WRONG: Color = (200, 30, 40)
MISSED: Color = (255, 190, 0)


def class_color(label: int) -> Color:
    """Return the colour of a class id, the same in every picture."""
    if 0 <= label < len(PALETTE):
        return PALETTE[label]
    hue = (label * 0.61803398875) % 1  # multiples of the golden ratio never repeat a hue
    return _rgb(colorsys.hsv_to_rgb(hue, (0.85, 0.6, 0.95)[label % 3], (0.95, 1.0, 0.7)[label % 3]))


def class_colors(labels: Iterable[Any]) -> list[Color]:
    """Return the colour of each class id."""
    return [class_color(int(label)) for label in labels]


def name_color(name: str) -> Color:
    """Return a colour for a class whose id is unknown, the same on every machine."""
    number = zlib.crc32(name.encode("utf-8", "replace"))
    return _rgb(colorsys.hsv_to_rgb(number % 360 / 360, 0.85, 0.95))


def text_color_on(background: Color) -> Color:
    """Return DARK or WHITE, whichever has the higher contrast (WCAG 2 relative luminance)."""

    def luminance(color: Color) -> float:
        parts = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
        return float(np.dot(parts, (0.2126, 0.7152, 0.0722)))

    contrast_with_dark = (luminance(background) + 0.05) / (luminance(DARK) + 0.05)
    return DARK if contrast_with_dark > 1.05 / (luminance(background) + 0.05) else WHITE


def _rgb(fractions: tuple[float, float, float]) -> Color:
    red, green, blue = (round(255 * f) for f in fractions)
    return red, green, blue
