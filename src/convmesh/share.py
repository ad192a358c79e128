"""What one process reads of each batch: said by the mesh, obeyed by the data."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Share:
    """The part of each global batch that stands on the devices of one process."""

    batch_size: int  # of the global batch
    height: int  # rows of the whole image
    micro_batches: int  # equal parts that the batch is trained in, one after another
    examples: np.ndarray  # int [n]: places in the global batch, ascending
    owned: np.ndarray  # bool [n]: no earlier process holds that example too
    rows: slice  # of the image

    @classmethod
    def of_all(cls, batch_size: int, height: int) -> "Share":
        """Everything, in one micro-batch."""
        every = np.arange(batch_size)
        return cls(batch_size, height, 1, every, every >= 0, slice(0, height))

    def resized(self, height: int) -> "Share":
        """The same examples of images of another height, which one process holds whole."""
        return dataclasses.replace(self, height=height, rows=slice(0, height))

    @property
    def whole(self) -> bool:
        """Whether this process holds all rows of its images."""
        return self.rows == slice(0, self.height)

    def take(self, batch: dict) -> dict:
        """This part of a batch that is there whole."""
        held = {name: leaf[self.examples] for name, leaf in batch.items()}
        return held | {"image": held["image"][:, self.rows]}
