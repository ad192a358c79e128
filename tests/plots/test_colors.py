"""Colours of classes are stable and distinct, and text on them is legible."""

import cv2
import numpy as np
import pytest

from convmesh.plots.colors import DARK, WHITE, class_color, text_color_on


def test_class_colours_are_stable_and_distinct():
    colors = [class_color(i) for i in range(90)]
    assert len(set(colors)) == 90
    assert class_color(3) == colors[3] and class_color(50) == colors[50]


# Linear RGB as perceived without one of the three kinds of cones (Machado et al. 2009).
VISION = {
    "all cones": np.eye(3),
    "no red": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no green": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no blue": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.mark.parametrize("vision", VISION)
def test_the_first_ten_colours_are_distinct_to_colour_blind_readers(vision):
    part = np.array([class_color(i) for i in range(10)]) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(VISION[vision]).T, 0, 1).astype(np.float32)
    srgb = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = cv2.cvtColor(srgb[None].astype(np.float32), cv2.COLOR_RGB2Lab)[0]
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1e9 * np.eye(10)
    assert apart.min() > 20


@pytest.mark.parametrize(
    ("background", "color"),
    [(class_color(6), DARK), (class_color(4), WHITE), ((255, 255, 255), DARK), ((0, 0, 0), WHITE)],
)
def test_text_has_the_higher_contrast_with_its_background(background, color):
    assert text_color_on(background) == color
