"""Matching of detections to annotated objects at IoU 0.5, as COCO does it, in numpy.

The tests compare it with pycocotools.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convmesh.geometry import coco_iou
from convmesh.tasks.average_precision import MOST_DETECTIONS, image_numbers, read_image

IOU = 0.5  # from which on a detection matches an object
SCORE = 0.25  # from which on a detection counts in the confusion matrix and in image scores

Images = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Matches:
    """Detections of a split, best first, and the objects to detect.

    Equal scores are in the order of the image ids, then as they were given. Of each image and class
    the best 100 detections are kept.

    image, index: int [n], the position in `truth` of a detection's image, and the detection's
      position in that image.
    label: int [n], score: float64 [n].
    correct: bool [n], it matches an object of its class that no better detection has matched.
    ignored: bool [n], it matches a crowd region: neither correct nor wrong.
    object_image, object_index, object_label: int [m], the same of the objects, without crowds.
    object_score: float64 [m], the score of the detection matched to the object; -inf without one.
    boxes: int [images], the number of annotated boxes of an image, crowds included.
    classes: their number.
    """

    image: np.ndarray
    index: np.ndarray
    label: np.ndarray
    score: np.ndarray
    correct: np.ndarray
    ignored: np.ndarray
    object_image: np.ndarray
    object_index: np.ndarray
    object_label: np.ndarray
    object_score: np.ndarray
    boxes: np.ndarray
    classes: int

    def of_class(self, label: int) -> tuple[np.ndarray, np.ndarray, int]:
        """`score` and `correct` of the detections of a class, best first; its number of objects.

        Ignored detections are left out. The label after the last is all classes together.
        """
        counted, objects = ~self.ignored, len(self.object_label)
        if label < self.classes:
            counted = counted & (self.label == label)
            objects = int((self.object_label == label).sum())
        return self.score[counted], self.correct[counted], objects


def match(truth: Images, detections: Images, classes: Sequence[str]) -> Matches:
    """Matches detections to objects of their class at IoU 0.5, best score first, as COCO does.

    Args:
      truth, detections, classes: as for `average_precision.coco_metrics`.

    Raises:
      ValueError: as `coco_metrics` for boxes, labels and scores.
    """
    by_image = {detected["image_id"]: detected for detected in detections}
    positions = {true["image_id"]: i for i, true in enumerate(truth)}
    rows: list[list[np.ndarray]] = [[np.zeros(0)] * 6]
    objects: list[list[np.ndarray]] = [[np.zeros(0)] * 4]
    for image_id in image_numbers(truth):  # in the order of the ids, which decides between ties
        i = positions[image_id]
        boxes, labels, crowd = read_image(truth[i], len(classes), "crowd")
        crowd = crowd.astype(bool)
        object_score = np.full(len(boxes), -math.inf)
        if image_id in by_image:
            found_boxes, found_labels, scores = read_image(
                by_image[image_id], len(classes), "scores"
            )
            order = best_detections(found_labels, scores)
            overlap = coco_iou(found_boxes[order], boxes, crowd)
            overlap[found_labels[order][:, None] != labels] = 0
            matched = match_objects(overlap, crowd)
            correct = (matched >= 0) & ~np.append(crowd, False)[matched]
            ignored = (matched >= 0) & ~correct
            object_score[matched[correct]] = scores[order][correct]
            image = np.full(len(order), i)
            rows.append([image, order, found_labels[order], scores[order], correct, ignored])
        index = np.flatnonzero(~crowd)
        objects.append([np.full(len(index), i), index, labels[index], object_score[index]])
    counts = np.array([len(true["labels"]) for true in truth], np.int64)
    return _collect(rows, objects, counts, len(classes))


def _collect(
    rows: list[list[np.ndarray]],
    objects: list[list[np.ndarray]],
    counts: np.ndarray,
    classes: int,
) -> Matches:
    """The columns of all images, in the order of the fields of Matches, joined; best first."""
    image, index, label, score, correct, ignored = map(np.concatenate, zip(*rows, strict=True))
    object_columns = list(map(np.concatenate, zip(*objects, strict=True)))
    object_image, object_index, object_label = (c.astype(np.int64) for c in object_columns[:3])
    best_first = np.argsort(-score, kind="stable")
    return Matches(
        image=image[best_first].astype(np.int64),
        index=index[best_first].astype(np.int64),
        label=label[best_first].astype(np.int64),
        score=score[best_first],
        correct=correct[best_first].astype(bool),
        ignored=ignored[best_first].astype(bool),
        object_image=object_image,
        object_index=object_index,
        object_label=object_label,
        object_score=object_columns[3],
        boxes=counts,
        classes=classes,
    )


def best_detections(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Indices of an image's detections, best first, at most 100 of each class."""
    order = np.argsort(-scores, kind="stable")
    most = MOST_DETECTIONS[-1]
    if len(order) > most:
        kept = np.zeros(len(order), bool)
        for label in np.unique(labels):
            kept[np.flatnonzero(labels[order] == label)[:most]] = True
        order = order[kept]
    return order


def match_objects(
    overlap: np.ndarray, crowd: np.ndarray, preferred: np.ndarray | None = None
) -> np.ndarray:
    """The index of the object that each detection matches, -1 for none; detections are best first.

    An object is matched once, a crowd region any number of times. A detection takes the free object
    that it overlaps most, or else a crowd region; of equal overlaps a `preferred` one (bool
    [detections, objects]), or else the last, as pycocotools does.
    """
    matched = np.full(len(overlap), -1)
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
            matched[d] = choice[-1]
    return matched
