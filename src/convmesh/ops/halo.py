"""The halo: rows of its neighbours that a device needs for a window operation."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from convmesh.mesh import SPATIAL


def halo_rows(
    height: int,
    shards: int,
    kernel: int,
    stride: int,
    padding: int | tuple[int, int],
    dilation: int = 1,
) -> tuple[int, int] | None:
    """Rows needed from (above, below), or None if the rows cannot be sharded.

    They can if each shard of `height / shards` input rows gives the same number of output rows,
    from its own rows and those of its direct neighbours. `padding` is the number of rows at both
    ends, as in torch, or (before, after), as for TensorFlow's SAME; a strided window may leave the
    lower ones unused.
    """
    before, after = (padding, padding) if isinstance(padding, int) else padding
    extent = (kernel - 1) * dilation + 1
    out = (height + before + after - extent) // stride + 1
    if height % (shards * stride) or out * stride != height:
        return None
    above, below = before, max(0, extent - stride - before)
    return (above, below) if max(above, below) <= height // shards else None


def exchange(x: jax.Array, above: int, below: int, fill: float | None) -> jax.Array:
    """`x` [batch, rows / shards, columns, channels] with its neighbours' rows at both ends.

    Runs inside shard_map. The upper rows of the first shard and the lower rows of the last are
    `fill`, the padding of the image; None repeats the first and last row of the image.
    """
    shards = lax.axis_size(SPATIAL)
    index = lax.axis_index(SPATIAL)
    parts = [x]
    if above:
        rows = lax.ppermute(x[:, -above:], SPATIAL, [(i, i + 1) for i in range(shards - 1)])
        parts.insert(0, _fill_at_edge(rows, index == 0, x[:, :1] if fill is None else fill))
    if below:
        rows = lax.ppermute(x[:, :below], SPATIAL, [(i + 1, i) for i in range(shards - 1)])
        parts.append(_fill_at_edge(rows, index == shards - 1, x[:, -1:] if fill is None else fill))
    return jnp.concatenate(parts, axis=1) if len(parts) > 1 else x


def _fill_at_edge(rows: jax.Array, at_edge: jax.Array, fill: Any) -> jax.Array:
    """A neighbour's `rows`, or `fill` at the edge of the image, where ppermute gives zeros."""
    if isinstance(fill, float) and fill == 0:
        return rows
    return jnp.where(at_edge, fill, rows)
