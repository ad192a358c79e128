"""Every model, on every mesh, trains as on one device (see `equality`)."""

import functools

import equality
import jax
import jax.numpy as jnp
import pytest
from jax import lax

import convmesh.ops.conv
import convmesh.ops.pool
from convmesh.mesh import DATA, SPATIAL
from convmesh.models import make_model
from convmesh.models.resnet import ResNet
from convmesh.models.small_cnn import SmallCNN
from convmesh.tasks.classify import Classify
from convmesh.tasks.detect import Detect

pytestmark = pytest.mark.usefixtures("float64")


def case(name):
    """(model, task, image side) of a tiny net of each family, and of the real ones."""
    dtype = jnp.float64
    classify = lambda classes: Classify(classes, (0, 0))  # noqa: E731
    return {
        "tiny small_cnn": lambda: (SmallCNN(8, dtype, (8, 16), hidden=16), classify(8), 16),
        "tiny resnet": lambda: (ResNet(8, (1, 1), dtype, width=8), classify(8), 32),
        "ghost resnet": lambda: (
            ResNet(8, (1, 1), dtype, width=8, norm_group=2),
            classify(8),
            32,
        ),
        "tiny detector": lambda: (
            make_model("detector_tiny", "detect", 8, dtype),
            Detect(8, (64, 64)),
            64,
        ),
        "small_cnn": lambda: (make_model("small_cnn", "classify", 10, dtype), classify(10), 32),
        "resnet18": lambda: (make_model("resnet18", "classify", 10, dtype), classify(10), 64),
        "detector_nano": lambda: (
            make_model("detector_nano", "detect", 10, dtype),
            Detect(10, (96, 96)),
            96,
        ),
    }[name]()


@functools.cache
def one_device(name):
    """The reference, computed once."""
    with jax.enable_x64(True):
        return equality.three_steps(*case(name), (1, 1, 1))


@pytest.mark.parametrize("shape", equality.ALL_MESHES, ids=str)
@pytest.mark.parametrize("name", ["tiny small_cnn", "tiny resnet", "tiny detector"])
def test_tiny_nets_on_every_mesh(name, shape):
    equality.assert_equal(equality.three_steps(*case(name), shape), one_device(name))


# Groups of 2 of 8 examples: whole on each device, and, on the first mesh, over two of them.
@pytest.mark.parametrize("shape", [(8, 1, 1), (4, 1, 2), (2, 2, 2), (1, 8, 1)], ids=str)
def test_ghost_groups(shape):
    result = equality.three_steps(*case("ghost resnet"), shape)
    equality.assert_equal(result, one_device("ghost resnet"))


@pytest.mark.parametrize("shape", [(4, 1, 2), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("name", ["small_cnn", "resnet18", "detector_nano"])
def test_whole_nets(name, shape):
    equality.assert_equal(equality.three_steps(*case(name), shape), one_device(name))


def test_the_reference_learns_something():
    # Else equality would say nothing. (A ResNet starts with zeros behind its last norms.)
    gradients = one_device("tiny small_cnn")["gradients"]
    flat = jax.tree_util.tree_leaves_with_path(gradients)
    assert [jax.tree_util.keystr(path) for path, leaf in flat if not abs(leaf).max() > 0] == []


# --- a deliberate mistake must not pass -----------------------------------------------------------


def test_a_missing_sum_is_found(monkeypatch):
    def only_the_first_shards(kernel, axes):
        @jax.custom_vjp
        def share(kernel):
            return lax.pcast(kernel, axes, to="varying")

        def backward(_, gradient):
            first = functools.reduce(jnp.logical_and, [lax.axis_index(a) == 0 for a in axes])
            return (lax.psum(jnp.where(first, gradient, 0), axes),)

        share.defvjp(lambda kernel: (share(kernel), None), backward)
        return share(kernel) if axes else kernel

    monkeypatch.setattr(convmesh.ops.conv, "_shared_over", only_the_first_shards)
    result = equality.three_steps(*case("tiny resnet"), (2, 2, 2))
    with pytest.raises(AssertionError, match="differs by"):
        equality.assert_equal(result["gradients"], one_device("tiny resnet")["gradients"])


def test_a_halo_one_row_short_is_found(monkeypatch):
    exchange = convmesh.ops.conv.exchange

    def short(x, above, below, fill):
        y = exchange(x, above, below, fill)
        return y.at[:, 0].set(fill) if above else y  # the row farthest off never came

    monkeypatch.setattr(convmesh.ops.conv, "exchange", short)
    result = equality.three_steps(*case("tiny small_cnn"), (2, 4, 1))
    with pytest.raises(AssertionError, match="differs by"):
        equality.assert_equal(result["numbers 0"], one_device("tiny small_cnn")["numbers 0"])


def test_the_axes_are_really_used():
    """Rows, examples and channels of an activation stand on different devices."""
    from convmesh import mesh as meshes

    with jax.set_mesh(equality.make_mesh((2, 2, 2))):
        spec = meshes.activation((8, 16, 16, 8))
    assert spec == meshes.P(DATA, SPATIAL, None, meshes.MODEL)
