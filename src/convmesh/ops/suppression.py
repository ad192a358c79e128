"""Greedy non-maximum suppression inside the graph."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from convmesh.ops.boxes import iou, pairwise_iou
from convmesh.ops.selection import top_k


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
    if _suppresses_nothing(threshold):
        return valid
    return greedy_suppression(boxes, labels, valid, threshold)


def _suppresses_nothing(threshold: float) -> bool:
    """Whether no IoU is above the threshold; False for one that is traced."""
    return not isinstance(threshold, jax.Array) and threshold >= 1


# Jitted, and so a call by its name in a traced program: an export replaces it by the operator of
# the other format.
@jax.jit
def greedy_suppression(
    boxes: jax.Array, labels: jax.Array, valid: jax.Array, threshold: jax.Array
) -> jax.Array:
    """`suppress` for any threshold."""
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


def best_distinct(
    boxes: jax.Array, labels: jax.Array, scores: jax.Array, threshold: float, count: int
) -> tuple[jax.Array, jax.Array]:
    """The first `count` boxes that greedy suppression keeps, best first.

    For many boxes of which few are wanted: each of `count` rounds takes the best box that is left
    and drops those that it suppresses. Memory is linear in the number of boxes.

    Args:
      boxes: [n, 4], in any order.
      labels: int [n]; boxes of different classes do not suppress each other.
      scores: [n]; a box with a negative score is none.
      threshold: a box is dropped if its IoU with a better box that is kept is above this.
      count: of boxes to return.

    Returns:
      Indices [count] into `boxes`, and which of them are boxes: bool [count].
    """
    if _suppresses_nothing(threshold):
        best, index = top_k(scores, count)
        return index, best >= 0
    return best_distinct_boxes(boxes, labels, scores, threshold, count)


@functools.partial(jax.jit, static_argnames="count")  # by its name, as `greedy_suppression`
def best_distinct_boxes(
    boxes: jax.Array, labels: jax.Array, scores: jax.Array, threshold: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
    """`best_distinct` for any threshold."""

    def take_best(left: jax.Array, _: None) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        best = jnp.argmax(left)
        dropped = (iou(boxes[best], boxes) > threshold) & (labels == labels[best])
        return jnp.where(dropped, -1, left).at[best].set(-1), (best, left[best] >= 0)

    return lax.scan(take_best, scores, length=count)[1]
