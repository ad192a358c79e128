"""From scores to detections: the best pairs of a point (or anchor) and a class, and suppression."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from convmesh.ops.selection import top_k
from convmesh.ops.suppression import best_distinct

Candidates = dict[str, jax.Array]


def best_pairs(scores: jax.Array, count: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The `count` highest of `scores` [points, classes], or all if there are fewer.

    Returns the scores, best first, and the point and class of each: [n].
    """
    points, classes = scores.shape
    # Exact: each of the best pairs is at one of the `count` points with the best class scores.
    _, best = top_k(scores.max(axis=1), min(count, points))
    found, pair = top_k(scores[best].reshape(-1), min(count, best.size * classes))
    return found, best[pair // classes], pair % classes


def distinct(levels: Sequence[Candidates], threshold: float, count: int) -> Candidates:
    """The detections of one image, best first, of the candidates of its levels.

    Args:
      levels: each with `boxes` [n, 4], `labels`, `scores` and others, [n]; a candidate with a
        negative score is none.
      threshold: a box is dropped if its IoU with a better one of its class is above this.
      count: of detections.

    Returns:
      The same, [count, ...], with `valid`, bool [count].
    """
    found = {name: jnp.concatenate([level[name] for level in levels]) for name in levels[0]}
    index, valid = best_distinct(found["boxes"], found["labels"], found["scores"], threshold, count)
    return {name: array[index] for name, array in found.items()} | {"valid": valid}
