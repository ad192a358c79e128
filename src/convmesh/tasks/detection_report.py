"""What stands behind an AP: curves, confusions, the score of each image, and why an AP is 0.

All of it comes from one overlap, IoU 0.5, in plain numpy. `match` pairs detections and objects as
COCO does, so the precision here is the reference evaluator's (the tests hold it to pycocotools).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convmesh.tasks.average_precision import MOST_DETECTIONS, checked, image_numbers

IOU = 0.5  # from which on a detection is at its object
SCORE = 0.25  # from which on a detection counts in confusions and in the scores of images
RECALLS = np.linspace(0, 1, 101)  # where COCO reads a precision
THRESHOLDS = np.linspace(0, 1, 101)  # of the score, where the F1 curves are read
NO_AP = 0.0005  # an AP below this is printed as 0.000

Images = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Matches:
    """Detections of a split, best first, and the objects they were to find.

    Equal scores stand in the order of the image ids, then in which they were given. Of an image
    and class the best 100 are here.

    image, place: int [n], which entry of `truth` a detection is on, and which of the image's own
      detections it is.
    label: int [n], score: float64 [n].
    right: bool [n], it has found an object of its class that no better one had found.
    ignored: bool [n], it lies on a crowd region: neither right nor wrong.
    object_image, object_place, object_label: int [m], the same of the objects, crowds left out.
    found_at: float64 [m], the score of the detection that found the object; -inf if none did.
    boxes: int [images], how many boxes the truth of an image has, crowds among them.
    classes: how many there are.
    """

    image: np.ndarray
    place: np.ndarray
    label: np.ndarray
    score: np.ndarray
    right: np.ndarray
    ignored: np.ndarray
    object_image: np.ndarray
    object_place: np.ndarray
    object_label: np.ndarray
    found_at: np.ndarray
    boxes: np.ndarray
    classes: int


def match(truth: Images, detections: Images, classes: Sequence[str]) -> Matches:
    """Pairs detections with objects of their class at IoU 0.5, best score first, as COCO does.

    Args:
      truth, detections, classes: as for `average_precision.coco_metrics`.

    Raises:
      ValueError: as `coco_metrics` for boxes, labels and scores.
    """
    found = {one["image_id"]: one for one in detections}
    position = {one["image_id"]: i for i, one in enumerate(truth)}
    rows: list[list[np.ndarray]] = [[np.zeros(0)] * 6]
    objects: list[list[np.ndarray]] = [[np.zeros(0)] * 4]
    for image_id in image_numbers(truth):  # in the order of the ids, which decides between ties
        i = position[image_id]
        boxes, labels, crowd = checked(truth[i], len(classes), "crowd")
        crowd = crowd.astype(bool)
        found_at = np.full(len(boxes), -math.inf)
        if image_id in found:
            their_boxes, their_labels, scores = checked(found[image_id], len(classes), "scores")
            order = _best(their_labels, scores)
            overlap = ious(their_boxes[order], boxes, crowd)
            overlap[their_labels[order][:, None] != labels] = 0
            partner = _pair(overlap, crowd)
            right = (partner >= 0) & ~np.append(crowd, False)[partner]
            ignored = (partner >= 0) & ~right
            found_at[partner[right]] = scores[order][right]
            image = np.full(len(order), i)
            rows.append([image, order, their_labels[order], scores[order], right, ignored])
        place = np.flatnonzero(~crowd)
        objects.append([np.full(len(place), i), place, labels[place], found_at[place]])

    image, place, label, score, right, ignored = (
        np.concatenate(r) for r in zip(*rows, strict=True)
    )
    best_first = np.argsort(-score, kind="stable")
    whole = lambda values: values[best_first].astype(np.int64)  # noqa: E731
    o_image, o_place, o_label, found_at = (np.concatenate(o) for o in zip(*objects, strict=True))
    return Matches(
        image=whole(image),
        place=whole(place),
        label=whole(label),
        score=score[best_first],
        right=right[best_first].astype(bool),
        ignored=ignored[best_first].astype(bool),
        object_image=o_image.astype(np.int64),
        object_place=o_place.astype(np.int64),
        object_label=o_label.astype(np.int64),
        found_at=found_at,
        boxes=np.array([len(one["labels"]) for one in truth], np.int64),
        classes=len(classes),
    )


def precision_at_recall(matches: Matches) -> np.ndarray:
    """Precision [101, classes] at recall 0.00, 0.01 ... 1.00; its mean over recall is AP50.

    As COCO reads it: the best precision at this recall or beyond, 0 beyond the last detection. NaN
    for a class without an object.
    """
    precision = np.full((len(RECALLS), matches.classes), math.nan)
    counts = np.bincount(matches.object_label, minlength=matches.classes)
    for label in np.flatnonzero(counts):
        right = matches.right[(matches.label == label) & ~matches.ignored]
        true = np.cumsum(right)
        # From the right: no detection is worth less than one that comes after it.
        best = np.maximum.accumulate((true / np.arange(1, len(right) + 1))[::-1])[::-1]
        at = np.searchsorted(true / counts[label], RECALLS, side="left")
        precision[:, label] = np.append(best, 0.0)[at]
    return precision


def f1_at_thresholds(matches: Matches, thresholds: np.ndarray = THRESHOLDS) -> np.ndarray:
    """F1 [thresholds, classes + 1] of the detections whose score is at least the threshold.

    The last column is that of all objects together, whatever their class, which have to be found
    with the right class. F1 = 2 x right / (detections + objects); NaN without an object.
    """
    curves = np.full((len(thresholds), matches.classes + 1), math.nan)
    for label in range(matches.classes + 1):
        score, right, objects = _of_class(matches, label)
        if objects:
            true = np.append(0, np.cumsum(right))
            kept = np.searchsorted(-score, -np.asarray(thresholds), side="right")
            curves[:, label] = 2 * true[kept] / (kept + objects)
    return curves


def best_threshold(matches: Matches) -> tuple[float, float]:
    """The score threshold with the highest F1 of all classes together, and that F1.

    Of all thresholds that keep the same detections, the one with the fewest digits. (NaN, 0) where
    nothing was detected, (NaN, NaN) without an object.
    """
    score, right, objects = _of_class(matches, matches.classes)
    if not objects:
        return math.nan, math.nan
    last = (
        np.flatnonzero(np.append(score[1:] < score[:-1], True)) if len(score) else np.zeros(0, int)
    )
    if not len(last):
        return math.nan, 0.0
    f1 = 2 * np.cumsum(right)[last] / (last + 1 + objects)
    best = int(np.argmax(f1))  # of equals the one with the highest threshold
    below = float(score[last[best] + 1]) if best + 1 < len(last) else 0.0
    return _shortest(below, float(score[last[best]])), float(f1[best])


def numbers(matches: Matches) -> dict[str, float]:
    """What `metrics.json` says of them: `best_threshold` and `F1`, that at this threshold."""
    threshold, f1 = best_threshold(matches)
    return {"best_threshold": threshold, "F1": f1}


def curves(matches: Matches, classes: Sequence[str]) -> dict[str, Any]:
    """Precision at 101 recalls and F1 at 101 score thresholds, of each class and of all.

    Ready for JSON, with six decimals; null for a class without an object. `precision.mean` is the
    mean over the classes, `F1.all` that of all objects together.
    """
    precision, f1 = precision_at_recall(matches), f1_at_thresholds(matches)
    known = ~np.isnan(precision[0]) if len(precision) else np.zeros(0, bool)
    mean = precision[:, known].mean(1) if known.any() else np.full(len(RECALLS), math.nan)
    by_name = lambda table: {n: _json(table[:, i]) for i, n in enumerate(classes)}  # noqa: E731
    threshold, best = best_threshold(matches)
    return {
        "iou": IOU,
        "recall": _json(RECALLS),
        "precision": {"mean": _json(mean), "classes": by_name(precision)},
        "threshold": _json(THRESHOLDS),
        "F1": {"all": _json(f1[:, -1]), "classes": by_name(f1)},
        "best_threshold": None if math.isnan(threshold) else threshold,
        "best_F1": None if math.isnan(best) else best,
    }


def confusion(truth: Images, detections: Images, classes: Sequence[str]) -> np.ndarray:
    """How often an object of a class (row) was called what (column): int [classes + 1] * 2.

    Best score first, each detection with a score of at least 0.25 takes the object that it overlaps
    most, of whatever class, if that is at least IoU 0.5 and nobody has taken it. The last column
    counts objects that nobody has taken, the last row detections without an object. Detections on a
    crowd region of their class are left out.
    """
    table = np.zeros((len(classes) + 1, len(classes) + 1), np.int64)
    found = {one["image_id"]: one for one in detections}
    for one in truth:
        boxes, labels, crowd = checked(one, len(classes), "crowd")
        crowd = crowd.astype(bool)
        taken = np.zeros(len(boxes), bool)
        if one["image_id"] in found:
            their_boxes, their_labels, scores = checked(
                found[one["image_id"]], len(classes), "scores"
            )
            order = _best(their_labels, scores)
            order = order[scores[order] >= SCORE]
            same = their_labels[order][:, None] == labels
            overlap = ious(their_boxes[order], boxes, crowd)
            overlap[~same & crowd] = 0
            partner = _pair(overlap, crowd, same)
            alone = partner < 0
            np.add.at(table[-1], their_labels[order][alone], 1)
            met = ~alone & ~np.append(crowd, False)[partner]
            np.add.at(table, (labels[partner[met]], their_labels[order][met]), 1)
            taken[partner[met]] = True
        np.add.at(table[:, -1], labels[~taken & ~crowd], 1)
    return table


def most_confused(table: np.ndarray, classes: Sequence[str], most: int) -> list[dict[str, Any]]:
    """The pairs of two classes that `confusion` counts most often, at most so many."""
    wrong = table[:-1, :-1].copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    rows, columns = np.unravel_index(order, wrong.shape)
    return [
        {"truth": classes[i], "predicted": classes[j], "count": int(wrong[i, j])}
        for i, j in zip(rows.tolist(), columns.tolist(), strict=True)
        if wrong[i, j]
    ]


def image_scores(matches: Matches, truth: Images, threshold: float = SCORE) -> list[dict[str, Any]]:
    """For each image of `truth`, in its order, what its detections of at least `threshold` are.

    `image_id`, `file_name` (where the truth has one), `true_positives`, `false_positives`,
    `misses` and `F1`, which is None where there was nothing to find and nothing was found.
    """
    shown = (matches.score >= threshold) & ~matches.ignored
    count = lambda where: np.bincount(where, minlength=len(matches.boxes))  # noqa: E731
    right = count(matches.image[shown & matches.right])
    wrong = count(matches.image[shown & ~matches.right])
    missed = count(matches.object_image[matches.found_at < threshold])
    rows = []
    for one, tp, fp, fn in zip(truth, right.tolist(), wrong.tolist(), missed.tolist(), strict=True):
        image_id = one["image_id"]
        row = {"image_id": image_id.item() if isinstance(image_id, np.generic) else image_id}
        if "file_name" in one:
            row["file_name"] = str(one["file_name"])
        row |= {"true_positives": tp, "false_positives": fp, "misses": fn}
        rows.append(row | {"F1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None})
    return rows


def marks(
    matches: Matches, image: int, threshold: float = SCORE
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """How entry `image` of the truth is to be drawn at a score threshold.

    Returns `place` int [n], which of the image's detections are shown, best first; of them `right`
    and `ignored`, bool [n]; and `missed`, bool [m], for each box of the image's truth.
    """
    shown = (matches.image == image) & (matches.score >= threshold)
    mine = matches.object_image == image
    missed = np.zeros(matches.boxes[image], bool)
    missed[matches.object_place[mine]] = matches.found_at[mine] < threshold
    return matches.place[shown], matches.right[shown], matches.ignored[shown], missed


def worst_images(scores: Sequence[Mapping[str, Any]], most: int) -> list[int]:
    """Which of `image_scores` have the lowest F1, worst first; of equals those with most errors."""
    errors = [one["false_positives"] + one["misses"] for one in scores]
    some = [i for i, count in enumerate(errors) if count]
    return sorted(some, key=lambda i: (scores[i]["F1"], -errors[i]))[:most]


def best_images(scores: Sequence[Mapping[str, Any]], most: int) -> list[int]:
    """Which of `image_scores` have the highest F1, best first; of equals those with most found."""
    right = [one["true_positives"] for one in scores]
    some = [i for i, count in enumerate(right) if count]
    return sorted(some, key=lambda i: (-scores[i]["F1"], -right[i]))[:most]


def why_zero(truth: Images, detections: Images, metrics: Mapping[str, float]) -> list[str]:
    """One or two sentences on why the AP is 0 (to three digits) or undefined; else nothing.

    `truth` and `detections` as for `average_precision.coco_metrics`, `metrics` what it returned.
    """
    ap = metrics["AP"]
    if ap >= NO_AP:
        return []
    objects = [_without_crowd(one) for one in truth]
    total = sum(len(labels) for _, labels in objects)
    if not total:
        crowds = sum(len(one["boxes"]) for one in truth)
        besides = f" ({crowds} crowd regions, which are only ignored)" if crowds else ""
        return [
            f"AP is undefined: none of the {len(truth)} images has a box to find{besides}. "
            "Evaluate a split with annotations, or see whether its boxes were read: "
            "convmesh check-data."
        ]
    scores = np.concatenate([np.zeros(0), *(np.asarray(d["scores"], float) for d in detections)])
    if not len(scores):
        return [
            f"AP is 0: nothing was detected on {len(truth)} images, no score reached the "
            "threshold. Train longer; if the loss does not fall, take another learning rate."
        ]
    nearest, nearest_of_class, sizes = _nearest(truth, detections)
    count = f"{len(scores)} detections (highest score {scores.max():.3g})"
    if nearest < IOU:
        true_sizes = np.concatenate([boxes[:, 2:] for boxes, _ in objects])
        return [
            f"AP is 0: no detection overlaps an object by IoU {IOU}; the best of {count} reaches "
            f"{nearest:.2f}.",
            f"The middle detection has {_size(sizes)} pixels, the middle object "
            f"{_size(true_sizes)}: where these are far apart the boxes are in wrong units, else "
            "the training is far too short.",
        ]
    if nearest_of_class < IOU:
        return [
            f"AP is 0: of {count} the best overlaps an object by IoU {nearest:.2f}, but none "
            f"overlaps one of its own class by more than {nearest_of_class:.2f}.",
            "The boxes are right and the classes are wrong: see confusion.png, and whether "
            "data.classes names the classes in the order of the labels.",
        ]
    return [
        f"AP is {ap:.2g}: the best detection overlaps an object of its class by IoU "
        f"{nearest_of_class:.2f}, but of {count} for {total} objects too few fit, or they come "
        "after too many that do not. Train longer."
    ]


def ious(boxes: np.ndarray, objects: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Overlaps [n, m] of boxes [n, 4] x y width height with objects [m, 4], in COCO's arithmetic.

    Of a crowd region [m] that is the part of the box that lies in it.
    """
    low = np.maximum(boxes[:, None, :2], objects[None, :, :2])
    high = np.minimum(
        boxes[:, None, :2] + boxes[:, None, 2:], objects[None, :, :2] + objects[None, :, 2:]
    )
    both = np.prod(np.maximum(high - low, 0), axis=-1)
    area, others = np.prod(boxes[:, 2:], axis=-1)[:, None], np.prod(objects[:, 2:], axis=-1)
    union = np.where(crowd, area, area + others - both)
    return np.where(both > 0, both / np.where(both > 0, union, 1), 0.0)


