"""What is noted of the window operations of a traced program (`ops.windows`)."""

import equality
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from convmesh import mesh as meshes
from convmesh.models.layers import Conv, ConvNorm
from convmesh.ops import windows as noted
from convmesh.ops.conv import conv2d
from convmesh.ops.pool import avg_pool, max_pool, upsample_bilinear, upsample_nearest
from convmesh.ops.windows import Window, describe_whole, noting


def trace(function, shape, *arrays, dtype=jnp.float32):
    """What is noted of `function` on a mesh; its arguments are shapes."""
    arrays = [jax.ShapeDtypeStruct(array, dtype) for array in arrays]
    with noting() as found:
        meshes.on_mesh(equality.make_mesh(shape), jax.eval_shape)(function, *arrays)
    return found


class Net(nn.Module):
    """Blocks inside blocks."""

    @nn.compact
    def __call__(self, x):
        x = ConvNorm(8, name="stem")(x, False)
        x = max_pool(x, 2)
        return Conv(8, kernel=1, name="out")(x)


def test_each_window_is_noted_with_its_layer_in_order():
    def forward(x):
        return Net().init_with_output(jax.random.key(0), x)[0]

    found = trace(forward, (2, 2, 2), (4, 8, 6, 3))
    assert [(w.layer, w.op, w.shape) for w in found] == [
        ("stem/conv", "convolution 3x3", (4, 8, 6, 3)),
        ("", "pooling 2x2", (4, 8, 6, 8)),
        ("out", "convolution 1x1", (4, 4, 3, 8)),
    ]
    assert not any(w.whole for w in found)


def test_nothing_is_noted_outside_and_on_one_device():
    def program(x):
        return max_pool(conv2d(x, jnp.zeros((3, 3, 4, 4))), 2)

    assert trace(program, (1, 1, 1), (2, 8, 8, 4)) == []
    found = trace(program, (1, 8, 1), (2, 8, 8, 4))
    assert len(found) == 2 and noted._noted.get() is None
    with jax.set_mesh(equality.make_mesh((1, 8, 1))):
        jax.eval_shape(program, jax.ShapeDtypeStruct((2, 8, 8, 4), jnp.float32))
    assert len(found) == 2
    # Lists inside one another each have their own; and an error leaves none behind.
    with noting() as outer, pytest.raises(ZeroDivisionError):
        with noting():
            1 / 0  # noqa: B018
    assert outer == [] and noted._noted.get() is None


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
    # Those of an image stand whole already.
    (found,) = trace(lambda x: conv2d(x, jnp.zeros((3, 3, 3, 8))), (2, 2, 2), (4, 16, 6, 3))
    assert found == Window("", "convolution 3x3", (4, 16, 6, 3), (), 2 * 2 * 6 * 3 * 4, 0)


@pytest.mark.parametrize(
    "program, shape, whole",
    [
        (lambda x: conv2d(x, jnp.zeros((3, 3, 8, 8))), (4, 10, 6, 8), ("rows",)),  # 10 rows over 4
        (lambda x: conv2d(x, jnp.zeros((3, 3, 8, 8)), padding=0), (4, 16, 6, 8), ("rows",)),
        (lambda x: conv2d(x, jnp.zeros((3, 3, 8, 5))), (4, 16, 6, 8), ("channels",)),
        (lambda x: conv2d(x, jnp.zeros((3, 3, 3, 6)), groups=3), (4, 16, 6, 9), ("channels",)),
        (lambda x: max_pool(x, 2), (4, 12, 6, 5), ("rows", "channels")),
        # One pixel, as in a dense layer, has no rows to share.
        (lambda x: conv2d(x, jnp.zeros((1, 1, 8, 8))), (4, 1, 1, 8), ()),
    ],
)
def test_what_does_not_fit_is_whole(program, shape, whole):
    (found,) = trace(program, (1, 4, 2), shape)
    assert found.whole == whole
    assert found.halo_bytes == 0 or "rows" not in whole
    # On a mesh without that axis nothing is amiss.
    assert all(w.whole == () for w in trace(program, (8, 1, 1), shape))


def window(layer, *whole, shape=(1, 1, 1, 1), op="convolution 3x3"):
    return Window(layer, op, shape, whole, 0, 0)


def test_what_is_whole_is_described_in_a_line_for_each_axis():
    assert describe_whole([]) == describe_whole([window("a"), window("b")]) == []
    found = [window("a", "rows"), window("b"), window("c", "rows", "channels")]
    assert describe_whole([*found, window("", "rows", op="pooling 2x2")]) == [
        "mesh.spatial: 3 of 4 windows have rows that do not fit it and are whole on each device: "
        "a, c, pooling 2x2",
        "mesh.model: 1 of 4 windows have channels that do not fit it and are whole on each "
        "device: c",
    ]
    # Six names, each once.
    many = [window(name, "rows") for name in "aabcdefgh"]
    assert describe_whole(many) == [
        "mesh.spatial: 9 of 9 windows have rows that do not fit it and are whole on each device: "
        "a, b, c, d, e, f and 2 more"
    ]
