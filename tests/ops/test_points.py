import equality
import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from convmesh import mesh as meshes
from convmesh.mesh import DATA, MODEL, SPATIAL, P
from convmesh.ops.points import to_points


def test_row_by_row():
    x = np.arange(24.0).reshape(1, 2, 3, 4)
    np.testing.assert_array_equal(to_points(x), x.reshape(1, 6, 4))


# (batch, rows, channels): all divides; then in turn the rows, the channels, the examples do not.
SHAPES = [(8, 4, 8), (8, 3, 8), (8, 4, 5), (8, 3, 5), (4, 4, 8), (2, 4, 8), (3, 4, 8), (1, 3, 5)]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("mesh", [(2, 2, 2), (1, 4, 2), (8, 1, 1)], ids=str)
def test_values_and_gradients_on_a_mesh(mesh):
    mesh, rng = equality.make_mesh(mesh), np.random.default_rng(0)
    images = [rng.normal(size=(b, r, 3, c)) for b, r, c in SHAPES]
    weights = [rng.normal(size=(b, r * 3, c)) for b, r, c in SHAPES]

    def all_shapes(images):
        found = []
        for x, w in zip(images, weights, strict=True):
            y, pull = jax.vjp(to_points, x)
            found.append((y, pull(w)[0]))
        return found

    placed = [
        jax.device_put(x, NamedSharding(mesh, meshes.activation_spec(x.shape, mesh)))
        for x in images
    ]
    for x, w, (y, dx) in zip(
        images, weights, meshes.on_mesh(mesh, jax.jit(all_shapes))(placed), strict=True
    ):
        np.testing.assert_array_equal(y, x.reshape(w.shape))
        np.testing.assert_array_equal(dx, w.reshape(x.shape))


def test_examples_are_sharded_over_all_devices():
    mesh = equality.make_mesh((2, 2, 2))
    y = meshes.on_mesh(mesh, jax.jit(to_points))(np.ones((8, 4, 3, 8)))
    assert y.sharding.is_equivalent_to(NamedSharding(mesh, P((DATA, SPATIAL, MODEL))), 3)
