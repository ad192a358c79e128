"""A batch of examples, and the part of each global batch that one process holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Batch:
    """Arrays [batch, ...] of numpy or JAX; None for those that the task does not use.

    Also a JAX pytree (`convmesh.mesh` registers it), so jitted functions take it as an argument.

    Attributes:
      image: uint8 [batch, height, width, 3] RGB.
      index: int [batch], index of the example in its split; -1 where it only pads the batch.
      present: bool [batch], False for an example that only pads or, in evaluation, could not be
        read (weight 0).
      label: int32 [batch], class ids (classification).
      boxes: float32 [batch, max_boxes, 4], x0 y0 x1 y1 in pixels of the input (detection).
      labels: int32 [batch, max_boxes], class ids of the boxes.
      valid: bool [batch, max_boxes], False where a box is only padding.
      crowd: bool [batch, max_boxes], True for a region to ignore (it is also valid).
      truncated: int32 [batch], boxes beyond max_boxes that were left out.
    """

    image: Any
    index: Any = None
    present: Any = None
    label: Any = None
    boxes: Any = None
    labels: Any = None
    valid: Any = None
    crowd: Any = None
    truncated: Any = None

    def arrays(self) -> Iterator[tuple[str, Any]]:
        """Name and array of each field that is not None."""
        for field in dataclasses.fields(Batch):
            array = getattr(self, field.name)
            if array is not None:
                yield field.name, array

    def map(self, function: Callable[[str, Any], Any]) -> Batch:
        """A batch of `function(name, array)` for each array that is not None."""
        return Batch(**{name: function(name, array) for name, array in self.arrays()})


@dataclasses.dataclass(frozen=True)
class ProcessShard:
    """The part of each global batch that is on the devices of one process."""

    batch_size: int  # of the global batch
    height: int  # rows of the full image
    micro_batches: int  # number of equal parts that the batch is processed in, in sequence
    examples: np.ndarray  # int [n]: indices into the global batch, ascending
    owned: np.ndarray  # bool [n]: False if an earlier process holds the same example
    rows: slice  # of the image

    @classmethod
    def whole_batch(cls, batch_size: int, height: int) -> ProcessShard:
        """All examples and rows, in one micro-batch."""
        every = np.arange(batch_size)
        return cls(batch_size, height, 1, every, every >= 0, slice(0, height))

    def resized(self, height: int) -> ProcessShard:
        """The same examples with images of another height; the process must hold all rows."""
        return dataclasses.replace(self, height=height, rows=slice(0, height))

    @property
    def has_all_rows(self) -> bool:
        """Whether this process holds all rows of its images."""
        return self.rows == slice(0, self.height)

    def take(self, batch: Batch) -> Batch:
        """This process's part of a complete global batch."""
        part = batch.map(lambda _, array: array[self.examples])
        return dataclasses.replace(part, image=part.image[:, self.rows])
