"""What a step draws for an example depends on its place in the global batch alone."""

import equality
import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from convmesh import mesh as meshes
from convmesh.ops.randomness import uniform_of_examples

KEY = jax.random.key(3)


def whole(examples):
    return np.asarray(uniform_of_examples(KEY, examples, (5,)))


def test_examples_draw_differently_and_a_longer_batch_begins_alike():
    drawn = whole(8)
    assert drawn.shape == (8, 5) and len(np.unique(drawn)) == 40
    assert (drawn >= 0).all() and (drawn < 1).all()
    np.testing.assert_array_equal(whole(16)[:8], drawn)
    other = uniform_of_examples(jax.random.key(4), 8, (5,))
    assert not np.isin(other, drawn).any()


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 8, 1)], ids=str)
def test_the_partitioner_leaves_them_as_they_are(shape):
    mesh = equality.make_mesh(shape)
    layout = jax.NamedSharding(mesh, P(meshes.DATA))
    draw = jax.jit(lambda: uniform_of_examples(KEY, 8, (5,)), out_shardings=layout)
    np.testing.assert_array_equal(meshes.on_mesh(mesh, draw)(), whole(8))


def test_a_device_by_itself_draws_for_its_own_examples():
    mesh = equality.make_mesh((4, 1, 1))

    def drawn(x):
        of_device = lambda _, x: (x * uniform_of_examples(KEY, len(x), (5,))).sum(0)  # noqa: E731
        return meshes.sum_over_devices(of_device)(0, x)

    own = meshes.on_mesh(mesh, jax.jit(drawn))
    x = np.arange(1, 9, dtype=np.float32)[:, None]
    np.testing.assert_allclose(own(x), (x * whole(8)).sum(0), rtol=1e-5)
