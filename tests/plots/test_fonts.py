"""Texts in any script: fonts for them, and Latin letters where no font has a character."""

import numpy as np
import pytest

from convmesh.plots import fonts
from convmesh.plots.detections import class_name, draw_detections
from convmesh.plots.fonts import families_for, font_for, legible, legible_names
from convmesh.plots.text import put_text, text_size

NAMES = ["\u74f6\u76d6", "\u306d\u3053", "\uace0\uc591\uc774", "\u043a\u043e\u0442"]
NAMES += ["\u03b3\u03ac\u03c4\u03b1", "\u0642\u0637\u0629", "\u092c\u093f\u0932\u094d\u0932\u0940"]


@pytest.fixture
def no_other_fonts(monkeypatch):
    """Only DejaVu Sans is installed."""
    usual = fonts._fonts()[:1]
    monkeypatch.setattr(fonts, "_fonts", lambda: usual)
    for cached in (fonts._best_font, fonts._legible_names):
        cached.cache_clear()
    yield
    for cached in (fonts._best_font, fonts._legible_names):
        cached.cache_clear()


def drawn(text):
    canvas = np.zeros((40, 300, 3), np.uint8)
    put_text(canvas, text, (5, 25), 0.6, (255, 255, 255))
    return canvas


def test_no_font_with_placeholders_for_everything_is_used():
    assert fonts._fonts()[0].family == "DejaVu Sans"
    assert not any("Resort" in font.family for font in fonts._fonts())
    assert not fonts._characters("/no/such/font.ttf")


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("shaped", [True, False])
def test_every_character_of_a_legible_text_is_in_its_font(name, shaped, no_other_fonts):
    text = legible(name, shaped)
    assert text and "?" not in text
    shown = fonts._characters(font_for(text).path)
    assert all(ord(c) in shown or c.isspace() for c in text)


def test_scripts_that_the_usual_font_has_stay_as_they_are(no_other_fonts):
    assert legible("\u043a\u043e\u0442 \u00c4pfel") == "\u043a\u043e\u0442 \u00c4pfel"
    assert legible("a\u0308") == "\u00e4"  # composed: one glyph
    assert legible("cat") == "cat"


def test_other_scripts_become_latin_letters(no_other_fonts):
    assert legible("\u74f6\u76d6 7") == "PingGai 7"
    # Letters that must be joined or reversed: only Pillow draws these.
    assert legible("\u05d7\u05ea\u05d5\u05dc") == "\u05d7\u05ea\u05d5\u05dc"
    assert legible("\u05d7\u05ea\u05d5\u05dc", shaped=False) == "htvl"
    assert legible("\u0378") == "U+378"


def test_names_that_become_the_same_are_told_apart(no_other_fonts):
    names = ["\u72ee", "\u5e08", "cat", "\u74f6"]
    assert legible_names(names) == ["Shi (72EE)", "Shi (5E08)", "cat", "Ping"]
    assert class_name(names, 1) == "Shi (5E08)" and class_name(names, 4) == "class 4?"


def test_a_font_of_the_system_is_used_where_it_has_the_characters(monkeypatch):
    usual, other = fonts._fonts()[0], fonts.Font("other.ttf", "Other Sans")
    has = {usual.path: frozenset(range(128)), other.path: frozenset((0x74F6, 0x76D6))}
    monkeypatch.setattr(fonts, "_fonts", lambda: [usual, other])
    monkeypatch.setattr(fonts, "_characters", has.__getitem__)
    fonts._best_font.cache_clear()
    try:
        assert legible("\u74f6\u76d6") == "\u74f6\u76d6"
        assert font_for("\u74f6\u76d6") == other
        assert families_for(["cat", "\u74f6"]) == ["DejaVu Sans", "Other Sans"]
    finally:
        fonts._best_font.cache_clear()


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_text_is_drawn_within_its_size(name):
    canvas = drawn(name)
    width, ascent, _ = text_size(name, 0.6)
    columns = np.flatnonzero(canvas.any((0, 2)))
    assert columns.min() >= 3 and columns.max() <= 5 + width + 2
    assert not (canvas == drawn("?" * len(name))).all()
    assert text_size("Ag", 0.6)[1] == ascent


def test_names_give_different_pictures():
    pictures = {drawn(name).tobytes() for name in NAMES}
    assert len(pictures) == len(NAMES)


def test_text_at_the_edge_of_a_canvas_is_cut():
    canvas = np.zeros((10, 20, 3), np.uint8)
    put_text(canvas, "\u043a\u043e\u0442" * 9, (15, 8), 0.5, (9, 9, 9))
    put_text(canvas, "\u043a\u043e\u0442", (50, 8), 0.5, (255, 0, 0))
    assert canvas.max() == 9


def test_boxes_have_names_in_their_script():
    image = np.zeros((60, 200, 3), np.uint8)
    box = np.array([[10, 30, 190, 55]])
    one, other = (draw_detections(image, box, [n], np.array([0.5]), labels=[0]) for n in NAMES[3:5])
    assert (one != other).any()
