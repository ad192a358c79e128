"""Details of an evaluation: precision and F1 curves, confusion matrix, scores of each image.

Everything is computed at IoU 0.5, in numpy, from `matching.match`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convmesh.geometry import coco_iou
from convmesh.tasks.average_precision import read_image
from convmesh.tasks.matching import (
    IOU,
    SCORE,
    Images,
    Matches,
    best_detections,
    match_objects,
)

RECALLS = np.linspace(0, 1, 101)  # at which COCO reads the precision
THRESHOLDS = np.linspace(0, 1, 101)  # of the score, at which the F1 curves are read


def precision_at_recall(matches: Matches) -> np.ndarray:
    """Precision [101, classes] at recall 0.00, 0.01 ... 1.00; its mean over recall is AP50.

    As COCO defines it: the best precision at this recall or a higher one, 0 above the recall of all
    detections. NaN for a class without objects.
    """
    precision = np.full((len(RECALLS), matches.classes), math.nan)
    counts = np.bincount(matches.object_label, minlength=matches.classes)
    for label in np.flatnonzero(counts).tolist():
        _, correct, _ = matches.of_class(label)
        true = np.cumsum(correct)
        # The maximum over this and all higher recalls.
        best = np.maximum.accumulate((true / np.arange(1, len(correct) + 1))[::-1])[::-1]
        at = np.searchsorted(true / counts[label], RECALLS, side="left")
        precision[:, label] = np.append(best, 0.0)[at]
    return precision


def f1_at_thresholds(matches: Matches, thresholds: np.ndarray = THRESHOLDS) -> np.ndarray:
    """F1 [thresholds, classes + 1] of the detections whose score is at least the threshold.

    The last column is over all classes; a detection is correct only if its class is that of the
    object. F1 = 2 x correct / (detections + objects); NaN without objects.
    """
    curves = np.full((len(thresholds), matches.classes + 1), math.nan)
    for label in range(matches.classes + 1):
        score, correct, objects = matches.of_class(label)
        if objects:
            true = np.append(0, np.cumsum(correct))
            kept = np.searchsorted(-score, -np.asarray(thresholds), side="right")
            curves[:, label] = 2 * true[kept] / (kept + objects)
    return curves


def best_threshold(matches: Matches) -> tuple[float, float]:
    """The score threshold with the highest F1 of all classes together, and that F1.

    Of all thresholds that keep the same detections, the one with the fewest digits. (NaN, 0) if
    nothing was detected, (NaN, NaN) without objects.
    """
    score, correct, objects = matches.of_class(matches.classes)
    if not objects:
        return math.nan, math.nan
    last = (
        np.flatnonzero(np.append(score[1:] < score[:-1], True)) if len(score) else np.zeros(0, int)
    )
    if not len(last):
        return math.nan, 0.0
    f1 = 2 * np.cumsum(correct)[last] / (last + 1 + objects)
    best = int(np.argmax(f1))  # of equals the one with the highest threshold
    below = float(score[last[best] + 1]) if best + 1 < len(last) else 0.0
    return _fewest_digits(below, float(score[last[best]])), float(f1[best])


def best_f1(matches: Matches) -> dict[str, float]:
    """`best_threshold` and its `F1`, as in `metrics.json`."""
    threshold, f1 = best_threshold(matches)
    return {"best_threshold": threshold, "F1": f1}


def curves(matches: Matches, classes: Sequence[str]) -> dict[str, Any]:
    """Precision at 101 recalls and F1 at 101 score thresholds, of each class and of all.

    For JSON, rounded to six decimals; null for a class without objects. `precision.mean` is the
    mean over the classes, `F1.all` the F1 of all classes together.
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
    """Counts of objects by true class (row) and predicted class (column): int [classes + 1] * 2.

    Best score first, each detection with a score of at least 0.25 matches the free object of any
    class that it overlaps most, by at least IoU 0.5. The last column counts objects without a
    detection, the last row detections without an object. Detections on a crowd region of their
    class are left out.
    """
    table = np.zeros((len(classes) + 1, len(classes) + 1), np.int64)
    by_image = {detected["image_id"]: detected for detected in detections}
    for image in truth:
        boxes, labels, crowd = read_image(image, len(classes), "crowd")
        crowd = crowd.astype(bool)
        detected = np.zeros(len(boxes), bool)
        if image["image_id"] in by_image:
            found_boxes, found_labels, scores = read_image(
                by_image[image["image_id"]], len(classes), "scores"
            )
            order = best_detections(found_labels, scores)
            order = order[scores[order] >= SCORE]
            same = found_labels[order][:, None] == labels
            overlap = coco_iou(found_boxes[order], boxes, crowd)
            overlap[~same & crowd] = 0
            matched = match_objects(overlap, crowd, same)
            unmatched = matched < 0
            np.add.at(table[-1], found_labels[order][unmatched], 1)
            of_object = ~unmatched & ~np.append(crowd, False)[matched]
            np.add.at(table, (labels[matched[of_object]], found_labels[order][of_object]), 1)
            detected[matched[of_object]] = True
        np.add.at(table[:, -1], labels[~detected & ~crowd], 1)
    return table


