"""Typeset text: where its ink is, and that names differ."""

import itertools

import numpy as np
import pytest
from font_files import write_font

from convmesh.plots.typeset import typeset


def ink_of(text, size=20):
    return typeset(text, size).ink


def same(one, other):
    return one.shape == other.shape and np.array_equal(one, other)


def test_names_in_any_script_have_ink_and_differ(use_fonts):
    names = ["猫", "毛", "红细胞", "ねこ", "カタカナ", "고양이", "강아지", "Кошка", "Собака",
             "Γάτα", "قطة", "كلب", "חתול", "कुत्ता", "बिल्ली", "แมว", "café", "cafe"]  # fmt: skip
    use_fonts()
    drawn = [ink_of(name) for name in names]
    assert all((ink > 200).sum() > 10 for ink in drawn)
    assert not any(same(one, other) for one, other in itertools.combinations(drawn, 2))
    for other in ("?", "??", "???", "\ufffd"):
        assert not any(same(ink, ink_of(other)) for ink in drawn)


@pytest.mark.parametrize("size", [11.5, 20, 100])
def test_a_glyph_stands_on_the_baseline(use_fonts, tmp_path, size):
    use_fonts(write_font(tmp_path / "squares.ttf", "ก", side=500))
    drawn = typeset("ก", size)
    rows = np.flatnonzero((drawn.ink > 200).any(axis=1))
    assert rows[-1] == drawn.ascent - 1
    assert abs(len(rows) - 0.5 * size) <= 1
    assert abs(drawn.width - 0.6 * size) <= 1


def test_ideographs_are_an_em_wide_and_reach_below_the_baseline():
    drawn = typeset("国国", 50)
    assert 95 <= drawn.width <= 110 and 85 <= drawn.ink.shape[1] <= 105
    assert 35 <= drawn.ascent <= 50 and 0 <= drawn.descent <= 15


def test_runs_of_two_fonts_lie_side_by_side():
    first, second = typeset("国", 40), typeset("国I", 40)
    assert second.width > first.width + 5
    right = second.ink[:, first.width - second.left :]
    assert (right > 200).sum() > 20


def test_arabic_letters_are_joined():
    # Joined, the letters of a word are narrower than each by itself.
    apart = sum(typeset(letter, 40).width for letter in "بيت")
    assert typeset("بيت", 40).width < 0.8 * apart
    columns = (ink_of("بيت", 40) > 100).any(axis=0)
    assert columns[columns.nonzero()[0][0] : columns.nonzero()[0][-1]].all()


def test_hebrew_begins_at_the_right():
    inked = (ink_of("שו", 40) > 100).any(axis=0).astype(int)  # the first letter is the wider
    starts, ends = (np.flatnonzero(np.diff([0, *inked, 0]) == step) for step in (1, -1))
    left, right = ends - starts
    assert right > 2 * left


def test_an_empty_text_has_no_ink():
    drawn = typeset("\u0301", 20)
    assert typeset("", 20).ink.size == 0 and typeset("", 20).width == 0
    assert typeset("  ", 20).width > 5 and drawn.width >= 0
