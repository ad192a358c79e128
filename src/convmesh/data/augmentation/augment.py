"""Augmentation of one image: pure functions of (image, settings, random generator).

`views` holds the geometric transforms; `mixing` combines several images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import cv2
import numpy as np
from ml_collections import ConfigDict

from convmesh.data.augmentation.colour import change_colour, draw_colour, jitter_colour
from convmesh.data.augmentation.policies import Policy, erase, make_policy
from convmesh.data.augmentation.views import (
    FILL,
    Placement,
    RotatedView,
    View,
    blank,
    block_average,
    placed_view,
    random_view,
    rotated_size,
)

# A box with a smaller visible fraction, or a visible part narrower than this many pixels, becomes a
# region to ignore.
MIN_VISIBLE = 0.3
MIN_SIDE = 2.0
# The aspect ratio of a random crop, relative to the network's input (as in Inception training).
CROP_ASPECT = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class AugmentSettings:
    """The augmentation settings, `data.augment` of the config.

    flip: probability of a horizontal flip. scale: (low, high) zoom relative to the letterboxed
    size. crop: (low, high) fraction of the image's area. color: strength of the colour jitter,
    0..1. vertical_flip: probability of a vertical flip. quarter_turn: probability of a rotation by
    90, 180 or 270 degrees. rotate, shear: largest angle in degrees, to either side. stretch:
    largest change of the aspect ratio in detection; 0.2 means width / height from x 1 / 1.2 to
    x 1.2. mosaic, mixup: probability in detection that other images are mixed in, see `mixing`.
    policy: random operations after all these, see `policies`; None: none. erase: probability that a
    rectangle is replaced by the colour `fill`.
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
    policy: Policy | None = None
    erase: float = 0.0
    fill: tuple[int, int, int] = (FILL, FILL, FILL)

    @classmethod
    def from_config(cls, config: ConfigDict) -> AugmentSettings:
        """Return the settings in `config.data.augment`."""
        augment = config.data.augment
        values = {field.name: augment[field.name] for field in fields(cls) if field.name != "fill"}
        made = {
            "scale": tuple(augment.scale),
            "crop": tuple(augment.crop),
            "policy": make_policy(augment.policy, augment.operations, augment.magnitude),
            "fill": tuple(round(255 * mean) for mean in config.data.pixel_mean),
        }
        return cls(**values | made)

    @property
    def deforms(self) -> bool:
        """Whether images may be rotated, sheared, stretched or flipped vertically."""
        chances = self.vertical_flip, self.quarter_turn
        return any((*chances, self.rotate, self.shear, self.stretch))

    @property
    def mixes(self) -> bool:
        """Whether other images may be mixed into an example."""
        return self.mosaic > 0 or self.mixup > 0


@dataclass(frozen=True)
class Deformation:
    """The parts of a random transform besides zoom, position and horizontal flip.

    quarter_turns: clockwise. vertical_flip: after the rotation. shape: float64 [2, 2], a linear map
    about the centre of the view, before both; None: none. stretch: factor of the width, and
    1 / stretch of the height.
    """

    quarter_turns: int = 0
    vertical_flip: bool = False
    shape: np.ndarray | None = None
    stretch: float = 1.0

    def apply(self, view: View, size: tuple[int, int]) -> Placement:
        """Return `view`, whose size is `rotated_size` of `size`, deformed and rotated to `size`."""
        deformed = view if self.shape is None else view.deformed(self.shape)
        if not (self.quarter_turns or self.vertical_flip):
            return deformed
        return RotatedView(deformed, self.quarter_turns, self.vertical_flip, size)


def draw_deformation(settings: AugmentSettings, rng: np.random.Generator) -> Deformation:
    """Return a random deformation, drawn without advancing `rng`."""
    if not settings.deforms:
        return Deformation()
    # All values are always drawn, so that one setting does not change the values of another.
    draws = rng.spawn(1)[0].uniform(size=7)
    shape = None
    if settings.rotate or settings.shear:
        turn, across, down = np.radians(
            (2 * draws[3:6] - 1) * [settings.rotate, *[settings.shear] * 2]
        )
        shape = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        # A product of shears keeps the area, for any angles.
        shape = shape @ [[1, math.tan(across)], [0, 1]] @ [[1, 0], [math.tan(down), 1]]
    return Deformation(
        quarter_turns=1 + int(3 * draws[1]) if draws[0] < settings.quarter_turn else 0,
        vertical_flip=bool(draws[2] < settings.vertical_flip),
        shape=shape,
        # The square root for each side keeps the area.
        stretch=(1 + settings.stretch) ** ((2 * draws[6] - 1) / 2),
    )


