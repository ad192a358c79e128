"""The fixed shapes of an example, so that examples can be stacked into batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from convmesh.data.augmentation.mixing import Instances
from convmesh.data.loading.background import lower_thread_priority
from convmesh.data.record import BadExample, Record, Shrink, Source, check_label, refusal
from convmesh.distributed.batch import ProcessShard
from convmesh.errors import DataError

# The arrays of an example by name, and in evaluation its record.
Example = dict[str, Any]


@dataclass(frozen=True)
class ExampleFormat:
    """Reads records and pads examples to fixed shapes.

    size: (height, width) of the input. skip_bad: whether unreadable examples are skipped instead of
    raising. rows: of the image to keep; None: all.
    """

    task: str
    size: tuple[int, int]
    max_boxes: int
    skip_bad: bool
    rows: slice | None = None

    @classmethod
    def of(
        cls, source: Source, config: ConfigDict, shard: ProcessShard | None = None
    ) -> ExampleFormat:
        """Return the format of the examples of `source` in a run of `config`."""
        data = config.data
        return cls(
            task=source.task,
            size=tuple(data.image_size),
            max_boxes=data.max_boxes,
            skip_bad=data.on_bad_example == "skip",
            rows=None if shard is None or shard.has_all_rows else shard.rows,
        )

    def resized(self, size: tuple[int, int]) -> ExampleFormat:
        """Return this format for an input of `size`, with all rows kept."""
        return replace(self, size=size, rows=None)

    def read(self, source: Source, index: int, shrink: Shrink | None = None) -> Record | None:
        """Return the record, or None if it is unreadable and `skip_bad`.

        shrink: how much smaller its image may be decoded; None: as the source does. Raises
        DataError for data that training must not use, BadExample unless `skip_bad`.
        """
        lower_thread_priority()
        try:
            record = source[index] if shrink is None else source.read(index, shrink)
            _check_record(record, source)
            return record
        except BadExample as error:
            if self.skip_bad:
                return None
            raise refusal(error) from None

    def absent(self, index: int) -> Example:
        """Return an example of weight 0: an unreadable image, or padding with index -1."""
        image = np.zeros((*self.size, 3), np.uint8)
        if self.task == "detect":
            no_boxes = np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, bool)
            example = self.detection(image, index, Instances(*no_boxes), 0)
        else:
            example = self.classification(image, index, 0)
        return example | {"present": np.array(False)}

    def classification(self, image: np.ndarray, index: int, label: int) -> Example:
        """Return an example of `image` uint8 [height, width, 3] for classification."""
        return {
            "image": image if self.rows is None else image[self.rows],
            "index": np.array(index, np.int64),
            "present": np.array(True),
            "label": np.array(label, np.int32),
            "bad_boxes": np.array(0, np.int32),
        }

    def detection(
        self, image: np.ndarray, index: int, instances: Instances, bad_boxes: int
    ) -> Example:
        """Return an example of `image` uint8 [height, width, 3] for detection.

        The `max_boxes` largest boxes are kept, largest first, and padded.
        """
        boxes, labels, crowd = instances
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        order = np.argsort(-area, kind="stable")[: self.max_boxes]
        n = len(order)
        example = {
            "image": image if self.rows is None else image[self.rows],
            "index": np.array(index, np.int64),
            "present": np.array(True),
            "boxes": np.zeros((self.max_boxes, 4), np.float32),
            "labels": np.zeros(self.max_boxes, np.int32),
            "valid": np.arange(self.max_boxes) < n,
            "crowd": np.zeros(self.max_boxes, bool),
            "truncated": np.array(len(boxes) - n, np.int32),
            "bad_boxes": np.array(bad_boxes, np.int32),
        }
        example["boxes"][:n] = boxes[order]
        example["labels"][:n] = labels[order]
        example["crowd"][:n] = crowd[order]
        return example


def stack_examples(examples: Sequence[Example], images: np.ndarray | None = None) -> Example:
    """Stack each array of `examples` along a new first axis; records become a list.

    images: uint8 [n, height, width, 3], their images, already stacked.
    """
    columns = {key: [example[key] for example in examples] for key in examples[0]}
    stacked: Example = {} if images is None else {"image": images}
    for key, column in columns.items():
        if key not in stacked:
            stacked[key] = column if key == "record" else np.stack(column)
    return stacked


def _check_record(record: Record, source: Source) -> None:
    """Raise for labels and boxes that the losses would misinterpret, for any source.

    An integer cross-entropy takes -1 as the last class, and gives NaN for a class id too large.
    """
    if source.task == "classify":
        check_label(record.label, source.classes, record.file_name)
        return
    boxes, labels = record.boxes, record.labels
    valid = np.isfinite(boxes).all() and (boxes[:, 2:] > boxes[:, :2]).all()
    if not (valid and (labels >= 0).all() and (labels < len(source.classes)).all()):
        raise DataError(f"{record.file_name}: a box without area or class reached the loader")
