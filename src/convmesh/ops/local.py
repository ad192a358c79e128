"""Convolution on one device, in the form that is fastest on its platform.

This is the only op that depends on the platform. GPUs and TPUs use XLA's convolution and its
derivatives. On CPUs a 1x1 convolution is a matrix product, forward and backward; and the gradient
of a larger kernel is one product per tap where the CPU lacks AVX-512, which XLA's convolution
needs: 16 images of 56 px, 64 channels, 2 cores: 88 ms, products 55; with AVX-512: 39 and 46.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from convmesh.distributed.devices import cpu_flags, platform

Padding = tuple[tuple[int, int], tuple[int, int]]  # (before, after) of rows and of columns
Window = tuple[tuple[int, int], Padding, tuple[int, int], int]  # stride, padding, dilation, groups


def local_conv(
    x: jax.Array,
    kernel: jax.Array,
    stride: tuple[int, int],
    padding: Padding,
    dilation: tuple[int, int],
    groups: int,
) -> jax.Array:
    """[batch, rows, columns, c_in] by [kh, kw, c_in / groups, c_out].

    Stride and dilation are pairs (rows, columns), `padding` a pair of (before, after) each. Inside
    a `shard_map`, both arrays must be marked as varying over the same axes.
    """
    window: Window = (stride, padding, dilation, groups)
    if kernel.shape[:2] == (1, 1) and groups == 1 and padding == ((0, 0), (0, 0)):
        # A matrix product, which is much faster with XLA on a CPU.
        x, window = x[:, :: stride[0], :: stride[1]], ((1, 1), *window[1:])
    if platform() == "cpu" and groups == 1:
        return _on_cpu(x, kernel, window)
    return _forward(x, kernel, window)


def _forward(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    stride, padding, dilation, groups = window
    unpadded = stride == (1, 1) and padding == ((0, 0), (0, 0))
    if kernel.shape[:2] == (1, 1) and unpadded and groups == 1:
        return _product(x, kernel[0, 0], ((3,), (0,)))
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=stride,
        padding=padding,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=_precision(x),
    )


def _precision(x: jax.Array) -> lax.Precision | None:
    # Full float32: no TF32 and no bfloat16 passes.
    return lax.Precision.HIGHEST if x.dtype == jnp.float32 else None


def _product(
    a: jax.Array, b: jax.Array, contracting: tuple[tuple[int, ...], tuple[int, ...]]
) -> jax.Array:
    return lax.dot_general(a, b, (contracting, ((), ())), precision=_precision(a))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _on_cpu(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    return _forward(x, kernel, window)


def _on_cpu_forward(
    x: jax.Array, kernel: jax.Array, window: Window
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _forward(x, kernel, window), (x, kernel)


def _on_cpu_backward(
    window: Window, saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    # Without the barrier XLA recomputes the operations that produce them while it transposes them
    # for the kernel's gradient, in an order that is bad for caches.
    x, dy = lax.optimization_barrier((x, dy))
    dx = jax.linear_transpose(lambda x: _forward(x, kernel, window), x)(dy)[0]
    if kernel.shape[:2] == (1, 1) or "avx512f" not in cpu_flags():
        return dx, kernel_gradient(x, kernel, dy, window)
    return dx, jax.linear_transpose(lambda kernel: _forward(x, kernel, window), kernel)(dy)[0]


_on_cpu.defvjp(_on_cpu_forward, _on_cpu_backward)


def kernel_gradient(x: jax.Array, kernel: jax.Array, dy: jax.Array, window: Window) -> jax.Array:
    """The gradient of an ungrouped kernel: for each tap, the product of its inputs and `dy`."""
    (down, across), padding, (row_gap, column_gap), _ = window
    kh, kw, c_in, c_out = kernel.shape
    batch, rows, columns, _ = dy.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))

    def tap_inputs(i: int, j: int) -> jax.Array:
        top, left = i * row_gap, j * column_gap
        bottom, right = top + down * (rows - 1) + 1, left + across * (columns - 1) + 1
        return lax.slice(x, (0, top, left, 0), (batch, bottom, right, c_in), (1, down, across, 1))

    pixels = ((0, 1, 2), (0, 1, 2))
    if c_in < 16:  # too few for a product per tap: one per row of taps
        taps = [jnp.concatenate([tap_inputs(i, j) for j in range(kw)], -1) for i in range(kh)]
    else:
        taps = [tap_inputs(i, j) for i in range(kh) for j in range(kw)]
    # XLA transposes the first factor, which costs as much as the product: it is `dy`, once for all
    # taps, or, with one tap, the factor with fewer channels.
    if c_in > c_out if len(taps) == 1 else c_in >= 16:
        gradient = jnp.stack([_product(dy, tap, pixels) for tap in taps]).mT
    else:
        gradient = jnp.stack([_product(tap, dy, pixels) for tap in taps])
    return gradient.reshape(kernel.shape).astype(kernel.dtype)
