"""Which anchors learn which box, by their overlaps, as torchvision's `Matcher` decides."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from convmesh.ops.boxes import area, intersection, pairwise_iou
from convmesh.tasks.assignment import GroundTruth

COVERED = 0.5  # the part of an anchor in a crowd region from which on it is ignored


class Match(NamedTuple):
    """The targets of the anchors of one image (or, with a batch dimension in front, of many)."""

    box: jax.Array  # int32 [anchors]: index of the box an anchor learns; undefined if not positive
    positive: jax.Array  # bool [anchors]
    ignored: jax.Array  # bool [anchors]: neither positive nor background
    missed: jax.Array  # int32 []: boxes without an anchor

    def of(self, chosen: jax.Array) -> "Match":
        """The targets of those anchors of one image whose indices are `chosen`, int [n]."""
        box, positive, ignored = (each[chosen] for each in self[:3])
        return Match(box, positive, ignored, self.missed)


def match_anchors(
    anchors: jax.Array,
    truth: GroundTruth,
    high: float,
    low: float,
    best_anchors: bool = True,
) -> Match:
    """Matches the anchors of one image with its boxes.

    Args:
      anchors: [anchors, 4], of the type to compute in.
      truth: the boxes of the image.
      high: an anchor is positive from this IoU with a box on; it learns the box of its highest IoU.
      low: it is background below this IoU with all boxes, and ignored in between.
      best_anchors: whether the anchors of the highest IoU with a box (several if they are equal)
        are positive even so. Each learns the box of its own highest IoU, perhaps another.

    An anchor of which more than half lies in a crowd region is ignored unless it is positive; crowd
    regions and boxes without area are no boxes. Unlike in torchvision, a box that overlaps with no
    anchor has none.
    """
    boxes = truth.boxes.astype(anchors.dtype)
    real = truth.valid & ~truth.crowd & (area(boxes) > 0)
    overlap = jnp.where(real[:, None], pairwise_iou(boxes, anchors), 0)
    # Computed once: were it computed again for the comparison, equal values might not be equal.
    overlap = lax.optimization_barrier(overlap)  # [max_boxes, anchors]
    highest = overlap.max(axis=0)
    positive = highest >= high
    if best_anchors:
        best = overlap.max(axis=1, keepdims=True)
        positive |= jnp.any((overlap == best) & (best > 0), axis=0)
    box = jnp.argmax(overlap, axis=0).astype(jnp.int32)
    taken = jnp.zeros(len(boxes), bool).at[box].max(positive)
    ignored = (highest >= low) | covered(anchors, boxes, truth.valid & truth.crowd)
    missed = jnp.sum(real & ~taken).astype(jnp.int32)
    return Match(box, positive, ignored & ~positive, missed)


def covered(anchors: jax.Array, boxes: jax.Array, regions: jax.Array) -> jax.Array:
    """Whether more than half of each anchor is in one of the boxes marked by `regions`."""
    inside = intersection(boxes[:, None], anchors) > COVERED * area(anchors)
    return jnp.any(inside & regions[:, None], axis=0)
