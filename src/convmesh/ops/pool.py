"""Pooling and up-sampling over a sharded image, each one `shard_map` (see `ops.conv`)."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from convmesh import mesh
from convmesh.mesh import SPATIAL
from convmesh.ops.conv import pair
from convmesh.ops.halo import exchange, halo_rows
from convmesh.ops.windows import note


def max_pool(x, window, *, stride=None, padding=0):
    """Largest value of each window; `padding` never wins. `x`: [batch, rows, columns, channels].

    Window, stride and padding are one number or a pair (rows, columns). `stride` is `window` by
    default, as in torch.
    """
    return _pool(x, window, stride or window, padding, fill=-jnp.inf, reduce=lax.max)


def avg_pool(x, window, *, stride=None, padding=0):
    """Mean of each window, zeros of the padding counted (torch's count_include_pad).

    `avg_pool(x, n)` is down-sampling by area.
    """
    total = _pool(x, window, stride or window, padding, fill=0.0, reduce=lax.add)
    return total / math.prod(pair(window))


def _pool(x, window, stride, padding, fill, reduce):
    window, stride, padding = pair(window), pair(stride), pair(padding)

    def local(x, pad_rows):
        pads = ((0, 0), pad_rows, (padding[1], padding[1]), (0, 0))
        return lax.reduce_window(x, fill, reduce, (1, *window, 1), (1, *stride, 1), pads)

    def sharded(x, halo):
        if halo is None:
            return local(x, (padding[0], padding[0]))
        return local(exchange(x, *halo, fill=fill), (0, 0))

    name = f"pooling {window[0]}x{window[1]}"
    return _by_rows(sharded, x, name, window[0], stride[0], padding[0])


def _by_rows(function, x, name: str, kernel: int, stride: int, padding: int):
    """`function(x, halo)` on each device's rows with the halo it needs, or with None on all rows.

    `kernel`, `stride` and `padding` are the window's along rows; of an up-sampling, the rows that
    one row's results need.
    """
    if mesh.current() is None:
        return function(x, None)
    halo = halo_rows(x.shape[1], mesh.axis_size(SPATIAL), kernel, stride, padding)
    spec = mesh.activation(x.shape, rows=halo is not None)
    note(name, x, spec, spec, halo)
    local = functools.partial(function, halo=halo if spec[1] else None)
    return jax.shard_map(local, in_specs=spec, out_specs=spec)(x)


def upsample_nearest(x, factor: int = 2):
    """Each pixel `factor` x `factor` times. `x`: [batch, rows, columns, channels]."""

    def local(x, halo):
        b, h, w, c = x.shape
        x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, factor, w, factor, c))
        return x.reshape(b, h * factor, w * factor, c)

    return _by_rows(local, x, "nearest up-sampling", kernel=1, stride=1, padding=0)


def upsample_bilinear(x, factor: int = 2):
    """`factor` times the rows and columns, interpolated: torch's, with align_corners=False.

    `x`: [batch, rows, columns, channels].
    """

    def local(x, halo):
        x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)), mode="edge")
        if halo is None:
            x = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)), mode="edge")
        else:
            x = exchange(x, *halo, fill=None)
        return _between(_between(x, factor, axis=1), factor, axis=2)

    return _by_rows(local, x, "bilinear up-sampling", kernel=3, stride=1, padding=1)


def _between(x, factor: int, axis: int):
    """Linear interpolation along `axis`, whose first and last place are there for the others."""
    n = x.shape[axis] - 2
    before, here, after = (lax.slice_in_dim(x, i, i + n, axis=axis) for i in range(3))
    parts = []
    for j in range(factor):
        offset = (j + 0.5) / factor - 0.5  # from the centre of a place, in places
        other = before if offset < 0 else after
        parts.append(here * (1 - abs(offset)) + other * abs(offset))
    stacked = jnp.stack(parts, axis=axis + 1)
    return stacked.reshape(*x.shape[:axis], n * factor, *x.shape[axis + 1 :])
