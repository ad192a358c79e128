"""Label assignment: which points learn which box, and their confidence targets.

`assign` is task-aligned (TOOD, arXiv 2108.07755): it uses the current predictions.
`assign_centres` uses only the positions of the boxes (FCOS, arXiv 1904.01355), for comparison.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from convmesh.geometry import Grid
from convmesh.ops.boxes import area, inside, pairwise_iou
from convmesh.ops.selection import among_largest

ALIGNMENT_POWER = 6.0  # the metric is score x IoU^6
POINTS_PER_BOX = 13
CENTRE_RADIUS = 1.5  # strides
LARGEST_SIDE = 8  # strides from a point to the farthest side, of the boxes of its level


class GroundTruth(NamedTuple):
    """The annotated boxes of one image (or, with a batch dimension in front, of many)."""

    boxes: Any  # float [max_boxes, 4]: x0 y0 x1 y1 in pixels
    labels: Any  # int32 [max_boxes]
    valid: Any  # bool [max_boxes]: False for padding
    crowd: Any  # bool [max_boxes]: a region to ignore


class Assignment(NamedTuple):
    """The targets of one image (or, with a batch dimension in front, of many); no gradients."""

    box: Any  # int32 [points]: index of the box a point learns; undefined where not positive
    positive: Any  # bool [points]
    target: Any  # float [points]: the class confidence to learn; 0 where not positive
    confidence: Any  # float [points]: the box confidence to learn; 0 where not positive
    ignored: Any  # bool [points]: covered by a crowd region, and not positive
    missed: Any  # int32 []: boxes left without a point


def assign(
    grid: Grid, predicted: jax.Array, class_logits: jax.Array, truth: GroundTruth
) -> Assignment:
    """Assigns the points of one image, task-aligned.

    Args:
      grid: points [points, 2] and strides [points], in pixels.
      predicted: [points, 4] predicted boxes, in pixels.
      class_logits: [points, classes].
      truth: the boxes of the image.

    A point is a candidate for each box that contains it; for this test only, a box is enlarged to
    at least one finest stride per side, or many small boxes would contain no point. Each box takes
    the 13 candidates with the highest metric; a point taken twice goes to the box with the higher
    IoU. Over the points that a box keeps, targets are the metric scaled to the box's best IoU, and
    the box confidence learns the same target, not the IoU (docs/results.md).
    """
    points, strides, predicted, boxes = _at_least_float32(grid, predicted, truth.boxes)
    real = truth.valid & ~truth.crowd & (area(boxes) > 0)
    candidate = inside(points, _grown(boxes, strides)) & real[:, None]  # [max_boxes, points]

    overlap = jnp.where(candidate, pairwise_iou(boxes, predicted), 0)
    score = jax.nn.log_sigmoid(class_logits.astype(predicted.dtype)).T[truth.labels]
    metric = score + ALIGNMENT_POWER * jnp.log(jnp.maximum(overlap, 1e-9))
    metric = jnp.where(candidate, metric, -jnp.inf)

    taken = among_largest(metric, POINTS_PER_BOX)
    rows = jnp.arange(metric.shape[0])[:, None]

    # One box per point: the one with the highest IoU; the first of equals.
    box = jnp.argmax(jnp.where(taken, overlap, -1), axis=0)
    positive = jnp.any(taken, axis=0)
    kept = taken & (box[None, :] == rows)

    # Scaled over the points a box keeps; in logs, so that IoU^6 cannot underflow.
    metric = jnp.where(kept, metric, -jnp.inf)
    top = metric.max(axis=1, keepdims=True)
    relative = jnp.exp(metric - jnp.where(jnp.isfinite(top), top, 0))
    quality = relative * jnp.where(kept, overlap, 0).max(axis=1, keepdims=True)

    target = jnp.sum(jnp.where(kept, quality, 0), axis=0)
    return Assignment(
        box=box.astype(jnp.int32),
        positive=positive,
        target=target,
        confidence=target,
        ignored=_covered(points, boxes, truth.valid & truth.crowd) & ~positive,
        missed=jnp.sum(real & ~jnp.any(kept, axis=1)).astype(jnp.int32),
    )


def assign_centres(
    grid: Grid, predicted: jax.Array, class_logits: jax.Array, truth: GroundTruth
) -> Assignment:
    """Assigns the points of one image by the position of its boxes; arguments as for `assign`.

    A box takes the points inside it within 1.5 strides of its centre, on the level whose strides
    suit its size: no side farther than 8 strides and, except on the finest level, one farther than
    4. A point taken twice goes to the smaller box. Every target is 1; the box confidence learns the
    IoU.
    """
    points, strides, predicted, boxes = _at_least_float32(grid, predicted, truth.boxes)
    size = area(boxes)
    real = truth.valid & ~truth.crowd & (size > 0)
    grown = _grown(boxes, strides)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    near = jnp.abs(points[None] - centre[:, None]).max(-1) < CENTRE_RADIUS * strides
    farthest = jnp.maximum(points[None] - grown[:, None, :2], grown[:, None, 2:] - points[None])
    farthest = farthest.max(-1)  # [max_boxes, points]
    fits = (farthest <= LARGEST_SIDE * strides) | (strides == strides.max())
    fits &= (farthest > LARGEST_SIDE / 2 * strides) | (strides == strides.min())
    candidate = inside(points, grown) & near & fits & real[:, None]

    box = jnp.argmin(jnp.where(candidate, size[:, None], jnp.inf), axis=0)
    positive = jnp.any(candidate, axis=0)
    kept = candidate & (box[None, :] == jnp.arange(len(boxes))[:, None])
    return Assignment(
        box=box.astype(jnp.int32),
        positive=positive,
        target=positive.astype(boxes.dtype),
        confidence=jnp.sum(jnp.where(kept, pairwise_iou(boxes, predicted), 0), axis=0),
        ignored=_covered(points, boxes, truth.valid & truth.crowd) & ~positive,
        missed=jnp.sum(real & ~jnp.any(kept, axis=1)).astype(jnp.int32),
    )


ASSIGNMENTS = {"aligned": assign, "centres": assign_centres}


def _at_least_float32(grid: Grid, predicted: jax.Array, boxes: jax.Array) -> list[jax.Array]:
    """Points, strides, predicted and annotated boxes in the type of the assignment."""
    dtype = jnp.promote_types(predicted.dtype, jnp.float32)
    return [jnp.asarray(array, dtype) for array in (*grid, predicted, boxes)]


def _grown(boxes: jax.Array, strides: jax.Array) -> jax.Array:
    """Boxes enlarged to at least one finest stride per side."""
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    half = jnp.maximum(half, strides.min() / 2)
    return jnp.concatenate([centre - half, centre + half], axis=1)


def _covered(points: jax.Array, boxes: jax.Array, regions: jax.Array) -> jax.Array:
    """Whether each point is inside one of the boxes marked by `regions`: bool [points]."""
    return jnp.any(inside(points, boxes) & regions[:, None], axis=0)
