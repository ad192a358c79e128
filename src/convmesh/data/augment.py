"""From a decoded example to the network's input: pure functions of (image, settings, generator).

Coordinates are continuous: pixel i covers [i, i + 1) and its centre lies at i + 0.5, so a box that
ends at the last pixel ends at the width; a mirror takes x to width - x.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

# What lies outside of the image in the network's input.
FILL = 114
# A box of which a smaller part is in view, or whose visible part is thinner, is not asked for: what
# can be seen of it becomes a region to ignore.
LEAST_IN_VIEW = 0.3
LEAST_SIDE = 2.0
# The aspect ratio of a random crop, relative to the network's input (as in Inception training).
CROP_ASPECT = (3 / 4, 4 / 3)
# Colour jitter at strength 1: factors 1 -+ this, and the turn of the hue in degrees.
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.4, 0.4, 0.7, 18.0
_LARGEST_CHANGE = np.array([BRIGHTNESS, CONTRAST, SATURATION])
# Maps of colours: to itself, to grey, to what is not grey, across the grey axis, to the luminance.
_SAME, _GREY = np.eye(3), np.full((3, 3), 1 / 3)
_OFF_GREY = _SAME - _GREY
_ACROSS = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
_LUMINANCE = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Settings:
    """`data.augment` of the config.

    flip: probability of a mirror. scale: (low, high) zoom relative to the letterboxed size.
    crop: (low, high) part of the image's area. color: strength of the colour jitter, 0..1.
    """

    flip: float = 0.5
    scale: tuple[float, float] = (0.5, 1.5)
    crop: tuple[float, float] = (0.35, 1.0)
    color: float = 0.5


@dataclass(frozen=True)
class View:
    """A part of an image, put into a part of the network's input: the same for pixels and boxes.

    source and target: x0 y0 x1 y1 in whole pixels of the image and of the input. blocks: (x, y),
    how many pixels are averaged first; they divide the sides of `source`. size: (height, width) of
    the input. mirror: whether the input is then mirrored, x -> width - x.
    """

    source: tuple[int, int, int, int]
    target: tuple[int, int, int, int]
    blocks: tuple[int, int]
    size: tuple[int, int]
    mirror: bool = False

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """Return the input, uint8 [height, width, 3], from `image` uint8 [h, w, 3].

        `cv2.resize` does it in an eighth of the time that `cv2.warpAffine` takes, which is why the
        rectangles are whole pixels.
        """
        x0, y0, x1, y1 = self.source
        part = image[y0:y1, x0:x1]
        if max(self.blocks) > 1:
            part = _average(part, self.blocks)
        x0, y0, x1, y1 = self.target
        if self.mirror:
            x0, x1 = self.size[1] - x1, self.size[1] - x0
        view = np.full((*self.size, 3), FILL, np.uint8)
        # Written in place: fresh pages cost more than the arithmetic.
        target = view[y0:y1, x0:x1]
        if part.shape == target.shape:
            target[...] = part
        else:
            cv2.resize(part, (x1 - x0, y1 - y0), target, interpolation=cv2.INTER_LINEAR)
        if self.mirror:
            cv2.flip(target, 1, target)
        return view

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Return `boxes` float32 [n, 4] of the image in pixels of the input, not clipped."""
        source, target = np.array(self.source, np.float64), np.array(self.target, np.float64)
        scale = (target[2:] - target[:2]) / (source[2:] - source[:2])
        moved = (boxes.reshape(-1, 2, 2) - source[:2]) * scale + target[:2]
        if self.mirror:
            moved[:, :, 0] = self.size[1] - moved[:, ::-1, 0]
        return moved.reshape(-1, 4).astype(np.float32)


def random_view(
    image_size: tuple[int, int],
    size: tuple[int, int],
    scale: tuple[float, float],
    rng: np.random.Generator,
    flip: float,
) -> View:
    """Return a view at `scale` (x, y) input pixels an image pixel, at a random place.

    `image_size` and `size` are (height, width). Where the scaled image is smaller than the input it
    lies anywhere inside; where it is larger any part of it is taken.
    """
    y, x = (
        _place(n, room, s, rng.uniform(0, 1))
        for n, room, s in zip(image_size, size, scale[::-1], strict=True)
    )
    return View(
        source=(x[0], y[0], x[1], y[1]),
        target=(x[2], y[2], x[3], y[3]),
        blocks=(x[4], y[4]),
        size=size,
        mirror=rng.uniform(0, 1) < flip,
    )


