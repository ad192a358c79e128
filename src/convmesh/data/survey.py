"""What a split holds: told by its files where they can tell it, and else by a few of its images."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass

import numpy as np

from convmesh.data.record import BadExample, Source
from convmesh.errors import DataError

_LOOKED_AT = 16  # images that are decoded


@dataclass(frozen=True)
class Survey:
    """What is in a split.

    images: how many. per_class: examples that hold each class, int [classes], or None where only
    decoding them all would tell. sizes: float [k, 2] (height, width) of k images of a detection
    split, from its first to its last. objects: of each of these float [n, 2], height and width of
    its objects in its pixels.
    """

    images: int
    per_class: np.ndarray | None
    sizes: np.ndarray
    objects: tuple[np.ndarray, ...]


def survey(source: Source) -> Survey:
    """Return what `source` holds; images that cannot be read are passed by."""
    per_class = None
    if stated_labels(source, 0) is not None:
        per_class = np.zeros(len(source.classes), np.int64)
        for index in range(len(source)):
            labels = stated_labels(source, index)
            per_class[np.unique(labels) if labels is not None else []] += 1
    sizes, objects = [], []
    if source.task == "detect":
        chosen = np.linspace(0, len(source) - 1, min(_LOOKED_AT, len(source))).astype(int)
        for index in chosen:
            try:
                record = source[int(index)]
            except BadExample:
                continue
            boxes = record.boxes[~record.crowd]
            sizes.append(record.image.shape[:2])
            objects.append((boxes[:, 2:] - boxes[:, :2])[:, ::-1].astype(float))
    return Survey(len(source), per_class, np.array(sizes, float).reshape(-1, 2), tuple(objects))


def stated_labels(source: Source, index: int) -> np.ndarray | None:
    """Return the class ids of what is to be found in an example, as its files state them.

    None where the image would have to be decoded for that. Crowds, difficult boxes, and bad boxes
    that training drops or refuses are not among them.
    """
    below = getattr(source, "below", None)
    if below is not None:
        return stated_labels(*below(index))
    annotated, kept = getattr(source, "annotated", None), getattr(source, "kept", None)
    if annotated is not None and kept is not None:
        one = annotated(index)
        return one.labels[kept(index) & ~one.ignored(training=False)]
    label = getattr(source, "label", None)
    return None if label is None else np.array([label(index)])


def first_examples(source: Source, count: int, skip_bad: bool = False) -> list[int]:
    """Return the first `count` examples that hold an object, or all such where there are fewer.

    Of a classification split whose files state the classes these take turns, so that the first
    ones are not all of one. `skip_bad`: pass by what cannot be read. Raises DataError where no
    example holds an object.
    """
    if source.task == "classify":
        return _in_turn(source, count)
    chosen = itertools.islice((i for i in range(len(source)) if _holds(source, i, skip_bad)), count)
    found = list(chosen)
    if not found:
        raise DataError(f"split {source.split!r}: none of its {len(source)} images holds an object")
    return found


def _holds(source: Source, index: int, skip_bad: bool) -> bool:
    """Say whether an image holds an object."""
    labels = stated_labels(source, index)
    if labels is not None:
        return len(labels) > 0
    try:
        return bool((~source[index].crowd).any())
    except BadExample:
        if skip_bad:
            return False
        raise


def _in_turn(source: Source, count: int) -> list[int]:
    """Return the first `count` examples, one of each class, then another of each, sorted."""
    if stated_labels(source, 0) is None:
        return list(range(min(count, len(source))))
    waiting: dict[int, deque[int]] = {}
    for index in range(len(source)):
        labels = stated_labels(source, index)
        waiting.setdefault(-1 if labels is None else int(labels[0]), deque()).append(index)
    rounds = itertools.zip_longest(*(waiting[label] for label in sorted(waiting)))
    in_turn = (index for one in rounds for index in one if index is not None)
    return sorted(itertools.islice(in_turn, count))
