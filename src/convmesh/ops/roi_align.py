"""RoI align: features of a fixed size from boxes of any size (arXiv 1703.06870), on a pyramid.

As torchvision computes it: two samples along each side of a bin, coordinates that are not shifted
by half a pixel (`aligned=False`), and a box of less than a pixel of its level grown to one.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convmesh import mesh
from convmesh.ops.points import to_points

SAMPLES = 2  # along each side of a bin
CANONICAL_SIDE, CANONICAL_STRIDE = 224, 16  # a box of this side is taken from this level
CHUNK = 32  # boxes at a time: each gathers 4 * (bins * SAMPLES)**2 pixels


def pool_boxes(
    levels: Sequence[jax.Array], boxes: jax.Array, strides: Sequence[int], bins: int
) -> jax.Array:
    """The features in `boxes` [batch, n, 4]: [batch, n, 1, channels * bins**2], as `roi_align`'s.

    levels: [batch, rows, columns, channels] of each stride. The last dimension is ordered by
    channel, then row, then column. Computed on whole examples; the result has the batch over data.
    """
    shapes = [(level.shape[1], level.shape[2]) for level in levels]
    points = jnp.concatenate([to_points(level) for level in levels], axis=1)
    align = functools.partial(roi_align, shapes=shapes, strides=strides, bins=bins)

    def pooled(points: jax.Array, boxes: jax.Array) -> jax.Array:
        x = jax.vmap(align)(points, boxes).swapaxes(2, 3)
        return x.reshape(*x.shape[:2], 1, -1)

    x = mesh.per_example(pooled)(points, boxes)
    if mesh.current() is not None:  # gathers along spatial and model only
        x = lax.with_sharding_constraint(x, mesh.batch_spec(x.shape))
    return x


def level_of(boxes: jax.Array, strides: Sequence[int]) -> jax.Array:
    """The index of the level that suits the size of each of `boxes` [n, 4], int32 [n].

    Larger boxes are taken from coarser levels (arXiv 1612.03144, eq. 1), as far as there are any.
    """
    side = jnp.sqrt(jnp.maximum(jnp.prod(boxes[:, 2:] - boxes[:, :2], axis=-1), 0))
    finest, canonical = (math.log2(stride) for stride in (strides[0], CANONICAL_STRIDE))
    level = jnp.floor(canonical + jnp.log2(side / CANONICAL_SIDE) + 1e-6) - finest
    return jnp.clip(level, 0, len(strides) - 1).astype(jnp.int32)


def roi_align(
    points: jax.Array,
    boxes: jax.Array,
    shapes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    bins: int,
) -> jax.Array:
    """The features of the boxes of one image, each from its level: [n, bins * bins, channels].

    Args:
      points: [points, channels]: the pixels of all levels, level by level, row by row.
      boxes: [n, 4], x0 y0 x1 y1 in pixels of the image, at least float32. No gradient.
      shapes: rows and columns of each level.
      strides: of the levels, powers of two.
      bins: rows, and columns, of the result.

    A sample more than a pixel outside of its level is 0.
    """
    sizes = [rows * columns for rows, columns in shapes]
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)
    heights, widths = (np.array(side, np.int32) for side in zip(*shapes, strict=True))
    scales = np.array([1 / stride for stride in strides])

    def align(box: jax.Array) -> jax.Array:
        level = level_of(box[None], strides)[0]
        scale = jnp.asarray(scales, box.dtype)[level]
        height, width = jnp.asarray(heights)[level], jnp.asarray(widths)[level]
        rows, row_weights = _taps(box[1] * scale, box[3] * scale, height, bins)
        columns, column_weights = _taps(box[0] * scale, box[2] * scale, width, bins)
        index = jnp.asarray(first)[level] + rows[:, None] * width + columns
        weights = (row_weights[:, None] * column_weights).astype(box.dtype)
        taps = len(rows) // bins
        pixels = points[index.reshape(-1)].reshape(bins, taps, bins, taps, -1)
        weights = weights.reshape(bins, taps, bins, taps)
        out = jnp.einsum("iajbc,iajb->ijc", pixels.astype(box.dtype), weights)
        return out.reshape(bins * bins, -1).astype(points.dtype)

    return lax.map(align, lax.stop_gradient(boxes), batch_size=min(CHUNK, len(boxes)))


def _taps(
    start: jax.Array, end: jax.Array, size: jax.Array, bins: int
) -> tuple[jax.Array, jax.Array]:
    """The pixels, and their weights, along one side: [bins * SAMPLES * 2], bin by bin.

    Each sample lies between two pixels, and counts as much as every other one of its bin.
    """
    step = jnp.maximum(end - start, 1) / (bins * SAMPLES)
    at = start + (np.arange(bins * SAMPLES) + 0.5).astype(start.dtype) * step
    inside = (at >= -1) & (at <= size)
    at = jnp.clip(at, 0, size - 1)
    low = jnp.floor(at).astype(jnp.int32)
    high = jnp.minimum(low + 1, size - 1)
    part = at - low
    weights = jnp.stack([1 - part, part], -1) * inside[:, None] / SAMPLES
    return jnp.stack([low, high], -1).reshape(-1), weights.reshape(-1)
