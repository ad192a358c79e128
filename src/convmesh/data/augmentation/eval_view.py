"""What of an image a model sees in evaluation and prediction: nothing is random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from convmesh.data.augmentation.augment import centre_crop, letterbox
from convmesh.data.augmentation.views import blank

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def eval_size(config: ConfigDict) -> tuple[int, int]:
    """(height, width) of the network's input in evaluation and prediction."""
    height, width = config.data.eval_size
    return (height, width) if height else tuple(config.data.image_size)


@dataclass(frozen=True)
class EvalView:
    """Maps an image to the network's input.

    size: (height, width) of the input. Detectors get the full image, letterboxed; classifiers the
    largest centred crop of the input's aspect ratio or, if `resize` is not 0, the centre of the
    image whose shorter side was resized to so many pixels, with the `interpolation` of Pillow.
    """

    size: tuple[int, int]
    task: str
    resize: int = 0
    interpolation: str = "bilinear"

    @classmethod
    def of(cls, config: ConfigDict) -> EvalView:
        """Return the view that `config` describes."""
        data = config.data
        return cls(eval_size(config), config.task, data.eval_resize, data.eval_interpolation)

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
        """Return the input, uint8 [height, width, 3], for `image` uint8 [h, w, 3].

        And scale and offset, float32 [2] (x, y): a point of the image is at point * scale + offset.
        """
        if self.task == "detect":
            return letterbox(image, self.size)
        if self.resize:
            return _resized_centre(image, self.size, self.resize, _FILTERS[self.interpolation])
        return centre_crop(image, self.size)


def _resized_centre(
    image: np.ndarray, size: tuple[int, int], resize: int, resampling: Image.Resampling
) -> tuple[np.ndarray, float, np.ndarray]:
    """Resize and crop as `Resize` and `CenterCrop` of torchvision do with an image of Pillow.

    The rounding is theirs too. What the resized image does not cover is FILL.
    """
    h, w = image.shape[:2]
    short = min(h, w)
    height, width = int(resize * h / short), int(resize * w / short)
    resized = np.asarray(Image.fromarray(image).resize((width, height), resampling))
    top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
    result = blank(size)
    rows = slice(max(0, -top), min(size[0], height - top))
    columns = slice(max(0, -left), min(size[1], width - left))
    result[rows, columns] = resized[
        rows.start + top : rows.stop + top, columns.start + left : columns.stop + left
    ]
    return result, resize / short, np.array((-left, -top), np.float32)
