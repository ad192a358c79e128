"""Text: its size, how it is fitted to a width, and that any script is drawn."""

import numpy as np
import pytest
from pictures import count, plain

from convmesh.plots.text import MIN_TEXT_SCALE, fit_text, put_text, text_size


def test_ascent_and_descent_are_equal_for_every_text():
    (narrow, *heights), (wide, *others) = text_size("a", 0.5), text_size("gpqÄ", 0.5)
    assert heights == others and wide > narrow


@pytest.mark.parametrize("width", [30, 60, 200, 1000])
@pytest.mark.parametrize("text", ["several words and a score 0.87", "红细胞 и ещё слова 0.87"])
def test_a_text_fits_any_width_and_is_cut_only_at_the_smallest_scale(width, text):
    fitted, scale = fit_text(text, width, 0.5)
    assert text_size(fitted, scale)[0] <= width and MIN_TEXT_SCALE <= scale <= 0.5
    assert fitted == text or (scale == MIN_TEXT_SCALE and "..." in fitted)
    assert (fitted, scale) == (text, 0.5) or width < 1000


def written(text, scale=0.5, start=(10, 30)):
    canvas = plain(50, 200)
    put_text(canvas, text, start, scale, (255, 0, 0))
    return canvas


@pytest.mark.parametrize("text", ["猫 0.87", "고양이 0.87", "Кошка 0.87", "قطة 0.87", "café 0.87"])
@pytest.mark.parametrize("scale", [0.34, 0.42, 1.0])
def test_a_text_of_any_script_is_as_large_as_it_says(text, scale):
    width, ascent, descent = text_size(text, scale)
    rows, columns = np.nonzero((written(text, scale) != 128).any(axis=-1))
    assert 10 - 2 <= columns.min() and columns.max() <= 10 + width + 1
    assert abs(np.ptp(columns) - width) < 0.2 * width + 3
    assert -3 <= rows.min() - (30 - ascent) <= 2 + ascent // 4
    assert rows.max() <= 30 + descent + 2
    assert count(written(text, scale), (255, 0, 0), 60) > 10


def test_two_names_are_never_drawn_the_same(use_fonts):
    for opencv in (True, False):
        use_fonts(opencv=opencv)
        names = ("猫", "犬", "고양이", "강아지", "ねこ", "いぬ", "บาท", "बिल्ली", "?", "??", "???")
        assert len({written(name).tobytes() for name in names}) == len(names)


def test_a_text_beyond_the_edge_is_cut():
    whole = written("猫猫猫", 1.0)
    for dx, dy in ((-40, 0), (180, 0), (0, -30), (0, 40), (500, 500), (-500, -500)):
        moved = written("猫猫猫", 1.0, (10 + dx, 30 + dy))
        assert moved.shape == whole.shape
        ys, xs = np.mgrid[:50, :200]
        inside = (ys + dy >= 0) & (ys + dy < 50) & (xs + dx >= 0) & (xs + dx < 200)
        expected = plain(50, 200)
        expected[(ys + dy)[inside], (xs + dx)[inside]] = whole[inside]
        assert (moved == expected).all()
