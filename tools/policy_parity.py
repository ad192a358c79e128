"""Compares the operations of RandAugment and TrivialAugment with torchvision's, image by image.

    python tools/policy_parity.py

Every operation at every magnitude, with either sign, on random images and on gradients; the images
must be equal to the last bit. Needs torch and torchvision.
"""

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, autoaugment

from convmesh.data.augmentation.policies import (
    _UNSIGNED,
    MAGNITUDES,
    OPERATIONS,
    RANDAUGMENT,
    TRIVIALAUGMENT,
    Ranges,
)
from convmesh.data.augmentation.views import FILL

SIZES = ((48, 64), (97, 61))


def images(size: tuple[int, int]) -> list[Image.Image]:
    """A random image and a gradient of (height, width)."""
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    y, x = np.mgrid[: size[0], : size[1]]
    ramp = np.stack([x * 2, y * 2, (x + y) % 256], -1).clip(0, 255).astype(np.uint8)
    return [Image.fromarray(noise), Image.fromarray(ramp)]


def theirs(name: str, space: dict, step: int, sign: int, image: Image.Image) -> Image.Image:
    """What torchvision makes of an image."""
    magnitudes, signed = space[name]
    magnitude = float(magnitudes[step]) if magnitudes.ndim > 0 else 0.0
    magnitude = -magnitude if signed and sign else magnitude
    bilinear = InterpolationMode.BILINEAR
    return autoaugment._apply_op(image, name, magnitude, bilinear, [float(FILL)] * 3)


def ours(name: str, ranges: Ranges, step: int, sign: int, image: Image.Image) -> Image.Image:
    """What convmesh makes of it."""
    magnitude = ranges.magnitude(name, step, (image.height, image.width))
    magnitude = -magnitude if sign and name not in _UNSIGNED else magnitude
    return OPERATIONS[name](image, magnitude)


def main() -> None:
    """Prints a line for each operation of each policy."""
    spaces = {
        "randaugment": (RANDAUGMENT, autoaugment.RandAugment(num_magnitude_bins=MAGNITUDES)),
        "trivialaugment": (TRIVIALAUGMENT, autoaugment.TrivialAugmentWide(MAGNITUDES)),
    }
    print(f"torch {torch.__version__}")
    differ = 0
    for policy, (ranges, augmentation) in spaces.items():
        for name in OPERATIONS:
            worst, unequal, compared = 0, 0, 0
            for size in SIZES:
                arguments = (MAGNITUDES, size) if policy == "randaugment" else (MAGNITUDES,)
                space = augmentation._augmentation_space(*arguments)
                assert set(space) == set(OPERATIONS)
                for image in images(size):
                    for step in range(MAGNITUDES):
                        for sign in (0, 1):
                            one = np.asarray(ours(name, ranges, step, sign, image), int)
                            other = np.asarray(theirs(name, space, step, sign, image), int)
                            worst = max(worst, int(np.abs(one - other).max()))
                            unequal += not np.array_equal(one, other)
                            compared += 1
            print(f"{policy:15} {name:13} {unequal} of {compared} differ, by {worst} at most")
            differ += unequal
    if differ:
        raise SystemExit(f"{differ} images differ")


if __name__ == "__main__":
    main()
