"""Pooling and up-sampling over a sharded image, each one `shard_map` (see `ops.conv`)."""

import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from convmesh import mesh
from convmesh.mesh import SPATIAL
from convmesh.ops.conv import Pair, pair
from convmesh.ops.forms import form
from convmesh.ops.halo import exchange, halo_rows
from convmesh.ops.taps import Padding, Tap, Window, padded, pixels, sum_over_taps
from convmesh.ops.windows import Halo, record


def max_pool(
    x: jax.Array, window: Pair, *, stride: Pair | None = None, padding: Pair = 0
) -> jax.Array:
    """Maximum of each window; padding never counts. `x`: [batch, rows, columns, channels].

    Window, stride and padding are one number or a pair (rows, columns). `stride` is `window` by
    default, as in torch. On CPUs it has no forward-mode derivative (`jax.jvp`).
    """
    return _pool(x, window, stride or window, padding, fill=-jnp.inf, reduce=lax.max)


def avg_pool(
    x: jax.Array, window: Pair, *, stride: Pair | None = None, padding: Pair = 0
) -> jax.Array:
    """Mean of each window, zero padding included (torch's count_include_pad).

    `avg_pool(x, n)` is down-sampling by area. Arguments as for `max_pool`.
    """
    total = _pool(x, window, stride or window, padding, fill=0.0, reduce=lax.add)
    return total / math.prod(pair(window))


def _pool(
    x: jax.Array, window: Pair, stride: Pair, padding: Pair, fill: float, reduce: Callable
) -> jax.Array:
    window, stride, padding = pair(window), pair(stride), pair(padding)

    def local(x: jax.Array, pad_rows: tuple[int, int]) -> jax.Array:
        pads = pad_rows, (padding[1], padding[1])
        if reduce is lax.max and form() == "cpu":
            return _max_on_cpu(x, window, (stride, pads, (1, 1), 1))
        return _reduce(x, fill, reduce, window, stride, pads)

    def sharded(x: jax.Array, halo: Halo) -> jax.Array:
        if halo is None:
            return local(x, (padding[0], padding[0]))
        return local(exchange(x, *halo, fill=fill), (0, 0))

    name = f"pooling {window[0]}x{window[1]}"
    return _by_rows(sharded, x, name, window[0], stride[0], padding[0])


def _reduce(
    x: jax.Array, fill: float, reduce: Callable, window: Tap, stride: Tap, pads: Padding
) -> jax.Array:
    all_pads = ((0, 0), *pads, (0, 0))
    return lax.reduce_window(x, fill, reduce, (1, *window, 1), (1, *stride, 1), all_pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_on_cpu(x: jax.Array, size: tuple[int, int], window: Window) -> jax.Array:
    """The maximum of each window of `size`, with a gradient that is quicker than XLA's on CPUs.

    XLA's scatters. This one notes which tap of each window has the maximum, the first if several
    have it, as XLA does, and sums over taps. Forward and gradient, one core with AVX-512, ms, XLA's
    and then this one: 3x3, stride 2, 32 images of 32 px, 32 channels 44, 11; 16 of 112 px, 64
    channels 853, 197; 2x2, stride 2, 32 of 56 px, 64 channels 339, 129.
    """
    stride, pads, _, _ = window
    return _reduce(x, -jnp.inf, lax.max, size, stride, pads)


def _max_forward(
    x: jax.Array, size: tuple[int, int], window: Window
) -> tuple[jax.Array, jax.Array]:
    return _max_on_cpu(x, size, window), x


def _max_backward(
    size: tuple[int, int], window: Window, x: jax.Array, dy: jax.Array
) -> tuple[jax.Array]:
    stride, pads, _, _ = window
    x_padded = padded(x, pads, fill=-jnp.inf)
    taps = list(itertools.product(range(size[0]), range(size[1])))
    # The first tap that has the maximum; not by comparison with the result, since XLA may compute
    # `x` again here, with other roundings.
    maximum = pixels(x_padded, taps[0], stride, dy.shape[1:3])
    highest = jnp.zeros_like(maximum, jnp.int16)
    for number, tap in enumerate(taps[1:], 1):
        values = pixels(x_padded, tap, stride, dy.shape[1:3])
        highest = jnp.where(values > maximum, jnp.int16(number), highest)
        maximum = jnp.maximum(maximum, values)
    highest, dy = lax.optimization_barrier((highest, dy))  # computed once, not for each tap

    def term(tap: Tap, highest: jax.Array, dy: jax.Array) -> jax.Array:
        return jnp.where(highest == taps.index(tap), dy, jnp.zeros_like(dy))

    return (sum_over_taps(x.shape, size, window, (highest, dy), term),)


_max_on_cpu.defvjp(_max_forward, _max_backward)


def _by_rows(
    function: Callable[[jax.Array, Halo], jax.Array],
    x: jax.Array,
    name: str,
    kernel: int,
    stride: int,
    padding: int,
) -> jax.Array:
    """`function(x, halo)` on each device's rows and the halo they need, or on all rows with None.

    `kernel`, `stride` and `padding` are those of the window along rows; of an up-sampling, of the
    input rows that the output rows of one input row need.
    """
    if mesh.current() is None:
        return function(x, None)
    halo = halo_rows(x.shape[1], mesh.axis_size(SPATIAL), kernel, stride, padding)
    spec = mesh.activation_spec(x.shape, rows=halo is not None)
    record(name, x, spec, spec, halo)

    def local(x: jax.Array) -> jax.Array:
        return function(x, halo if spec[1] else None)

    return jax.shard_map(local, in_specs=spec, out_specs=spec)(x)


def upsample_nearest(x: jax.Array, factor: int = 2) -> jax.Array:
    """Repeats each pixel `factor` x `factor` times. `x`: [batch, rows, columns, channels]."""

    def local(x: jax.Array, halo: Halo) -> jax.Array:
        return repeat_pixels(x, factor)

    return _by_rows(local, x, "nearest up-sampling", kernel=1, stride=1, padding=0)


# Jitted, and so a call by its name in a traced program (see `ops.suppression`).
@functools.partial(jax.jit, static_argnames="factor")
def repeat_pixels(x: jax.Array, factor: int) -> jax.Array:
    """`upsample_nearest` on one device."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, factor, w, factor, c))
    return x.reshape(b, h * factor, w * factor, c)


def upsample_bilinear(x: jax.Array, factor: int = 2) -> jax.Array:
    """Bilinear interpolation to `factor` times the rows and columns (torch, align_corners=False).

    `x`: [batch, rows, columns, channels].
    """

    def local(x: jax.Array, halo: Halo) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)), mode="edge")
        if halo is None:
            x = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)), mode="edge")
        else:
            x = exchange(x, *halo, fill=None)
        return _interpolate(_interpolate(x, factor, axis=1), factor, axis=2)

    return _by_rows(local, x, "bilinear up-sampling", kernel=3, stride=1, padding=1)


def _interpolate(x: jax.Array, factor: int, axis: int) -> jax.Array:
    """Linear interpolation along `axis`, whose first and last position are padding."""
    n = x.shape[axis] - 2
    before, centre, after = (lax.slice_in_dim(x, i, i + n, axis=axis) for i in range(3))
    parts = []
    for j in range(factor):
        offset = (j + 0.5) / factor - 0.5  # from the centre of an input pixel, in pixels
        other = before if offset < 0 else after
        parts.append(centre * (1 - abs(offset)) + other * abs(offset))
    stacked = jnp.stack(parts, axis=axis + 1)
    return stacked.reshape(*x.shape[:axis], n * factor, *x.shape[axis + 1 :])