def most_confused(table: np.ndarray, classes: Sequence[str], most: int) -> list[dict[str, Any]]:
    """The pairs of two classes that `confusion` counts most often, at most `most`.

    table: with or without a last row and column of the background.
    """
    wrong = table[: len(classes), : len(classes)].copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    rows, columns = np.unravel_index(order, wrong.shape)
    return [
        {"truth": classes[i], "predicted": classes[j], "count": int(wrong[i, j])}
        for i, j in zip(rows.tolist(), columns.tolist(), strict=True)
        if wrong[i, j]
    ]


def image_scores(matches: Matches, truth: Images, threshold: float = SCORE) -> list[dict[str, Any]]:
    """The counts of each image of `truth`, in its order, at a score threshold.

    `image_id`, `file_name` (if the truth has one), `true_positives`, `false_positives`, `misses`
    and `F1`, which is None without objects and detections.
    """
    shown = (matches.score >= threshold) & ~matches.ignored
    count = lambda where: np.bincount(where, minlength=len(matches.boxes))  # noqa: E731
    correct = count(matches.image[shown & matches.correct])
    wrong = count(matches.image[shown & ~matches.correct])
    missed = count(matches.object_image[matches.object_score < threshold])
    rows = []
    counts = (correct.tolist(), wrong.tolist(), missed.tolist())
    for image, tp, fp, fn in zip(truth, *counts, strict=True):
        image_id = image["image_id"]
        row = {"image_id": image_id.item() if isinstance(image_id, np.generic) else image_id}
        if "file_name" in image:
            row["file_name"] = str(image["file_name"])
        row |= {"true_positives": tp, "false_positives": fp, "misses": fn}
        rows.append(row | {"F1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None})
    return rows


@dataclass(frozen=True)
class ImageMatches:
    """The detections of one image above a score threshold, best first, and its missed boxes."""

    index: np.ndarray  # int [n]: the positions of the detections in the image
    correct: np.ndarray  # bool [n]
    ignored: np.ndarray  # bool [n]
    missed: np.ndarray  # bool [m], for each annotated box of the image, crowds included


def image_matches(matches: Matches, image: int, threshold: float = SCORE) -> ImageMatches:
    """The matches of entry `image` of the truth at a score threshold."""
    shown = (matches.image == image) & (matches.score >= threshold)
    of_image = matches.object_image == image
    missed = np.zeros(matches.boxes[image], bool)
    missed[matches.object_index[of_image]] = matches.object_score[of_image] < threshold
    return ImageMatches(
        matches.index[shown], matches.correct[shown], matches.ignored[shown], missed
    )


def worst_images(scores: Sequence[Mapping[str, Any]], most: int) -> list[int]:
    """Indices of the `image_scores` with errors, lowest F1 first; of equals the most errors."""
    errors = [row["false_positives"] + row["misses"] for row in scores]
    wrong = [i for i, count in enumerate(errors) if count]
    return sorted(wrong, key=lambda i: (scores[i]["F1"], -errors[i]))[:most]


def best_images(scores: Sequence[Mapping[str, Any]], most: int) -> list[int]:
    """Indices of the `image_scores` with true positives, best F1 first; of equals the most."""
    correct = [row["true_positives"] for row in scores]
    right = [i for i, count in enumerate(correct) if count]
    return sorted(right, key=lambda i: (-scores[i]["F1"], -correct[i]))[:most]


def _fewest_digits(below: float, score: float) -> float:
    """The number with the fewest decimals that is above `below` and at most `score`."""
    for digits in range(1, 17):
        number = math.floor(score * 10**digits) / 10**digits
        if below < number <= score:
            return number
    return score


def _json(values: np.ndarray) -> list[float] | None:
    return None if np.isnan(values).any() else np.round(values, 6).tolist()
