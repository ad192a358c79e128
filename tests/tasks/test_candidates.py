"""The best pairs of point and class."""

import jax.numpy as jnp
import numpy as np
import pytest

from convmesh.tasks.candidates import best_pairs


@pytest.mark.parametrize("count", [1, 7, 60, 100])
def test_they_are_the_highest_scores(count):
    scores = np.random.default_rng(0).permutation(60).reshape(20, 3).astype(np.float32)
    found, point, label = best_pairs(jnp.array(scores), count)
    expected = np.sort(scores.reshape(-1))[::-1][:count]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(scores[point, label], expected)
