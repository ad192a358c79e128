"""Box arithmetic. A box is x0 y0 x1 y1 in pixels, half-open: a point on x1 or y1 is outside."""

import jax.numpy as jnp


def area(boxes):
    """Area of `boxes` [..., 4] in square pixels; 0 where a side is not positive. Returns [...]."""
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def _intersection(a, b):
    return area(jnp.concatenate([jnp.maximum(a[..., :2], b[..., :2]),
                                 jnp.minimum(a[..., 2:], b[..., 2:])], axis=-1))  # fmt: skip


def _ratio(numerator, denominator):
    """numerator / denominator, and 0 with gradient 0 where the denominator is not positive."""
    good = denominator > 0
    return jnp.where(good, numerator / jnp.where(good, denominator, 1), 0)


def iou(a, b):
    """Intersection over union of boxes [..., 4] (broadcast); 0 for boxes without area."""
    both = _intersection(a, b)
    return _ratio(both, area(a) + area(b) - both)


def pairwise_iou(a, b):
    """IoU of each of `a` [..., n, 4] with each of `b` [..., m, 4]: [..., n, m]."""
    return iou(a[..., :, None, :], b[..., None, :, :])


def giou(a, b):
    """Generalised IoU (arXiv 1902.09630), in [-1, 1], of boxes [..., 4] (broadcast)."""
    both = _intersection(a, b)
    union = area(a) + area(b) - both
    hull = area(jnp.concatenate([jnp.minimum(a[..., :2], b[..., :2]),
                                 jnp.maximum(a[..., 2:], b[..., 2:])], axis=-1))  # fmt: skip
    return _ratio(both, union) - _ratio(hull - union, hull)


def inside(points, boxes):
    """Whether each point [n, 2] (x, y) is inside each box [m, 4]: bool [m, n]."""
    x, y = points[:, 0], points[:, 1]
    x0, y0, x1, y1 = (boxes[:, i, None] for i in range(4))
    return (x >= x0) & (x < x1) & (y >= y0) & (y < y1)


def distances_to_boxes(points, distances):
    """Boxes [..., n, 4] from points [n, 2] and distances [..., n, 4] in pixels (l, t, r, b)."""
    return jnp.concatenate([points - distances[..., :2], points + distances[..., 2:]], axis=-1)


def boxes_to_distances(points, boxes):
    """Distances [..., n, 4] in pixels of points [n, 2] to the sides of boxes [..., n, 4]."""
    return jnp.concatenate([points - boxes[..., :2], boxes[..., 2:] - points], axis=-1)
