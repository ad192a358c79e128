"""The input sizes of multi-scale training: a few, so that XLA compiles each once."""

from __future__ import annotations

import numpy as np
from ml_collections import ConfigDict

from convmesh.geometry import round_to_stride

_SIZE_STREAM = 4  # separates these random numbers from the others with the same seed


def input_sizes(config: ConfigDict) -> tuple[tuple[int, int], ...]:
    """Return the (height, width) of all inputs in training, smallest first.

    `data.image_size` alone, or that times each of `data.sizes`, rounded to multiples of 32.
    """
    height, width = config.data.image_size
    if not config.data.sizes:
        return ((height, width),)
    sides = ((factor * height, factor * width) for factor in config.data.sizes)
    return tuple(sorted({(round_to_stride(h), round_to_stride(w)) for h, w in sides}))


def size_of_step(sizes: tuple[tuple[int, int], ...], seed: int, step: int) -> tuple[int, int]:
    """Return the input size of step `step`, counted from 1: a function of the arguments alone."""
    if len(sizes) == 1:
        return sizes[0]
    word = np.random.Philox(np.random.SeedSequence((seed, _SIZE_STREAM, step))).random_raw()
    return sizes[int(word) % len(sizes)]