def _place(n: int, room: int, scale: float, where: float) -> tuple[int, int, int, int, int]:
    """Return source and target range of one axis, and the block length.

    n: pixels of the image; room: pixels of the input; where: 0..1, the first to the last place.
    """
    # What shrinks to less than half is averaged over blocks first. Pixels of a last block that is
    # not full are left out: less than one pixel of the input.
    block = min(n, max(1, math.floor(1 / scale)))
    if round(n * scale) <= room:
        length = n - n % block
        target = max(1, round(length * scale))
        start = min(math.floor(where * (room - target + 1)), room - target)
        return 0, length, start, start + target, block
    length = min(n, max(1, round(room / scale)))
    length = max(block, length - length % block)
    start = min(math.floor(where * (n - length + 1)), n - length)
    return start, start + length, 0, room, block


def augment_for_detection(
    image: np.ndarray,
    boxes: np.ndarray,
    crowd: np.ndarray,
    size: tuple[int, int],
    settings: Settings,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a random view of an image, and its boxes in the pixels of that view.

    The image is zoomed relative to its letterboxed size, then placed (or cropped) at random,
    mirrored, and its colours shifted.

    image: uint8 [h, w, 3]; boxes: float32 [n, 4]; crowd: bool [n]; size: (height, width).
    Returns the view uint8 [height, width, 3], boxes float32 [m, 4], crowd bool [m], and `kept`,
    int64 [m]: which of the n boxes these are. See `boxes_in_view` for boxes on the view's edge.
    """
    h, w = image.shape[:2]
    low, high = settings.scale
    # In logarithms: half and double are equally likely.
    zoom = math.exp(rng.uniform(math.log(low), math.log(high)))
    scale = zoom * min(size[0] / h, size[1] / w)
    view = random_view((h, w), size, (scale, scale), rng, settings.flip)
    pixels = view.pixels(image)
    jitter_colour(pixels, settings.color, rng)
    return pixels, *boxes_in_view(view.boxes(boxes), crowd, size)


def augment_for_classification(
    image: np.ndarray, size: tuple[int, int], settings: Settings, rng: np.random.Generator
) -> np.ndarray:
    """Return a random crop of `image` uint8 [h, w, 3], resized to `size` (height, width).

    The crop takes a part `settings.crop` of the image's area at an aspect ratio near that of
    `size`, as in Inception training (Szegedy et al. 2015), or the largest such crop that fits.
    """
    height, width = size
    h, w = image.shape[:2]
    area = rng.uniform(*settings.crop) * h * w
    # Aspect ratios relative to the input's; those at which such a crop does not fit are left out.
    low = max(CROP_ASPECT[0], min(1.0, area / (h * h) * height / width))
    high = min(CROP_ASPECT[1], max(1.0, w * w / area * height / width))
    aspect = math.exp(rng.uniform(math.log(low), math.log(high))) * width / height
    crop_w = min(math.sqrt(area * aspect), w, h * aspect)
    scale = (width / crop_w, height * aspect / crop_w)
    view = random_view((h, w), size, scale, rng, settings.flip)
    pixels = view.pixels(image)
    jitter_colour(pixels, settings.color, rng)
    return pixels


@dataclass(frozen=True)
class Shrink:
    """How many times smaller an image may be decoded for `augment_for_classification`.

    As far as every crop that can be drawn still has the pixels of the input, `size` (height,
    width); `crop` as in Settings.
    """

    size: tuple[int, int]
    crop: tuple[float, float]

    def __call__(self, h: int, w: int) -> float:
        """Return the factor for an image of h x w pixels; below 1 where it is small already."""
        height, width = self.size
        area = self.crop[0] * h * w / (height * width)
        # Of the narrowest crop and of the lowest; neither is larger than what fits.
        return min(h / height, w / width, math.sqrt(area * CROP_ASPECT[0]))


def letterbox(image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, float, np.ndarray]:
    """Return the whole of `image` uint8 [h, w, 3] in the middle of `size` (height, width).

    Its aspect ratio is kept; the rest is FILL. Returns the view uint8 [height, width, 3], `scale`
    and `offset` float32 [2] (x, y): a box of the view is (box - offset) / scale in the image.
    """
    return _centred(image, size, min)


def centre_crop(image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, float, np.ndarray]:
    """Return the middle of `image` uint8 [h, w, 3], its tighter side resized to fill `size`.

    Returns view, scale and offset like `letterbox`.
    """
    return _centred(image, size, max)


def _centred(
    image: np.ndarray, size: tuple[int, int], fit: Callable[[float, float], float]
) -> tuple[np.ndarray, float, np.ndarray]:
    height, width = size
    h, w = image.shape[:2]
    # As float32 already here, so that the view is the one that the returned numbers describe.
    scale = float(np.float32(fit(height / h, width / w)))
    offset = (round((width - w * scale) / 2), round((height - h * scale) / 2))  # whole pixels
    return warp(image, scale, offset, size), scale, np.array(offset, np.float32)


def warp(
    image: np.ndarray, scale: float, offset: tuple[float, float], size: tuple[int, int]
) -> np.ndarray:
    """Return the view of `image` uint8 [h, w, 3] where (x, y) -> (x, y) * scale + offset, exactly.

    Returns uint8 [height, width, 3], FILL where the image does not reach. Bilinear, after averaging
    whole blocks of pixels where the image shrinks to less than half.
    """
    height, width = size
    h, w = image.shape[:2]
    view = np.full((height, width, 3), FILL, np.uint8)
    x0, x1 = _covered(offset[0], scale * w, width)
    y0, y1 = _covered(offset[1], scale * h, height)
    if x0 >= x1 or y0 >= y1:
        return view
    if scale == 1 and float(offset[0]).is_integer() and float(offset[1]).is_integer():
        dx, dy = int(offset[0]), int(offset[1])
        view[y0:y1, x0:x1] = image[y0 - dy : y1 - dy, x0 - dx : x1 - dx]
        return view
    bx, by = (min(n, max(1, math.floor(1 / scale))) for n in (w, h))
    if bx > 1 or by > 1:
        if h % by or w % bx:  # fill up the last blocks
            image = cv2.copyMakeBorder(image, 0, -h % by, 0, -w % bx, cv2.BORDER_REPLICATE)
        image = _average(image, (bx, by))
    sx, sy = scale * bx, scale * by
    # OpenCV counts pixel centres in whole numbers, hence the halves.
    tx, ty = offset[0] - x0 + 0.5 * sx - 0.5, offset[1] - y0 + 0.5 * sy - 0.5
    view[y0:y1, x0:x1] = cv2.warpAffine(
        image,
        np.array([[sx, 0, tx], [0, sy, ty]]),
        (x1 - x0, y1 - y0),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return view


def _covered(offset: float, length: float, limit: int) -> tuple[int, int]:
    """Return the range of pixels, of `limit`, whose centre lies in [offset, offset + length)."""
    return max(0, math.ceil(offset - 0.5)), min(limit, math.ceil(offset + length - 0.5))


def _average(image: np.ndarray, blocks: tuple[int, int]) -> np.ndarray:
    """Return the means of `image` over blocks of (x, y) pixels, which divide its sides."""
    size = (image.shape[1] // blocks[0], image.shape[0] // blocks[1])
    # At exactly a half, between two pixels, interpolation is their mean; OpenCV takes four times as
    # long for INTER_AREA where the blocks are not square.
    halves = max(blocks) == 2
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR if halves else cv2.INTER_AREA)


def boxes_in_view(
    boxes: np.ndarray, crowd: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clip boxes float32 [n, 4] to a view of `size` (height, width).

    A box that is less than LEAST_IN_VIEW in view, or less than LEAST_SIDE pixels wide or high
    there, becomes a crowd region; one of which nothing is in view is left out.
    Returns boxes float32 [m, 4], crowd bool [m], and which boxes they are, int64 [m].
    """
    height, width = size
    clipped = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    whole = boxes[:, 2:] - boxes[:, :2]
    sides = clipped[:, 2:] - clipped[:, :2]
    (kept,) = np.nonzero((sides > 0).all(1))
    clipped, whole, sides = clipped[kept], whole[kept], sides[kept]
    partly = sides.prod(1) < LEAST_IN_VIEW * whole.prod(1)
    thin = (sides < LEAST_SIDE).any(1)
    return clipped, crowd[kept] | partly | thin, kept


def jitter_colour(image: np.ndarray, strength: float, rng: np.random.Generator) -> None:
    """Shift brightness, contrast, saturation and hue of `image` uint8 [h, w, 3], in place.

    All four are linear, so one 3 x 4 matrix does them: hue is a turn about the grey axis,
    saturation a mix with the luminance (ITU-R BT.601), contrast a stretch about mid grey.
    """
    draws = rng.uniform(-strength, strength, 4)  # drawn always: settings do not shift each other
    if strength == 0:
        return
    brightness, contrast, saturation = 1 + draws[:3] * _LARGEST_CHANGE
    turn = math.radians(HUE * draws[3])
    # Rodrigues' formula for a turn about (1, 1, 1) / sqrt(3).
    hue = _GREY + math.cos(turn) * _OFF_GREY + math.sin(turn) * _ACROSS
    mix = saturation * _SAME + (1 - saturation) * _LUMINANCE
    matrix = np.empty((3, 4), np.float32)
    np.matmul(brightness * contrast * mix, hue, out=matrix[:, :3], casting="same_kind")
    matrix[:, 3] = brightness * (1 - contrast) * 128
    cv2.transform(image, matrix, image)
