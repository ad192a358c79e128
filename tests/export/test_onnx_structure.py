"""Reshaping, slicing, reducing, choosing and gathering as ONNX give what JAX gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from onnx_programs import assert_same, model_of, operators, run

from convmesh.export.onnx_trace import NotConvertible

rng = np.random.default_rng(0)
X = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
INDEX = np.array([[2, 0, 1, 2], [0, 1, 0, 2]], np.int32)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.reshape(-1, 12, 5),
        lambda x: x.reshape(x.shape[0], -1),
        lambda x: x.transpose(0, 3, 1, 2),
        lambda x: x.transpose(0, 3, 1, 2).reshape(x.shape[0], 5, 12),
        lambda x: x[:, None, :, :, None] * 2,
        lambda x: jnp.squeeze(x[:, :1], 1),
        lambda x: jnp.squeeze(x.transpose(3, 1, 2, 0)[:, :1], 1),
        lambda x: jnp.broadcast_to(x[:, :, None], (x.shape[0], 3, 2, 4, 5)),
        lambda x: jnp.broadcast_to(x[:, :1], (x.shape[0], 6, 4, 5)),
        lambda x: jnp.concatenate([x, x.transpose(0, 1, 3, 2)[..., :1].swapaxes(2, 3)], 2),
        lambda x: jnp.stack([x, 2 * x], 2),
        lambda x: jnp.tile(x, (1, 2, 1, 3)),
        lambda x: x[:, 1:, :, -2:],
        lambda x: x[:, 2, 1:3],
        lambda x: jnp.broadcast_to(x[:, :1], (x.shape[0], 6, 4, 5))[:, 2:4],
        lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 0), (3, 0)), constant_values=7),
        lambda x: x + jnp.arange(4)[:, None],
        lambda x: jnp.arange(x.shape[0]),
        lambda x: jnp.broadcast_to(jnp.arange(x.shape[0])[:, None], (x.shape[0], 7)),
        lambda x: jnp.full(x.shape, 3.0),
        lambda x: x / jnp.asarray(x.shape[0], jnp.float32),
    ],
)
def test_shapes(function):
    model = assert_same(function, X, symbolic=[0])
    larger = np.concatenate([X, X])
    np.testing.assert_allclose(run(model, larger)[0], function(larger), rtol=1e-6)
    assert_same(function, X)


def test_every_other_row():
    assert_same(lambda x: x[:, ::2, 1::3], X)


@pytest.mark.parametrize("axes", [(1,), (1, 2), (0, 3)])
@pytest.mark.parametrize("function", [jnp.sum, jnp.max, jnp.min, jnp.prod, jnp.mean])
def test_reductions(function, axes):
    assert_same(lambda x: function(x, axes), X)
    assert_same(lambda x: function(x.transpose(0, 3, 1, 2), axes), X)


@pytest.mark.parametrize("function", [jnp.any, jnp.all])
def test_reductions_of_bools(function):
    assert_same(lambda x: function(x > 0.5, 2), X)


def test_argmax_takes_the_first():
    x = np.array([[1, 3, 3, 0], [2, 2, 2, 2]], np.float32)
    assert_same(lambda x: jnp.argmax(x, 1), x)
    assert_same(lambda x: jnp.argmin(x, 1), x)


def test_top_k_prefers_the_lower_index_of_equal_ones():
    x = rng.integers(0, 4, (3, 12)).astype(np.float32)
    assert_same(lambda x: lax.top_k(x, 7), x, symbolic=[0])


@pytest.mark.parametrize(
    "function",
    [
        lambda x, i: jax.vmap(lambda x, i: x[i])(x, i),
        lambda x, i: jax.vmap(lambda x, i: x[i, i])(x, i),
        lambda x, i: jax.vmap(lambda x, i: x[:, i])(x, i),
        lambda x, i: jnp.take_along_axis(x[..., 0, 0], i, axis=1),
        lambda x, i: jnp.take_along_axis(x, i[:, :, None, None], axis=1),
        lambda x, i: jnp.asarray([5.0, 6.0, 7.0])[i],
        lambda x, i: jnp.asarray([[5.0], [6.0], [7.0]])[i] + x[:, :1, :1, 0],
        lambda x, i: jax.vmap(lambda x, i: x.transpose(2, 0, 1)[i])(x, i),
    ],
)
def test_gather(function):
    assert_same(function, X, INDEX, symbolic=[0, 1])


def test_indices_beyond_the_ends_are_brought_to_them():
    index = np.array([-1, 0, 2, 9], np.int32)
    assert_same(lambda x, i: jnp.take(x, i, 1, mode="clip"), X, index)


def test_a_transposition_costs_nothing_until_it_must():
    model = model_of(lambda x: (2 * x.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1), X)
    assert operators(model) == ["Mul", "Identity"]


def test_slices_up_to_an_unknown_size_and_parts_at_unknown_places_are_refused():
    with pytest.raises(NotConvertible, match="'gather'|'dynamic_slice'"):
        model_of(lambda x, i: lax.dynamic_slice_in_dim(x, i, 2, 1), X, INDEX[0, 0])
    with pytest.raises(NotConvertible, match="'pad'"):
        model_of(lambda x: lax.pad(x, 0.0, ((0, 0, 0), (1, 1, 1), (0, 0, 0), (0, 0, 0))), X)
