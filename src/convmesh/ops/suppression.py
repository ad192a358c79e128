"""Greedy non-maximum suppression inside the graph."""

import jax
import jax.numpy as jnp
from jax import lax

from convmesh.ops.boxes import pairwise_iou


def suppress(boxes: jax.Array, labels: jax.Array, valid: jax.Array, threshold: float) -> jax.Array:
    """Which boxes greedy suppression keeps: bool [n].

    Args:
      boxes: [n, 4] best first, x0 y0 x1 y1.
      labels: int [n]; boxes of different classes do not suppress each other.
      valid: bool [n]; boxes that are not valid are never kept and suppress nothing.
      threshold: a box is dropped if its IoU with a better box that is kept is above this.

    Greedy suppression is the only fixed point of keep = valid & not any(overlap & earlier & keep),
    since each box depends on earlier ones alone. It takes at most n rounds, usually two or three.
    """
    n = boxes.shape[0]
    earlier = jnp.arange(n)[:, None] > jnp.arange(n)[None, :]
    overlap = (pairwise_iou(boxes, boxes) > threshold) & (labels[:, None] == labels[None, :])
    suppresses = overlap & earlier  # [n, n]: the column suppresses the row, if it is kept

    def changed(carry: tuple[jax.Array, jax.Array]) -> jax.Array:
        keep, previous = carry
        return jnp.any(keep != previous)

    def next_round(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        keep, _ = carry
        return valid & ~jnp.any(suppresses & keep[None, :], axis=1), keep

    return lax.while_loop(changed, next_round, (valid, jnp.zeros_like(valid)))[0]
