"""RoI align against its definition, one sample at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from convmesh.ops.roi_align import SAMPLES, level_of, roi_align

STRIDES, SHAPES, BINS = (4, 8), ((8, 16), (4, 8)), 2
RNG = np.random.default_rng(0)
LEVELS = [RNG.normal(size=(*shape, 3)) for shape in SHAPES]
POINTS = np.concatenate([level.reshape(-1, 3) for level in LEVELS])
SMALL, LARGE = [5.0, 3, 30, 21], [4.0, 2, 260, 30]


def sample(level, y, x):
    """The value between pixels, whose centres are at integers; 0 far outside."""
    rows, columns = level.shape[:2]
    if not (-1 <= y <= rows and -1 <= x <= columns):
        return np.zeros(3)
    y, x = np.clip(y, 0, rows - 1), np.clip(x, 0, columns - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, rows - 1), min(x0 + 1, columns - 1)
    above = level[y0, x0] * (x0 + 1 - x) + level[y0, x1] * (x - x0)
    below = level[y1, x0] * (x0 + 1 - x) + level[y1, x1] * (x - x0)
    return above * (y0 + 1 - y) + below * (y - y0)


def by_definition(box, index):
    x0, y0, x1, y1 = np.array(box) / STRIDES[index]
    steps = [max(side, 1) / (BINS * SAMPLES) for side in (y1 - y0, x1 - x0)]
    found = np.zeros((BINS, BINS, 3))
    for i in range(BINS * SAMPLES):
        for j in range(BINS * SAMPLES):
            y, x = y0 + (i + 0.5) * steps[0], x0 + (j + 0.5) * steps[1]
            found[i // SAMPLES, j // SAMPLES] += sample(LEVELS[index], y, x) / SAMPLES**2
    return found.reshape(BINS**2, 3)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "box, level",
    [(SMALL, 0), ([61.0, 29, 63, 31], 0), ([63.9, 31.9, 64, 32], 0), ([0.0, 0, 0, 0], 0)],
)
def test_it_is_the_mean_of_the_samples_of_a_bin(box, level):
    boxes = np.array([box, LARGE])  # the other one is of the coarser level
    got = roi_align(jnp.array(POINTS), jnp.array(boxes), SHAPES, STRIDES, BINS)
    np.testing.assert_allclose(got[0], by_definition(box, level), atol=1e-12)
    np.testing.assert_allclose(got[1], by_definition(LARGE, 0), atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_a_large_box_is_taken_from_a_coarser_level():
    boxes = np.array([[0.0, 0, 223, 223], [0, 0, 225, 225], [0, 0, 9, 9], [0, 0, 2000, 2000]])
    assert level_of(jnp.array(boxes), (4, 8, 16, 32)).tolist() == [1, 2, 0, 3]
    box = np.array([[0.0, 0, 130, 130]])  # more than 112: stride 8
    got = roi_align(jnp.array(POINTS), jnp.array(box), SHAPES, STRIDES, BINS)
    np.testing.assert_allclose(got[0], by_definition(box[0], 1), atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_the_gradient_is_that_of_the_features_and_none_of_the_boxes():
    boxes = jnp.array([SMALL, LARGE])

    def pooled(points, boxes=boxes):
        return roi_align(jnp.asarray(points), boxes, SHAPES, STRIDES, BINS)

    check_grads(pooled, (jnp.array(POINTS),), order=1, modes=["rev"])
    gradient = jax.grad(lambda boxes: pooled(jnp.array(POINTS), boxes).sum())(boxes)
    assert (gradient == 0).all()
