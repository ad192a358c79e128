"""What every data source gives: one decoded, checked example at a time, by its number."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from convmesh.errors import DataError

# A box side may pass the image's edge by this many pixels without being called wrong: files store
# corner + length rounded to 0.01, or normalised float32.
ROUNDING = 0.02


class BadExample(DataError):
    """An image cannot be read, or has no usable label: `data.on_bad_example = skip` passes it by.

    Training and evaluation then see it with weight 0, and it is counted.
    """


def _no_boxes() -> np.ndarray:
    return np.zeros((0, 4), np.float32)


@dataclass(frozen=True)
class Record:
    """One example as the source has it, before any augmentation.

    image: uint8 [height, width, 3], RGB, upright.
    image_id: as in the source, or counted from 1.
    file_name: for people: what an error or a prediction names.
    label: class id for classification, -1 for detection.
    boxes: float32 [n, 4], x0 y0 x1 y1 in pixels of `image`, half open.
    labels: int32 [n], class ids of the boxes.
    crowd: bool [n], True for a region to ignore instead of an object.
    bad_boxes: how many boxes of the source were dropped or clipped to make this record.
    """

    image: np.ndarray
    image_id: int | str
    file_name: str
    label: int = -1
    boxes: np.ndarray = field(default_factory=_no_boxes)
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    crowd: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    bad_boxes: int = 0


class Source(Protocol):
    """A split of a data set: random access, safe to read from many threads, picklable.

    classes: names, index = class id. split: its name in the source. task: `classify` or `detect`.
    """

    classes: tuple[str, ...]
    split: str
    task: str

    def __len__(self) -> int:
        """Return how many examples there are."""
        ...

    def __getitem__(self, index: int) -> Record:
        """Return example `index`, 0 <= index < len. Raises BadExample, DataError, IndexError."""
        ...

    def name(self, index: int) -> str:
        """Return what people call example `index`, without reading it."""
        ...


class DataSet(Protocol):
    """What opening a data set gives: the names of its splits, and each split as a Source."""

    splits: tuple[str, ...]

    def source(self, split: str, training: bool) -> Source:
        """Return one split; `training` chooses what only evaluation ignores (difficult boxes)."""
        ...


class Subset:
    """Some of the examples of another source, in the order given."""

    def __init__(self, source: Source, indices: Sequence[int], split: str):
        """Show examples `indices` of `source` under the name `split`."""
        self._source, self._indices = source, np.asarray(indices, np.int64)
        self.classes, self.task, self.split = source.classes, source.task, split

    def __len__(self) -> int:
        """Return how many examples there are."""
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        """Return example `index` of the subset."""
        return self._source[int(self._indices[index])]

    def name(self, index: int) -> str:
        """Return the name of example `index` of the subset."""
        return self._source.name(int(self._indices[index]))


def identity(source: Source) -> dict[str, int | str]:
    """Return what a run's order depends on: how many examples, and the SHA-256 of their names."""
    names = hashlib.sha256()
    for index in range(len(source)):
        names.update(f"{source.name(index)}\n".encode("utf-8", "surrogateescape"))
    return {"examples": len(source), "names": names.hexdigest()}


def check_label(label: int, classes: Sequence[str], file_name: str) -> int:
    """Return `label`, or raise BadExample if it is no class id."""
    if not 0 <= label < len(classes):
        raise BadExample(
            f"{file_name}: class id {label} is not one of 0..{len(classes) - 1}"
            " (a split without labels cannot be used)"
        )
    return int(label)


def check_boxes(
    boxes: np.ndarray,
    labels: np.ndarray,
    crowd: np.ndarray,
    size: tuple[int, int],
    num_classes: int,
    on_bad_box: str,
    file_name: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Return boxes float32 [m, 4], labels int32 [m], crowd bool [m], and how many were bad.

    `size` is (height, width). A box is bad if its class id is out of range, if it is not finite or
    has no area, or if it leaves the image by more than rounding. `on_bad_box`: `fail` raises
    DataError; `drop` leaves bad boxes out; `clip` cuts them to the image, and leaves out those of
    which nothing is left or whose class is wrong. What labels cannot be after this cannot reach a
    loss: an integer cross-entropy takes -1 as the last class and an id too large as NaN.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    labels = np.asarray(labels, np.int64).reshape(-1)
    crowd = np.asarray(crowd, bool).reshape(-1)
    if not len(boxes) == len(labels) == len(crowd):
        raise DataError(
            f"{file_name}: {len(boxes)} boxes, {len(labels)} labels and {len(crowd)} crowd marks"
        )
    height, width = size
    known = (labels >= 0) & (labels < num_classes)
    given = boxes
    finite = np.asarray(np.isfinite(given).all(1))
    boxes = np.where(finite[:, None], given, 0.0)
    area = finite & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    limit = np.array([width, height, width, height])
    clipped = np.clip(boxes, 0, limit)
    inside = (np.abs(clipped - boxes) <= ROUNDING).all(1)
    good = known & area & inside
    if not good.all() and on_bad_box == "fail":
        first = int(np.argmin(good))
        if not known[first]:
            what = f"class id {labels[first]} is not one of 0..{num_classes - 1}"
        else:
            where = ", ".join(f"{v:g}" for v in given[first])
            fault = "is outside of" if area[first] else "has no area in"
            what = f"({where}) {fault} the image of {width} x {height}"
        raise DataError(
            f"{file_name}: box {first}: {what}; mend it, or set data.on_bad_box to drop or clip"
        )
    keep = good
    if on_bad_box == "clip":
        left = (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
        keep = known & area & left
    # Rounding can leave nothing of a sliver on the very edge.
    keep = keep & (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
    return (
        clipped[keep].astype(np.float32),
        labels[keep].astype(np.int32),
        crowd[keep],
        int((~(good & keep)).sum()),
    )
