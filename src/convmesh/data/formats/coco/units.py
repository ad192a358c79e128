"""Whether the boxes of a COCO file are x, y, width and height in pixels.

A converter that writes something else does so for all boxes; most of them may still fit into their
images, and would be learnt.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

_MIN_BOXES = 3  # from which a form is concluded
_ALL, _MOST, _SOME = 0.98, 0.5, 0.1  # parts of the boxes
# Boxes at the right and lower edge that are a little too large also fit as centre and size.
_SOME_OF_CENTRES = 0.3
_ROUNDING = 0.02  # pixels


@dataclass(frozen=True)
class BoxColumns:
    """All boxes of a file.

    values: float64 [n, 4], as stated in `bbox`; NaN if there is none. sizes: float64 [n, 2],
    (height, width) of their images, NaN if unknown. area: float64 [n], as stated, NaN if it is not.
    """

    values: np.ndarray
    sizes: np.ndarray
    area: np.ndarray

    @cached_property
    def positive(self) -> np.ndarray:
        """Bool [n]: boxes that have four numbers, none below 0, and a width and height."""
        return np.asarray((self.values >= 0).all(1) & (self.values[:, 2:] > 0).all(1))

    def fit(self, corners: np.ndarray) -> np.ndarray:
        """Return bool [n]: which of `corners` [n, 4] are boxes inside of their images."""
        ordered = (corners[:, 2:] > corners[:, :2]).all(1) & (corners >= -_ROUNDING).all(1)
        return np.asarray(ordered & (corners[:, 2:] <= self.sizes[:, ::-1] + _ROUNDING).all(1))


def wrong_units(boxes: BoxColumns) -> str:
    """Return what shows that the boxes are not x, y, width, height in pixels, or ''."""
    return _fractions(boxes) or _by_image_size(boxes) or _by_area(boxes)


def _fractions(boxes: BoxColumns) -> str:
    values = boxes.values
    given = ~np.isnan(values).all(1)
    inside = boxes.positive & (values <= 1).all(1) & ~(boxes.sizes <= 2).any(1)
    whole = (values == np.round(values)).all(1)
    if not given.any() or inside[given].mean() <= _MOST or whole[inside].all():
        return ""
    return (
        f"{inside.sum()} of {given.sum()} boxes are between 0 and 1, such as"
        f" {_shown(values[inside & ~whole][0])}; fractions of the image size? `bbox` is in pixels:"
        " multiply x and width by the width of the image, y and height by its height"
    )


def _by_image_size(boxes: BoxColumns) -> str:
    """Name the form in which all boxes are inside of their images, if they are not as `bbox`."""
    known = boxes.positive & ~np.isnan(boxes.sizes).any(1)
    if not known.any():
        return ""
    a, b, c, d = boxes.values.T
    outside = known & ~boxes.fit(np.stack([a, b, a + c, b + d], 1))
    forms = {
        "corners x0, y0, x1, y1? `bbox` is x0, y0, x1 - x0, y1 - y0": [a, b, c, d],
        "centre, width and height? `bbox` begins with the upper left corner": [
            a - c / 2,
            b - d / 2,
            a + c / 2,
            b + d / 2,
        ],
        "y, x, height, width? `bbox` is x, y, width, height": [b, a, b + d, a + c],
    }
    for form, corners in forms.items():
        fit = boxes.fit(np.stack(corners, 1))[known].mean()
        part = outside[known].mean()
        some = _SOME_OF_CENTRES if form.startswith("centre") else _SOME
        if outside.sum() >= _MIN_BOXES and part > some and fit >= _ALL:
            return (
                f"{outside.sum()} of {known.sum()} boxes leave their images, such as"
                f" {_shown(boxes.values[outside][0])}; {form}"
            )
    return ""


def _by_area(boxes: BoxColumns) -> str:
    """Say so if the stated areas are those of corners."""
    a, b, c, d = boxes.values.T
    area = boxes.area

    def equal(other: np.ndarray) -> np.ndarray:
        return np.abs(other - area) <= 1e-3 * np.abs(area) + 1e-6

    judged = boxes.positive & (area > 0) & ((a > 0) | (b > 0)) & ~equal(c * d)
    corners = judged & (c > a) & (d > b)
    corners &= equal((c - a) * (d - b)) | equal((c - a + 1) * (d - b + 1))
    stated = boxes.positive & (area > 0) & ((a > 0) | (b > 0))
    if corners.sum() < _MIN_BOXES or corners.sum() <= _MOST * stated.sum():
        return ""
    return (
        f"the areas of {corners.sum()} of {stated.sum()} boxes are those of corners x0, y0, x1, y1,"
        f" such as {_shown(boxes.values[corners][0])} with {area[corners][0]:g}; `bbox` is x0, y0,"
        " x1 - x0, y1 - y0"
    )


def _shown(box: np.ndarray) -> str:
    return f"[{', '.join(f'{value:g}' for value in box)}]"
