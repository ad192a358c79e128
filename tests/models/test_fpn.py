"""The feature pyramid: the sizes of its levels, and what each is computed from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convmesh.models.fpn import FROM_INPUT, FROM_LAST, POOL, FeaturePyramid, fpn_torch_names
from convmesh.weights.torch_names import from_torch


def levels(sides=(9, 5, 3)):
    return [jax.random.normal(jax.random.key(i), (1, s, s, 4 * 2**i)) for i, s in enumerate(sides)]


@pytest.mark.parametrize(("extra", "sides"), [(POOL, [9, 5, 3, 2]), (FROM_LAST, [9, 5, 3, 2, 1])])
def test_each_level_has_half_the_size(extra, sides):
    pyramid = FeaturePyramid(extra, features=8)
    outputs, variables = pyramid.init_with_output(jax.random.key(0), levels())
    assert [output.shape for output in outputs] == [(1, side, side, 8) for side in sides]
    # Each layer has a name in torch.
    assert from_torch(fpn_torch_names(extra, 3), variables, {})[1].missing


def test_the_last_levels_come_from_the_pyramid_or_from_its_input():
    for extra, channels in ((FROM_LAST, 8), (FROM_INPUT, 16)):
        params = FeaturePyramid(extra, features=8).init(jax.random.key(0), levels())["params"]
        assert params["p6"]["kernel"].shape == (3, 3, channels, 8)


def test_coarse_levels_are_added_to_fine_ones():
    pyramid = FeaturePyramid(POOL, features=8)
    inputs = levels()
    variables = pyramid.init(jax.random.key(0), inputs)
    before = pyramid.apply(variables, inputs)
    # One pixel of the coarsest level, of 4 x 4 pixels of the finest: with the windows, 6 x 6.
    after = pyramid.apply(variables, [*inputs[:2], inputs[2].at[0, 0, 0].add(1)])
    changed = np.argwhere(np.abs(after[0] - before[0]).max(-1)[0] > 1e-6)
    assert changed.min() == 0 and changed.max() == 4
    np.testing.assert_array_equal(after[3], after[2][:, ::2, ::2])
    assert jnp.abs(after[3] - before[3]).max() > 0
