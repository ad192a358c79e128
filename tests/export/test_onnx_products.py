"""Convolutions, pooling and matrix products as ONNX give what JAX gives."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from onnx_programs import assert_same, model_of, operators

from convmesh.export.onnx_trace import NotConvertible
from convmesh.ops.conv import conv2d
from convmesh.ops.forms import plain_form
from convmesh.ops.pool import avg_pool, max_pool

rng = np.random.default_rng(0)
X = rng.normal(size=(2, 9, 11, 6)).astype(np.float32)


def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    "kernel, options",
    [
        (normal(3, 3, 6, 4), {}),
        (normal(1, 1, 6, 4), {"stride": 2}),
        (normal(5, 3, 6, 4), {"stride": (2, 1), "padding": (1, 2)}),
        (normal(3, 3, 6, 4), {"stride": 2, "padding": "SAME"}),
        (normal(3, 3, 6, 4), {"dilation": 2}),
        (normal(3, 3, 2, 6), {"groups": 3}),
        (normal(5, 5, 1, 12), {"groups": 6}),
    ],
)
def test_convolutions(kernel, options):
    with plain_form():
        model = assert_same(lambda x: conv2d(x, kernel, **options), X, atol=1e-4, symbolic=[0])
    assert operators(model) == ["Transpose", "Conv", "Transpose", "Identity"]


def test_a_stack_of_layers_is_transposed_at_its_ends_only():
    kernels = normal(3, 3, 6, 6), normal(1, 1, 6, 6)

    def layers(x):
        y = jnp.maximum(conv2d(x, kernels[0]), 0)
        return conv2d(max_pool(y, 2), kernels[1]).mean((1, 2)) + 1

    with plain_form():
        model = assert_same(layers, X, atol=1e-4)
    assert operators(model).count("Transpose") == 1


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}])
def test_pooling(pool, options):
    assert_same(lambda x: pool(x, 3, **options), X, symbolic=[0])


def test_products():
    matrix, batch, rows = normal(6, 5), normal(2, 11, 7), normal(4, 9)
    assert_same(lambda x: x @ matrix, X)
    for axis, other in enumerate((2, 9, 11, 6)):
        for weights, contracted in ((normal(4, other), 1), (normal(other, 4), 0)):
            product = functools.partial(jnp.tensordot, axes=((axis,), (contracted,)))
            model = assert_same(lambda x, p=product, w=weights: p(x, w) * 2, X, atol=1e-4)
            assert "Einsum" not in operators(model)
            # Stored in another order, where the axis is the last but one, or before.
            turned = lambda x, p=product, w=weights: p(x.transpose(2, 0, 3, 1), w)  # noqa: E731
            assert_same(turned, np.ascontiguousarray(X.transpose(1, 3, 0, 2)), atol=1e-4)
    assert_same(lambda x: jnp.einsum("bhwc,bwk->bhck", x, batch), X, atol=1e-4)
    assert_same(lambda x: jnp.einsum("bhwc,dh->bdwc", x, rows), X, atol=1e-4)


def test_convolutions_of_another_form_are_refused():
    with pytest.raises(NotConvertible, match="a convolution of a form"):
        model_of(lambda x: lax.conv_transpose(x, normal(3, 3, 6, 4), (2, 2), "SAME"), X)
    with pytest.raises(NotConvertible, match="a pooling of a form"):
        model_of(
            lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 1, 1, 2), (1, 1, 1, 2), "VALID"), X
        )
