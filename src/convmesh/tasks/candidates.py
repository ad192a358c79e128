"""The best pairs of a point (or anchor) and a class, before suppression."""

import jax
from jax import lax


def best_pairs(scores: jax.Array, count: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The `count` highest of `scores` [points, classes], or all if there are fewer.

    Returns the scores, best first, and the point and class of each: [n].
    """
    points, classes = scores.shape
    # Exact: each of the best pairs is at one of the `count` points with the best class scores.
    _, best = lax.top_k(scores.max(axis=1), min(count, points))
    found, pair = lax.top_k(scores[best].reshape(-1), min(count, best.size * classes))
    return found, best[pair // classes], pair % classes
