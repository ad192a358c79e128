"""From a decoded example to the network's input: pure functions of (image, settings, generator).

Where pixels and boxes come to lie is said in `views`; several images in one are made in `mixing`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from convmesh.data.views import (
    Placement,
    TurnedView,
    View,
    average,
    blank,
    random_view,
    turned_size,
)

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
    vertical_flip: probability of a mirror top to bottom. quarter_turn: probability of a turn by 90,
    180 or 270 degrees. rotate, shear: at most this, in degrees, to either side. For detection:
    stretch: largest change of the aspect ratio, 0.2 for width / height x 1.2 to x 1 / 1.2; mosaic,
    mixup: probability that other images are mixed in, see `mixing`.
    """

    flip: float = 0.5
    scale: tuple[float, float] = (0.5, 1.5)
    crop: tuple[float, float] = (0.35, 1.0)
    color: float = 0.5
    vertical_flip: float = 0.0
    quarter_turn: float = 0.0
    rotate: float = 0.0
    shear: float = 0.0
    stretch: float = 0.0
    mosaic: float = 0.0
    mixup: float = 0.0

    @property
    def warps(self) -> bool:
        """Whether a view may be more than zoomed, placed and mirrored."""
        chances = self.vertical_flip, self.quarter_turn
        return any((*chances, self.rotate, self.shear, self.stretch))

    @property
    def mixes(self) -> bool:
        """Whether an example may hold other images, too."""
        return self.mosaic > 0 or self.mixup > 0


@dataclass(frozen=True)
class Warp:
    """What befalls a view besides zoom, place and mirror.

    quarters: of a turn, clockwise. upside_down: a mirror top to bottom, after that. shape: float64
    [2, 2] about the middle of the view, before both; None: as it is. stretch: of the width, and 1 /
    stretch of the height.
    """

    quarters: int = 0
    upside_down: bool = False
    shape: np.ndarray | None = None
    stretch: float = 1.0

    def of(self, view: View, size: tuple[int, int]) -> Placement:
        """Return `view`, of an input of `turned_size`, bent and turned into one of `size`."""
        bent = view if self.shape is None else view.slanted(self.shape)
        if not (self.quarters or self.upside_down):
            return bent
        return TurnedView(bent, self.quarters, self.upside_down, size)


def draw_warp(settings: Settings, rng: np.random.Generator) -> Warp:
    """Return a random warp, drawn without moving the stream of `rng`, which may draw others."""
    if not settings.warps:
        return Warp()
    # Drawn always, all: settings do not shift each other.
    draws = rng.spawn(1)[0].uniform(size=7)
    shape = None
    if settings.rotate or settings.shear:
        turn, across, down = np.radians(
            (2 * draws[3:6] - 1) * [settings.rotate, *[settings.shear] * 2]
        )
        shape = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        # One after the other they keep the area, whatever the angles.
        shape = shape @ [[1, math.tan(across)], [0, 1]] @ [[1, 0], [math.tan(down), 1]]
    return Warp(
        quarters=1 + int(3 * draws[1]) if draws[0] < settings.quarter_turn else 0,
        upside_down=bool(draws[2] < settings.vertical_flip),
        shape=shape,
        # Half of it on each side: the area stays.
        stretch=(1 + settings.stretch) ** ((2 * draws[6] - 1) / 2),
    )


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
    view = view_for_detection((h, w), size, settings, rng)
    pixels = view.pixels(image)
    jitter_colour(pixels, settings.color, rng)
    return pixels, *boxes_in_view(view.boxes(boxes), crowd, size)


def view_for_detection(
    image_size: tuple[int, int],
    size: tuple[int, int],
    settings: Settings,
    rng: np.random.Generator,
    fitted: tuple[int, int] | None = None,
) -> Placement:
    """Return a random view of an image of `image_size` (height, width) for an input of `size`.

    The zoom is relative to the image letterboxed to `fitted`; None: to `size`.
    """
    warp = draw_warp(settings, rng)
    before = turned_size(size, warp.quarters)
    height, width = turned_size(fitted or size, warp.quarters)
    low, high = settings.scale
    # In logarithms: half and double are equally likely.
    zoom = math.exp(rng.uniform(math.log(low), math.log(high)))
    scale = zoom * min(height / image_size[0], width / image_size[1])
    scales = (scale * warp.stretch, scale / warp.stretch)
    return warp.of(random_view(image_size, before, scales, rng, settings.flip), size)


def augment_for_classification(
    image: np.ndarray, size: tuple[int, int], settings: Settings, rng: np.random.Generator
) -> np.ndarray:
    """Return a random crop of `image` uint8 [h, w, 3], resized to `size` (height, width).

    The crop takes a part `settings.crop` of the image's area at an aspect ratio near that of
    `size`, as in Inception training (Szegedy et al. 2015), or the largest such crop that fits.
    """
    warp = draw_warp(settings, rng)
    before = height, width = turned_size(size, warp.quarters)
    h, w = image.shape[:2]
    area = rng.uniform(*settings.crop) * h * w
    # Aspect ratios relative to the input's; those at which such a crop does not fit are left out.
    low = max(CROP_ASPECT[0], min(1.0, area / (h * h) * height / width))
    high = min(CROP_ASPECT[1], max(1.0, w * w / area * height / width))
    aspect = math.exp(rng.uniform(math.log(low), math.log(high))) * width / height
    crop_w = min(math.sqrt(area * aspect), w, h * aspect)
    scale = (width / crop_w, height * aspect / crop_w)
    view = warp.of(random_view((h, w), before, scale, rng, settings.flip), size)
    pixels = view.pixels(image)
    jitter_colour(pixels, settings.color, rng)
    return pixels


@dataclass(frozen=True)
class Shrink:
    """How many times smaller an image may be decoded for `augment_for_classification`.

    As far as every crop that can be drawn still has the pixels of the input, `size` (height,
    width); `crop` as in Settings. turned: whether it may be turned by a quarter.
    """

    size: tuple[int, int]
    crop: tuple[float, float]
    turned: bool = False

    def __call__(self, h: int, w: int) -> float:
        """Return the factor for an image of h x w pixels; below 1 where it is small already."""
        upright = self._for_input(*self.size, h, w)
        return min(upright, self._for_input(*self.size[::-1], h, w)) if self.turned else upright

    def _for_input(self, height: int, width: int, h: int, w: int) -> float:
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
    view = blank(size)
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
        image = average(image, (bx, by))
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
