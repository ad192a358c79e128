"""Box arithmetic. A box is x0 y0 x1 y1 in pixels, half-open: a point on x1 or y1 is outside."""

import jax
import jax.numpy as jnp
import numpy as np


def area(boxes: jax.Array) -> jax.Array:
    """Area of `boxes` [..., 4] in square pixels; 0 where a side is not positive. Returns [...]."""
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def intersection(a: jax.Array, b: jax.Array) -> jax.Array:
    """Area of the intersection of boxes [..., 4] (broadcast)."""
    return area(jnp.concatenate([jnp.maximum(a[..., :2], b[..., :2]),
                                 jnp.minimum(a[..., 2:], b[..., 2:])], axis=-1))  # fmt: skip


def _ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """numerator / denominator; 0, with gradient 0, where the denominator is not positive."""
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), 0)


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Intersection over union of boxes [..., 4] (broadcast); 0 for boxes without area."""
    both = intersection(a, b)
    return _ratio(both, area(a) + area(b) - both)


def pairwise_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """IoU of each of `a` [..., n, 4] with each of `b` [..., m, 4]: [..., n, m]."""
    return iou(a[..., :, None, :], b[..., None, :, :])


def giou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Generalised IoU (arXiv 1902.09630), in [-1, 1], of boxes [..., 4] (broadcast)."""
    both = intersection(a, b)
    union = area(a) + area(b) - both
    hull = area(jnp.concatenate([jnp.minimum(a[..., :2], b[..., :2]),
                                 jnp.maximum(a[..., 2:], b[..., 2:])], axis=-1))  # fmt: skip
    return _ratio(both, union) - _ratio(hull - union, hull)


def inside(points: jax.Array, boxes: jax.Array) -> jax.Array:
    """Whether each point [n, 2] (x, y) is inside each box [m, 4]: bool [m, n]."""
    x, y = points[:, 0], points[:, 1]
    x0, y0, x1, y1 = (boxes[:, i, None] for i in range(4))
    return (x >= x0) & (x < x1) & (y >= y0) & (y < y1)


def distances_to_boxes(points: jax.Array | np.ndarray, distances: jax.Array) -> jax.Array:
    """Boxes [..., n, 4] from points [n, 2] and distances [..., n, 4] in pixels (l, t, r, b)."""
    return jnp.concatenate([points - distances[..., :2], points + distances[..., 2:]], axis=-1)


def boxes_to_distances(points: jax.Array | np.ndarray, boxes: jax.Array) -> jax.Array:
    """Distances [..., n, 4] in pixels of points [n, 2] to the sides of boxes [..., n, 4]."""
    return jnp.concatenate([points - boxes[..., :2], boxes[..., 2:] - points], axis=-1)
