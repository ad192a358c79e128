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
    area: float32 [n], square pixels of the objects' outlines, by which COCO parts small from large;
      None: the areas of the boxes.
    bad_boxes: how many boxes of the source were dropped or clipped to make this record.
    """

    image: np.ndarray
    image_id: int | str
    file_name: str
    label: int = -1
    boxes: np.ndarray = field(default_factory=_no_boxes)
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    crowd: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    area: np.ndarray | None = None
    bad_boxes: int = 0


class Source(Protocol):
    """A split of a data set: random access, safe to read from many threads, picklable.

    classes: names, index = class id. split: its name in the source. task: `classify` or `detect`.
    Sources with boxes may have `category_ids` too, see `category_ids`.
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
        self.category_ids = category_ids(source)

    def __len__(self) -> int:
        """Return how many examples there are."""
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        """Return example `index` of the subset."""
        return self._source[int(self._indices[index])]

    def name(self, index: int) -> str:
        """Return the name of example `index` of the subset."""
        return self._source.name(int(self._indices[index]))

    def below(self, index: int) -> tuple[Source, int]:
        """Return the source that example `index` is taken from, and its number there."""
        return self._source, int(self._indices[index])


def category_ids(source: Source) -> tuple[int, ...] | None:
    """Return the source's own number of each class, or None where it has none."""
    return getattr(source, "category_ids", None)


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
    checked = sound_boxes(boxes, labels, crowd, size, num_classes, on_bad_box, file_name)
    kept = checked.kept
    return (
        checked.boxes[kept].astype(np.float32),
        np.asarray(labels, np.int32).reshape(-1)[kept],
        np.asarray(crowd, bool).reshape(-1)[kept],
        checked.bad,
    )


@dataclass(frozen=True)
class Checked:
    """What `sound_boxes` has found.

    boxes: float64 [n, 4], cut to the image. kept: bool [n]. good: bool [n], those without a fault.
    bad: how many were dropped or clipped.
    """

    boxes: np.ndarray
    kept: np.ndarray
    good: np.ndarray
    bad: int


def sound_boxes(
    boxes: np.ndarray,
    labels: np.ndarray,
    crowd: np.ndarray,
    size: tuple[int, int],
    num_classes: int,
    on_bad_box: str,
    file_name: str,
) -> Checked:
    """Return which of the boxes are kept, and all of them cut to the image; as `check_boxes`."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    labels = np.asarray(labels, np.int64).reshape(-1)
    if not len(boxes) == len(labels) == len(np.reshape(crowd, -1)):
        raise DataError(
            f"{file_name}: {len(boxes)} boxes, {len(labels)} labels and {len(crowd)} crowd marks"
        )
    good = ~faulty(boxes, labels, size, num_classes)
    if not good.all() and on_bad_box == "fail":
        first = int(np.argmin(good))
        fault = box_faults(boxes, labels, size, num_classes)[first]
        raise DataError(
            f"{file_name}: box {first}: {fault}; mend it, or set data.on_bad_box to drop or clip"
        )
    clipped, left = _clipped(boxes, labels, size, num_classes)
    # Rounding can leave nothing of a sliver on the very edge.
    keep = left if on_bad_box == "clip" else good & left
    return Checked(clipped, keep, good, int((~(good & keep)).sum()))


def visible_area(area: np.ndarray, boxes: np.ndarray, checked: Checked) -> np.ndarray:
    """Return float32 [n]: the stated areas, of clipped boxes only the part that is in the image.

    boxes: float64 [n, 4], as stated; what is returned of boxes that are not kept means nothing.
    """
    # COCO parts small from large by the outline, which may fill little of its box. How much of it
    # was cut off is not known: it is taken to be spread evenly. Where the area is that of the box,
    # this gives that of the clipped box, as it must; and never more than that.
    cut = checked.kept & ~checked.good
    sides, left = (b[cut, 2:] - b[cut, :2] for b in (boxes, checked.boxes))
    result = area.astype(np.float64)
    result[cut] *= (left / sides).prod(1)
    return result.astype(np.float32)


def _clipped(
    boxes: np.ndarray,
    labels: np.ndarray,
    size: tuple[float, float] | np.ndarray,
    num_classes: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the boxes cut to the image, float64 [n, 4], and bool [n]: where something is left.

    Arguments as of `faulty`. Of a box whose class is wrong, nothing is left.
    """
    known = (labels >= 0) & (labels < num_classes)
    finite = np.asarray(np.isfinite(boxes).all(1))
    boxes = np.where(finite[:, None], boxes, 0.0)
    area = finite & (boxes[:, 2:] > boxes[:, :2]).all(1)
    clipped = np.clip(boxes, 0, np.asarray(size, np.float64)[..., [1, 0, 1, 0]])
    with np.errstate(over="ignore"):
        clipped = clipped.astype(np.float32).astype(np.float64)  # as it will be stored
    return clipped, known & area & (clipped[:, 2:] > clipped[:, :2]).all(1)


