"""What a classifier's evaluation shows besides its accuracy: by class, by confidence, by image.

`truth` is a sequence with the class id `label` of each image, `found` the `labels` and `scores` of
`Classify.kept`: the best classes of an image and the true one, and their probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Images = Sequence[Mapping[str, Any]]
BINS = 15  # of the calibration, as in arXiv 1706.04599


def confusion(truth: Images, found: Images, classes: int) -> np.ndarray:
    """Counts of images by true class (row) and predicted class (column): int64 [classes] * 2."""
    table = np.zeros((classes, classes), np.int64)
    predicted = [int(each["labels"][0]) for each in found]
    np.add.at(table, ([int(each["label"]) for each in truth], predicted), 1)
    return table


def by_class(table: np.ndarray) -> dict[str, np.ndarray]:
    """`images`, `precision`, `recall` and `F1` of each class, [classes], from `confusion`.

    Recall is NaN for a class without images, precision for one that was never predicted; F1 is then
    0, unless the class has neither.
    """
    right, images, predicted = np.diag(table), table.sum(1), table.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "images": images,
            "precision": right / predicted,
            "recall": right / images,
            "F1": 2 * right / (images + predicted),
        }


def summary(truth: Images, found: Images, classes: int) -> dict[str, float]:
    """`precision`, `recall`, `F1` (means over the classes with images) and `ECE`.

    A class that was never predicted has a precision of 0 here.
    """
    numbers = by_class(confusion(truth, found, classes))
    there = numbers["images"] > 0
    means = {
        name: float(np.nan_to_num(numbers[name][there]).mean())
        for name in ("precision", "recall", "F1")
    }
    return means | {"ECE": calibration(truth, found)["ECE"]}


def calibration(truth: Images, found: Images) -> dict[str, Any]:
    """How often predictions of a confidence are right, in 15 equal bins of the confidence.

    `bins`: for each that has images `low`, `high`, `images`, the mean `confidence` and the
    `accuracy`. `ECE`: the expected calibration error (arXiv 1706.04599, eq. 3): the mean over the
    images of |accuracy - confidence| of their bin.
    """
    confidence = np.array([float(each["scores"][0]) for each in found], np.float64)
    right = np.array(
        [int(f["labels"][0]) == int(t["label"]) for t, f in zip(truth, found, strict=True)], bool
    )
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    bins, error = [], 0.0
    for i in np.unique(place).tolist():
        inside = place == i
        mean, accuracy = float(confidence[inside].mean()), float(right[inside].mean())
        error += abs(mean - accuracy) * inside.sum() / len(place)
        row = {"low": i / BINS, "high": (i + 1) / BINS, "images": int(inside.sum())}
        bins.append(row | {"confidence": mean, "accuracy": accuracy})
    return {"ECE": float(error), "bins": bins}


def probabilities_of(found: Mapping[str, Any], classes: int) -> np.ndarray:
    """The probability of each class of an image, by class id, 0 if it is not known: [classes]."""
    probabilities = np.zeros(classes, np.float64)
    probabilities[found["labels"]] = found["scores"]
    return probabilities


def probability_of(found: Mapping[str, Any], label: int) -> float:
    """The probability of one class of an image."""
    (place,) = np.flatnonzero(np.asarray(found["labels"]) == label)
    return float(found["scores"][place])


def likely_mislabelled(
    truth: Images, found: Images, classes: Sequence[str]
) -> list[tuple[int, dict[str, Any]]]:
    """Images whose label is probably wrong, the most certain first; their positions and rows.

    By confident learning (Northcutt et al., arXiv 1911.00068): a class is confident in an image if
    its probability is at least its mean over the images that are labelled so; an image is doubted
    if the most probable confident class is another than its label. Not if the label is the most
    probable class of all: a class that the model finds hard is confident at a low probability. A
    row has `index` (in the split), `file_name`, `label`, `suggested`, and the probabilities of
    both.
    """
    labels = np.array([int(each["label"]) for each in truth])
    own = np.array([probability_of(f, t) for f, t in zip(found, labels.tolist(), strict=True)])
    sums, counts = (np.bincount(labels, weight, len(classes)) for weight in (own, None))
    threshold = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    doubted = []
    for i, (each, label) in enumerate(zip(found, labels.tolist(), strict=True)):
        p = probabilities_of(each, len(classes))
        confident = np.where(p >= threshold, p, -1.0)
        best = int(confident.argmax())
        if label in (best, int(p.argmax())) or confident[best] < 0:
            continue
        row = {
            "index": int(truth[i].get("index", i)),
            "file_name": str(truth[i].get("file_name", "")),
            "label": classes[label],
            "suggested": classes[best],
            "probability_of_label": float(p[label]),
            "probability_of_suggested": float(p[best]),
        }
        doubted.append((i, row))
    margin = lambda each: each[1]["probability_of_label"] - each[1]["probability_of_suggested"]  # noqa: E731
    return sorted(doubted, key=margin)


def worst_mistakes(truth: Images, found: Images, most: int) -> list[int]:
    """Indices of wrongly classified images, the least probable true class first."""
    wrong = [
        (probability_of(f, int(t["label"])), -float(f["scores"][0]), i)
        for i, (t, f) in enumerate(zip(truth, found, strict=True))
        if int(f["labels"][0]) != int(t["label"])
    ]
    return [i for *_, i in sorted(wrong)[:most]]


def class_rows(table: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The numbers of `by_class` as a row for each class, for JSON; null where undefined."""
    numbers = by_class(table)
    rows = []
    for i, name in enumerate(classes):
        row: dict[str, Any] = {"class": name, "images": int(numbers["images"][i])}
        for key in ("precision", "recall", "F1"):
            value = float(numbers[key][i])
            row[key] = None if np.isnan(value) else round(value, 6)
        rows.append(row)
    return rows
