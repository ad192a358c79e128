"""The sizes of input that a run trains at: a few, so that each is compiled once."""

from __future__ import annotations

import numpy as np
from ml_collections import ConfigDict

MULTIPLE = 32  # the coarsest stride
_SIZE = 4  # keeps this stream apart from the others that a seed feeds


def input_sizes(config: ConfigDict) -> tuple[tuple[int, int], ...]:
    """Return the (height, width) that a run trains at, smallest first.

    `data.image_size` alone, or that times each of `data.sizes`, to the nearest multiples of 32.
    """
    height, width = config.data.image_size
    if not config.data.sizes:
        return ((height, width),)
    sides = ((factor * height, factor * width) for factor in config.data.sizes)
    return tuple(sorted({(_rounded(h), _rounded(w)) for h, w in sides}))


def size_of_step(sizes: tuple[tuple[int, int], ...], seed: int, step: int) -> tuple[int, int]:
    """Return the size of step `step`, counted from 1: a function of these three alone."""
    if len(sizes) == 1:
        return sizes[0]
    word = np.random.Philox(np.random.SeedSequence((seed, _SIZE, step))).random_raw()
    return sizes[int(word) % len(sizes)]


def _rounded(side: float) -> int:
    return max(MULTIPLE, round(side / MULTIPLE) * MULTIPLE)
