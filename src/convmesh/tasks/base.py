"""The interface of a task: its loss, predictions and metrics.

A task is a set of pure functions over global batches. Steps and the training loop use only this
interface:

- `sums(outputs, batch) -> dict`: scalars that are added over examples, devices and micro-batches,
  including `loss` and `total`, the divisor of the loss;
- `finish(sums) -> (loss, numbers)`: the loss from the complete sums, and scalars by name for the
  log; `loss(outputs, batch)` does both;
- `predict(outputs) -> dict`: arrays [batch, ...], on the devices;
- `to_host(output, placement) -> dict`: the predictions for one image, in its original coordinates;
- `kept(found, truth) -> dict`: of these, what an evaluation of many images keeps;
- `metrics(truth, found, classes)`, `results(...)`, `table(...)`: the output of an evaluation;
- `best_metric`: the name of the metric that selects the best checkpoint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class PixelScale:
    """Mean and standard deviation of red, green and blue on a scale of 0 to 1; ImageNet's."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def normalise(self, images: jax.Array, dtype: Any) -> jax.Array:
        """Images [batch, rows, columns, 3] RGB, 0 to 255, scaled to about zero mean, unit variance.

        The arithmetic is in `dtype`.
        """
        scale = 1 / (255 * jnp.array(self.std, dtype))
        shift = jnp.array(self.mean, dtype) / jnp.array(self.std, dtype)
        return images.astype(dtype) * scale - shift


class Task:
    """The base class of tasks; subclasses define `sums` and `finish`."""

    sums: Any
    finish: Any
    pixels = PixelScale()  # of the model's input

    def loss(self, outputs: Any, batch: Any, *args: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The loss of a global batch, and the scalars for the log."""
        return self.finish(self.sums(outputs, batch, *args))

    def kept(self, found: dict[str, Any], truth: Mapping[str, Any]) -> dict[str, Any]:
        """What an evaluation keeps of the predictions for an image with this truth: all."""
        return found

    @staticmethod
    def divisor(sums: dict[str, Any]) -> jax.Array:
        """The divisor of the summed loss, and so of its gradient: `total`, at least 1."""
        return jnp.maximum(sums["total"], 1)
