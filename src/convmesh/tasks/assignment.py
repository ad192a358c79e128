"""Task-aligned assignment (TOOD, arXiv 2108.07755): which points learn which box, and how well."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from convmesh.ops.boxes import area, inside, pairwise_iou

ALIGNMENT_POWER = 6.0  # the metric is score x IoU^6
POINTS_PER_BOX = 13


class Assignment(NamedTuple):
    """Of one image (or, with a batch in front, of many); never differentiated."""

    box: Any  # int32 [points]: the box a point learns; meaningless where not positive
    positive: Any  # bool [points]
    target: Any  # float [points]: the class confidence to learn; 0 where not positive
    iou: Any  # float [points]: of the predicted box with its box; 0 where not positive
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
    the points that a box keeps, targets are the metric scaled to the box's best IoU.
    """
    dtype = jnp.promote_types(predicted.dtype, jnp.float32)
    points, strides, predicted, boxes = (
        jnp.asarray(a, dtype) for a in (points, strides, predicted, boxes)
    )
    real = valid & ~crowd & (area(boxes) > 0)

    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    half = jnp.maximum(half, strides.min() / 2)
    grown = jnp.concatenate([centre - half, centre + half], axis=1)
    candidate = inside(points, grown) & real[:, None]  # [max_boxes, points]

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

    covered = jnp.any(inside(points, boxes) & (valid & crowd)[:, None], axis=0)
    return Assignment(
        box=box.astype(jnp.int32),
        positive=positive,
        target=jnp.sum(jnp.where(kept, quality, 0), axis=0),
        iou=jnp.sum(jnp.where(kept, overlap, 0), axis=0),
        ignored=covered & ~positive,
        missed=jnp.sum(real & ~jnp.any(kept, axis=1)).astype(jnp.int32),
    )
