"""Anchors, in numpy, and boxes as offsets from them, both as torchvision has them.

An anchor is a box x0 y0 x1 y1 in pixels of the input. The anchors of an image are ordered by level,
row, column, and then as in the cell.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convmesh.geometry import grid_shape

PADDED_TO = 32  # torchvision pads images to multiples of this, before it spreads the anchors
LARGEST_LOG = math.log(1000 / 16)  # of a box's side over its anchor's, so that exp cannot overflow

Weights = tuple[float, float, float, float]


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> np.ndarray:
    """The anchors around a point at 0: float32 [len(ratios) * len(sizes), 4].

    Their sides are rounded to even numbers of pixels. A ratio is height / width; the area is
    size**2. All sizes of the first ratio come first.
    """
    height = np.sqrt(np.asarray(ratios, np.float32))[:, None]
    scales = np.asarray(sizes, np.float32)
    widths, heights = (1 / height * scales).reshape(-1), (height * scales).reshape(-1)
    return (np.stack([-widths, -heights, widths, heights], axis=1) / 2).round()


def grid_anchors(
    image_size: tuple[int, int], strides: Sequence[int], cells: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """The anchors of each level: float32 [rows * columns * n, 4].

    Args:
      image_size: (height, width).
      strides: of the levels, in pixels.
      cells: for each level its `cell_anchors` [n, 4]; they are centred on the corner of a cell.

    As in torchvision, the distance of the points of a level is the image's side divided by the
    number of points, rounded down: 61 pixels in place of 64 for 13 points on 800 pixels. An image
    whose side is not a multiple of 32 has the anchors that it would have if it were padded to one.
    """
    padded = tuple(-(-side // PADDED_TO) * PADDED_TO for side in image_size)
    levels = []
    for stride, cell in zip(strides, cells, strict=True):
        rows, columns = grid_shape(image_size, stride)
        all_rows, all_columns = grid_shape((padded[0], padded[1]), stride)
        y, x = np.mgrid[:rows, :columns].reshape(2, -1).astype(np.float32)
        x, y = x * (padded[1] // all_columns), y * (padded[0] // all_rows)
        shifts = np.stack([x, y, x, y], axis=1)
        levels.append((shifts[:, None] + cell).reshape(-1, 4))
    return levels


def boxes_to_offsets(
    boxes: jax.Array, anchors: jax.Array | np.ndarray, weights: Weights = (1, 1, 1, 1)
) -> jax.Array:
    """What a network learns for `boxes` [..., 4] at `anchors` [..., 4] (arXiv 1311.2524, app. C).

    The shift of the centre in sides of the anchor (x, y), and the logarithms of the ratios of the
    sides, each times its weight. [..., 4]; boxes and anchors must have an area.
    """
    (centre, size), (anchor_centre, anchor_size) = _centres(boxes), _centres(anchors)
    shift, scale = (centre - anchor_centre) / anchor_size, jnp.log(size / anchor_size)
    return jnp.concatenate([shift, scale], axis=-1) * jnp.asarray(weights, boxes.dtype)


def offsets_to_boxes(
    offsets: jax.Array, anchors: jax.Array | np.ndarray, weights: Weights = (1, 1, 1, 1)
) -> jax.Array:
    """The boxes [..., 4] of `offsets` [..., 4] from `anchors`; the inverse of `boxes_to_offsets`.

    A side is at most 62.5 times the anchor's.
    """
    offsets = offsets / jnp.asarray(weights, offsets.dtype)
    centre, size = _centres(anchors)
    centre = offsets[..., :2] * size + centre
    half = jnp.exp(jnp.minimum(offsets[..., 2:], LARGEST_LOG)) * size / 2
    return jnp.concatenate([centre - half, centre + half], axis=-1)


def clip_to_image(boxes: jax.Array, image_size: tuple[int, int]) -> jax.Array:
    """`boxes` [..., 4] without what is outside of the image (height, width)."""
    height, width = image_size
    return jnp.clip(boxes, 0, jnp.asarray([width, height] * 2, boxes.dtype))


def _centres(boxes: Any) -> tuple[Any, Any]:
    """Centres and sides (width, height) of boxes, each [..., 2]."""
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + size / 2, size