def kept_as_stated(
    boxes: np.ndarray,
    labels: np.ndarray,
    size: tuple[float, float] | np.ndarray,
    num_classes: int,
    on_bad_box: str,
    rounding: float | np.ndarray = ROUNDING,
) -> np.ndarray:
    """Return bool [n]: the boxes that training will see, as far as can be told from `size`.

    Arguments as of `faulty` and `sound_boxes`; of what `fail` refuses, none.
    """
    _, left = _clipped(boxes, labels, size, num_classes)
    if on_bad_box == "clip":
        return left
    return left & ~faulty(boxes, labels, size, num_classes, rounding)


def faulty(
    boxes: np.ndarray,
    labels: np.ndarray,
    size: tuple[float, float] | np.ndarray,
    num_classes: int,
    rounding: float | np.ndarray = ROUNDING,
) -> np.ndarray:
    """Return bool [n]: the boxes that are bad.

    boxes: float64 [n, 4] in pixels; labels: int64 [n]. size: (height, width), or [n, 2] where each
    box has its own. rounding: by how much a side may pass the edge, or [n, 1].
    """
    known = (labels >= 0) & (labels < num_classes)
    with np.errstate(over="ignore"):
        stored = boxes.astype(np.float32)  # in which a sliver may have no width
    area = np.isfinite(stored).all(1) & (stored[:, 2:] > stored[:, :2]).all(1)
    frame = np.asarray(size, np.float64)[..., [1, 0, 1, 0]]
    with np.errstate(invalid="ignore"):
        moved = np.abs(np.clip(boxes, 0, frame) - boxes)
    return np.asarray(~(known & area & (moved <= rounding).all(1)))


def box_faults(
    boxes: np.ndarray,
    labels: np.ndarray,
    size: tuple[float, float],
    num_classes: int,
    rounding: float = ROUNDING,
    frame: str = "",
) -> list[str]:
    """Return for each box what is wrong with it, in words; '' where nothing is.

    boxes: float64 [n, 4] in pixels; labels: int64 [n]; size: (height, width). frame: what the words
    call the image, else its size.
    """
    height, width = size
    frame = frame or f"the image of {width} x {height}"
    faults = [""] * len(boxes)
    for i in np.flatnonzero(faulty(boxes, labels, size, num_classes, rounding)):
        box = boxes[i]
        if not 0 <= labels[i] < num_classes:
            faults[i] = f"class id {labels[i]} is not one of 0..{num_classes - 1}"
        else:
            where = ", ".join(f"{v:g}" for v in box)
            stored = box.astype(np.float32)
            sound = np.isfinite(stored).all() and (stored[2:] > stored[:2]).all()
            faults[i] = f"({where}) {'is outside of' if sound else 'has no area in'} {frame}"
    return faults
