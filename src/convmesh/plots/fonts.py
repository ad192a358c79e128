"""Fonts for letters of any script: which font has them, without a network.

In this order: DejaVu Sans, which comes with Matplotlib (Latin, Greek, Cyrillic, Arabic, Hebrew and
more); the font that OpenCV 5 holds (Chinese, Japanese, Korean); the fonts that are installed.
"""

from __future__ import annotations

import functools
import os
import threading
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from matplotlib.ft2font import FT2Font

OPENCV = "(OpenCV's own font)"  # it is no file; the other fonts are named by their paths
# Blocks of which OpenCV's font has most. It does not shape, so other scripts must not use it.
_OPENCV_BLOCKS = (
    (0x2E80, 0x9FFF),  # radicals, punctuation, kana, bopomofo, ideographs
    (0xAC00, 0xD7A3),  # Hangul syllables
    (0xF900, 0xFAFF),  # compatibility ideographs
    (0xFE30, 0xFE4F),
    (0xFF01, 0xFFEE),  # full-width Latin, half-width kana
)
_MAX_OPEN = 32  # font files that are kept open
# Words in the names of font files that are not the regular weight of a plain typeface.
_UNUSUAL = (
    "black", "bold", "cond", "emoji", "extra", "italic", "light", "medium", "mono", "narrow",
    "oblique", "semi", "serif", "symbol", "thin",
)  # fmt: skip
# Fonts of empty boxes or of nothing at all, which claim to have every character.
_PRETENDERS = ("lastresort", "adobeblank", "adobenotdef")

# Fonts are no thread's own, and pictures are drawn by several threads.
LOCK = threading.RLock()


@functools.lru_cache(maxsize=1)
def default_font() -> str:
    """Return the path of DejaVu Sans."""
    from matplotlib import get_data_path  # slow to import

    return os.path.join(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


@functools.lru_cache(maxsize=16384)
def font_for(characters: str, preferred: str | None = None) -> str | None:
    """Return the first font that has a glyph for each of `characters`, None if there is none.

    The fonts are `preferred`, a path, and then those of this module.
    """
    with LOCK:
        for font in (preferred, default_font()):
            if font and _has_glyphs(font, characters):
                return font
        if all(_opencv_has(character) for character in characters):
            return OPENCV
        return next(
            (font for font in installed_fonts() if _has_glyphs(font, characters)
             and all(_has_ink(font, character) for character in characters)),
            None,
        )  # fmt: skip


@functools.lru_cache(maxsize=1)
def installed_fonts() -> tuple[str, ...]:
    """Return the paths of the system's TrueType and OpenType fonts, plain ones first.

    Not Matplotlib's own list of them, which does not notice fonts that are installed later.
    """
    from matplotlib.font_manager import findSystemFonts

    return tuple(sorted(map(str, findSystemFonts()), key=_preference))


def open_font(path: str, size: float) -> FT2Font:
    """Return a font at `size`, in pixels per em. Only for the holder of LOCK."""
    font = _open(path)
    font.set_size(size, 72)
    return font


@functools.lru_cache(maxsize=1)
def opencv_font() -> Any:
    """Return the font that OpenCV holds, None before OpenCV 5."""
    try:
        face = cv2.FontFace("uni")
    except (AttributeError, cv2.error):
        return None
    return face if face.getName() == "uni" else None


@functools.lru_cache(maxsize=_MAX_OPEN)
def _open(path: str) -> FT2Font:
    from matplotlib.ft2font import FT2Font

    return FT2Font(path)


@functools.cache
def _code_points(path: str) -> np.ndarray:
    """The characters that a font has: sorted uint32 [n], empty if it is of no use."""
    from matplotlib.ft2font import FT2Font

    name = Path(path).stem.lower().replace(" ", "").replace("-", "")
    try:
        font = FT2Font(path)
        usable = font.scalable and not name.startswith(_PRETENDERS)
        return np.array(sorted(font.get_charmap()) if usable else [], np.uint32)
    except (OSError, RuntimeError, ValueError):  # a damaged file, or no font
        return np.zeros(0, np.uint32)


def _has_glyphs(font: str, characters: str) -> bool:
    known = _code_points(font)
    wanted = [ord(c) for c in characters if unicodedata.category(c) != "Cf"]
    at = np.searchsorted(known, wanted)
    return bool(wanted) and bool((at < len(known)).all() and (known[at] == wanted).all())


def _has_ink(font: str, character: str) -> bool:
    """Whether an outline is drawn: fonts of colour pictures may have glyphs without one."""
    if unicodedata.category(character)[0] in "MZC":
        return True
    x0, y0, x1, y1 = open_font(font, 64).load_char(ord(character)).bbox
    return x1 > x0 and y1 > y0


@functools.lru_cache(maxsize=16384)
def _opencv_has(character: str) -> bool:
    """Whether OpenCV's font draws the character, and not the question mark of a missing one."""
    inside = any(first <= ord(character) <= last for first, last in _OPENCV_BLOCKS)
    if not inside or opencv_font() is None:
        return False
    drawn, missing = (_opencv_drawing(text) for text in (character, "?"))
    return bool(drawn.any()) and not np.array_equal(drawn, missing)


def _opencv_drawing(text: str) -> np.ndarray:
    canvas = np.zeros((64, 64), np.uint8)
    cv2.putText(canvas, text, (8, 48), (255,), opencv_font(), 32, 400)
    return canvas


def _preference(path: str) -> tuple[int, bool, str]:
    name = Path(path).stem.lower()
    return sum(word in name for word in _UNUSUAL), not name.startswith("noto"), name
