"""The view of an image that the network gets, as part of an exported program.

The same pixels as `data.augmentation.eval_view.EvalView`, but as JAX operations on a batch of
images whose height and width may be symbolic: each side is resized by a product with a matrix of
weights, so no array has a size that depends on data and nothing is gathered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from convmesh.data.augmentation.eval_view import EvalView
from convmesh.data.augmentation.views import FILL


def view_in_graph(images: jax.Array, view: EvalView) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the network's input for `images` uint8 [batch, h, w, 3], all of one size.

    batch, h and w may be symbolic. Returns the input float32 [batch, height, width, 3], whole
    numbers 0..255, FILL where the image does not reach; scale, float32 []; and offset, float32 [2]
    (x, y): a point of the image is at point * scale + offset. Scale and offset are EvalView's for
    images of up to 2 ** 23 / max(view.size) pixels a side; larger ones may be a pixel off.
    """
    pillow = view.task == "classify" and view.resize > 0
    # Channels first: products then run over whole images, not over three numbers.
    pixels = jnp.transpose(images, (0, 3, 1, 2)).astype(jnp.float32)
    size = images.shape[1], images.shape[2]
    rows: _Place
    columns: _Place
    if pillow:
        rows, columns, scale = _resized_centre(*size, view)
        pixels = _resampled_by_pillow(pixels, rows, columns)
    else:
        rows, columns, scale = _centred(*size, view)
        pixels = _between_blocks(pixels, rows, columns)
    pixels = jnp.transpose(pixels, (0, 2, 3, 1))
    covered = (rows.covered()[:, None] & columns.covered()[None, :])[:, :, None]
    offset = _vector(columns.offset, rows.offset)
    return jnp.where(covered, pixels, jnp.float32(FILL)), scale, offset


def boxes_to_original(
    boxes: jax.Array, scale: jax.Array, offset: jax.Array, height: Any, width: Any
) -> jax.Array:
    """Return `boxes` float32 [..., 4] of the input in pixels of the image, clipped to it.

    scale and offset: of `view_in_graph`. height and width: sides of the images, numbers or symbolic
    dimensions. The same as `tasks.detection.Detection.to_host`.
    """
    h, w = (_size_value(side).astype(jnp.float32) for side in (height, width))
    moved = (boxes - jnp.concatenate([offset, offset])) / scale
    return jnp.minimum(jnp.maximum(moved, 0.0), _vector(w, h, w, h))


def _size_value(side: Any) -> jax.Array:
    """The number of pixels of a side, an int or symbolic, as an int32 of the program."""
    return jnp.asarray(side, jnp.int32)


def _vector(*numbers: jax.Array) -> jax.Array:
    return jnp.concatenate([number[None] for number in numbers])


def _contract(pixels: jax.Array, weights: jax.Array, axis: int) -> jax.Array:
    """Resize `axis` of `pixels` by `weights` [new, old]; the new axis is the last one."""
    dimensions = (((axis,), (1,)), ((), ()))
    return lax.dot_general(pixels, weights, dimensions, precision=lax.Precision.HIGHEST)


def _to_grey_levels(pixels: jax.Array) -> jax.Array:
    return jnp.minimum(jnp.maximum(pixels, 0.0), 255.0)


