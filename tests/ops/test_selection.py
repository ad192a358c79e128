"""selection: the largest values on every platform are those of lax.top_k, without its sort."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from convmesh.ops import selection
from convmesh.programs.jaxpr import equations


@pytest.fixture(params=["cpu", "gpu", "tpu", "plain"])
def platform(request, monkeypatch):
    monkeypatch.setattr(selection, "form", lambda: request.param)
    return request.param


def tied(shape, values=6, seed=0):
    """Few different values, so that most are equal to others; with -inf and both zeros."""
    few = np.r_[-np.inf, -0.0, 0.0, np.arange(1, values), -1.5].astype(np.float32)
    return few[np.random.default_rng(seed).integers(len(few), size=shape)]


def different(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("make", [tied, different])
@pytest.mark.parametrize("n, k", [(1, 1), (7, 3), (100, 13), (1000, 300), (50, 50)])
def test_the_largest_are_those_of_lax(platform, make, n, k):
    values = make((3, n))
    found, index = jax.jit(selection.top_k, static_argnums=1)(values, k)
    wanted, at = lax.top_k(jnp.asarray(values), k)
    np.testing.assert_array_equal(index, at)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("make", [tied, different])
@pytest.mark.parametrize("n, k", [(1, 13), (7, 3), (12, 13), (100, 13), (1000, 1), (400, 64)])
def test_those_among_the_largest(platform, make, n, k):
    values = make((4, n), seed=n)
    wanted = np.zeros(values.shape, bool)
    best, index = lax.top_k(jnp.asarray(values), min(k, n))
    for row, at, value in zip(wanted, index, best, strict=True):
        row[at] = value > -np.inf
    found = jax.jit(selection.among_largest, static_argnums=1)(values, k)
    np.testing.assert_array_equal(found, wanted)


def test_no_value_is_among_the_largest_where_none_is_above_minus_infinity(platform):
    assert not selection.among_largest(jnp.full((2, 9), -jnp.inf), 4).any()


@pytest.mark.usefixtures("float64")
def test_float64_is_compared_in_full(platform):
    values = 1 + np.arange(40) * 1e-12
    np.testing.assert_array_equal(selection.top_k(values, 5)[1], [39, 38, 37, 36, 35])


@hypothesis.given(st.lists(st.floats(width=32, allow_nan=False), min_size=2), st.data())
def test_any_floats(values, data):
    k = data.draw(st.integers(1, len(values) - 1))
    values = jnp.asarray(values, jnp.float32)
    found = np.sort(lax.top_k(values, k)[1])
    np.testing.assert_array_equal(selection._indices_of_largest(values, k), found)


def test_gpus_and_tpus_sort_only_what_is_kept(platform):
    def program(values):
        few, many = selection.among_largest(values, 13), selection.among_largest(values, 99)
        return selection.top_k(values, 8), few, many

    found = list(equations(jax.make_jaxpr(program)(jnp.zeros((2, 400))).jaxpr))
    widths = {e.invars[0].aval.shape[-1] for e in found if e.primitive.name in ("top_k", "sort")}
    assert widths == ({400} if platform in ("cpu", "plain") else {8})
    scatters = any("scatter" in equation.primitive.name for equation in found)
    assert scatters == (platform in ("cpu", "plain"))


@pytest.mark.parametrize("k", [0, 1, 20, 99, 100, 250])
def test_a_traced_number_of_largest(platform, k):
    values = tied((3, 100))
    found = jax.jit(selection.among_largest)(values, jnp.full((3, 1), k))
    np.testing.assert_array_equal(found, selection.among_largest(jnp.asarray(values), k))


def test_a_batch_in_vmap(platform):
    values = tied((5, 60))
    found = jax.vmap(lambda row: selection.top_k(row, 9)[1])(values)
    np.testing.assert_array_equal(found, lax.top_k(jnp.asarray(values), 9)[1])
