"""Fonts for texts in any script, and what is drawn where no font has a character.

DejaVu Sans, which comes with matplotlib, has Latin, Greek, Cyrillic, Arabic and more, but no
Chinese, Japanese, Korean or Indic. For those a font of the system is used if there is one (such as
Noto Sans CJK); otherwise the characters are transliterated to Latin letters.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

# Scripts whose letters change place or form beside each other, which needs a shaping engine: from
# Hebrew to Tibetan, Myanmar, Khmer, and the presentation forms of Hebrew and Arabic.
_SHAPED = re.compile("[\u0590-\u109f\u1780-\u17ff\ufb1d-\ufdff\ufe70-\ufeff]")


class Font(NamedTuple):
    """A font file, and the name of its family for matplotlib."""

    path: str
    family: str


def legible(text: str, shaped: bool = True) -> str:
    """Return `text` with each character that no font shows in Latin letters.

    shaped: whether it is drawn with a shaping engine, as Pillow does and matplotlib does not.
    """
    if text.isascii():
        return text
    text = unicodedata.normalize("NFC", text)
    if not shaped:
        text = _SHAPED.sub(lambda match: _transliterate(match[0]), text)
    font = _best_font(text)
    shown = _characters(font.path)
    return "".join(c if _is_shown(c, shown) else _transliterate(c) for c in text).strip()


def legible_names(names: Sequence[str], shaped: bool = True) -> list[str]:
    """Return `legible` names that differ if the given ones do."""
    return _legible_names(tuple(names), shaped)[:]


@functools.lru_cache(maxsize=64)
def _legible_names(names: tuple[str, ...], shaped: bool) -> list[str]:
    shown = {name: legible(name, shaped) for name in names}
    counts = Counter(shown.values())
    # Several Chinese names may be `Shi`: their code points tell them apart.
    alike = {name for name, text in shown.items() if text != name and counts[text] > 1}
    return [f"{shown[n]} ({_code_points(n)})" if n in alike else shown[n] for n in names]


def font_for(text: str) -> Font:
    """Return the first font that has all characters of a `legible` text."""
    return _best_font(text)


def families_for(texts: Sequence[str]) -> list[str]:
    """Return the families of the fonts that these texts need, the usual one first."""
    needed = [font_for(text).family for text in texts if not text.isascii()]
    return list(dict.fromkeys([_fonts()[0].family, *needed]))


@functools.lru_cache(maxsize=4096)
def _best_font(text: str) -> Font:
    """Return the font that has most characters of `text`; of equally good ones the first."""
    best, least = _fonts()[0], len(text) + 1
    for font in _fonts():
        shown = _characters(font.path)
        missing = sum(not _is_shown(c, shown) for c in text)
        if missing < least:
            best, least = font, missing
        if not missing:
            break
    return best


@functools.cache
def _fonts() -> list[Font]:
    """Return DejaVu Sans, and the upright fonts of the system that are not bold."""
    from matplotlib import font_manager, get_data_path

    usual = Font(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", "DejaVu Sans")
    others = sorted(
        (font.name, font.fname)
        for font in font_manager.fontManager.ttflist
        if font.style == "normal" and font.weight in (400, 500, "normal", "regular", "book")
    )
    # Last Resort, which comes with matplotlib, has a placeholder for every character.
    left_out = ("DejaVu", "Last Resort", "LastResort")
    return [usual, *(Font(path, name) for name, path in others if not name.startswith(left_out))]


@functools.cache
def _characters(path: str) -> frozenset[int]:
    """Return the code points that a font has; none if it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


def _is_shown(character: str, shown: frozenset[int]) -> bool:
    # Spaces and marks of direction or joining need no glyph.
    return ord(character) in shown or unicodedata.category(character) in ("Zs", "Cf")


def _transliterate(character: str) -> str:
    from anyascii import anyascii

    marks = "Mn", "Mc"  # of a letter, such as a vowel sign; some have no letter of their own
    absent = "" if unicodedata.category(character) in marks else f"U+{ord(character):X}"
    return anyascii(character) or absent


def _code_points(name: str) -> str:
    return " ".join(f"{ord(c):X}" for c in name if not c.isascii())
