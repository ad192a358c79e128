"""The canvas of figures: texts of any script, at their place."""

import numpy as np
import pictures
import pytest

from convmesh.plots.figures import name_width, new_figure, save_figure


def drawn(tmp_path, text, **style):
    """The dark pixels of a figure of 330 x 220 with a text in its middle: rows and columns."""
    figure = new_figure(3, 2, layout=None)
    figure.text(0.5, 0.5, text, **style)
    save_figure(figure, tmp_path / "text.png")
    return np.nonzero(pictures.read(tmp_path / "text.png").min(axis=-1) < 100)


@pytest.mark.parametrize("text", ["Ш猫", "Ш고", "Шé"])
def test_a_text_lies_where_an_ascii_text_lies(tmp_path, text):
    for style in ({}, {"rotation": 90}):
        rows, columns = drawn(tmp_path, text, fontsize=20, **style)
        like_rows, like_columns = drawn(tmp_path, "HH", fontsize=20, **style)
        tolerance = 8  # pixels: ideographs reach below the baseline
        assert abs(rows.max() - like_rows.max()) <= tolerance
        assert abs(columns.min() - like_columns.min()) <= tolerance
        assert 20 < np.ptp(rows) < 70 and 20 < np.ptp(columns) < 70


def test_a_capital_stands_exactly_on_the_baseline_and_upright(tmp_path):
    rows, columns = drawn(tmp_path, "Г", fontsize=40)  # Cyrillic: a bar at the left, one on top
    like = drawn(tmp_path, "F", fontsize=40)
    assert abs(rows.max() - like[0].max()) <= 1 and abs(columns.min() - like[1].min()) <= 1
    assert abs(rows.min() - like[0].min()) <= 1
    top, bottom = (columns[rows == row].size for row in (rows.min() + 1, rows.max() - 1))
    assert top > 2 * bottom
    upward_rows, upward_columns = drawn(tmp_path, "Г", fontsize=40, rotation=90)
    left, right = (
        upward_rows[upward_columns == column].size
        for column in (upward_columns.min() + 1, upward_columns.max() - 1)
    )
    assert left > 2 * right


def test_different_names_give_different_pictures(tmp_path):
    pictures_of = {
        text: tuple(map(tuple, drawn(tmp_path, text, fontsize=12)))
        for text in ("猫", "毛", "고양이", "강아지", "ねこ", "いぬ")
    }
    assert len(set(pictures_of.values())) == len(pictures_of)


def test_the_colour_is_that_of_the_text(tmp_path):
    figure = new_figure(2, 1, layout=None)
    figure.text(0.2, 0.3, "国国", fontsize=30, color="red")
    save_figure(figure, tmp_path / "a.png")
    assert pictures.count(pictures.read(tmp_path / "a.png"), (255, 0, 0), 30) > 100


def test_no_text_warns_of_missing_glyphs(tmp_path, recwarn):
    drawn(tmp_path, "猫 แมว बिल्ली")
    assert [str(w.message) for w in recwarn if "Glyph" in str(w.message)] == []


def test_formulas_stay_formulas(tmp_path):
    rows, _ = drawn(tmp_path, r"$\frac{1}{2}$", fontsize=20)
    plain, _ = drawn(tmp_path, "12", fontsize=20)
    assert np.ptp(rows) > 1.4 * np.ptp(plain)


def test_the_width_of_a_name_is_about_that_of_its_drawing(tmp_path):
    for name in ("a plain name", "红细胞红细胞", "Кошка"):
        _, columns = drawn(tmp_path, name, fontsize=12, ha="center")
        assert np.ptp(columns) / 110 == pytest.approx(name_width(name, 12), rel=0.2)
