"""Evaluation examples, in the order of the source."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from convmesh.data.augmentation.eval_view import EvalView
from convmesh.data.augmentation.mixing import Instances
from convmesh.data.loading.example_format import Example, ExampleFormat
from convmesh.data.record import Source


@dataclass(frozen=True)
class EvalExamples:
    """Maps an index in the source to an example; indices past the end give padding."""

    source: Source
    format: ExampleFormat
    view: EvalView

    def __call__(self, index: int) -> Example:
        """Return example `index`. Raises what `ExampleFormat.read` does."""
        index, fmt = int(index), self.format
        if index >= len(self.source):
            return fmt.absent(-1) | _NO_RECORD
        record = fmt.read(self.source, index)
        if record is None:
            return fmt.absent(index) | _NO_RECORD
        image, scale, offset = self.view(record.image)
        if fmt.task == "classify":
            example = fmt.classification(image, index, record.label)
        else:
            boxes = record.boxes * np.float32(scale) + np.tile(offset, 2)
            instances = Instances(boxes, record.labels, record.crowd)
            example = fmt.detection(image, index, instances, record.bad_boxes)
        # A new array: an empty slice of the image would keep its memory alive.
        without_pixels = replace(record, image=np.zeros((0, 0, 3), np.uint8))
        placement = _placement(scale, offset, record.image.shape[:2])
        return example | placement | {"record": without_pixels}


def _placement(scale: float, offset: ArrayLike, size: ArrayLike) -> Example:
    return {
        "scale": np.array(scale, np.float32),
        "offset": np.array(offset, np.float32),
        "original_size": np.array(size, np.int32),
    }


_NO_RECORD: Example = _placement(1.0, (0, 0), (0, 0)) | {"record": None}
