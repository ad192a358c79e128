"""Elementwise operations as ONNX give what JAX gives, and fold into convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from onnx_programs import assert_same, model_of, operators

from convmesh.export.onnx_trace import NotConvertible

rng = np.random.default_rng(0)
X = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
Y = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
POSITIVE = np.abs(X) + 0.5
INTS = rng.integers(-9, 10, (4, 6)).astype(np.int32)
OTHER_INTS = np.where((other := rng.integers(-4, 5, (4, 6))) == 0, 3, other).astype(np.int32)
BOOLS, OTHER_BOOLS = X > 0, Y > 0


@pytest.mark.parametrize(
    "function",
    [jnp.exp, jnp.tanh, jax.nn.sigmoid, jnp.abs, jnp.negative, jnp.sign, jnp.floor, jnp.ceil]
    + [lax.erf, lax.erfc, jnp.sin, jnp.cos, jnp.square, jnp.expm1, lax.exp2, jnp.round]
    + [jax.nn.relu, jax.nn.relu6, jax.nn.silu, jax.nn.hard_swish, jax.nn.gelu, jnp.isfinite]
    + [lambda x: x**3, lambda x: jnp.clip(x, -0.5, 0.5), lambda x: x.astype(jnp.int32)],
)
def test_a_function_of_one_array(function):
    assert_same(function, X)


@pytest.mark.parametrize("function", [jnp.log, jnp.sqrt, lax.rsqrt, jnp.log1p, jnp.log2])
def test_a_function_of_positive_numbers(function):
    assert_same(function, POSITIVE)


@pytest.mark.parametrize(
    "function",
    [jnp.add, jnp.subtract, jnp.multiply, jnp.divide, jnp.maximum, jnp.minimum]
    + [jnp.equal, jnp.not_equal, jnp.less, jnp.less_equal, jnp.greater, jnp.greater_equal],
)
def test_a_function_of_two_arrays(function):
    assert_same(function, X, Y)
    assert_same(function, INTS.astype(np.float32), OTHER_INTS.astype(np.float32))


def test_powers():
    assert_same(jnp.power, POSITIVE, Y)


@pytest.mark.parametrize("function", [lax.div, lax.rem, jnp.floor_divide, jnp.remainder])
def test_division_of_integers_of_both_signs(function):
    assert_same(function, INTS, OTHER_INTS)


@pytest.mark.parametrize("function", [jnp.logical_and, jnp.logical_or, jnp.logical_xor])
def test_logic(function):
    assert_same(function, BOOLS, OTHER_BOOLS)
    assert_same(jnp.logical_not, BOOLS)


def test_what_is_not_finite():
    assert_same(jnp.isfinite, np.array([1, np.nan, np.inf, -np.inf], np.float32))


def test_half_is_rounded_to_even():
    assert_same(jnp.round, np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32))


def test_selection():
    assert_same(jnp.where, BOOLS, X, Y)
    assert_same(lambda x: jnp.where(x.sum() > 0, x, -x), X)
    assert_same(lambda x: jnp.where(x > 0, x, -1), X)


def test_broadcasting():
    assert_same(lambda x, y: x * y[0, 0, 0] + y[:, :, :1], X, Y)


def test_bits_of_integers_are_refused():
    with pytest.raises(NotConvertible, match="'and'"):
        model_of(jnp.bitwise_and, INTS, OTHER_INTS)


KERNEL = rng.normal(size=(3, 3, 5, 6)).astype(np.float32)
SCALE, SHIFT = (rng.normal(size=6).astype(np.float32) for _ in range(2))


def conv(x):
    return lax.conv_general_dilated(
        x, KERNEL, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def test_batch_norm_and_bias_are_folded_into_the_convolution():
    def layer(x):
        return jax.nn.relu((conv(x) - SHIFT) * SCALE / (2 * SHIFT) + SCALE + 1)

    model = assert_same(layer, X, rtol=1e-4, atol=1e-4)
    assert operators(model) == ["Transpose", "Conv", "Relu", "Transpose", "Identity"]


def test_batch_norm_in_float32_is_folded_into_a_convolution_in_float16():
    def layer(x):
        y = lax.conv_general_dilated(
            x, KERNEL.astype(np.float16), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return (y.astype(jnp.float32) * SCALE + SHIFT).astype(jnp.float16)

    model = assert_same(layer, X.astype(np.float16), rtol=0.02, atol=0.05)
    assert operators(model) == ["Transpose", "Conv", "Transpose", "Identity"]


def test_numbers_of_rows_are_not_folded():
    rows = rng.normal(size=(3, 1, 1)).astype(np.float32)
    model = assert_same(lambda x: conv(x) * rows, X, rtol=1e-4, atol=1e-4)
    assert "Mul" in operators(model)


def test_a_convolution_of_two_uses_is_computed_once():
    model = assert_same(lambda x: (y := conv(x)) * SCALE + y * SHIFT, X, rtol=1e-4, atol=1e-4)
    assert operators(model).count("Conv") == 1
