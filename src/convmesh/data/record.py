"""Records and sources: the common form into which every data set layout is read.

A `DataSet` has splits, each split is a `Source`, and a source returns one decoded and checked
example at a time as a `Record`.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from convmesh.data.problems import Problem
from convmesh.errors import DataError

# Maps (height, width) of an upright image to the factor by which it may be decoded smaller.
Shrink = Callable[[int, int], float]


class BadExample(DataError):
    """An image cannot be read or has no usable label; `data.on_bad_example = skip` skips it.

    In training another example takes its place, in evaluation it has weight 0; it is counted.
    """


def refusal(error: BadExample) -> BadExample:
    """Return the error of a run that skips no example, which names the key that does."""
    return BadExample(f"{error}; repair it, or skip such images with data.on_bad_example=skip")


def _no_boxes() -> np.ndarray:
    return np.zeros((0, 4), np.float32)


@dataclass(frozen=True)
class Record:
    """One example of a source, before any augmentation.

    image: uint8 [height, width, 3], RGB, upright.
    image_id: as in the source, or counted from 1.
    file_name: identifies the example in messages and predictions.
    label: class id for classification, -1 for detection.
    boxes: float32 [n, 4], x0 y0 x1 y1 in pixels of `image`, half open.
    labels: int32 [n], class ids of the boxes.
    crowd: bool [n], True for a region to ignore instead of an object.
    area: float32 [n], square pixels of the object outlines, by which COCO separates small objects
      from large; None: use the areas of the boxes.
    bad_boxes: number of boxes that were dropped or clipped to make this record. dropped_boxes: of
      these, those dropped. left_out_boxes: of these, those whose class `data.classes` leaves out.
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
    dropped_boxes: int = 0
    left_out_boxes: int = 0


class Source(ABC):
    """A split of a data set: random access, thread-safe to read, picklable.

    Every source sets the first three; the others have defaults.

    classes: class names, index = class id.
    split: name of the split.
    task: `classify` or `detect`.
    category_ids: the source's own id of each class; None: it has none.
    ignored_files: names of files that are not images.
    empty_folders: class folders without images.
    """

    classes: tuple[str, ...]
    split: str
    task: str
    category_ids: tuple[int, ...] | None = None
    ignored_files: Sequence[str] = ()
    empty_folders: Sequence[Path] = ()

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of examples."""

    @abstractmethod
    def __getitem__(self, index: int) -> Record:
        """Return example `index`, 0 <= index < len. Raises BadExample, DataError, IndexError."""

    def read(self, index: int, shrink: Shrink | None) -> Record:
        """Return example `index`, its image decoded smaller if `shrink` allows it and it can be.

        By default as `[]` does, which shrinks by a rule of its own or not at all.
        """
        return self[index]

    def __iter__(self) -> Iterator[Record]:
        """Yield all examples in order. Raises as `[]` does."""
        return (self[index] for index in range(len(self)))

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the name of example `index` in messages, without reading the example."""

    def all_names(self) -> Iterator[str]:
        """Yield the names of all examples in order."""
        return (self.name(index) for index in range(len(self)))

    def single_labels(self) -> np.ndarray | None:
        """Return the class id of each example, int32 [n], if each has one and all are known.

        None (the default) if they must be asked for one by one, as `stated_labels`.
        """
        return None

    def stated_truth(self, index: int) -> bytes:
        """Return what the files state about example `index`: its labels and boxes.

        No image is read. Two sources with the same names, truths and images are evaluated alike.
        """
        labels = self.stated_labels(index)
        return b"" if labels is None else np.asarray(labels, np.int64).tobytes()

    def stated_size(self, index: int) -> bytes:
        """Return the size of the image file of example `index` as text, empty if unknown."""
        return b""

    def stated_labels(self, index: int) -> np.ndarray | None:
        """Return the class ids int64 [n] that the files state for example `index`.

        Crowd regions, difficult boxes, and bad boxes that training drops or rejects are left out.
        None (the default) if the ids are known only after decoding the example.
        """
        return None

    def stored_bits(self, index: int) -> int:
        """Return the bits of a channel of the image file of example `index`, from its header."""
        return 8