def _best(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Places of an image's detections, best first, of each class at most 100."""
    order = np.argsort(-scores, kind="stable")
    most = MOST_DETECTIONS[-1]
    if len(order) > most:
        kept = np.zeros(len(order), bool)
        for label in np.unique(labels):
            kept[np.flatnonzero(labels[order] == label)[:most]] = True
        order = order[kept]
    return order


def _pair(overlap: np.ndarray, crowd: np.ndarray, preferred: np.ndarray | None = None):
    """The object of each detection, -1 for none; the detections are given best first.

    An object goes to the first that chooses it, a crowd region to any number. A detection chooses
    what it overlaps most, an object before a crowd region, of equals a `preferred` one, else, as
    the reference does, the last.
    """
    partner = np.full(len(overlap), -1)
    near = overlap >= IOU
    free = ~crowd
    for d in np.flatnonzero(near.any(axis=1)):  # most detections are near nothing
        choice = np.flatnonzero(near[d] & free)
        if len(choice):
            choice = choice[overlap[d, choice] == overlap[d, choice].max()]
            if preferred is not None and preferred[d, choice].any():
                choice = choice[preferred[d, choice]]
            free[choice[-1]] = False
        else:
            choice = np.flatnonzero(near[d] & crowd)
        if len(choice):
            partner[d] = choice[-1]
    return partner


def _of_class(matches: Matches, label: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Scores and `right` of what counts of a class, best first, and how many objects it has.

    The class after the last is all of them.
    """
    mine, objects = ~matches.ignored, len(matches.object_label)
    if label < matches.classes:
        mine = mine & (matches.label == label)
        objects = int((matches.object_label == label).sum())
    return matches.score[mine], matches.right[mine], objects


def _shortest(below: float, score: float) -> float:
    """The number with the fewest decimals that is over `below` and not over `score`."""
    for digits in range(1, 17):
        number = math.floor(score * 10**digits) / 10**digits
        if below < number <= score:
            return number
    return score


def _json(values: np.ndarray) -> list[float] | None:
    return None if np.isnan(values).any() else np.round(values, 6).tolist()


def _without_crowd(one: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [n, 4] x y width height and labels [n] of an image's objects."""
    corners = np.asarray(one["boxes"], np.float64).reshape(-1, 4)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    crowd = one.get("crowd")
    keep = np.ones(len(boxes), bool) if crowd is None else ~np.asarray(crowd, bool).reshape(-1)
    return boxes[keep], np.asarray(one["labels"]).reshape(-1)[keep]


def _nearest(truth: Images, detections: Images) -> tuple[float, float, np.ndarray]:
    """The best overlap of any detection with an object, with one of its class; sizes [n, 2]."""
    found = {one["image_id"]: _without_crowd(dict(one, crowd=None)) for one in detections}
    nearest = nearest_of_class = 0.0
    for one in truth:
        boxes, labels = _without_crowd(one)
        if not len(boxes) or one["image_id"] not in found:
            continue
        theirs, their_labels = found[one["image_id"]]
        overlap = ious(theirs, boxes, np.zeros(len(boxes), bool))
        nearest = max(nearest, overlap.max(initial=0))
        same = np.where(their_labels[:, None] == labels, overlap, 0)
        nearest_of_class = max(nearest_of_class, same.max(initial=0))
    sizes = np.concatenate([np.zeros((0, 2)), *(boxes[:, 2:] for boxes, _ in found.values())])
    return float(nearest), float(nearest_of_class), sizes


def _size(sizes: np.ndarray) -> str:
    width, height = np.median(sizes, axis=0)
    return f"{width:.3g} x {height:.3g}"
