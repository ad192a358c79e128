"""FLOPs and bytes counted by hand."""

import jax
import jax.numpy as jnp

from convmesh.ops.conv import conv2d
from convmesh.programs import flops
from convmesh.programs.jaxpr import equations


def count(function, *shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return flops.flops(jax.make_jaxpr(function)(*arrays).jaxpr)


def test_a_convolution_by_hand():
    # 2 x 5 x 5 results of 7 channels, each of 3 x 3 x 4 taps, two operations per tap.
    by_hand = 2 * (2 * 5 * 5 * 7) * (3 * 3 * 4)
    assert count(conv2d, (2, 5, 5, 4), (3, 3, 4, 7)) == by_hand
    grouped = lambda x, k: conv2d(x, k, groups=2)  # noqa: E731
    assert count(grouped, (2, 5, 5, 4), (3, 3, 2, 8)) == 2 * (2 * 5 * 5 * 8) * (3 * 3 * 2)
    # A 1x1 is a product.
    assert count(conv2d, (2, 5, 5, 4), (1, 1, 4, 7)) == 2 * (2 * 5 * 5 * 7) * 4


def test_products_inside_of_functions_are_counted_and_nothing_else():
    inner = jax.jit(lambda a, b: jnp.tanh(a @ b) + 1)
    assert count(lambda a, b: inner(a, b).sum(), (3, 4), (4, 5)) == 2 * 3 * 5 * 4


def test_bytes_of_the_results_of_convolutions_and_products():
    def function(x, kernel):
        y = conv2d(x, kernel)  # 2 x 5 x 5 of 7 channels
        return jnp.tanh(y.reshape(2, -1) @ jnp.ones((175, 3), y.dtype))

    shapes = (2, 5, 5, 4), (3, 3, 4, 7)
    for dtype, width in ((jnp.float32, 4), (jnp.bfloat16, 2)):
        arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
        jaxpr = jax.make_jaxpr(function)(*arrays).jaxpr
        assert flops.result_bytes(jaxpr) == (2 * 5 * 5 * 7 + 2 * 3) * width


def test_the_taps_of_a_depthwise_convolution_count_as_in_one_convolution():
    x, kernel = jax.ShapeDtypeStruct((2, 5, 5, 4), jnp.float32), jnp.ones((3, 3, 1, 4))
    jaxpr = jax.make_jaxpr(lambda x: conv2d(x, kernel, groups=4))(x).jaxpr
    names = {each.primitive.name for each in equations(jaxpr)}
    assert "mul" in names and "conv_general_dilated" not in names
    assert flops.flops(jaxpr) == 2 * (2 * 5 * 5 * 4) * 9
    assert flops.result_bytes(jaxpr) == 2 * 5 * 5 * 4 * 4


def test_zeros_between_groups_are_no_flops():
    x, kernel = (2, 5, 5, 96), (3, 3, 4, 96)
    by_hand = 2 * (2 * 5 * 5 * 96) * (3 * 3 * 4)
    assert count(lambda x, kernel: conv2d(x, kernel, groups=24), x, kernel) == by_hand
