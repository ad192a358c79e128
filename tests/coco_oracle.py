"""The reference evaluator, pycocotools, and random cases to compare with it."""

import contextlib
import io
import math

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

CLASSES = ("cell", "cat", "dog", "never seen")
NAMES = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"),
)


def evaluator(truth, detections, classes=CLASSES):
    """pycocotools after its work, given ids as it needs them, in the order of ours."""
    ids = sorted((t["image_id"] for t in truth), key=lambda i: (isinstance(i, str), i))
    numbers = {image_id: number for number, image_id in enumerate(ids, start=1)}
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]

    def coco(items, scored):
        annotations = []
        for item in items:
            for j, (x0, y0, x1, y1) in enumerate(np.asarray(item["boxes"], float).tolist()):
                area = (x1 - x0) * (y1 - y0)
                if not scored and "area" in item:
                    area = float(item["area"][j])
                annotation = {
                    "id": len(annotations) + 1,
                    "image_id": numbers[item["image_id"]],
                    "category_id": int(item["labels"][j]) + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": area,
                    "iscrowd": 0 if scored else int("crowd" in item and item["crowd"][j]),
                }
                if scored:
                    annotation["score"] = float(item["scores"][j])
                annotations.append(annotation)
        result = COCO()
        result.dataset = {
            "images": [{"id": i} for i in numbers.values()],
            "annotations": annotations,
            "categories": categories,
        }
        result.createIndex()
        return result

    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(coco(truth, False), coco(detections, True), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge


def oracle(truth, detections, classes=CLASSES):
    """Our numbers from pycocotools; -1 becomes NaN."""
    judge = evaluator(truth, detections, classes)
    values = dict(zip(NAMES, judge.stats, strict=True))
    for i, name in enumerate(classes):
        precision = judge.eval["precision"][:, :, i, 0, -1]
        defined = precision[precision > -1]
        values[f"AP/{name}"] = defined.mean() if defined.size else -1
    return {k: math.nan if v == -1 else float(v) for k, v in values.items()}


def image(image_id, boxes=(), labels=(), crowd=None, **more):
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    crowd = np.zeros(len(boxes), bool) if crowd is None else np.asarray(crowd, bool)
    labels = np.asarray(labels, np.int32)
    size = {"width": 640, "height": 480}
    return {"image_id": image_id, **size, "boxes": boxes, "labels": labels, "crowd": crowd, **more}


def found_on(image_id, boxes=(), labels=(), scores=(), **more):
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    labels, scores = np.asarray(labels, np.int32), np.asarray(scores, np.float32)
    return {"image_id": image_id, "boxes": boxes, "labels": labels, "scores": scores, **more}


def random_boxes(rng, count):
    side = rng.choice([12, 50, 180], size=(count, 1)) * rng.uniform(0.6, 1.4, (count, 2))
    start = rng.uniform(0, 450, (count, 2))
    return np.concatenate([start, start + side], axis=1).astype(np.float32)


def random_case(seed, images=12, objects=6, extra=6, levels=None, crowds=0.0):
    """Truth, and detections near it (each object 0 to 2 times) and beside it."""
    rng = np.random.default_rng(seed)
    truth, detections = [], []
    for i in range(images):
        boxes = random_boxes(rng, rng.integers(0, objects + 1))
        labels = rng.integers(0, 3, len(boxes))
        truth.append(image(100 - i, boxes, labels, rng.random(len(boxes)) < crowds))
        copies = rng.integers(0, 3, len(boxes))
        noise = rng.normal(0, 0.08, (copies.sum(), 4)).astype(np.float32)
        near = np.repeat(boxes, copies, axis=0)
        near = near + noise * np.tile(near[:, 2:] - near[:, :2], 2)
        beside = random_boxes(rng, rng.integers(0, extra + 1))
        scores = rng.random(len(near) + len(beside))
        if levels:
            scores = np.round(scores * levels) / levels
        all_labels = np.concatenate([np.repeat(labels, copies), rng.integers(0, 3, len(beside))])
        detections.append(found_on(100 - i, np.concatenate([near, beside]), all_labels, scores))
    # pycocotools needs images sorted by id; ours sorts them itself.
    return truth[::-1], detections[::-1]


BOX, OTHER, THIRD, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [70, 70, 90, 90]


def small_case():
    """Truth, detections and classes: two classes, three images, a crowd, and exact scores."""
    truth = [
        image("a", [BOX, OTHER, THIRD], [0, 0, 1], file_name="a.png"),
        image("b", [BOX, FAR], [0, 1], crowd=[False, True], file_name="b.png"),
        image("c", file_name="c.png"),
    ]
    detections = [
        found_on("a", [BOX, BOX, OTHER, THIRD], [0, 0, 0, 0], [0.875, 0.75, 0.125, 0.5]),
        found_on("b", [FAR, FAR, BOX], [1, 0, 0], [0.625, 0.25, 0.375]),
    ]
    return truth, detections, ("cat", "dog")
