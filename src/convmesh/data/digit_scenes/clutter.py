"""Cluttered backgrounds that contain no digits: textures, patches, shapes and strokes."""

from __future__ import annotations

import functools

import numpy as np

from convmesh.data.digit_scenes.random_integers import RandomIntegers
from convmesh.data.digit_scenes.textures import (
    DIRECTIONS,
    blend,
    random_colour,
    random_texture,
    value_noise,
)


def cluttered_background(draws: RandomIntegers, size: int) -> np.ndarray:
    """Return a cluttered background, int16 [3, size, size]."""
    background = random_texture(draws, size, 70)
    if draws.one(0, 3) == 0:  # patches with a ragged edge
        patches = value_noise(draws, size, draws.one(16, 60)) > draws.one(140, 190)
        blend(background, random_colour(draws), patches * np.int16(draws.one(30, 100)))
    for _ in range(draws.one(0, 6)):
        (_draw_rectangle, _draw_ellipse)[draws.one(0, 2)](draws, background)
    for _ in range(draws.one(1, 8)):
        _draw_stroke(draws, background)
    return background


def _draw_rectangle(draws: RandomIntegers, background: np.ndarray) -> None:
    size = background.shape[1]
    height, width = draws.one(8, size // 2), draws.one(8, size // 2)
    top, left = draws.one(-height // 2, size - 4), draws.one(-width // 2, size - 4)
    region = background[:, max(top, 0) : top + height, max(left, 0) : left + width]
    blend(region, random_colour(draws), draws.one(30, 115))


def _draw_ellipse(draws: RandomIntegers, background: np.ndarray) -> None:
    size = background.shape[1]
    ry, rx = draws.one(5, size // 4), draws.one(5, size // 4)
    cy, cx = draws.one(0, size), draws.one(0, size)
    top, left = max(cy - ry, 0), max(cx - rx, 0)
    region = background[:, top : cy + ry + 1, left : cx + rx + 1]
    y = np.arange(top, top + region.shape[1])[:, None] - cy
    x = np.arange(left, left + region.shape[2]) - cx
    inside = (y * rx) ** 2 + (x * ry) ** 2 <= (rx * ry) ** 2
    blend(region, random_colour(draws), inside * np.int16(draws.one(30, 115)))


def _draw_stroke(draws: RandomIntegers, background: np.ndarray) -> None:
    """Draw a line, an arc or a wavy line, longer for its thickness than the stroke of a digit."""
    size = background.shape[1]
    radius = draws.one(0, 4)
    path = _stroke_path(draws, size, radius)
    path = path[((path > -8) & (path < size + 8)).all(1)]
    colour = random_colour(draws)
    # A half-opaque rim, then the core: the edge is as soft as a digit's.
    corner = path.min(0) - 5
    weight = np.zeros(path.max(0) - corner + 6, np.int16)
    for reach, strength in ((radius + 1, 55), (radius, 127)):
        covered = (path - corner)[:, None] + _disk(reach)
        weight[covered[..., 0], covered[..., 1]] = strength
    top, left = (max(int(v), 0) for v in corner)
    region = background[
        :, top : int(corner[0]) + weight.shape[0], left : int(corner[1]) + weight.shape[1]
    ]
    inside = weight[top - int(corner[0]) :, left - int(corner[1]) :]
    blend(region, colour, inside[: region.shape[1], : region.shape[2]])


def _stroke_path(draws: RandomIntegers, size: int, radius: int) -> np.ndarray:
    """Return the points (y, x) of a random curve, int64 [n, 2]; some may be outside the image."""
    length = draws.one(40 + 24 * radius, 90 + 40 * radius)
    shape = draws.one(0, 3)
    if shape == 0:
        turns = np.zeros(length, np.int64)
    elif shape == 1:  # at most 180 degrees, so that no arc closes into a 0
        sweep = draws.one(40, 128) * (1 - 2 * draws.one(0, 2))
        turns = np.full(length, (sweep << 12) // length)
    else:  # bends alternately to the left and to the right
        pieces = draws.one(3, 7)
        sweeps = draws.many(30, 120, (pieces,)) * (1 - 2 * (np.arange(pieces) & 1))
        piece = np.arange(length) * pieces // length
        turns = (sweeps[piece] << 12) * pieces // length
    heading = (draws.one(0, 256) << 12) + np.cumsum(turns)
    path = np.cumsum(DIRECTIONS[(heading >> 12) & 255], 0) >> 12
    return path[:: 1 + radius // 2, ::-1] + draws.many(0, size, (2,))


@functools.cache
def _disk(radius: int) -> np.ndarray:
    """Return the offsets (y, x) within `radius` of 0, int64 [n, 2]."""
    reach = np.arange(-radius, radius + 1)
    y, x = np.meshgrid(reach, reach, indexing="ij")
    inside = y * y + x * x <= radius * radius + radius // 2
    return np.stack([y[inside], x[inside]], 1)
