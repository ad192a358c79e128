"""Boxes that look like annotation mistakes: duplicates, and labels that do not fit the size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from convmesh.data.checks import statistics
from convmesh.data.checks.findings import Finding
from convmesh.data.checks.scan import ScannedExample, ScannedSplit
from convmesh.data.problems import Problem
from convmesh.geometry import pairwise_iou

# Two boxes of one class with a larger IoU are probably one object.
DUPLICATE_IOU = 0.8
# A label is doubtful if the logarithm of the box's area is more than FAR deviations from the median
# of its class, and less than NEAR from that of another class. The deviation is robust to outliers:
# 1.4826 times the median absolute deviation, or the distance from the median to the 5th or 95th
# percentile divided by 1.645, on the side of the box, for long tails; whichever is larger, and at
# least MIN_DEVIATION, since in a class of equal boxes every other one would be far away. Classes
# with fewer than MIN_BOXES boxes are not judged.
FAR, NEAR = 4.0, 2.0
MIN_DEVIATION, MIN_BOXES = 0.2, 20
_MAX_PAIRS = 2**18  # whose IoU is computed at a time
_ROUNDING = 1e-9  # by which a first look may find more


def duplicate_box_findings(
    split: ScannedSplit, example: ScannedExample, position: tuple[int, int]
) -> Iterator[Finding]:
    """Yield a warning for each box that is probably a duplicate of an earlier one."""
    i, indices = position[1], np.flatnonzero(example.usable)
    boxes, labels = example.boxes[indices], example.labels[indices]
    for later, first, iou in find_duplicates(boxes, labels):
        other = split.box_location(i, int(indices[first]))
        if labels[later] != labels[first]:
            what = f"the same box as {other}, whose class is {split.source.classes[labels[first]]}"
        elif iou == 1:
            what = f"duplicate: the same box as {other}"
        else:
            what = f"duplicate? {other} has the same class and overlaps it (IoU {iou:.2f})"
        box = int(indices[later])
        problem = Problem(split.label_file(i), what, split.box_location(i, box), error=False)
        yield Finding(problem, "duplicate_box", position, (box,))


def examples_with_duplicates(examples: Sequence[ScannedExample]) -> set[int]:
    """Return the indices of the examples for which `find_duplicates` finds any, but for rounding.

    Compares each box with the following ones of its example, sorted by their left sides, as long as
    these are near enough for the IoU: seconds for a million boxes.
    """
    objects = statistics.usable_objects(examples)
    if not len(objects.boxes):
        return set()
    order = np.lexsort((objects.boxes[:, 0], objects.example))
    boxes, labels, example = (
        array[order] for array in (objects.boxes, objects.labels, objects.example)
    )
    # The overlap is at most as wide as the first box without what is left of the second.
    reach = boxes[:, 0] + (1 - DUPLICATE_IOU) * (boxes[:, 2] - boxes[:, 0]) * (1 + _ROUNDING)
    found, first, shift = set[int](), np.arange(len(boxes)), 1
    while len(first):
        first = first[first + shift < len(boxes)]
        second = first + shift
        near = (example[second] == example[first]) & (boxes[second, 0] <= reach[first])
        first, second, shift = first[near], second[near], shift + 1
        equal = (boxes[first] == boxes[second]).all(1)
        same_class = labels[first] == labels[second]
        large = _iou(boxes[first], boxes[second]) > DUPLICATE_IOU * (1 - _ROUNDING)
        found.update(example[first[equal | same_class & large]].tolist())
    return found


def _iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return float64 [n]: the IoU of each box of `one` [n, 4] with that of `other`."""
    sides = np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2])
    overlap = np.clip(sides, 0, None).prod(1)
    areas = (one[:, 2:] - one[:, :2]).prod(1) + (other[:, 2:] - other[:, :2]).prod(1)
    return overlap / (areas - overlap)