def augment_for_detection(
    image: np.ndarray,
    boxes: np.ndarray,
    crowd: np.ndarray,
    size: tuple[int, int],
    settings: AugmentSettings,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a randomly transformed image, and its boxes in pixels of the result.

    The image is zoomed relative to its letterboxed size, put at a random position (or cropped),
    flipped and colour-jittered.

    image: uint8 [h, w, 3]; boxes: float32 [n, 4]; crowd: bool [n]; size: (height, width).
    Returns the input uint8 [height, width, 3], boxes float32 [m, 4], crowd bool [m], and `kept`,
    int64 [m], the indices of these boxes among the n. See `clip_boxes` for boxes on the edge.
    """
    h, w = image.shape[:2]
    view = view_for_detection((h, w), size, settings, rng)
    pixels = view.pixels(image)
    jitter_colour(pixels, settings.color, rng)
    return pixels, *clip_boxes(view.boxes(boxes), crowd, size)


def view_for_detection(
    image_size: tuple[int, int],
    size: tuple[int, int],
    settings: AugmentSettings,
    rng: np.random.Generator,
    fitted: tuple[int, int] | None = None,
) -> Placement:
    """Return a random view of an image of `image_size` (height, width) for an input of `size`.

    The zoom is relative to the image letterboxed to `fitted`, or to `size` if that is None.
    """
    deformation = draw_deformation(settings, rng)
    before = rotated_size(size, deformation.quarter_turns)
    height, width = rotated_size(fitted or size, deformation.quarter_turns)
    low, high = settings.scale
    # Uniform in the logarithm: half and double are equally likely.
    zoom = math.exp(rng.uniform(math.log(low), math.log(high)))
    scale = zoom * min(height / image_size[0], width / image_size[1])
    scales = (scale * deformation.stretch, scale / deformation.stretch)
    view = random_view(image_size, before, scales, rng, settings.flip)
    return deformation.apply(view, size)


@dataclass(frozen=True)
class RandomCrop:
    """A random crop with its changes of colour, drawn before the image is read.

    It covers a fraction `area` of the image at an aspect ratio near that of the input, as in
    Inception training (Szegedy et al. 2015), or is the largest such crop that fits. aspect: 0..1,
    from the lowest aspect ratio that is possible to the highest. where: (y, x), as of
    `placed_view`. flip: horizontal. colour: as of `draw_colour`.
    """

    deformation: Deformation
    area: float
    aspect: float
    where: tuple[float, float]
    flip: bool
    colour: np.ndarray | None

    @classmethod
    def draw(cls, settings: AugmentSettings, rng: np.random.Generator) -> RandomCrop:
        """Return a crop with an area within `settings.crop`."""
        deformation = draw_deformation(settings, rng)
        area, aspect, y, x, flip = rng.random(5).tolist()
        low, high = settings.crop
        colour = draw_colour(settings.color, rng)
        area = low + (high - low) * area
        return cls(deformation, area, aspect, (y, x), flip < settings.flip, colour)

    def sides(self, size: tuple[int, int], h: int, w: int) -> tuple[float, float]:
        """Return height and width of the crop in an image of h x w pixels, for an input of `size`
        (height, width).
        """
        height, width = rotated_size(size, self.deformation.quarter_turns)
        area = self.area * h * w
        # Aspect ratios relative to the input's, limited to those at which such a crop fits.
        low = max(CROP_ASPECT[0], min(1.0, area / (h * h) * height / width))
        high = min(CROP_ASPECT[1], max(1.0, w * w / area * height / width))
        exponent = math.log(low) + (math.log(high) - math.log(low)) * self.aspect
        aspect = math.exp(exponent) * width / height
        crop_w = min(math.sqrt(area * aspect), w, h * aspect)
        return crop_w / aspect, crop_w

    def shrink(self, size: tuple[int, int], h: int, w: int) -> float:
        """Return the factor by which an image of h x w pixels may be decoded smaller: the crop
        keeps at least as many pixels as the input of `size` (height, width).
        """
        height, width = rotated_size(size, self.deformation.quarter_turns)
        crop_h, crop_w = self.sides(size, h, w)
        return min(crop_h / height, crop_w / width)


def augment_for_classification(
    image: np.ndarray,
    size: tuple[int, int],
    settings: AugmentSettings,
    rng: np.random.Generator,
    crop: RandomCrop | None = None,
    canvas: np.ndarray | None = None,
) -> np.ndarray:
    """Return a random crop of `image` uint8 [h, w, 3], resized to `size` (height, width).

    crop: drawn from `rng` before; None: it is drawn here. The policy and random erasing follow.
    canvas: a `blank` in which the result may be written and returned.
    """
    crop = RandomCrop.draw(settings, rng) if crop is None else crop
    height, width = before = rotated_size(size, crop.deformation.quarter_turns)
    h, w = image.shape[:2]
    crop_h, crop_w = crop.sides(size, h, w)
    scale = width / crop_w, height / crop_h
    view = placed_view((h, w), before, scale, crop.where, crop.flip)
    pixels = blank(size) if canvas is None else canvas
    crop.deformation.apply(view, size).write(image, pixels)
    change_colour(pixels, crop.colour)
    if settings.policy is not None:
        pixels = settings.policy(pixels, rng)
    return erase(pixels, settings.erase, settings.fill, rng) if settings.erase else pixels


@dataclass(frozen=True)
class Shrink:
    """By what factor an image may be decoded smaller for `augment_for_classification`.

    Every possible crop keeps at least as many pixels as the input, `size` (height, width); `crop`
    as in AugmentSettings. turned: whether it may be rotated by 90 degrees.
    """

    size: tuple[int, int]
    crop: tuple[float, float]
    turned: bool = False

    def __call__(self, h: int, w: int) -> float:
        """Return the factor for an image of h x w pixels; below 1 if it is smaller than needed."""
        upright = self._for_input(*self.size, h, w)
        return min(upright, self._for_input(*self.size[::-1], h, w)) if self.turned else upright

    def _for_input(self, height: int, width: int, h: int, w: int) -> float:
        area = self.crop[0] * h * w / (height * width)
        # For the narrowest and the lowest crop; neither is larger than the largest that fits.
        return min(h / height, w / width, math.sqrt(area * CROP_ASPECT[0]))


def letterbox(image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, float, np.ndarray]:
    """Resize `image` uint8 [h, w, 3] to fit into `size` (height, width), centred, padded with FILL.

    The aspect ratio is kept. Returns the input uint8 [height, width, 3], `scale` and `offset`
    float32 [2] (x, y): a box of the input is (box - offset) / scale in the image.
    """
    return _centred(image, size, min)


def centre_crop(image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, float, np.ndarray]:
    """Resize `image` uint8 [h, w, 3] to cover `size` (height, width) and crop its centre.

    Returns the input, scale and offset like `letterbox`.
    """
    return _centred(image, size, max)


def _centred(
    image: np.ndarray, size: tuple[int, int], fit: Callable[[float, float], float]
) -> tuple[np.ndarray, float, np.ndarray]:
    height, width = size
    h, w = image.shape[:2]
    # Rounded to float32 first, so that the returned numbers describe the input exactly.
    scale = float(np.float32(fit(height / h, width / w)))
    offset = (round((width - w * scale) / 2), round((height - h * scale) / 2))  # whole pixels
    return scale_and_shift(image, scale, offset, size), scale, np.array(offset, np.float32)


def scale_and_shift(
    image: np.ndarray, scale: float, offset: tuple[float, float], size: tuple[int, int]
) -> np.ndarray:
    """Map `image` uint8 [h, w, 3] by (x, y) -> (x, y) * scale + offset, exactly.

    Returns uint8 [height, width, 3], FILL outside the image. Bilinear, after averaging whole blocks
    of pixels if the image shrinks to less than half.
    """
    height, width = size
    h, w = image.shape[:2]
    result = blank(size)
    x0, x1 = _covered(offset[0], scale * w, width)
    y0, y1 = _covered(offset[1], scale * h, height)
    if x0 >= x1 or y0 >= y1:
        return result
    if scale == 1 and float(offset[0]).is_integer() and float(offset[1]).is_integer():
        dx, dy = int(offset[0]), int(offset[1])
        result[y0:y1, x0:x1] = image[y0 - dy : y1 - dy, x0 - dx : x1 - dx]
        return result
    bx, by = (min(n, max(1, math.floor(1 / scale))) for n in (w, h))
    if bx > 1 or by > 1:
        if h % by or w % bx:  # complete the last blocks
            image = cv2.copyMakeBorder(image, 0, -h % by, 0, -w % bx, cv2.BORDER_REPLICATE)
        image = block_average(image, (bx, by))
    sx, sy = scale * bx, scale * by
    # OpenCV puts pixel centres at whole numbers, hence the halves.
    tx, ty = offset[0] - x0 + 0.5 * sx - 0.5, offset[1] - y0 + 0.5 * sy - 0.5
    result[y0:y1, x0:x1] = cv2.warpAffine(
        image,
        np.array([[sx, 0, tx], [0, sy, ty]]),
        (x1 - x0, y1 - y0),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return result


def _covered(offset: float, length: float, limit: int) -> tuple[int, int]:
    """Return the range of pixels among `limit` with their centre in [offset, offset + length)."""
    return max(0, math.ceil(offset - 0.5)), min(limit, math.ceil(offset + length - 0.5))


def clip_boxes(
    boxes: np.ndarray, crowd: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clip boxes float32 [n, 4] to an input of `size` (height, width).

    A box with less than MIN_VISIBLE of its area visible, or less than MIN_SIDE pixels wide or high
    after clipping, becomes a crowd region; a box outside the input is dropped.
    Returns boxes float32 [m, 4], crowd bool [m], and their indices among the n, int64 [m].
    """
    height, width = size
    clipped = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    full_sides = boxes[:, 2:] - boxes[:, :2]
    sides = clipped[:, 2:] - clipped[:, :2]
    (kept,) = np.nonzero((sides > 0).all(1))
    clipped, full_sides, sides = clipped[kept], full_sides[kept], sides[kept]
    partly = sides.prod(1) < MIN_VISIBLE * full_sides.prod(1)
    thin = (sides < MIN_SIDE).any(1)
    return clipped, crowd[kept] | partly | thin, kept
