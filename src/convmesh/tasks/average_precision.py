"""COCO average precision of detections, the COCO results format, and the printed table.

The definition is that of the COCO challenge (Lin et al., arXiv 1405.0312, and its reference
evaluator pycocotools): precision at 101 recall points, the mean over ten overlaps 0.50 to 0.95,
the best 100 detections of an image and class. faster-coco-eval computes it; the tests compare with
pycocotools.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

AREAS = ("all", "small", "medium", "large")
MOST_DETECTIONS = (1, 10, 100)  # per image and class
# COCO's twelve metrics, in the order in which its evaluators print them.
PRECISIONS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
RECALLS = ("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large")


def coco_metrics(
    truth: Sequence[Mapping[str, Any]],
    detections: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
) -> dict[str, float]:
    """Average precision and recall over every image of `truth`, with or without detections.

    Args:
      truth: for each image `image_id` (int or str), `width` and `height` in pixels, `boxes`
        [n, 4] x0 y0 x1 y1 in pixels, `labels` [n] class ids from 0. Optional: `crowd` [n] bool,
        regions to ignore (none by default); `area` [n] in square pixels, by which COCO sorts
        objects into small, medium and large: the area of the outline (by default, of the box).
      detections: for each image `image_id`, `boxes` [m, 4], `scores` [m], `labels` [m]. Images
        without detections may be left out.
      classes: names, index = class id.

    Returns:
      COCO's twelve metrics, `PRECISIONS` and `RECALLS` (of the best 1, 10 and 100 detections, and
      of each size with 100), `AP/CLASS` for each class, and `images`. NaN where there is no object
      to find (pycocotools gives -1); such classes do not enter the means.

    The order of the images does not matter. Equal scores are ordered by image id, then as given.

    Raises:
      ValueError: an image is given twice; a detection's image is not in the truth; a label is not
        a class id; a box or score is not finite; arrays of one image differ in length; two
        classes have one name.
    """
    repeated = _repeated(classes)
    if repeated is not None:
        raise ValueError(f"classes: {repeated!r} is given twice; give each class its own name")

    numbers = image_numbers(truth)
    images = [
        {"id": numbers[t["image_id"]], "width": int(t["width"]), "height": int(t["height"])}
        for t in truth
    ]
    precision, recall = _evaluate(
        images,
        _truth_annotations(truth, numbers, len(classes)),
        _detection_annotations(detections, numbers, len(classes)),
        categories=[{"id": i + 1, "name": name} for i, name in enumerate(classes)],
    )

    metrics = _overall_metrics(precision, recall)
    for i, name in enumerate(classes):
        metrics[f"AP/{name}"] = _mean(precision[:, :, i, 0, -1])
    metrics["images"] = len(images)
    return metrics


def _overall_metrics(precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
    """`PRECISIONS` and `RECALLS` of the arrays that `_evaluate` returns."""
    metrics = {
        "AP": _mean(precision[:, :, :, 0, -1]),
        "AP50": _mean(precision[0, :, :, 0, -1]),
        "AP75": _mean(precision[5, :, :, 0, -1]),
    }
    for i, area in enumerate(AREAS[1:], start=1):
        metrics[f"AP_{area}"] = _mean(precision[:, :, :, i, -1])
    for i, most in enumerate(MOST_DETECTIONS):
        metrics[f"AR_{most}"] = _mean(recall[:, :, 0, i])
    for i, area in enumerate(AREAS[1:], start=1):
        metrics[f"AR_{area}"] = _mean(recall[:, :, i, -1])
    return metrics


def coco_results(
    detections: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    category_ids: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """Detections in the COCO results format, with the fields that convmesh adds.

    Args:
      detections: as for `coco_metrics`, and for each image `file_name`, `box_confidence` [m],
        `class_confidence` [m].
      classes: names, index = class id.
      category_ids: the data set's id of each class; class id + 1 by default.

    Returns:
      One dict for each detection, in the given order, ready for JSON: `image_id` as given,
      `category_id`, `bbox` (x, y, width, height in pixels), `score`, `file_name`,
      `category_name`, `box_confidence`, `class_confidence`. Nothing is rounded, so that other
      evaluators compute the same metrics.

    Raises:
      ValueError: as `coco_metrics`.
    """
    if category_ids is None:
        category_ids = range(1, len(classes) + 1)
    results = []
    for found in detections:
        boxes, labels, scores = read_image(found, len(classes), "scores")
        added = [
            _column(found, key, len(boxes)).tolist()
            for key in ("box_confidence", "class_confidence")
        ]
        image_id = found["image_id"]
        if isinstance(image_id, np.generic):
            image_id = image_id.item()
        for box, label, score, box_confidence, class_confidence in zip(
            boxes.tolist(), labels.tolist(), scores.tolist(), *added, strict=True
        ):
            results.append(
                {
                    "image_id": image_id,
                    "category_id": int(category_ids[label]),
                    "bbox": box,
                    "score": score,
                    "file_name": str(found["file_name"]),
                    "category_name": classes[label],
                    "box_confidence": box_confidence,
                    "class_confidence": class_confidence,
                }
            )
    return results


def ap_table(metrics: Mapping[str, float | None], classes: Sequence[str]) -> str:
    """The result of `coco_metrics` as an aligned table; `-` where it is NaN."""
    images = metrics.get("images")
    lines = [] if images is None else [f"{int(images)} image{'s' if images != 1 else ''}"]
    width = max(map(len, PRECISIONS + RECALLS))  # the same columns in both pairs of lines
    for heads in (PRECISIONS, RECALLS):
        for row in (heads, [_cell(metrics.get(head)) for head in heads]):
            lines.append("  ".join(text.rjust(width) for text in row))
    if _known(metrics.get("F1")):
        threshold = metrics.get("best_threshold")
        best = f", its best, at score {threshold:g}" if _known(threshold) else ": no detections"
        lines.append(f"F1 {_cell(metrics['F1'])} (IoU 0.5){best}")

    lines += ["", "AP of each class"]
    name_width = max((len(name) for name in classes), default=0)
    entries = [f"{name.ljust(name_width)}  {_cell(metrics.get(f'AP/{name}'))}" for name in classes]
    # Many classes are printed in columns, read downwards, to the width of a terminal.
    entry_width = name_width + 2 + len(_cell(None))
    columns = max(1, (80 + 4) // (entry_width + 4)) if len(entries) > 12 else 1
    height = -(-len(entries) // columns)
    for i in range(height):
        lines.append("    ".join(entries[i::height]))
    return "\n".join(lines)


def _evaluate(
    images: list[dict[str, Any]],
    truth: list[dict[str, Any]],
    detections: list[dict[str, Any]],
    categories: list[dict[str, Any]],
) -> tuple[np.ndarray, np.ndarray]:
    """Precision [overlaps, recalls, classes, areas, MOST_DETECTIONS], -1 where undefined.

    And recall, which has no axis of recalls. 10 overlaps, 101 recalls, 4 areas.
    """
    if not images or not categories:
        shape = (10, 101, len(categories), len(AREAS), len(MOST_DETECTIONS))
        return np.full(shape, -1.0), np.full((10, *shape[2:]), -1.0)

    from faster_coco_eval import COCO, COCOeval_faster  # slow to import

    def data_set(annotations: list[dict]) -> Any:
        """A COCO object of these annotations; not by `loadRes`, which adds outlines to boxes."""
        data = {"images": images, "categories": categories, "annotations": annotations}
        return COCO(data, print_function=_quiet)

    # Its defaults are those of COCO: overlaps 0.50:0.05:0.95, areas split at 32 and 96 pixels
    # squared, and 1, 10 or 100 detections.
    engine = COCOeval_faster(
        data_set(truth), data_set(detections), iouType="bbox", print_function=_quiet
    )
    engine.evaluate()
    engine.accumulate()
    counts = (10, 101, len(categories), len(AREAS), len(MOST_DETECTIONS))
    precision = np.asarray(engine.eval["precision"], np.float64).reshape(counts)
    recall = np.asarray(engine.eval["recall"], np.float64).reshape(counts[0], *counts[2:])
    return precision, recall


def image_numbers(truth: Sequence[Mapping[str, Any]]) -> dict[int | str, int]:
    """A number from 1 for each image id, in the order of the ids: integers, then strings.

    Raises ValueError: an image is given twice.
    """
    ids = [t["image_id"] for t in truth]
    repeated = _repeated(ids)
    if repeated is not None:
        raise ValueError(f"truth: image {repeated!r} is given twice and would count twice")
    ids.sort(key=lambda i: (isinstance(i, str), i))
    return {image_id: number for number, image_id in enumerate(ids, start=1)}


def _truth_annotations(
    truth: Sequence[Mapping[str, Any]], numbers: Mapping[int | str, int], class_count: int
) -> list[dict[str, Any]]:
    annotations: list[dict[str, Any]] = []
    for image in truth:
        boxes, labels, crowd = read_image(image, class_count, "crowd")
        if image.get("area") is None:
            areas = boxes[:, 2] * boxes[:, 3]
        else:
            areas = _column(image, "area", len(boxes))
        number = numbers[image["image_id"]]
        for box, label, ignored, area in zip(
            boxes.tolist(), labels.tolist(), crowd.tolist(), areas.tolist(), strict=True
        ):
            annotations.append(
                # An id of 0 means "not matched" to the evaluators: they start at 1.
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(ignored),
                }
            )
    return annotations


def _detection_annotations(
    detections: Sequence[Mapping[str, Any]], numbers: Mapping[int | str, int], class_count: int
) -> list[dict[str, Any]]:
    repeated = _repeated([found["image_id"] for found in detections])
    if repeated is not None:
        raise ValueError(f"detections: image {repeated!r} is given twice and would count twice")
    annotations: list[dict[str, Any]] = []
    for found in detections:
        number = numbers.get(found["image_id"])
        if number is None:
            raise ValueError(f"detections: image {found['image_id']!r} is not in the truth")
        boxes, labels, scores = read_image(found, class_count, "scores")
        for box, label, score in zip(boxes.tolist(), labels.tolist(), scores.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    "score": score,
                }
            )
    return annotations


def read_image(
    image: Mapping[str, Any], class_count: int, key: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes [n, 4] x y width height (float64), labels [n] and values of `key` [n] of an image.

    `crowd` may be missing: then no box is a crowd. Raises ValueError as `coco_metrics`.
    """
    name = f"image {image['image_id']!r}"
    corners = np.asarray(image["boxes"], np.float64).reshape(-1, 4)
    labels = np.asarray(image["labels"]).reshape(-1).astype(np.int64)
    if len(labels) != len(corners):
        raise ValueError(f"{name}: {len(corners)} boxes but {len(labels)} labels")
    if not np.isfinite(corners).all():
        raise ValueError(f"{name}: a box is not finite")
    if len(labels) and not 0 <= labels.min() <= labels.max() < class_count:
        wrong = labels[(labels < 0) | (labels >= class_count)][0]
        raise ValueError(f"{name}: label {wrong} is not one of the {class_count} class ids")
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    if key == "crowd" and image.get("crowd") is None:
        return boxes, labels, np.zeros(len(boxes))
    return boxes, labels, _column(image, key, len(boxes))


def _column(image: Mapping[str, Any], key: str, length: int) -> np.ndarray:
    values = np.asarray(image[key], np.float64).reshape(-1)
    if len(values) != length:
        raise ValueError(f"image {image['image_id']!r}: {length} boxes but {len(values)} {key}")
    if not np.isfinite(values).all():
        raise ValueError(f"image {image['image_id']!r}: {key} has a value that is not finite")
    return values


def _mean(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else math.nan


def _cell(value: float | None) -> str:
    return f"{value:5.3f}" if _known(value) else "    -"


def _known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _repeated(values: Sequence[Any]) -> Any | None:
    """The first value that occurs twice, or None."""
    seen = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def _quiet(*_: object) -> None:
    """Discards the messages of faster-coco-eval."""
