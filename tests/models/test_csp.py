import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convmesh.models.csp import CSPBackbone, CSPBlock
from convmesh.models.layers import ConvNorm, ResidualBlock


def test_a_block_by_hand():
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 6)).astype(np.float32)
    block = CSPBlock(8, depth=2)
    y, variables = block.init_with_output(jax.random.key(0), x, train=False)
    parts = {"past", "through", "block1", "block2", "merge"}
    assert set(variables["params"]) == set(variables["batch_stats"]) == parts

    def part(module, name, x):
        return module.apply(
            {collection: tree[name] for collection, tree in variables.items()}, x, train=False
        )

    inside = part(ConvNorm(4, 1), "through", x)
    for name in ("block1", "block2"):
        inside = part(ResidualBlock(4), name, inside)
    both = np.concatenate([inside, part(ConvNorm(4, 1), "past", x)], axis=-1)
    np.testing.assert_allclose(y, part(ConvNorm(8, 1), "merge", both), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(64, 96), (67, 98), (33, 50)], ids=str)
def test_levels_and_names_of_the_backbone(size):
    backbone = CSPBackbone((8, 12, 16, 24), (1, 2, 0, 1))
    levels, variables = jax.eval_shape(
        lambda x: backbone.init_with_output(jax.random.key(0), x, train=False),
        jnp.zeros((2, *size, 3)),
    )
    cells = [side // 4 for side in size]  # full cells of 4 x 4 pixels
    for level, width, cells_a_side in zip(levels, (12, 16, 24), (2, 4, 8), strict=True):
        assert level.shape == (2, *(-(-n // cells_a_side) for n in cells), width)
    names = {
        f"{kind}{i}{end}" for kind, end in (("down", ""), ("stage", "_block1")) for i in range(1, 5)
    }
    assert set(variables["params"]) == {"stem", *names}
    blocks = [len(variables["params"][f"stage{i}_block1"]) - 3 for i in range(1, 5)]
    assert blocks == [1, 2, 0, 1]
