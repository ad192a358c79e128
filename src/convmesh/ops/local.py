"""Convolution on one device, in the form that is fastest on its platform.

GPUs and TPUs use XLA's convolution and its derivatives (a strided 1x1 as slice and product took
three pads of 90 MB in a ResNet-50's step for TPUs). On CPUs a 1x1 convolution is a matrix product,
forward and backward; and the gradient of a larger kernel is one product per tap where the CPU lacks
AVX-512, which XLA's convolution needs: 16 images of 56 px, 64 channels, 2 cores: 88 ms, products
55; with AVX-512: 39 and 46.

Where a kernel is larger than its image or its result, XLA's convolution and its gradient by the
image leave the fast path on CPUs, so they are one product there, of all taps. 32 images of 2 px,
3x3, 512 channels, 2 cores, ms, XLA's and then ours: forward 188, 3.5; gradient 187, 9.6.

A grouped convolution on a CPU is some ungrouped ones of a few groups each, with zeros between them:
8 images, 3x3, 32 groups, forward and gradients, 2 cores with AVX-512, ms, XLA's and then ours:
56 px, 128 channels 19458, 168; 14 px, 512 channels 2181, 17.

A depthwise convolution on a CPU is a sum of shifted products, faster than XLA's at all sizes of
EfficientNet-Lite0 and ConvNeXt. Forward and gradients of 8 images, 2 cores with AVX-512, ms, XLA's
and then ours: 3x3, 112 px, 32 channels 546, 171; 5x5, 56 px, 144, stride 2 1788, 153; 3x3, 14 px,
480 374, 16; 5x5, 7 px, 1152 1101, 87; 7x7, 56 px, 96 2429, 1004; 7x7, 7 px, 768 1242, 100.
"""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from convmesh.distributed.devices import cpu_flags
from convmesh.ops.forms import PLAIN, form
from convmesh.ops.taps import Padding, Tap, Window, padded, pixels, sum_over_taps
from convmesh.programs.flops import SPREAD_GROUPS, TAP_PRODUCTS

PIECE = 32  # channels, at least, of each convolution that a grouped one is split into
MOST_PIECES = 16


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
    if form() != "cpu":
        return _forward(x, kernel, window) if form() != PLAIN else _convolution(x, kernel, window)
    if kernel.shape[:2] == (1, 1) and groups == 1 and padding == ((0, 0), (0, 0)):
        # A matrix product, which is much faster with XLA on a CPU.
        x, window = x[:, :: stride[0], :: stride[1]], ((1, 1), *window[1:])
    if groups == 1:
        return _on_cpu(x, kernel, window)
    if groups == x.shape[-1] == kernel.shape[-1]:
        return depthwise(x, kernel, window)
    return _by_few_groups(x, kernel, window)