def _floor_divide(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Quotient, rounded down, and remainder of int32 `a` and `b` > 0."""
    quotient = lax.div(a, b)  # rounded towards zero
    quotient = quotient - (a - quotient * b < 0).astype(jnp.int32)
    return quotient, a - quotient * b


@dataclass(frozen=True)
class Scale:
    """A scale as `EvalView` has it: the float32 nearest to numerator / denominator (int32).

    error: 1.0 if that float32 is larger than the fraction, -1.0 if smaller, 0.0 if equal. It
    decides what would be ties, and ties are common: 1120 pixels into 224 are a fifth, whose float32
    is larger, so five such pixels are more than one and blocks have four.
    """

    value: jax.Array
    numerator: jax.Array
    denominator: jax.Array
    error: jax.Array

    @classmethod
    def to_fit(cls, h: jax.Array, w: jax.Array, size: tuple[int, int], *, inside: bool) -> Scale:
        """The scale at which h x w pixels fill one side of `size` and fit into or cover both."""
        by_height = (size[0] * w <= size[1] * h) == inside
        numerator = jnp.where(by_height, jnp.int32(size[0]), jnp.int32(size[1]))
        denominator = jnp.where(by_height, h, w)
        wanted, pixels = numerator.astype(jnp.float32), denominator.astype(jnp.float32)
        value = wanted / pixels
        # value * pixels - wanted, without rounding: each part has so few bits that its product and
        # each difference are float32 numbers.
        high = jnp.floor(value * 2.0**12) / 2.0**12
        middle = jnp.floor((value - high) * 2.0**20) / 2.0**20
        low = value - high - middle
        error = jnp.sign((high * pixels - wanted) + middle * pixels + low * pixels)
        return cls(value, numerator, denominator, error)

    def offset(self, n: jax.Array, limit: int) -> jax.Array:
        """round((limit - n * scale) / 2), ties to even, float32."""
        length, unit = n * self.numerator, self.denominator
        half_up, rest = _floor_divide(limit * unit - length + unit, 2 * unit)
        tie = (rest == 0).astype(jnp.float32)
        return jnp.round(half_up.astype(jnp.float32) - 0.5 * tie - 0.25 * self.error)

    def covered(self, n: jax.Array) -> jax.Array:
        """ceil(n * scale - 0.5), the pixels whose centre n pixels reach, float32."""
        unit = self.denominator
        low, rest = _floor_divide(2 * n * self.numerator - unit, 2 * unit)
        between = (rest > 0).astype(jnp.float32)
        return jnp.ceil(low.astype(jnp.float32) + 0.5 * between + 0.25 * self.error)

    def block(self) -> jax.Array:
        """max(1, floor(1 / scale)), int32: the whole pixels in one pixel of the input."""
        low, rest = _floor_divide(self.denominator, self.numerator)
        between = (rest > 0).astype(jnp.float32)
        block = jnp.floor(low.astype(jnp.float32) + 0.5 * between - 0.25 * self.error)
        return jnp.maximum(block, 1.0).astype(jnp.int32)


@dataclass(frozen=True)
class _Place:
    """Where a side of the image is in a side of `size` pixels of the input.

    It begins at `offset` and covers `length` pixels, both float32.
    """

    size: int
    offset: jax.Array
    length: jax.Array

    def covered(self) -> jax.Array:
        """Which pixels of the input the image covers, bool [size]."""
        pixel = lax.iota(jnp.float32, self.size) - self.offset
        return (pixel >= 0) & (pixel < self.length)


@dataclass(frozen=True)
class _Resampled(_Place):
    """A side whose pixels are weighted sums: weights float32 [size, old]."""

    weights: jax.Array


@dataclass(frozen=True)
class _BlockSide(_Place):
    """A side that is averaged over blocks of pixels, between whose means is interpolated.

    starts: the first pixel of a block, int32 [2 * size]: of the block before each pixel of the
    input, then of the block after. block: pixels of a block, int32. part: of the block after,
    float32 [size].
    """

    starts: jax.Array
    block: jax.Array
    part: jax.Array


def _centred(h: Any, w: Any, view: EvalView) -> tuple[_BlockSide, _BlockSide, jax.Array]:
    """The rows and columns of `augment.letterbox` or `augment.centre_crop`, and the scale."""
    inside = view.task == "detect"
    scale = Scale.to_fit(_size_value(h), _size_value(w), view.size, inside=inside)
    rows, columns = (_block_linear(*pair, scale) for pair in zip((h, w), view.size, strict=True))
    return rows, columns, scale.value


def _block_linear(side: Any, limit: int, scale: Scale) -> _BlockSide:
    """One side of `augment.scale_and_shift`: linear between the means of blocks of pixels."""
    n = _size_value(side)
    offset = scale.offset(n, limit)
    block = jnp.minimum(scale.block(), n)
    blocks, _ = _floor_divide(n + block - 1, block)
    pixel = lax.iota(jnp.float32, limit) - offset + 0.5
    # Beside the blocks, the edge is repeated.
    last = (blocks - 1).astype(jnp.float32)
    position = pixel / (scale.value * block.astype(jnp.float32)) - 0.5
    position = jnp.minimum(jnp.maximum(position, 0.0), last)
    before = jnp.floor(position)
    chosen = jnp.concatenate([before, jnp.minimum(before + 1, last)]).astype(jnp.int32)
    return _BlockSide(
        limit, offset, scale.covered(n), chosen * block, block, part=position - before
    )


# Jitted, and so a call by its name in a traced program (see `ops.suppression`).
@jax.jit
def sums_of_blocks(pixels: jax.Array, starts: jax.Array, block: jax.Array) -> jax.Array:
    """Sums of `block` rows of `pixels` [batch, 3, rows, columns] from each of `starts`, int32.

    Returns [batch, 3, columns, starts]. The last row stands for those beyond it, too.
    """
    rows = pixels.shape[2]
    row, last = lax.iota(jnp.int32, rows)[None, :], _size_value(rows) - 1
    start, stop = starts[:, None], starts[:, None] + block
    beyond = jnp.where(row == last, jnp.maximum(stop - last - 1, 0), 0)
    times = jnp.where((row >= start) & (row < stop), 1, 0) + beyond
    return _contract(pixels, times.astype(jnp.float32), 2)


def _between_blocks(pixels: jax.Array, rows: _BlockSide, columns: _BlockSide) -> jax.Array:
    """[batch, 3, h, w] -> [batch, 3, height, width], rounded as OpenCV does it: the means, too."""
    sums = sums_of_blocks(pixels, rows.starts, rows.block)
    sums = sums_of_blocks(sums, columns.starts, columns.block)
    means = sums * (1 / (rows.block * columns.block).astype(jnp.float32))
    # OpenCV rounds the mean of two by two pixels, which it interpolates, half up.
    halves = jnp.maximum(rows.block, columns.block) == 2
    means = jnp.where(halves, jnp.floor(means + 0.5), jnp.round(means))
    before, after = means[:, :, : rows.size], means[:, :, rows.size :]
    means = before + (after - before) * rows.part[:, None]
    before, after = means[..., : columns.size], means[..., columns.size :]
    return _to_grey_levels(jnp.round(before + (after - before) * columns.part))


def _resampled_by_pillow(pixels: jax.Array, rows: _Resampled, columns: _Resampled) -> jax.Array:
    """[batch, 3, h, w] -> [batch, 3, height, width].

    Pillow rounds halves up, and keeps bytes between its two passes.
    """
    for side, axis in ((columns, 3), (rows, 2)):
        pixels = _to_grey_levels(jnp.floor(_contract(pixels, side.weights, axis) + 0.5))
    return jnp.swapaxes(pixels, 2, 3)


def _resized_centre(h: Any, w: Any, view: EvalView) -> tuple[_Resampled, _Resampled, jax.Array]:
    """The rows and columns of an image whose shorter side is resized as Pillow does; the scale.

    Columns are resized first, as Pillow does. Pillow 13, unlike 12, begins with the rows of
    images more than twice as high as wide that shrink; in noise that differs by some grey levels.
    """
    short = jnp.minimum(_size_value(h), _size_value(w))
    sides = []
    for side, limit in zip((h, w), view.size, strict=True):
        resized = lax.div(view.resize * _size_value(side), short)
        sides.append(_resampled(side, limit, resized, view.interpolation))
    rows, columns = sides
    return rows, columns, jnp.float32(view.resize) / short.astype(jnp.float32)


def _resampled(side: Any, limit: int, resized: jax.Array, interpolation: str) -> _Resampled:
    """One side of `Image.resize` of Pillow to `resized` (int32) pixels, of which the middle."""
    length = resized.astype(jnp.float32)
    offset = -jnp.round((length - limit) / 2)
    # The filter widens by the factor by which the image shrinks.
    ratio = _size_value(side).astype(jnp.float32) / length
    pixel = lax.iota(jnp.float32, limit) - offset + 0.5
    # Pixels that the image does not cover get weights too, lest their sum be zero.
    centre = jnp.minimum(jnp.maximum(pixel, 0.5), length - 0.5) * ratio
    index = lax.iota(jnp.float32, side) + 0.5
    distance = jnp.abs(index[None, :] - centre[:, None]) / jnp.maximum(ratio, 1.0)
    weights = _FILTERS[interpolation](distance)
    return _Resampled(limit, offset, length, weights / jnp.sum(weights, 1, keepdims=True))


def _bilinear(x: jax.Array) -> jax.Array:
    return jnp.maximum(1 - x, 0.0)


def _bicubic(x: jax.Array) -> jax.Array:
    """Keys' cubic with a = -0.5, as in Pillow's Resample.c; x >= 0."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0))


_FILTERS = {"bilinear": _bilinear, "bicubic": _bicubic}
