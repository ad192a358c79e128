"""Classifiers train on every mesh as on one device (see `equality`), and a mistake is found."""

import functools

import equality
import jax
import jax.numpy as jnp
import pytest
from jax import lax

import convmesh.ops.conv
import convmesh.ops.pool
from convmesh.mesh import DATA, SPATIAL

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("shape", equality.ALL_LAYOUTS, ids=str)
@pytest.mark.parametrize("name", ["tiny small_cnn", "tiny resnet"])
def test_tiny_nets_on_every_mesh(name, shape):
    equality.assert_equal(equality.on_mesh(name, shape), equality.one_device(name))


# Groups of 2 of 8 examples: whole on each device, and, on the first mesh, over two of them.
@pytest.mark.parametrize("shape", [(8, 1, 1), (4, 1, 2), (2, 2, 2), (1, 8, 1)], ids=str)
def test_ghost_groups(shape):
    result = equality.on_mesh("ghost resnet", shape)
    equality.assert_equal(result, equality.one_device("ghost resnet"))


@functools.cache
def in_two_ghost_groups(name):
    """Steps on one device, each on a whole batch whose halves are normalised apart."""
    model, *rest = equality.case(name)
    if hasattr(model, "norm_group"):
        model = model.clone(norm_group=4)
    return equality.three_steps(model, *rest, (1, 1, 1), clip_norm=0.1)


@pytest.mark.parametrize("shape", [(2, 2, 2), (4, 1, 2, True)], ids=str)
@pytest.mark.parametrize("name", ["tiny small_cnn", "tiny resnet"])
def test_two_micro_batches_on_a_mesh_are_one_batch(name, shape):
    result = equality.on_mesh(name, shape, accumulate=2, clip_norm=0.1)
    equality.assert_equal(result, in_two_ghost_groups(name))


def test_a_whole_net():  # `make proof` does larger ones
    result = equality.on_mesh("small_cnn", (2, 2, 2, True))
    equality.assert_equal(result, equality.one_device("small_cnn"))


def test_the_reference_learns_something():
    # Else equality would say nothing. (A ResNet starts with zeros behind its last norms.)
    gradients = equality.one_device("tiny small_cnn").gradients
    flat = jax.tree_util.tree_leaves_with_path(gradients)
    assert [jax.tree_util.keystr(path) for path, leaf in flat if not abs(leaf).max() > 0] == []


# --- a deliberate mistake must not pass -----------------------------------------------------------


def test_a_missing_sum_is_found(monkeypatch):
    def only_the_first_shards(kernel, axes):
        @jax.custom_vjp
        def shard(kernel):
            return lax.pcast(kernel, axes, to="varying")

        def backward(_, gradient):
            first = functools.reduce(jnp.logical_and, [lax.axis_index(a) == 0 for a in axes])
            return (lax.psum(jnp.where(first, gradient, 0), axes),)

        shard.defvjp(lambda kernel: (shard(kernel), None), backward)
        return shard(kernel) if axes else kernel

    monkeypatch.setattr(convmesh.ops.conv, "_replicated_over", only_the_first_shards)
    result = equality.on_mesh("tiny resnet", (2, 2, 2))
    with pytest.raises(AssertionError, match="differs by"):
        equality.assert_equal(result.gradients, equality.one_device("tiny resnet").gradients)


def test_a_halo_one_row_short_is_found(monkeypatch):
    exchange = convmesh.ops.conv.exchange

    def short(x, above, below, fill):
        y = exchange(x, above, below, fill)
        return y.at[:, 0].set(fill) if above else y  # the row farthest off never came

    monkeypatch.setattr(convmesh.ops.conv, "exchange", short)
    result = equality.on_mesh("tiny small_cnn", (2, 4, 1))
    with pytest.raises(AssertionError, match="differs by"):
        equality.assert_equal(result.metrics[0], equality.one_device("tiny small_cnn").metrics[0])


def test_the_axes_are_really_used():
    """Rows, examples and channels of an activation stand on different devices."""
    from convmesh import mesh as meshes

    with jax.set_mesh(equality.make_mesh((2, 2, 2))):
        spec = meshes.activation_spec((8, 16, 16, 8))
    assert spec == meshes.P(DATA, SPATIAL, None, meshes.MODEL)
