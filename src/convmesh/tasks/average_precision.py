"""COCO average precision of detections, their file format, and the table for people.

The definition is that of the COCO challenge (Lin et al., arXiv 1405.0312, and its reference
evaluator pycocotools): precision at 101 recall points, the mean over ten overlaps 0.50 to 0.95,
the best 100 detections of an image and class. faster-coco-eval computes it; the tests hold it to
pycocotools.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

AREAS = ("all", "small", "medium", "large")
MOST_DETECTIONS = (1, 10, 100)  # of an image and class
# COCO's twelve, in the order in which its own evaluators print them.
PRECISIONS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
RECALLS = ("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large")


def coco_metrics(
    truth: Sequence[Mapping[str, Any]],
    detections: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
) -> dict[str, float]:
    """Average precision and recall over every image of `truth`, detected on or not.

    Args:
      truth: for each image `image_id` (int or str), `width` and `height` in pixels, `boxes`
        [n, 4] x0 y0 x1 y1 in pixels, `labels` [n] class ids from 0. Optional are `crowd` [n] bool
        (a region to ignore; without it none is) and `area` [n] in square pixels: COCO sorts its
        boxes into small, medium and large by the area of their outline; without it the area of
        the box is taken.
      detections: for each image `image_id`, `boxes` [m, 4], `scores` [m], `labels` [m]. Images
        may be left out where nothing was found.
      classes: names, index = class id.

    Returns:
      COCO's twelve numbers, which are `PRECISIONS` and `RECALLS` (of the best 1, 10 and 100
      detections, and of the sizes with 100), `AP/CLASS` for each class, `images`. NaN stands where
      the truth holds no box to find (pycocotools says -1); such classes do not enter the means.

    The order of the images does not matter. Equal scores keep the order of the image ids, then
    the order in which an image's detections are given.

    Raises:
      ValueError: an image is given twice; a detection's image is not in the truth; a label is not
        a class id; a box or score is not finite; arrays of one image differ in length; two
        classes have one name.
    """
    repeated = _repeated(classes)
    if repeated is not None:
        raise ValueError(f"classes: {repeated!r} stands twice; give each class its own name")

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

    # precision: [overlap, recall, class, area, most detections]; recall lacks the second axis.
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
    for i, name in enumerate(classes):
        metrics[f"AP/{name}"] = _mean(precision[:, :, i, 0, -1])
    metrics["images"] = len(images)
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
      category_ids: the source's own number of each class; class id + 1 where left out.

    Returns:
      One dict for each detection, in the given order, ready for JSON: `image_id` as given,
      `category_id`, `bbox` (x, y, width, height in pixels), `score`, `file_name`,
      `category_name`, `box_confidence`, `class_confidence`. Nothing is rounded, so that another
      evaluator finds the numbers of `coco_metrics` in them.

    Raises:
      ValueError: as `coco_metrics`.
    """
    if category_ids is None:
        category_ids = range(1, len(classes) + 1)
    results = []
    for found in detections:
        boxes, labels, scores = checked(found, len(classes), "scores")
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
    """The numbers of `coco_metrics` as an aligned table; `-` where there was nothing to find."""
    images = metrics.get("images")
    lines = [] if images is None else [f"{int(images)} image{'s' if images != 1 else ''}"]
    width = max(map(len, PRECISIONS + RECALLS))  # of both pairs of lines: they stand in columns
    for heads in (PRECISIONS, RECALLS):
        for row in (heads, [_cell(metrics.get(head)) for head in heads]):
            lines.append("  ".join(text.rjust(width) for text in row))
    if _known(metrics.get("F1")):
        threshold = metrics.get("best_threshold")
        at = f", its best, at score {threshold:g}" if _known(threshold) else ": nothing was found"
        lines.append(f"F1 {_cell(metrics['F1'])} (IoU 0.5){at}")

    lines += ["", "AP of each class"]
    name_width = max((len(name) for name in classes), default=0)
    entries = [f"{name.ljust(name_width)}  {_cell(metrics.get(f'AP/{name}'))}" for name in classes]
    # Many classes stand in columns, read downwards, as wide as a terminal allows.
    entry_width = name_width + 2 + len(_cell(None))
    columns = max(1, (80 + 4) // (entry_width + 4)) if len(entries) > 12 else 1
    height = -(-len(entries) // columns)
    for i in range(height):
        lines.append("    ".join(entries[i::height]))
    return "\n".join(lines)


def _evaluate(images, truth, detections, categories) -> tuple[np.ndarray, np.ndarray]:
    """Precision [10, 101, classes, 4, 3] and recall [10, classes, 4, 3], -1 where undefined."""
    if not images or not categories:
        shape = (10, 101, len(categories), len(AREAS), len(MOST_DETECTIONS))
        return np.full(shape, -1.0), np.full((10, *shape[2:]), -1.0)

    from faster_coco_eval import COCO, COCOeval_faster  # heavy, and only evaluation needs it

    def data_set(annotations: list[dict]) -> Any:
        """A COCO object of these annotations. Built by hand: `loadRes` adds outlines to boxes."""
        data = {"images": images, "categories": categories, "annotations": annotations}
        return COCO(data, print_function=_quiet)

    # The engine's own settings are those of COCO: overlaps 0.50:0.05:0.95, areas cut at 32 and 96
    # pixels squared, and 1, 10 or 100 detections.
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
    """A number from 1 for each image id, in the order of the ids, whatever their type.

    Raises ValueError: an image is given twice.
    """
    ids = [t["image_id"] for t in truth]
    repeated = _repeated(ids)
    if repeated is not None:
        raise ValueError(f"truth: image {repeated!r} is given twice and would count twice")
    ids.sort(key=lambda i: (isinstance(i, str), i))
    return {image_id: number for number, image_id in enumerate(ids, start=1)}


def _truth_annotations(truth, numbers, class_count) -> list[dict]:
    annotations: list[dict] = []
    for image in truth:
        boxes, labels, crowd = checked(image, class_count, "crowd")
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


def _detection_annotations(detections, numbers, class_count) -> list[dict]:
    repeated = _repeated([found["image_id"] for found in detections])
    if repeated is not None:
        raise ValueError(f"detections: image {repeated!r} is given twice and would count twice")
    annotations: list[dict] = []
    for found in detections:
        number = numbers.get(found["image_id"])
        if number is None:
            raise ValueError(f"detections: image {found['image_id']!r} is not in the truth")
        boxes, labels, scores = checked(found, class_count, "scores")
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


def checked(
    image: Mapping[str, Any], class_count: int, key: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One image's boxes [n, 4] x y width height (float64), labels [n] and column `key` [n].

    `crowd` may be missing: then nothing is a crowd. Raises ValueError as `coco_metrics`.
    """
    who = f"image {image['image_id']!r}"
    corners = np.asarray(image["boxes"], np.float64).reshape(-1, 4)
    labels = np.asarray(image["labels"]).reshape(-1).astype(np.int64)
    if len(labels) != len(corners):
        raise ValueError(f"{who}: {len(corners)} boxes but {len(labels)} labels")
    if not np.isfinite(corners).all():
        raise ValueError(f"{who}: a box is not finite")
    if len(labels) and not 0 <= labels.min() <= labels.max() < class_count:
        wrong = labels[(labels < 0) | (labels >= class_count)][0]
        raise ValueError(f"{who}: label {wrong} is not one of the {class_count} class ids")
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    if key == "crowd" and image.get("crowd") is None:
        return boxes, labels, np.zeros(len(boxes))
    return boxes, labels, _column(image, key, len(boxes))


def _column(image, key, length) -> np.ndarray:
    values = np.asarray(image[key], np.float64).reshape(-1)
    if len(values) != length:
        raise ValueError(f"image {image['image_id']!r}: {length} boxes but {len(values)} {key}")
    if not np.isfinite(values).all():
        raise ValueError(f"image {image['image_id']!r}: {key} holds a value that is not finite")
    return values


def _mean(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else math.nan


def _cell(value: float | None) -> str:
    return f"{value:5.3f}" if _known(value) else "    -"


def _known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _repeated(values: Sequence[Any]) -> Any | None:
    """The first value that stands twice, or None."""
    seen = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def _quiet(*_: object) -> None:
    """Takes the engine's messages."""
