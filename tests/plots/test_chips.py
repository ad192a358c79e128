"""Chips: inside the picture, apart from each other, legible."""

import numpy as np
from pictures import plain

from convmesh.plots.chips import Chip, chip_texts, fit_chip, overlap_area, place_chip
from convmesh.plots.detections import outline_corners
from convmesh.plots.text import text_size


def test_scores_are_written_with_two_digits():
    assert chip_texts(["cat"], [0.8666]) == ["cat 0.87"]
    assert chip_texts(["cat"], None) == ["cat"]


def test_chips_lie_inside_and_apart_where_there_is_room():
    canvas = plain(480, 640)
    rng = np.random.default_rng(0)
    occupied = np.zeros((0, 4))
    for _ in range(12):
        x, y = rng.uniform(-50, 640), rng.uniform(-50, 480)
        corners = outline_corners(canvas, (x, y, x + 80, y + 80), 2)
        chip = fit_chip(canvas, "cell 0.50")
        x0, y0, x1, y1 = place_chip(canvas, corners, chip, occupied, 2)
        assert 0 <= x0 < x1 <= 640 and 0 <= y0 < y1 <= 480
        assert (x1 - x0, y1 - y0) == (chip.width, chip.height)
        assert text_size(chip.text, chip.scale)[0] < chip.width
        occupied = np.concatenate([occupied, [(x0, y0, x1, y1)]])
    corners = outline_corners(canvas, (200, 200, 400, 400), 2)
    first = place_chip(canvas, corners, chip, np.zeros((0, 4)), 2)
    second = place_chip(canvas, corners, chip, np.array([first]), 2)
    assert overlap_area(second, np.array([first])) == 0


def test_a_long_text_gets_smaller_then_shorter_but_keeps_its_score():
    canvas = plain(480, 480)
    text, full = "a name", fit_chip(canvas, "a name").scale
    while text_size(text, full)[0] <= 480:
        text += " of many words"
    chip = fit_chip(canvas, text)
    assert chip.text == text and chip.scale < full and chip.width <= 480
    chip = fit_chip(canvas, "x" * 300 + " 0.87")
    assert chip.text.startswith("xxx") and chip.text.endswith("... 0.87") and chip.width <= 480
    assert fit_chip(plain(6, 480), "cat") is None


def test_a_chip_that_does_not_fit_above_its_box_goes_inside_it():
    canvas, chip = plain(480, 640), Chip("cat", 0.42, 40, 20)
    place = lambda corners: place_chip(canvas, corners, chip, np.zeros((0, 4)), 2)  # noqa: E731
    # The outline of 2 pixels reaches 2 pixels to the left of and above the corner.
    assert place(((100, 50), (300, 200))) == (98, 28, 138, 48)
    assert place(((100, 10), (300, 200))) == (98, 8, 138, 28)
