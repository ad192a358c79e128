import functools

import equality
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax.sharding import NamedSharding

from convmesh import mesh as meshes
from convmesh.mesh import DATA, MODEL, SPATIAL, P
from convmesh.ops.forms import plain_form
from convmesh.ops.pool import avg_pool, max_pool, upsample_bilinear, upsample_nearest


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


SETTINGS = [
    (2, 2, 0),
    (3, 2, 1),
    (3, 1, 1),
    (2, 1, 0),
    (3, 3, 0),
    (5, 1, 2),
]  # window, stride, padding


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("window, stride, padding", SETTINGS)
def test_pools_equal_loops(window, stride, padding):
    x = normal(2, 9, 8, 3)
    got = max_pool(x, window, stride=stride, padding=padding)
    wanted = reference.pool(x, window, stride, padding, np.max, fill=-np.inf)
    np.testing.assert_array_equal(got, wanted)
    got = avg_pool(x, window, stride=stride, padding=padding)
    wanted = reference.pool(x, window, stride, padding, np.mean, fill=0)
    np.testing.assert_allclose(got, wanted, atol=1e-14)


def test_by_hand():
    x = jnp.arange(1.0, 17).reshape(1, 4, 4, 1)
    assert max_pool(x, 2)[0, :, :, 0].tolist() == [[6, 8], [14, 16]]  # the stride is the window
    assert avg_pool(x, 2)[0, :, :, 0].tolist() == [[3.5, 5.5], [11.5, 13.5]]
    up = upsample_nearest(x[:, :2, :2])[0, :, :, 0]
    assert up.tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [5, 5, 6, 6], [5, 5, 6, 6]]
    assert upsample_nearest(x, 3).shape == (1, 12, 12, 1)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_bilinear_equals_jax_image_resize(factor):
    x = normal(2, 5, 4, 3)
    wanted = jax.image.resize(x, (2, 5 * factor, 4 * factor, 3), "bilinear")
    np.testing.assert_allclose(upsample_bilinear(x, factor), wanted, atol=1e-12)


def test_bilinear_by_hand():
    # Centres lie a quarter off; beyond the first and last pixel these go on.
    x = jnp.array([0.0, 4.0]).reshape(1, 1, 2, 1)
    assert upsample_bilinear(x)[0, :, :, 0].tolist() == [[0, 1, 3, 4]] * 2


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 1)], ids=str)
def test_padding_is_ignored_by_the_maximum_and_counted_in_the_mean(shape):
    x = jnp.full((1, 8, 8, 1), -4.0)
    on_mesh = functools.partial(meshes.on_mesh, equality.make_mesh(shape))
    highest = on_mesh(jax.jit(lambda x: max_pool(x, 3, stride=2, padding=1)))(x)
    assert np.unique(highest).tolist() == [-4]
    mean = on_mesh(jax.jit(lambda x: avg_pool(x, 3, stride=2, padding=1)))(x)
    # The corner's window holds 4 pixels and 5 zeros, an edge's 6 and 3.
    np.testing.assert_allclose(mean[0, :2, :2, 0], [[-16 / 9, -24 / 9], [-24 / 9, -4]], rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_dtype_is_kept(dtype):
    x = jnp.asarray(normal(2, 8, 8, 4), dtype)

    def pools(x):
        return max_pool(x, 3, stride=2, padding=1), avg_pool(x, 2), upsample_nearest(x)

    wanted = jax.jit(pools)(x)
    assert [y.dtype for y in wanted] == [dtype] * 3
    got = meshes.on_mesh(equality.make_mesh((2, 2, 2)), jax.jit(pools))(x)
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == dtype
        np.testing.assert_allclose(*(np.asarray(y, np.float32) for y in (one, other)), rtol=1e-2)


OPS = {
    "max 3/2/1": functools.partial(max_pool, window=3, stride=2, padding=1),
    "max 2/2/0": functools.partial(max_pool, window=2),
    "max 5/1/2": functools.partial(max_pool, window=5, stride=1, padding=2),
    "mean 2/2/0": functools.partial(avg_pool, window=2),
    "mean 3/2/1": functools.partial(avg_pool, window=3, stride=2, padding=1),
    "mean (2, 1)/(2, 3)": functools.partial(avg_pool, window=(2, 1), stride=(2, 3)),
    "up 2": upsample_nearest,
    "bilinear 2": upsample_bilinear,
    "bilinear 3": functools.partial(upsample_bilinear, factor=3),
}
SHAPES = [(8, 32, 6, 8), (6, 14, 6, 3)]  # all divides on every mesh, and little does


def everything(shape):
    """The results and gradients of every op and shape, compiled as one program for a mesh."""
    mesh = equality.make_mesh(shape)
    images = [
        jax.device_put(normal(*s), NamedSharding(mesh, meshes.activation_spec(s, mesh)))
        for s in SHAPES
    ]

    def all_ops(images):
        results = {}
        for name, op in OPS.items():
            for i, x in enumerate(images):
                y, pull = jax.vjp(op, x)
                results[name, i] = y, *pull(y)
        return results

    return jax.device_get(meshes.on_mesh(mesh, jax.jit(all_ops))(images))


@functools.cache
def one_device():
    with jax.enable_x64(True):
        return everything((1, 1, 1))


@pytest.mark.parametrize(
    "window, stride, padding", [(3, 2, 1), (5, 1, 2), (2, 2, 0), ((2, 1), (2, 3), 0)]
)
def test_a_maximum_has_the_gradient_of_xlas_own_form(window, stride, padding):
    # Many equal values: of several maxima in a window the first has the gradient.
    x = jnp.round(normal(2, 9, 8, 3))

    def gradient(x):
        y, pull = jax.vjp(lambda x: max_pool(x, window, stride=stride, padding=padding), x)
        return pull(normal(*y.shape))[0]

    with plain_form():
        wanted = jax.jit(lambda x: gradient(x))(x)
    assert "select_and_scatter" not in str(jax.make_jaxpr(gradient)(x))
    np.testing.assert_array_equal(gradient(x), wanted)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shape", equality.ALL_MESHES, ids=str)
def test_every_op_on_every_mesh(shape):
    equality.assert_equal(everything(shape), one_device())


@pytest.mark.parametrize("op", [functools.partial(max_pool, window=2), upsample_nearest])
def test_the_work_is_sharded_where_it_can_be(op):
    mesh = equality.make_mesh((2, 2, 2))
    for x, wanted in [
        ((4, 8, 8, 8), P(DATA, SPATIAL, None, MODEL)),
        ((3, 5, 8, 5), P(*[None] * 4)),
    ]:
        y = meshes.on_mesh(mesh, jax.jit(op))(jnp.ones(x))
        assert y.sharding.is_equivalent_to(NamedSharding(mesh, wanted), 4)
