"""Text: its size, and how it is fitted to a width."""

import pytest

from convmesh.plots.text import MIN_TEXT_SCALE, fit_text, text_size


def test_ascent_and_descent_are_equal_for_every_text():
    (narrow, *heights), (wide, *others) = text_size("a", 0.5), text_size("gpqÄ", 0.5)
    assert heights == others and wide > narrow


@pytest.mark.parametrize("width", [30, 60, 200, 1000])
def test_a_text_fits_any_width_and_is_cut_only_at_the_smallest_scale(width):
    text = "several words and a score 0.87"
    fitted, scale = fit_text(text, width, 0.5)
    assert text_size(fitted, scale)[0] <= width and MIN_TEXT_SCALE <= scale <= 0.5
    assert fitted == text or (scale == MIN_TEXT_SCALE and "..." in fitted)
    assert (fitted, scale) == (text, 0.5) or width < 1000
