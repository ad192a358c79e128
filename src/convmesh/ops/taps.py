"""The taps of a window that slides over an image: the pixels that each meets, and sums over taps.

On one device; these are the parts of which `ops.local` and `ops.pool` make their forms for CPUs.
"""

import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

Padding = tuple[tuple[int, int], tuple[int, int]]  # (before, after) of rows and of columns
Window = tuple[tuple[int, int], Padding, tuple[int, int], int]  # stride, padding, dilation, groups
Tap = tuple[int, int]  # (row, column) in the window


def padded(x: jax.Array, padding: Padding, fill: float = 0) -> jax.Array:
    """`x` [batch, rows, columns, c] with its padding, computed once and not again for each tap."""
    if padding == ((0, 0), (0, 0)):
        return x
    pads = ((0, 0), *padding, (0, 0))
    return lax.optimization_barrier(jnp.pad(x, pads, constant_values=fill))


def pixels(
    x: jax.Array, start: tuple[int, int], stride: tuple[int, int], size: Sequence[int]
) -> jax.Array:
    """`size` (rows, columns) of `x` [batch, rows, columns, c] from `start`, `stride` apart."""
    stop = [a + s * (n - 1) + 1 for a, s, n in zip(start, stride, size, strict=True)]
    batch, _, _, channels = x.shape
    return lax.slice(x, (0, *start, 0), (batch, *stop, channels), (1, *stride, 1))


def sum_over_taps(
    shape: tuple[int, ...],
    kernel: tuple[int, int],
    window: Window,
    results: Sequence[jax.Array],
    term: Callable[..., jax.Array],
) -> jax.Array:
    """For each pixel of an input of `shape`, the sum over the taps that meet it: a gradient.

    kernel: rows and columns of taps. results: arrays of the window's result, [batch, rows, columns,
    c]; `term(tap, *results)` gets their pixels where the tap meets the input's, zeros outside.

    Input row r = stride * q + phase meets tap i at the result's row (r + padding - gap * i) /
    stride, where that is whole: the rows (and columns) of a phase all meet the same taps, and each
    phase is a sum of its own.
    """
    stride, padding, gap, _ = window
    # Along rows and along columns, for each phase: (tap, the result's row for q = 0).
    meet = [
        [
            [(i, (phase + pad - g * i) // s) for i in range(k) if (phase + pad - g * i) % s == 0]
            for phase in range(s)
        ]
        for s, (pad, _), g, k in zip(stride, padding, gap, kernel, strict=True)
    ]
    size = [-(-n // s) for n, s in zip(shape[1:3], stride, strict=True)]  # of each phase
    firsts = [[row for phase in phases for _, row in phase] for phases in meet]
    before = [max(0, -min(rows)) for rows in firsts]
    after = [
        max(0, max(rows) + n - result)
        for rows, n, result in zip(firsts, size, results[0].shape[1:3], strict=True)
    ]
    pads = ((before[0], after[0]), (before[1], after[1]))
    wide = [padded(result, pads) for result in results]

    def of_tap(tap: Tap, row: int, column: int) -> jax.Array:
        start = (row + before[0], column + before[1])
        return term(tap, *(pixels(result, start, (1, 1), size) for result in wide))

    def of_phase(rows: list[Tap], columns: list[Tap]) -> jax.Array:
        # From the first result to the last, the order of XLA's own sums.
        met = itertools.product(reversed(rows), reversed(columns))
        terms = [of_tap((i, j), row, column) for (i, row), (j, column) in met]
        # A phase that no tap meets is zeros, which vary over the mesh as the terms do.
        return functools.reduce(jnp.add, terms or [jnp.zeros_like(of_tap((0, 0), 0, 0))])

    phases = jnp.stack(
        [jnp.stack([of_phase(rows, columns) for columns in meet[1]], 3) for rows in meet[0]], 2
    )
    batch, _, _, channels = shape
    total = phases.reshape(batch, size[0] * stride[0], size[1] * stride[1], channels)
    return total[:, : shape[1], : shape[2]]
