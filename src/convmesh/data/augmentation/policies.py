"""RandAugment and TrivialAugment: random operations from a list, on uint8 images.

Sources: arXiv 1909.13719, 2103.10158. Operations, ranges and rounding are torchvision's for images
of Pillow, with bilinear interpolation; outside the image is FILL.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from convmesh.data.augmentation.views import FILL

MAGNITUDES = 31  # steps of a magnitude, 0 to 30


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    """`image` with pixel (x, y) from (a x + b y + c, d x + e y + f) of the old one."""
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        matrix,
        Image.Resampling.BILINEAR,
        fillcolor=(FILL, FILL, FILL),
    )


def _by_angle(shear: float) -> float:
    """`shear` as torchvision has it: an angle in degrees, and its tangent again.

    The last bit decides whether a pixel on the border of the image is inside it.
    """
    return math.tan(math.radians(math.degrees(math.atan(shear))))


def _rotate(image: Image.Image, degrees: float) -> Image.Image:
    return image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=(FILL, FILL, FILL))


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Callable:
    return lambda image, change: kind(image).enhance(1 + change)


# Each operation by its name in torchvision: function of (image, magnitude).
OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "Identity": lambda image, _: image,
    "ShearX": lambda image, m: _affine(image, 1, _by_angle(m), 0, 0, 1, 0),
    "ShearY": lambda image, m: _affine(image, 1, 0, 0, _by_angle(m), 1, 0),
    "TranslateX": lambda image, m: _affine(image, 1, 0, -int(m), 0, 1, 0),
    "TranslateY": lambda image, m: _affine(image, 1, 0, 0, 0, 1, -int(m)),
    "Rotate": _rotate,
    "Brightness": _enhance(ImageEnhance.Brightness),
    "Color": _enhance(ImageEnhance.Color),
    "Contrast": _enhance(ImageEnhance.Contrast),
    "Sharpness": _enhance(ImageEnhance.Sharpness),
    "Posterize": lambda image, m: ImageOps.posterize(image, int(m)),
    "Solarize": lambda image, m: ImageOps.solarize(image, m),  # type: ignore[arg-type]
    "AutoContrast": lambda image, _: ImageOps.autocontrast(image),
    "Equalize": lambda image, _: ImageOps.equalize(image),
}
_UNSIGNED = ("Identity", "Posterize", "Solarize", "AutoContrast", "Equalize")


@dataclass(frozen=True)
class Ranges:
    """The magnitude of each operation at step 30; they rise from 0 in proportion, in float32.

    translate: a fraction of the image's side, or pixels if `translate_pixels`. bits: that posterize
    takes away. Solarize falls from 255 to 0.
    """

    shear: float
    translate: float
    rotate: float  # degrees
    colour: float
    bits: int
    translate_pixels: bool = False

    def magnitude(self, operation: str, step: int, size: tuple[int, int]) -> float:
        """The magnitude of an operation, 0..30, for an image of `size` (height, width)."""
        if operation.startswith("Shear"):
            return _between(0, self.shear, step)
        if operation.startswith("Translate"):
            side = size[1] if operation.endswith("X") else size[0]
            return _between(0, self.translate * (1 if self.translate_pixels else side), step)
        if operation == "Rotate":
            return _between(0, self.rotate, step)
        if operation == "Posterize":
            return 8 - round(self.bits * step / (MAGNITUDES - 1))
        if operation == "Solarize":
            return _between(255, 0, step)
        return 0.0 if operation in _UNSIGNED else _between(0, self.colour, step)


def _between(first: float, last: float, step: int) -> float:
    """The float32 that `torch.linspace(first, last, MAGNITUDES)` has at `step`."""
    one = np.float32
    width = float((one(last) - one(first)) / one(MAGNITUDES - 1))
    if step < MAGNITUDES // 2:
        return float(one(float(one(first)) + width * step))
    return float(one(float(one(last)) - width * (MAGNITUDES - 1 - step)))


RANDAUGMENT = Ranges(shear=0.3, translate=150 / 331, rotate=30, colour=0.9, bits=4)
TRIVIALAUGMENT = Ranges(
    shear=0.99, translate=32, rotate=135, colour=0.99, bits=6, translate_pixels=True
)


@dataclass(frozen=True)
class Policy:
    """Random operations, one after another.

    count: of operations. step: their magnitude, 0..30; None: each at random.
    """

    ranges: Ranges
    count: int
    step: int | None

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return `image` uint8 [h, w, 3], changed."""
        size = image.shape[0], image.shape[1]
        changed = Image.fromarray(image)
        for _ in range(self.count):
            # All are always drawn, so that one operation does not change the draws of the next.
            which, steps, sign = rng.integers((len(OPERATIONS), MAGNITUDES, 2))
            name = list(OPERATIONS)[which]
            step = int(steps) if self.step is None else self.step
            magnitude = self.ranges.magnitude(name, step, size)
            if sign and name not in _UNSIGNED:
                magnitude = -magnitude
            changed = OPERATIONS[name](changed, magnitude)
        return np.asarray(changed)


def make_policy(name: str, operations: int, magnitude: int) -> Policy | None:
    """The policy `name` of `data.augment.policy`; None for ''."""
    if name == "randaugment":
        return Policy(RANDAUGMENT, operations, magnitude)
    return Policy(TRIVIALAUGMENT, 1, None) if name else None


def erase(
    image: np.ndarray, chance: float, fill: tuple[int, int, int], rng: np.random.Generator
) -> np.ndarray:
    """Return `image` uint8 [h, w, 3] with, by `chance`, a random rectangle of the colour `fill`.

    Random erasing (arXiv 1708.04896) with torchvision's ranges: 2 to 33% of the area, aspect ratio
    0.3 to 3.3, at most ten attempts at a rectangle that fits.
    """
    if rng.uniform() >= chance:
        return image
    h, w = image.shape[:2]
    for _ in range(10):
        area = rng.uniform(0.02, 0.33) * h * w
        aspect = math.exp(rng.uniform(math.log(0.3), math.log(3.3)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < height < h and 0 < width < w:
            top, left = rng.integers((h - height + 1, w - width + 1))
            result = image.copy()
            result[top : top + height, left : left + width] = fill
            return result
    return image
