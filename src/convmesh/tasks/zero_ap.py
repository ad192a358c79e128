"""Explains an average precision of 0 to the user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from convmesh.geometry import coco_iou
from convmesh.tasks.matching import IOU, Images

ZERO_AP = 0.0005  # an AP below this is printed as 0.000


def explain_zero_ap(truth: Images, detections: Images, metrics: Mapping[str, float]) -> list[str]:
    """Sentences that explain an AP of 0 (to three digits) or an undefined AP; [] otherwise.

    `truth` and `detections` as for `average_precision.coco_metrics`, `metrics` is its result.
    """
    if metrics["AP"] >= ZERO_AP:
        return []
    objects = [_boxes_and_labels(image) for image in truth]
    total = sum(len(labels) for _, labels in objects)
    if not total:
        crowds = sum(len(image["boxes"]) for image in truth)
        ignored = f" ({crowds} crowd regions are ignored)" if crowds else ""
        return [
            f"AP is undefined: none of the {len(truth)} images has a box to find{ignored}. "
            "Evaluate a split with annotations, or check whether its boxes are read: "
            "convmesh check-data."
        ]
    scores = np.concatenate([np.zeros(0), *(np.asarray(d["scores"], float) for d in detections)])
    if not len(scores):
        return [
            f"AP is 0: nothing was detected on {len(truth)} images, no score reached the "
            "threshold. Train longer; if the loss does not fall, change the learning rate."
        ]
    best, best_of_class, sizes = _best_overlaps(truth, detections)
    count = f"{len(scores)} detections (highest score {scores.max():.3g})"
    if best < IOU:
        object_sizes = np.concatenate([boxes[:, 2:] for boxes, _ in objects])
        return [
            f"AP is 0: no detection overlaps an object by IoU {IOU}; the best of {count} reaches "
            f"{best:.2f}.",
            f"The median detection has {_median_size(sizes)} pixels, the median object "
            f"{_median_size(object_sizes)}: if these are far apart, check the units of the boxes; "
            "otherwise train longer.",
        ]
    if best_of_class < IOU:
        return [
            f"AP is 0: of {count} the best overlaps an object by IoU {best:.2f}, but none "
            f"overlaps one of its own class by more than {best_of_class:.2f}.",
            "The boxes are right and the classes are wrong: see confusion.png, and check whether "
            "data.classes names the classes in the order of the labels.",
        ]
    return [
        f"AP is {metrics['AP']:.2g}: the best detection overlaps an object of its class by IoU "
        f"{best_of_class:.2f}, but of {count} for {total} objects too few match, or they rank "
        "below too many that do not. Train longer."
    ]


def _boxes_and_labels(image: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [n, 4] x y width height and labels [n] of an image, without crowd regions."""
    corners = np.asarray(image["boxes"], np.float64).reshape(-1, 4)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    crowd = image.get("crowd")
    keep = np.ones(len(boxes), bool) if crowd is None else ~np.asarray(crowd, bool).reshape(-1)
    return boxes[keep], np.asarray(image["labels"]).reshape(-1)[keep]


def _best_overlaps(truth: Images, detections: Images) -> tuple[float, float, np.ndarray]:
    """The best IoU of a detection with any object, and with one of its class; sizes [n, 2]."""
    by_image = {
        found["image_id"]: _boxes_and_labels(dict(found, crowd=None)) for found in detections
    }
    best = best_of_class = 0.0
    for image in truth:
        boxes, labels = _boxes_and_labels(image)
        if not len(boxes) or image["image_id"] not in by_image:
            continue
        found_boxes, found_labels = by_image[image["image_id"]]
        overlap = coco_iou(found_boxes, boxes, np.zeros(len(boxes), bool))
        best = max(best, overlap.max(initial=0))
        same = np.where(found_labels[:, None] == labels, overlap, 0)
        best_of_class = max(best_of_class, same.max(initial=0))
    sizes = np.concatenate([np.zeros((0, 2)), *(boxes[:, 2:] for boxes, _ in by_image.values())])
    return float(best), float(best_of_class), sizes


def _median_size(sizes: np.ndarray) -> str:
    width, height = np.median(sizes, axis=0)
    return f"{width:.3g} x {height:.3g}"
