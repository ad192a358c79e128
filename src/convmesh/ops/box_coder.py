"""Boxes as offsets from reference boxes (anchors, proposals), as in R-CNN (arXiv 1311.2524, C).

Offsets are the shift of the centre in sides of the reference, and the logarithm of the ratio of the
sides, each times a weight: of x, y, width, height. Boxes are x0 y0 x1 y1.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

Weights = tuple[float, float, float, float]
LARGEST_LOG_RATIO = math.log(1000 / 16)  # of decoded sides, so that exp does not overflow


def encode(boxes: jax.Array, reference: jax.Array, weights: Weights) -> jax.Array:
    """The offsets of `boxes` [..., 4] from `reference` [..., 4] (broadcast); positive sides."""
    centre, sides = _centre_sides(boxes)
    from_centre, from_sides = _centre_sides(reference)
    shift = (centre - from_centre) / from_sides
    offsets = jnp.concatenate([shift, jnp.log(sides / from_sides)], axis=-1)
    return offsets * np.asarray(weights, offsets.dtype)


def decode(offsets: jax.Array, reference: jax.Array, weights: Weights) -> jax.Array:
    """The boxes of `offsets` [..., 4] from `reference` [..., 4] (broadcast)."""
    centre, sides = _centre_sides(reference)
    offsets = offsets / np.asarray(weights, offsets.dtype)
    centre = centre + offsets[..., :2] * sides
    half = sides * jnp.exp(jnp.minimum(offsets[..., 2:], LARGEST_LOG_RATIO)) / 2
    return jnp.concatenate([centre - half, centre + half], axis=-1)


def clip(boxes: jax.Array, image_size: tuple[int, int]) -> jax.Array:
    """`boxes` [..., 4] cut off at the borders of an image (height, width)."""
    height, width = image_size
    return jnp.clip(boxes, 0, np.array([width, height] * 2))


def _centre_sides(boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
    sides = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + sides / 2, sides