class DataSet(ABC):
    """An opened data set.

    splits: names of its splits. problems: of its files as such, not of single images or boxes.
    """

    splits: tuple[str, ...]
    problems: Sequence[Problem] = ()

    @abstractmethod
    def source(self, split: str, training: bool) -> Source:
        """Return one split; `training`: keep what only evaluation ignores (difficult boxes).

        Raises ConfigError if there is no such split, DataError if its files cannot be used.
        """


class Subset(Source):
    """A selection of the examples of another source, in the given order."""

    def __init__(self, source: Source, indices: Sequence[int] | np.ndarray, split: str):
        """Select examples `indices` of `source`; `split` names the selection."""
        self._source, self._indices = source, np.asarray(indices, np.int64)
        self.classes, self.task, self.split = source.classes, source.task, split
        self.category_ids = source.category_ids

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        """Return example `index` of the subset."""
        return self._source[int(self._indices[index])]

    def read(self, index: int, shrink: Shrink | None) -> Record:
        """Return example `index` of the subset, decoded as its source does."""
        return self._source.read(int(self._indices[index]), shrink)

    def name(self, index: int) -> str:
        """Return the name of example `index` of the subset."""
        return self._source.name(int(self._indices[index]))

    def all_names(self) -> Iterator[str]:
        """Yield the names of all examples of the subset in order."""
        if (np.diff(self._indices) <= 0).any():
            return super().all_names()
        chosen = np.zeros(len(self._source), bool)
        chosen[self._indices] = True
        return itertools.compress(self._source.all_names(), chosen)  # quicker than one by one

    def single_labels(self) -> np.ndarray | None:
        """Return the class id of each example of the subset, as that of its source."""
        labels = self._source.single_labels()
        return None if labels is None else labels[self._indices]

    def stated_labels(self, index: int) -> np.ndarray | None:
        """Return the class ids that the files state for example `index` of the subset."""
        return self._source.stated_labels(int(self._indices[index]))

    def stored_bits(self, index: int) -> int:
        """Return the bits of a channel of the image file of example `index` of the subset."""
        return self._source.stored_bits(int(self._indices[index]))

    def stated_truth(self, index: int) -> bytes:
        """Return what the files state about example `index` of the subset."""
        return self._source.stated_truth(int(self._indices[index]))

    def stated_size(self, index: int) -> bytes:
        """Return the size of the image file of example `index` of the subset."""
        return self._source.stated_size(int(self._indices[index]))


def file_size(path: str | os.PathLike[str]) -> bytes:
    """Return the size of a file as text, empty if there is no such file."""
    try:
        return str(os.stat(path).st_size).encode()
    except OSError:
        return b""


_NAMES_AT_ONCE = 10_000  # are hashed
_SIZES_AT_MOST = 50_000  # files that are asked for their size


def identity(source: Source) -> dict[str, int | str]:
    """Return the identity of the data for the data order: number of examples, SHA-256 of names.

    The result is stored in checkpoints: keys `examples` and `names`.
    """
    digest = hashlib.sha256()
    names = source.all_names()
    while part := list(itertools.islice(names, _NAMES_AT_ONCE)):
        digest.update("".join([f"{name}\n" for name in part]).encode("utf-8", "surrogateescape"))
    return {"examples": len(source), "names": digest.hexdigest()}


def truth_identity(source: Source) -> dict[str, int | str]:
    """Return the identity of what is evaluated: the split, number of examples, SHA-256 of truths.

    Keys `split`, `examples` and `truth`; names, boxes or labels as the files state them, and the
    sizes of the files, of a large split those of every second, third, ... one.
    """
    truth, every = hashlib.sha256(), -(-len(source) // _SIZES_AT_MOST)
    for index in range(len(source)):
        truth.update(f"{source.name(index)}\n".encode("utf-8", "surrogateescape"))
        truth.update(source.stated_truth(index))
        if index % every == 0:
            truth.update(source.stated_size(index))
    return {"split": source.split, "examples": len(source), "truth": truth.hexdigest()}


def check_label(label: int, classes: Sequence[str], file_name: str) -> int:
    """Return `label`, or raise BadExample if it is not a class id."""
    if not 0 <= label < len(classes):
        raise BadExample(
            f"{file_name}: class id {label} is not one of 0..{len(classes) - 1}"
            " (a split without labels cannot be used)"
        )
    return int(label)
