"""Greedy non-maximum suppression inside the graph."""

import jax.numpy as jnp
from jax import lax

from convmesh.ops.boxes import pairwise_iou


def suppress(boxes, labels, valid, threshold: float):
    """Which boxes greedy suppression keeps: bool [n].

    Args:
      boxes: [n, 4] best first, x0 y0 x1 y1.
      labels: int [n]; boxes of different classes do not suppress each other.
      valid: bool [n]; the others are never kept and suppress nothing.
      threshold: a box is dropped if its IoU with a kept earlier one is above this.

    Greedy is the one fixed point of keep = valid & not any(overlap & earlier & keep), since each
    box depends on earlier ones alone; n rounds reach it at the latest, two or three as a rule.
    """
    n = boxes.shape[0]
    earlier = jnp.arange(n)[:, None] > jnp.arange(n)[None, :]
    overlap = (pairwise_iou(boxes, boxes) > threshold) & (labels[:, None] == labels[None, :])
    beats = overlap & earlier  # [n, n]: column beats row

    def changed(carry):
        keep, before = carry
        return jnp.any(keep != before)

    def round_(carry):
        keep, _ = carry
        return valid & ~jnp.any(beats & keep[None, :], axis=1), keep

    return lax.while_loop(changed, round_, (valid, jnp.zeros_like(valid)))[0]
