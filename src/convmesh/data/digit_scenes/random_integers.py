"""Reproducible random integers."""

from __future__ import annotations

import math

import numpy as np


class RandomIntegers:
    """Random integers that do not change with the version of numpy.

    numpy guarantees a stable stream only for the raw words of a bit generator, not for the methods
    of `Generator`, so this class maps raw words to ranges itself.
    """

    def __init__(self, seed: int, stream: int, index: int):
        """Key a Philox generator by `seed` (64 bits), `stream` and `index` (32 bits each)."""
        key = np.array([seed, (stream << 32) | index], np.uint64)
        self._bits = np.random.Philox(key=key)

    def one(self, low: int, high: int) -> int:
        """Draw an integer with `low` <= value < `high`."""
        return low + (((int(self._bits.random_raw()) >> 32) * (high - low)) >> 32)

    def many(self, low: int, high: int, shape: tuple[int, ...]) -> np.ndarray:
        """Draw an int64 array of `shape` with `low` <= values < `high`."""
        words = self._bits.random_raw(math.prod(shape)) >> np.uint64(32)
        scaled = (words * np.uint64(high - low)) >> np.uint64(32)
        return scaled.astype(np.int64).reshape(shape) + low