def find_duplicates(boxes: np.ndarray, labels: np.ndarray) -> list[tuple[int, int, float]]:
    """Return (box, earlier box, their IoU) for each duplicate among `boxes` [n, 4].

    The earlier box is that of the same class with the largest IoU, above DUPLICATE_IOU, or an equal
    box of any class.
    """
    found: list[tuple[int, int, float]] = []
    rows = max(1, _MAX_PAIRS // max(1, len(boxes)))
    for start in range(0, len(boxes), rows):
        chunk = boxes[start : start + rows]
        iou = pairwise_iou(chunk, boxes)
        equal = (chunk[:, None] == boxes).all(2)
        iou[(labels[start : start + rows, None] != labels) & ~equal] = 0
        iou = np.tril(iou, start - 1)  # earlier boxes only
        best = iou.argmax(1)
        best_iou = iou[np.arange(len(iou)), best]
        duplicates = np.flatnonzero(best_iou > DUPLICATE_IOU).tolist()
        found += [(start + i, int(best[i]), float(best_iou[i])) for i in duplicates]
    return found


def label_findings(
    splits: Sequence[ScannedSplit], classes: Sequence[str], input_size: tuple[int, int]
) -> Iterator[Finding]:
    """Yield a warning for each box whose size fits another class and not its own."""
    positions = [
        (s, i)
        for s, split in enumerate(splits)
        for i, example in enumerate(split.examples)
        if example.size
    ]
    examples = [splits[s].examples[i] for s, i in positions]
    objects = statistics.usable_objects(examples)
    if not len(objects.boxes):
        return
    sides, labels = statistics.sides_at_input(objects, examples, input_size), objects.labels
    other, typical = find_likelier_classes(sides, labels, len(classes))
    for k in np.flatnonzero(other >= 0):
        s, i = positions[objects.example[k]]
        size, box = examples[objects.example[k]].size, int(objects.box[k])
        assert size is not None
        scale = statistics.letterbox_scale(size, input_size)
        own, likelier = int(labels[k]), int(other[k])
        what = (
            f"is this a {classes[likelier]}? Its side is {sides[k] / scale:.0f} pixels; the"
            f" median is {typical[own] / scale:.0f} for {classes[own]} and"
            f" {typical[likelier] / scale:.0f} for {classes[likelier]}"
        )
        split = splits[s]
        problem = Problem(split.label_file(i), what, split.box_location(i, box), error=False)
        yield Finding(problem, "label", (s, i), (box,))


def find_likelier_classes(
    sides: np.ndarray, labels: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each box the class that its size fits if its own does not, else -1: int64 [n].

    sides: float64 [n], square roots of the areas, above 0; labels: int64 [n]. Also returns the
    median side of each class, float64 [num_classes], NaN for classes that are not judged.
    """
    logs = 2 * np.log(sides)
    medians, deviations = _size_distributions(logs, labels, num_classes)
    other = np.full(len(sides), -1, np.int64)
    with np.errstate(invalid="ignore"):
        above = (logs > medians[labels]).astype(int)
        own_distance = np.abs(logs - medians[labels]) / deviations[labels, above]
        far = np.flatnonzero(own_distance > FAR)
    # One class at a time: [boxes, classes] may not fit into memory.
    nearest, least = other[far], np.full(len(far), np.inf)
    for c in np.flatnonzero(~np.isnan(medians)).tolist():
        own = logs[far]
        distance = np.abs(own - medians[c]) / deviations[c, (own > medians[c]).astype(int)]
        nearest = np.where(distance < least, c, nearest)
        least = np.minimum(distance, least)
    other[far] = np.where(least < NEAR, nearest, -1)
    return other, np.exp(medians / 2)


def _size_distributions(
    logs: np.ndarray, labels: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return median [classes] and deviation [classes, 2] (below, above the median) of log areas."""
    medians, deviations = np.full(num_classes, np.nan), np.full((num_classes, 2), np.nan)
    order = np.argsort(labels, kind="stable")
    ends = np.searchsorted(labels[order], np.arange(num_classes + 1))
    for c in range(num_classes):
        own = logs[order[ends[c] : ends[c + 1]]]
        if len(own) >= MIN_BOXES:
            medians[c] = np.median(own)
            around = 1.4826 * np.median(np.abs(own - medians[c]))
            tails = np.abs(np.percentile(own, (5, 95)) - medians[c]) / 1.645
            deviations[c] = np.maximum(max(MIN_DEVIATION, around), tails)
    return medians, deviations
