"""The input sizes of multi-scale training: a few, so that XLA compiles each once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ml_collections import ConfigDict

from convmesh.geometry import round_to_stride

_SIZE_STREAM = 4  # separates these random numbers from the others with the same seed
_SAMPLED_STEPS = 100  # at most, of which a mean is taken


def input_sizes(config: ConfigDict) -> tuple[tuple[int, int], ...]:
    """Return the (height, width) of all inputs in training, smallest first.

    `data.image_size` alone, or that times each of `data.sizes`, rounded to multiples of 32. Where
    these would grow but are all the same, it is `data.image_size` again.
    """
    height, width = config.data.image_size
    if not config.data.sizes:
        return ((height, width),)
    sides = ((factor * height, factor * width) for factor in config.data.sizes)
    found = tuple(sorted({(round_to_stride(h), round_to_stride(w)) for h, w in sides}))
    if len(found) == 1 and config.data.size_order == "growing":  # too small for several
        return ((height, width),)
    return found


@dataclass(frozen=True)
class StepSizes:
    """The input size (height, width) of each step: a function of seed and step alone.

    sizes: as of `input_sizes`. steps: length of a run in which they grow, each for an equal part of
    the steps (progressive training, as in arXiv 2104.00298); 0: all are the largest. None: each
    step has a random one.
    """

    sizes: tuple[tuple[int, int], ...]
    seed: int
    steps: int | None = None

    @classmethod
    def of(cls, config: ConfigDict, steps: int | None) -> StepSizes:
        """Return the sizes of a run of `steps` steps; None: its length is unknown."""
        grows = config.data.size_order == "growing"
        return cls(input_sizes(config), config.train.seed, (steps or 0) if grows else None)

    def __call__(self, step: int) -> tuple[int, int]:
        """Return the size of step `step`, counted from 1."""
        if len(self.sizes) == 1 or self.steps == 0:
            return self.sizes[-1]
        if self.steps is not None:
            return self.sizes[min((step - 1) * len(self.sizes) // self.steps, len(self.sizes) - 1)]
        word = np.random.Philox(np.random.SeedSequence((self.seed, _SIZE_STREAM, step)))
        return self.sizes[int(word.random_raw()) % len(self.sizes)]

    def pixels(self, first: int, last: int) -> float:
        """Return the mean number of pixels of an input over the steps `first` to `last`."""
        steps = np.unique(np.linspace(first, max(first, last), _SAMPLED_STEPS).astype(int))
        return float(np.mean([height * width for height, width in map(self, steps.tolist())]))
