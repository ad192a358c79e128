"""The handwritten digits of scikit-learn, enlarged and deformed.

1,797 digits of 8 x 8 grey levels (Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits",
UCI 1998), installed with scikit-learn.
"""

from __future__ import annotations

import functools

import numpy as np

from convmesh.data.digit_scenes.random_integers import RandomIntegers
from convmesh.errors import DataError

# Opacity from which a pixel counts as ink, of 255.
INK = 128
# Pixels around the tight box of the ink that belong to a rendered digit.
RIM = 2
# Pixels of the longer side of the tight box.
SHORTEST, LONGEST = 16, 110
# Neighbours in scikit-learn's order were often written by one person: contiguous ranges share
# neither digits nor, for the most part, writers.
DIGIT_RANGES = {
    "test": range(0, 300),
    "validation": range(300, 600),
    "train": range(600, 1797),
}


@functools.cache
def source_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits: grey levels 0..16, int32 [1797, 8, 8], and labels, int32.

    Raises DataError if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "digit_scenes takes its digits from scikit-learn: pip install scikit-learn"
        ) from error
    found = load_digits()
    return found.images.astype(np.int32), found.target.astype(np.int32)


def tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return the tight half-open box x0 y0 x1 y1 around a mask [height, width], not all False."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def render_digit(draws: RandomIntegers, digit: np.ndarray, length: int) -> np.ndarray:
    """Render a digit int32 [8, 8], randomly rotated, sheared, stretched, thinner or thicker.

    length: the wanted longer side of the tight box, in pixels; the nearest of SHORTEST..LONGEST is
    taken. Returns the opacity, uint8 [height, width], of the tight box enlarged by RIM on each
    side.
    """
    glyph = np.pad(digit, 2)
    t = draws.one(-6, 7)  # tan of half the angle in 1/64: up to 11 degrees
    cos, sin = ((4096 - t * t) << 12) // (4096 + t * t), ((128 * t) << 12) // (4096 + t * t)
    shear, aspect = draws.one(-10, 11), draws.one(216, 300)
    u = [cos - ((shear * sin) >> 6), sin + ((shear * cos) >> 6)]
    inverse = np.array([[(v * aspect) >> 8 for v in u], [-sin, cos]])
    # Writers pressed harder or softer: the mean grey level of the ink gives the stroke width.
    level = (int(digit.sum()) << 8) // int(np.count_nonzero(digit))
    threshold = (level * draws.one(200, 257)) >> 8
    # A preview at 4 pixels per source pixel shows how far the ink extends from the centre.
    preview, half = 4096 // 4, 36
    small = _opacity(glyph, inverse, preview, threshold, (-half, -half, half, half))
    extent = [v - half for v in tight_box(small >= INK)]
    preview_length = max(extent[2] - extent[0], extent[3] - extent[1])
    margin = 8
    while True:
        step = preview * preview_length // length
        margins = (-margin, -margin, margin + 1, margin + 1)
        window = [e * preview // step + m for e, m in zip(extent, margins, strict=True)]
        opacity = _opacity(glyph, inverse, step, threshold, tuple(window))
        left, top, right, bottom = tight_box(opacity >= INK)
        (height, width), longer = opacity.shape, max(right - left, bottom - top)
        if min(left, top, width - right, height - bottom) < RIM:
            margin += 8  # the preview missed a thin stroke that appears when enlarged
        elif longer < SHORTEST:
            length += 1
        elif longer > LONGEST:
            length -= 1
        else:
            return opacity[top - RIM : bottom + RIM, left - RIM : right + RIM]


def _opacity(
    glyph: np.ndarray, inverse: np.ndarray, step: int, threshold: int, window: tuple[int, ...]
) -> np.ndarray:
    """Render a padded glyph through an affine map: opacity, uint8 [height, width].

    glyph: int32 [12, 12], 0..16, with a border of 2 zeros. inverse: rotation, shear and aspect
    ratio from output to source, [2, 2] in 1/4096. step: source pixels per output pixel in 1/4096.
    threshold: the grey level in 1/256 that gets the opacity INK. window: x0 y0 x1 y1 in output
    pixels from the glyph's centre.
    """
    x0, y0, x1, y1 = window
    (a, b), (c, d) = ((inverse * step) >> 12).tolist()
    x = np.arange(x0, x1, dtype=np.int32)
    y = np.arange(y0, y1, dtype=np.int32)[:, None]
    centre = 11 << 11
    last = (11 << 12) - 1
    u = np.clip(x * a + y * b + centre, 0, last)
    v = np.clip(x * c + y * d + centre, 0, last)
    fu, fv = (u & 4095) >> 4, (v & 4095) >> 4
    at = (v >> 12) * 12 + (u >> 12)
    flat = glyph.reshape(-1)
    upper = flat[at] * (256 - fu) + flat[at + 1] * fu
    lower = flat[at + 12] * (256 - fu) + flat[at + 13] * fu
    grey = (upper * (256 - fv) + lower * fv) >> 8
    # An edge spans about 2 output pixels at any enlargement.
    return np.clip(INK + (grey - threshold) * 280 // step, 0, 255).astype(np.uint8)
