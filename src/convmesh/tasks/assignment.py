"""Which points learn which box, and how well.

Task-aligned (TOOD, arXiv 2108.07755): what the detector predicts now decides. Centres (FCOS, arXiv
1904.01355): where the box lies decides; kept to show what the first is worth.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from convmesh.ops.boxes import area, inside, pairwise_iou

ALIGNMENT_POWER = 6.0  # the metric is score x IoU^6
POINTS_PER_BOX = 13
CENTRE_RADIUS = 1.5  # strides
LARGEST_SIDE = 8  # strides from a point to the farthest side, of the boxes of its level


class Assignment(NamedTuple):
    """Of one image (or, with a batch in front, of many); never differentiated."""

    box: Any  # int32 [points]: the box a point learns; meaningless where not positive
    positive: Any  # bool [points]
    target: Any  # float [points]: the class confidence to learn; 0 where not positive
    confidence: Any  # float [points]: the box confidence to learn; 0 where not positive
    ignored: Any  # bool [points]: covered by a crowd region, and not positive
    missed: Any  # int32 []: boxes left without a point


def assign(points, strides, predicted, class_logits, boxes, labels, valid, crowd) -> Assignment:
    """Assigns the points of one image.

    Args:
      points: [points, 2] centres x, y in pixels.
      strides: [points] in pixels.
      predicted: [points, 4] boxes as predicted now, in pixels.
      class_logits: [points, classes].
      boxes: [max_boxes, 4] in pixels; labels: int32 [max_boxes]; valid, crowd: bool [max_boxes].

    A point is a candidate of a box that it is inside of; for this test alone a box is grown to at
    least one finest stride a side, or many a small box would hold no point. Each box takes its 13
    candidates of the highest metric; a point taken twice goes to the box of the higher IoU. Over
    the points that a box keeps, targets are the metric scaled to the box's best IoU, and the box
    confidence learns the same: the IoU of each would ask all 13 for a high one (docs/results.md).
    """
    dtype = jnp.promote_types(predicted.dtype, jnp.float32)
    points, strides, predicted, boxes = (
        jnp.asarray(a, dtype) for a in (points, strides, predicted, boxes)
    )
    real = valid & ~crowd & (area(boxes) > 0)
    candidate = inside(points, _grown(boxes, strides)) & real[:, None]  # [max_boxes, points]

    overlap = jnp.where(candidate, pairwise_iou(boxes, predicted), 0)
    score = jax.nn.log_sigmoid(class_logits.astype(dtype))[:, labels].T
    metric = score + ALIGNMENT_POWER * jnp.log(jnp.maximum(overlap, 1e-9))
    metric = jnp.where(candidate, metric, -jnp.inf)

    best, index = lax.top_k(metric, min(POINTS_PER_BOX, metric.shape[1]))
    rows = jnp.arange(metric.shape[0])[:, None]
    taken = jnp.zeros(metric.shape, bool).at[rows, index].set(best > -jnp.inf)

    # One box a point: the one of the higher IoU; the first of equals.
    box = jnp.argmax(jnp.where(taken, overlap, -1), axis=0)
    positive = jnp.any(taken, axis=0)
    kept = taken & (box[None, :] == rows)

    # Scaled over the points a box keeps; in logs, so that IoU^6 cannot vanish.
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
        ignored=_covered(points, boxes, valid & crowd) & ~positive,
        missed=jnp.sum(real & ~jnp.any(kept, axis=1)).astype(jnp.int32),
    )


def assign_centres(points, strides, predicted, class_logits, boxes, labels, valid, crowd):
    """Assigns the points of one image by where its boxes lie; arguments and result as `assign`.

    A box takes the points within 1.5 strides of its centre that are inside it, on the level whose
    strides suit it: no side farther than 8, nor, but on the finest, than 4. A point taken twice
    goes to the smaller box. Every target is 1; the box confidence learns the IoU.
    """
    dtype = jnp.promote_types(predicted.dtype, jnp.float32)
    points, strides, predicted, boxes = (
        jnp.asarray(a, dtype) for a in (points, strides, predicted, boxes)
    )
    size = area(boxes)
    real = valid & ~crowd & (size > 0)
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
        target=positive.astype(dtype),
        confidence=jnp.sum(jnp.where(kept, pairwise_iou(boxes, predicted), 0), axis=0),
        ignored=_covered(points, boxes, valid & crowd) & ~positive,
        missed=jnp.sum(real & ~jnp.any(kept, axis=1)).astype(jnp.int32),
    )


ASSIGNMENTS = {"aligned": assign, "centres": assign_centres}


def _grown(boxes, strides):
    """Boxes of at least one finest stride a side: many a small one would hold no point."""
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    half = jnp.maximum(half, strides.min() / 2)
    return jnp.concatenate([centre - half, centre + half], axis=1)


def _covered(points, boxes, regions):
    """Whether each point is in one of the boxes that are `regions`: bool [points]."""
    return jnp.any(inside(points, boxes) & regions[:, None], axis=0)
