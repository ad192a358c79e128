"""sum_over_devices: each device by itself on its examples, and one sum at the end."""

import equality
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convmesh import mesh as meshes
from convmesh.ops.moments import examples_together, moments
from convmesh.programs.collectives import find_collectives

MESH = (8, 1, 1)


def on_mesh(function, *args, shape=MESH):
    mesh = equality.make_mesh(shape)
    return meshes.on_mesh(mesh, jax.jit(function))(*args)


@pytest.mark.parametrize(
    "shape, wanted",
    [
        ((8, 1, 1), True),
        ((2, 1, 1), True),
        ((1, 1, 1), False),
        ((4, 2, 1), False),
        ((4, 1, 2), False),
        ((8, 1, 1, True), False),
    ],
    ids=str,
)
def test_only_a_mesh_along_data_without_fsdp_has_such_devices(shape, wanted):
    assert meshes.shards_examples_only(equality.make_mesh(shape)) == wanted


def test_results_are_summed_whatever_their_size_and_type(monkeypatch):
    monkeypatch.setattr(meshes, "_SMALL", 4)
    x = np.arange(16.0, dtype=np.float32).reshape(16, 1)

    def of_own(factor, x):
        assert meshes.current() is None and meshes.devices_of_batch() == 8
        large = jnp.broadcast_to(x.sum() * factor, (3, 5))
        return {"large": large, "pair": x[:2, 0], "count": (x > 3).sum(), "none": None}

    found = on_mesh(lambda x: meshes.sum_over_devices(of_own)(2.0, x), x)
    np.testing.assert_array_equal(found["large"], np.full((3, 5), 240.0))
    np.testing.assert_array_equal(found["pair"], [x[::2].sum(), x[1::2].sum()])
    assert found["count"] == 12 and found["none"] is None
    assert meshes.devices_of_batch() == 1


def test_small_arrays_of_one_type_are_one_sum():
    mesh = equality.make_mesh(MESH)
    own = lambda _, x: [x[0] * k for k in range(5)] + [jnp.int32(1)]  # noqa: E731
    step = meshes.on_mesh(mesh, jax.jit(lambda x: meshes.sum_over_devices(own)((), x)))
    text = step.lower(np.ones((8, 3), np.float32)).compile().as_text()
    shapes = [shape for each in find_collectives(text, mesh) for shape in each.shapes]
    assert sorted(shapes) == ["f32[15]", "s32[1]"]


def test_micro_batches_are_sharded_by_their_examples():
    x = np.arange(16.0, dtype=np.float32).reshape(2, 8)
    own = lambda _, x: x  # noqa: E731
    found = on_mesh(lambda x: meshes.sum_over_devices(own, stacked=True)((), x), x)
    np.testing.assert_array_equal(found, x.sum(1, keepdims=True))


def test_after_an_error_the_mesh_is_whole_again():
    def wrong(_, x):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        on_mesh(lambda x: meshes.sum_over_devices(wrong)((), x), np.ones(8))
    assert meshes.devices_of_batch() == 1


def test_moments_over_the_whole_batch_and_their_gradients():
    x = np.random.default_rng(0).normal(size=(16, 2, 3, 4)).astype(np.float32)
    weight = jnp.arange(1.0, 5.0)

    def total(x):
        mean, square = moments(x, 0)
        assert examples_together(x.shape[0], 0) == 16 and examples_together(x.shape[0], 2) == 2
        return ((x - mean) * square * weight).sum() + (mean * square).sum() / 8

    wanted, wanted_gradient = jax.value_and_grad(lambda x: total_of_all(x, weight))(x)

    def own(_, x):
        value, gradient = jax.value_and_grad(total)(x)
        place = jax.lax.axis_index("data") * x.shape[0]
        full = jax.lax.dynamic_update_slice(jnp.zeros((16, 2, 3, 4)), gradient, (place, 0, 0, 0))
        return value, full

    value, gradient = on_mesh(lambda x: meshes.sum_over_devices(own)((), x), x)
    np.testing.assert_allclose(value, wanted, atol=1e-3)
    np.testing.assert_allclose(gradient, wanted_gradient, rtol=1e-4, atol=1e-5)


def total_of_all(x, weight):
    """The same of the whole batch, on one device."""
    mean, square = moments(x, 0)
    return ((x - mean) * square * weight).sum() + (mean * square).sum()
