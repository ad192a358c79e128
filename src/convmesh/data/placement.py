"""The position of an image in the network's input, to map results back to the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Placement:
    """An image's position and scale in the network's input: input = original x scale + offset.

    scale: float or float32. offset: float32 [2] (x, y), pixels of the input.
    original_size: (height, width) of the original image.
    """

    scale: float
    offset: np.ndarray
    original_size: Sequence[int] | np.ndarray
