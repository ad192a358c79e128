"""The record of the window operations of a traced program."""

import equality
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from convmesh import mesh as meshes
from convmesh.models.layers import Conv, ConvNorm
from convmesh.ops import windows
from convmesh.ops.conv import conv2d
from convmesh.ops.pool import avg_pool, max_pool, upsample_bilinear, upsample_nearest
from convmesh.ops.windows import Window, describe_replicated, record_windows


def trace(function, shape, *arrays, dtype=jnp.float32):
    """The record of `function` on a mesh; its arguments are shapes."""
    arrays = [jax.ShapeDtypeStruct(array, dtype) for array in arrays]
    with record_windows() as found:
        meshes.on_mesh(equality.make_mesh(shape), jax.eval_shape)(function, *arrays)
    return found


class Net(nn.Module):
    """Blocks inside blocks."""

    @nn.compact
    def __call__(self, x):
        x = ConvNorm(8, name="stem")(x, False)
        x = max_pool(x, 2)
        return Conv(8, kernel=1, name="out")(x)


def test_each_window_is_recorded_with_its_layer_in_order():
    def forward(x):
        return Net().init_with_output(jax.random.key(0), x)[0]

    found = trace(forward, (2, 2, 2), (4, 8, 6, 3))
    assert [(w.layer, w.op, w.shape) for w in found] == [
        ("stem/conv", "convolution 3x3", (4, 8, 6, 3)),
        ("", "pooling 2x2", (4, 8, 6, 8)),
        ("out", "convolution 1x1", (4, 4, 3, 8)),
    ]
    assert not any(w.replicated for w in found)


def test_nothing_is_recorded_outside_the_context_or_on_one_device():
    def program(x):
        return max_pool(conv2d(x, jnp.zeros((3, 3, 4, 4))), 2)

    assert trace(program, (1, 1, 1), (2, 8, 8, 4)) == []
    found = trace(program, (1, 8, 1), (2, 8, 8, 4))
    assert len(found) == 2 and windows._record.get() is None
    with jax.set_mesh(equality.make_mesh((1, 8, 1))):
        jax.eval_shape(program, jax.ShapeDtypeStruct((2, 8, 8, 4), jnp.float32))
    assert len(found) == 2
    # Nested contexts have their own lists, and an error resets them.
    with record_windows() as outer, pytest.raises(ZeroDivisionError):
        with record_windows():
            1 / 0  # noqa: B018
    assert outer == [] and windows._record.get() is None


X = (4, 16, 6, 8)
# Rows of the halo above and below: on (2, 2, 2) each is 2 examples x 6 columns x 4 channels.
HALOS = {
    "convolution 3x3": (lambda x: conv2d(x, jnp.zeros((3, 3, 1, 8)), groups=8), 1 + 1),
    "convolution 7x1": (
        lambda x: conv2d(x, jnp.zeros((7, 1, 1, 8)), stride=(2, 1), groups=8),
        3 + 2,
    ),
    "pooling 3x3": (lambda x: max_pool(x, 3, stride=2, padding=1), 1 + 0),
    "pooling 2x2": (lambda x: avg_pool(x, 2), 0),
    "nearest up-sampling": (upsample_nearest, 0),
    "bilinear up-sampling": (upsample_bilinear, 1 + 1),
}


@pytest.mark.parametrize("op", HALOS)
@pytest.mark.parametrize("dtype, size", [(jnp.float32, 4), (jnp.bfloat16, 2)])
def test_halos_are_counted_in_bytes(op, dtype, size):
    program, rows = HALOS[op]
    (found,) = trace(program, (2, 2, 2), X, dtype=dtype)
    assert found == Window("", op, X, (), rows * 2 * 6 * 4 * size, 0)
    # Without shards of rows there is none.
    (found,) = trace(program, (4, 1, 2), X, dtype=dtype)
    assert found == Window("", op, X, (), 0, 0)


def test_channels_that_are_gathered_count_and_make_the_halo_wider():
    program = lambda x: conv2d(x, jnp.zeros((3, 3, 8, 4)))  # noqa: E731
    (found,) = trace(program, (2, 2, 2), X)
    # All 8 channels of 2 examples of 8 rows and 6 columns, then of a row above and one below.
    assert found.gathered_bytes == 2 * 8 * 6 * 8 * 4
    assert found.halo_bytes == (1 + 1) * 2 * 6 * 8 * 4
    # Those of an image are on each device already.
    (found,) = trace(lambda x: conv2d(x, jnp.zeros((3, 3, 3, 8))), (2, 2, 2), (4, 16, 6, 3))
    assert found == Window("", "convolution 3x3", (4, 16, 6, 3), (), 2 * 2 * 6 * 3 * 4, 0)


@pytest.mark.parametrize(
    "program, shape, replicated",
    [
        (lambda x: conv2d(x, jnp.zeros((3, 3, 8, 8))), (4, 10, 6, 8), ("rows",)),  # 10 rows over 4
        (lambda x: conv2d(x, jnp.zeros((3, 3, 8, 8)), padding=0), (4, 16, 6, 8), ("rows",)),
        (lambda x: conv2d(x, jnp.zeros((3, 3, 8, 5))), (4, 16, 6, 8), ("channels",)),
        (lambda x: conv2d(x, jnp.zeros((3, 3, 3, 6)), groups=3), (4, 16, 6, 9), ("channels",)),
        (lambda x: max_pool(x, 2), (4, 12, 6, 5), ("rows", "channels")),
        # One pixel, as in a dense layer, has no rows to shard.
        (lambda x: conv2d(x, jnp.zeros((1, 1, 8, 8))), (4, 1, 1, 8), ()),
    ],
)
def test_dimensions_that_do_not_divide_are_replicated(program, shape, replicated):
    (found,) = trace(program, (1, 4, 2), shape)
    assert found.replicated == replicated
    assert found.halo_bytes == 0 or "rows" not in replicated
    # On a mesh without that axis nothing is reported.
    assert all(w.replicated == () for w in trace(program, (8, 1, 1), shape))


def window(layer, *replicated, shape=(1, 1, 1, 1), op="convolution 3x3"):
    return Window(layer, op, shape, replicated, 0, 0)


def test_replicated_dimensions_are_described_in_a_line_for_each_axis():
    assert describe_replicated([]) == describe_replicated([window("a"), window("b")]) == []
    found = [window("a", "rows"), window("b"), window("c", "rows", "channels")]
    assert describe_replicated([*found, window("", "rows", op="pooling 2x2")]) == [
        "mesh.spatial: 3 of 4 layers have rows that do not divide and are not sharded: "
        "a, c, pooling 2x2",
        "mesh.model: 1 of 4 layers have channels that do not divide and are not sharded: c",
    ]
    # Six names, each once.
    many = [window(name, "rows") for name in "aabcdefgh"]
    assert describe_replicated(many) == [
        "mesh.spatial: 9 of 9 layers have rows that do not divide and are not sharded: "
        "a, b, c, d, e, f and 2 more"
    ]
