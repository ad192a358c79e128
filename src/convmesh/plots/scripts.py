"""Texts as runs of characters that one font draws, from left to right, in any script."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from convmesh.distributed import console
from convmesh.plots.fonts import LOCK, font_for

_JOINERS = "\u200c\u200d"  # they shape Arabic and Indic words; other invisible ones are dropped
_VARIATIONS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")  # of how a character looks
# The first word of a character's Unicode name, and the language.
_NOTO_CJK = {
    "Cjk": "Chinese or Japanese",
    "Hiragana": "Japanese",
    "Katakana": "Japanese",
    "Hangul": "Korean",
}
_BRACKETS = {")": "(", "]": "[", "}": "{"}


@dataclass(frozen=True)
class Run:
    """Characters of one font and one direction: of right-to-left ones, the first is rightmost."""

    font: str
    text: str


@functools.lru_cache(maxsize=16384)
def readable(text: str, preferred: str | None = None) -> str:
    """Return `text` in letters that can be drawn: those without a font are written in Latin.

    Line ends and other spaces become blanks, and invisible characters are left out. Which scripts
    have no font is printed once. `preferred`: the path of the font that is tried first.
    """
    if is_plain(text):
        return text
    parts, missing = [], []
    for cluster in _clusters(_clean(text)):
        if font_for(cluster, preferred) is None:
            missing.append(cluster[0])
            cluster = _in_latin(cluster)
        parts.append(cluster)
    with LOCK:  # so that two threads do not both print it
        for character in missing:
            _tell_missing(character)
    return "".join(parts)


def is_altered(text: str) -> bool:
    """Whether letters of `text` have no font and so are written in Latin."""
    return not text.isascii() and readable(text) != _clean(text)


def runs(text: str, preferred: str | None = None) -> list[Run]:
    """Return a readable text as runs in the order in which they are drawn, from left to right.

    The text as a whole runs from left to right, so that the score after a name is at its right.
    """
    found: list[Run] = []
    for part, leftward in _directions(_clusters(readable(text, preferred))):
        of_part: list[Run] = []
        whole = "".join(part)
        if leftward and (font := font_for(whole, preferred)):  # its brackets are mirrored
            part, of_part = [], [Run(font, whole)]
        for cluster in part:
            font = font_for(cluster, preferred)
            if font is None:  # a mark without a letter
                continue
            if of_part and of_part[-1].font == font:
                of_part[-1] = Run(font, of_part[-1].text + cluster)
            else:
                of_part.append(Run(font, cluster))
        found += reversed(of_part) if leftward else of_part
    return found


def is_plain(text: str) -> bool:
    """Whether a text is printable ASCII, which any font has."""
    return text.isascii() and text.isprintable()


def _clean(text: str) -> str:
    """Composed characters and blanks, without those that are not seen."""
    composed = unicodedata.normalize("NFC", text)
    kinds = ((c, unicodedata.category(c)) for c in composed if not _VARIATIONS.match(c))
    return "".join(
        " " if kind in ("Cc", "Zs", "Zl", "Zp") else c
        for c, kind in kinds
        if kind != "Cf" or c in _JOINERS
    )


def _clusters(text: str) -> list[str]:
    """Each character with the marks, joiners and modifiers that follow it."""
    found: list[str] = []
    for c in text:
        extends = unicodedata.category(c)[0] == "M" or c in _JOINERS
        if found and (extends or "\U0001f3fb" <= c <= "\U0001f3ff"):
            found[-1] += c
        else:
            found.append(c)
    return found


def _directions(clusters: list[str]) -> Iterator[tuple[list[str], bool]]:
    """Parts of one direction: clusters, and whether they run from right to left.

    A part of Hebrew or Arabic goes from its first such letter to its last, with the digits and
    blanks between, and the bracket that ends it.
    """
    strong = [unicodedata.bidirectional(cluster[0]) for cluster in clusters]
    start = at = 0
    while at < len(clusters):
        if strong[at] not in ("R", "AL"):
            at += 1
            continue
        if start < at:
            yield clusters[start:at], False
        last = following = at
        while following < len(clusters) and strong[following] != "L":
            last = following if strong[following] in ("R", "AL") else last
            following += 1
        end = last + 1
        part = clusters[at:end]
        while end < len(clusters) and (opening := _BRACKETS.get(clusters[end])):
            if part.count(opening) <= part.count(clusters[end]):
                break
            part.append(clusters[end])
            end += 1
        yield part, True
        start = at = end
    if start < len(clusters):
        yield clusters[start:], False


def _in_latin(cluster: str) -> str:
    from anyascii import anyascii

    if unicodedata.category(cluster[0]) in ("Mn", "Mc", "Me", "Cf"):
        return ""  # a mark without a letter
    return anyascii(cluster) or f"U+{ord(cluster[0]):04X}"


def _tell_missing(character: str) -> None:
    """Print, once for each script, that it has no font."""
    script = unicodedata.name(character, "").partition(" ")[0].partition("-")[0].capitalize()
    if unicodedata.category(character)[0] not in "LM" or not script:
        _tell_missing_script("symbols or emoji", "Noto Emoji")
    elif script in _NOTO_CJK:
        _tell_missing_script(_NOTO_CJK[script], "Noto Sans CJK")
    else:
        _tell_missing_script(script, f"Noto Sans {script}")


@functools.cache
def _tell_missing_script(script: str, font: str) -> None:
    console.print_status(
        f"pictures: no installed font has {script}: names are written in Latin letters, with the "
        f"class id; install a font such as {font} to see them as they are"
    )
