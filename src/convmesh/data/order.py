"""The data order: a function of seed and position, without state."""

from __future__ import annotations

import functools

import numpy as np

_ORDER = 1  # separates this random stream from others that use the same seed


def example_at(position: int, size: int, seed: int) -> tuple[int, int]:
    """Return (epoch, index) of the example at global `position` of a run over `size` examples.

    Each epoch has its own permutation; positions continue across the end of an epoch, so no example
    is dropped or repeated if the batch size does not divide `size`.
    """
    epoch, offset = divmod(position, size)
    return epoch, int(_epoch_permutation(size, seed, epoch)[offset])


@functools.lru_cache(maxsize=4)  # a batch touches two epochs at most, prefetching a few batches
def _epoch_permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    return permutation(size, (seed, _ORDER, epoch))


def permutation(size: int, key: tuple[int, ...]) -> np.ndarray:
    """Return a permutation of 0..size-1, int64 [size]: a function of `size` and `key` alone.

    Sorts raw random words: numpy guarantees the stream of a bit generator across versions, but not
    the result of `Generator.permutation`.
    """
    words = np.random.Philox(np.random.SeedSequence(key)).random_raw(size)
    return np.argsort(words, kind="stable")