def _forward(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    stride, padding, _, groups = window
    unpadded = stride == (1, 1) and padding == ((0, 0), (0, 0))
    if kernel.shape[:2] == (1, 1) and unpadded and groups == 1:
        return _product(x, kernel[0, 0], ((3,), (0,)))
    return _convolution(x, kernel, window)


def _convolution(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    stride, padding, dilation, groups = window
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


def _by_few_groups(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """A grouped convolution as some ungrouped ones of at least 32 channels, of a few groups each.

    At most 16, so that programs stay small.
    """
    groups = window[-1]
    wide, wide_out = kernel.shape[2], kernel.shape[3] // groups
    few = max(-(-PIECE // wide), -(-groups // MOST_PIECES))
    parts = []
    for start in range(0, groups, few):
        stop = min(start + few, groups)
        part = lax.slice_in_dim(x, start * wide, stop * wide, axis=3)
        own = lax.slice_in_dim(kernel, start * wide_out, stop * wide_out, axis=3)
        parts.append(_on_cpu(part, own, (*window[:-1], stop - start)))
    return jnp.concatenate(parts, axis=3) if len(parts) > 1 else parts[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _on_cpu(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    return _ungrouped_forward(x, kernel, window)


def _ungrouped_forward(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    groups = window[-1]
    form_of_size = _by_taps if _exceeds_image(x.shape, kernel.shape, window) else _forward
    if groups == 1:
        return form_of_size(x, kernel, window)
    with jax.named_scope(f"{SPREAD_GROUPS}_{groups}"):
        return form_of_size(x, _spread(kernel, groups), (*window[:-1], 1))


def _exceeds_image(image: tuple[int, ...], kernel: tuple[int, ...], window: Window) -> bool:
    """Whether a kernel is larger than the image without its padding, or than the result."""
    stride, padding, dilation, _ = window
    extents = [gap * (k - 1) + 1 for gap, k in zip(dilation, kernel, strict=False)]
    sizes = zip(image[1:3], extents, stride, padding, strict=True)
    return any(
        min(n, (n + before + after - extent) // step + 1) < extent
        for n, extent, step, (before, after) in sizes
    )


def _by_taps(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """An ungrouped convolution as one product: of the inputs of all taps, side by side."""
    stride, padding, dilation, _ = window
    kh, kw, _, c_out = kernel.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = (
        (n - gap * (k - 1) - 1) // step + 1
        for n, k, gap, step in zip(x.shape[1:3], (kh, kw), dilation, stride, strict=True)
    )
    taps = itertools.product(range(kh), range(kw))
    inputs = [_tap_inputs(x, tap, window, (rows, columns)) for tap in taps]
    return _product(jnp.concatenate(inputs, -1), kernel.reshape(-1, c_out), ((3,), (0,)))


def _tap_inputs(x: jax.Array, tap: Tap, window: Window, size: tuple[int, int]) -> jax.Array:
    """The pixels of the padded `x` that a tap meets, for a result of `size` (rows, columns)."""
    stride, _, (row_gap, column_gap), _ = window
    return pixels(x, (row_gap * tap[0], column_gap * tap[1]), stride, size)


def _spread(kernel: jax.Array, groups: int) -> jax.Array:
    """The ungrouped kernel of the same convolution: zeros between channels of different groups."""
    kh, kw, c_in, c_out = kernel.shape
    split = kernel.reshape(kh, kw, 1, c_in, groups, c_out // groups)
    own = jnp.eye(groups, dtype=kernel.dtype).reshape(1, 1, groups, 1, groups, 1)
    return (split * own).reshape(kh, kw, groups * c_in, c_out)


def _on_cpu_forward(
    x: jax.Array, kernel: jax.Array, window: Window
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _ungrouped_forward(x, kernel, window), (x, kernel)


def _on_cpu_backward(
    window: Window, saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    # Without the barrier XLA recomputes the operations that produce them while it transposes them
    # for the kernel's gradient, in an order that is bad for caches.
    x, dy = lax.optimization_barrier((x, dy))
    dx = jax.linear_transpose(lambda x: _ungrouped_forward(x, kernel, window), x)(dy)[0]
    groups = window[-1]
    full, to_groups = jax.vjp(lambda kernel: _spread(kernel, groups), kernel)
    window = (*window[:-1], 1)
    if kernel.shape[:2] == (1, 1) or "avx512f" not in cpu_flags():
        dkernel = kernel_gradient(x, full, dy, window)
    else:
        dkernel = jax.linear_transpose(lambda kernel: _forward(x, kernel, window), full)(dy)[0]
    return dx, to_groups(dkernel)[0]


_on_cpu.defvjp(_on_cpu_forward, _on_cpu_backward)


def kernel_gradient(x: jax.Array, kernel: jax.Array, dy: jax.Array, window: Window) -> jax.Array:
    """The gradient of an ungrouped kernel: for each tap, the product of its inputs and `dy`."""
    kh, kw, c_in, c_out = kernel.shape
    x = jnp.pad(x, ((0, 0), *window[1], (0, 0)))

    def tap_inputs(i: int, j: int) -> jax.Array:
        return _tap_inputs(x, (i, j), window, (dy.shape[1], dy.shape[2]))

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


# --- depthwise, as sums of shifted products -------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """A depthwise convolution: for each tap, its pixels times its row of weights, added up.

    `x`: [batch, rows, columns, c]; `kernel`: [kh, kw, 1, c]. Sums are at least float32.
    """
    return _sum_of_taps(x, kernel, window)


# Under jit, blocks of one shape are traced once: the net of a ConvNeXt has thousands of taps.
@functools.partial(jax.jit, static_argnums=2)
def _sum_of_taps(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    (down, across), padding, (row_gap, column_gap), _ = window
    kh, kw = kernel.shape[:2]
    inputs = padded(x, padding)
    rows = (inputs.shape[1] - row_gap * (kh - 1) - 1) // down + 1
    columns = (inputs.shape[2] - column_gap * (kw - 1) - 1) // across + 1
    starts = {(i, j): (i * row_gap, j * column_gap) for i in range(kh) for j in range(kw)}
    with jax.named_scope(TAP_PRODUCTS):
        products = [
            _every(inputs, start, (down, across), (rows, columns)) * _wide(kernel[i, j, 0])
            for (i, j), start in starts.items()
        ]
    return functools.reduce(jnp.add, products).astype(x.dtype)


def _depthwise_forward(
    x: jax.Array, kernel: jax.Array, window: Window
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return depthwise(x, kernel, window), (x, kernel)


@functools.partial(jax.jit, static_argnums=0)
def _depthwise_backward(
    window: Window, saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    stride, padding, (row_gap, column_gap), _ = window
    x, dy = lax.optimization_barrier((x, dy))  # as in `_on_cpu_backward`
    inputs, size = padded(x, padding), (dy.shape[1], dy.shape[2])
    taps = itertools.product(range(kernel.shape[0]), range(kernel.shape[1]))
    sums = [
        (_every(inputs, (i * row_gap, j * column_gap), stride, size) * _wide(dy)).sum((0, 1, 2))
        for i, j in taps
    ]
    dkernel = jnp.stack(sums).reshape(kernel.shape).astype(kernel.dtype)
    return _depthwise_input_gradient(x.shape, kernel, dy, window), dkernel


depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _depthwise_input_gradient(
    shape: tuple[int, ...], kernel: jax.Array, dy: jax.Array, window: Window
) -> jax.Array:
    """The gradient by an input of `shape`."""

    def term(tap: Tap, results: jax.Array) -> jax.Array:
        return _wide(results) * _wide(kernel[*tap, 0])

    dx = sum_over_taps(shape, (kernel.shape[0], kernel.shape[1]), window, (dy,), term)
    return dx.astype(dy.dtype)


def _every(
    x: jax.Array, start: tuple[int, int], stride: tuple[int, int], size: Sequence[int]
) -> jax.Array:
    """`size` rows and columns of `x` from `start`, `stride` apart, in at least float32."""
    return _wide(pixels(x, start, stride, size))


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
