"""The contents of a split, from its annotation files or from a sample of images."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass

import numpy as np

from convmesh.data.record import BadExample, Source
from convmesh.errors import DataError

_SAMPLES = 16  # images that are decoded


@dataclass(frozen=True)
class Survey:
    """The contents of a split.

    images: number of images. per_class: number of examples that contain each class, int [classes];
    None if that requires decoding all of them. sizes: float [k, 2], (height, width) of k
    images of a detection split, evenly spaced from its first to its last. objects: for each of
    these, float [n, 2], height and width of its objects in pixels.
    """

    images: int
    per_class: np.ndarray | None
    sizes: np.ndarray
    objects: tuple[np.ndarray, ...]


def evenly_spaced(count: int) -> list[int]:
    """Return the indices of a sample of `count` examples, from the first to the last."""
    return np.linspace(0, count - 1, min(_SAMPLES, count)).astype(int).tolist()


def survey(source: Source) -> Survey:
    """Return the contents of `source`; images that cannot be read are skipped."""
    sizes, objects = [], []
    if source.task == "detect":
        for index in evenly_spaced(len(source)):
            try:
                record = source[index]
            except BadExample:
                continue
            boxes = record.boxes[~record.crowd]
            sizes.append(record.image.shape[:2])
            objects.append((boxes[:, 2:] - boxes[:, :2])[:, ::-1].astype(float))
    return Survey(
        len(source),
        _count_per_class(source),
        np.array(sizes, float).reshape(-1, 2),
        tuple(objects),
    )


def _count_per_class(source: Source) -> np.ndarray | None:
    """Return how many examples contain each class, int64 [classes]; None as in `Survey`."""
    labels_of_all = source.single_labels()
    if labels_of_all is not None:
        return np.bincount(labels_of_all, minlength=len(source.classes))
    if source.stated_labels(0) is None:
        return None
    counts = np.zeros(len(source.classes), np.int64)
    for index in range(len(source)):
        labels = source.stated_labels(index)
        counts[np.unique(labels) if labels is not None else []] += 1
    return counts


def first_examples(source: Source, count: int, skip_bad: bool = False) -> list[int]:
    """Return the indices of the first `count` examples that contain an object, or of all such.

    In a classification split whose files state the classes, the classes alternate: otherwise the
    first examples may all be of one class. skip_bad: skip images that cannot be read.
    Raises DataError if no example contains an object.
    """
    if source.task == "classify":
        return _alternate_classes(source, count)
    found = (i for i in range(len(source)) if _has_object(source, i, skip_bad))
    chosen = list(itertools.islice(found, count))
    if not chosen:
        raise DataError(
            f"split {source.split!r}: none of its {len(source)} images contains an object"
        )
    return chosen


def _has_object(source: Source, index: int, skip_bad: bool) -> bool:
    labels = source.stated_labels(index)
    if labels is not None:
        return len(labels) > 0
    try:
        return bool((~source[index].crowd).any())
    except BadExample:
        if skip_bad:
            return False
        raise


def _alternate_classes(source: Source, count: int) -> list[int]:
    """Return `count` indices, sorted: the first example of each class, then the second, ..."""
    if source.stated_labels(0) is None:
        return list(range(min(count, len(source))))
    by_class: dict[int, deque[int]] = {}
    for index in range(len(source)):
        labels = source.stated_labels(index)
        by_class.setdefault(-1 if labels is None else int(labels[0]), deque()).append(index)
    rounds = itertools.zip_longest(*(by_class[label] for label in sorted(by_class)))
    alternating = (index for indices in rounds for index in indices if index is not None)
    return sorted(itertools.islice(alternating, count))
