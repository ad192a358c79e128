"""local: the forms of a convolution that suit a platform are the convolution."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from convmesh.ops import local

pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


def reference(x, kernel, stride, padding, dilation, groups):
    return lax.conv_general_dilated(
        x,
        kernel,
        stride,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def agree(x, kernel, *window):
    """Both results and both gradients, of float64, for a random cotangent."""
    with jax.enable_x64(True):
        x, kernel = jnp.asarray(x), jnp.asarray(kernel)
        wanted, wanted_back = jax.vjp(lambda x, k: reference(x, k, *window), x, kernel)
        got, got_back = jax.vjp(lambda x, k: local.local_conv(x, k, *window), x, kernel)
        dy = jnp.asarray(np.random.default_rng(1).normal(size=wanted.shape))
        np.testing.assert_allclose(got, wanted, atol=1e-11)
        for mine, xlas in zip(got_back(dy), wanted_back(dy), strict=True):
            np.testing.assert_allclose(mine, xlas, atol=1e-11)


@pytest.fixture(params=["avx512f", "avx2"])
def cpu(request, monkeypatch):
    """A CPU with AVX-512, and one without."""
    monkeypatch.setattr(local, "cpu_flags", lambda: {request.param})


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation", "groups"),
    [
        ((1, 1), 3, (1, 1), 1, (1, 1), 1),
        ((2, 2), 3, (1, 1), 1, (1, 1), 1),
        ((4, 4), 3, (2, 2), 1, (1, 1), 1),  # the result is smaller than the kernel
        ((3, 5), 3, (2, 1), 1, (1, 1), 1),
        ((2, 9), 3, (1, 2), 1, (1, 1), 1),
        ((4, 3), 5, (1, 1), 2, (1, 1), 1),
        ((4, 4), 3, (1, 1), 2, (2, 2), 1),
        ((2, 2), 3, (1, 1), 1, (1, 1), 2),
    ],
)
def test_kernels_larger_than_the_image(cpu, size, kernel, stride, padding, dilation, groups):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, 20))
    weights = rng.normal(size=(kernel, kernel, 20 // groups, 24))
    pads = ((padding, padding), (padding, padding))
    assert local._exceeds_image(x.shape, weights.shape, (stride, pads, dilation, groups))
    agree(x, weights, stride, pads, dilation, groups)


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (5, 2), (8, 2)])
def test_other_kernels_are_left_to_xla(size, stride):
    window = ((stride, stride), ((1, 1), (1, 1)), (1, 1), 1)
    assert not local._exceeds_image((2, size, size, 4), (3, 3, 4, 4), window)
    assert not local._exceeds_image(
        (2, size, size, 4), (1, 1, 4, 4), ((2, 2), ((0, 0), (0, 0)), (1, 1), 1)
    )


@hypothesis.given(
    size=st.tuples(st.integers(7, 10), st.integers(7, 10)),
    kernel=pairs,
    stride=pairs,
    dilation=pairs,
    padding=st.tuples(*[st.integers(0, 2)] * 4),
    channels=st.sampled_from([(1, 2), (3, 5), (5, 3), (17, 4), (17, 20)]),
)
@hypothesis.settings(
    hypothesis.settings.get_profile("compiled"),
    max_examples=25,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_any_window_is_xlas_convolution(cpu, size, kernel, stride, dilation, padding, channels):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, channels[0]))
    pads = (padding[:2], padding[2:])
    agree(x, rng.normal(size=(*kernel, *channels)), stride, pads, dilation, 1)


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [1, 3, 5, 7])
def test_groups(cpu, side, stride, groups):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 7, 8, 8)), rng.normal(size=(side, side, 8 // groups, 8))
    for dilation in (1, 2):
        pad = dilation * (side // 2)
        agree(x, kernel, (stride,) * 2, ((pad, pad),) * 2, (dilation,) * 2, groups)


@pytest.mark.parametrize(
    "groups, c_in, c_out",  # more than one convolution; groups left over; at most 16 of them
    [(24, 4, 4), (13, 8, 4), (5, 20, 3), (40, 1, 2), (18, 32, 1)],
)
def test_a_grouped_convolution_of_many_channels(cpu, groups, c_in, c_out):
    rng = np.random.default_rng(0)
    x, kernel = (
        rng.normal(size=(2, 5, 6, groups * c_in)),
        rng.normal(size=(3, 2, c_in, groups * c_out)),
    )
    agree(x, kernel, (2, 1), ((1, 0), (0, 2)), (1, 1), groups)


@hypothesis.given(
    size=st.tuples(st.integers(7, 10), st.integers(7, 10)),
    kernel=pairs,
    stride=pairs,
    dilation=pairs,
    padding=st.tuples(*[st.integers(0, 2)] * 4),
)
@hypothesis.settings(hypothesis.settings.get_profile("compiled"), max_examples=12)
def test_any_depthwise_window_is_xlas_convolution(size, kernel, stride, dilation, padding):
    rng = np.random.default_rng(0)
    x, pads = rng.normal(size=(2, *size, 3)), (padding[:2], padding[2:])
    agree(x, rng.normal(size=(*kernel, 1, 3)), stride, pads, dilation, 3)


@pytest.mark.parametrize(
    "backend, channels_out, wanted",
    [("cpu", 4, False), ("cpu", 8, True), ("gpu", 4, True), ("tpu", 4, True)],
)
def test_only_cpus_sum_the_taps_of_a_depthwise_convolution(
    monkeypatch, backend, channels_out, wanted
):
    monkeypatch.setattr(local, "form", lambda: backend)
    x, kernel = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 1, channels_out))
    window = ((1, 1), ((1, 1), (1, 1)), (1, 1), 4)
    program = str(jax.make_jaxpr(lambda k: local.local_conv(x, k, *window))(kernel))
    assert ("conv_general_dilated" in program) == wanted


def test_sums_of_bfloat16_taps_are_float32():
    # 256 and eight ones: in bfloat16 none of these would count, nor 300 of them in the gradient.
    x = jnp.asarray([[1.0, 1, 1], [1, 256, 1], [1, 1, 1]], jnp.bfloat16).reshape(1, 3, 3, 1)
    kernel, window = jnp.ones((3, 3, 1, 1), jnp.bfloat16), ((1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    assert local.depthwise(x, kernel, window).item() == 264
    many, one = jnp.ones((320, 1, 1, 1), jnp.bfloat16), kernel[:1, :1]
    gradient = jax.grad(lambda k: local.depthwise(many, k, window).astype(jnp.float32).sum())(one)
    assert gradient.item() == 320


@pytest.mark.parametrize(
    "backend, flags, products",
    [("cpu", {"avx2"}, True), ("cpu", {"avx512f"}, False), ("gpu", {}, False), ("tpu", {}, False)],
)
def test_only_cpus_without_avx512_get_products(monkeypatch, backend, flags, products):
    monkeypatch.setattr(local, "form", lambda: backend)
    monkeypatch.setattr(local, "cpu_flags", lambda: flags)
    x, kernel = jnp.ones((1, 8, 8, 16)), jnp.ones((3, 3, 16, 4))
    window = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    gradient = jax.grad(lambda k: local.local_conv(x, k, *window).sum())
    program = str(jax.make_jaxpr(gradient)(kernel))
    assert ("dot_general" in program) == products
