"""Average precision equals the reference evaluator, pycocotools, also where that one stumbles."""

import contextlib
import io
import json
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from convmesh.tasks.average_precision import ap_table, coco_metrics, coco_results

CLASSES = ("cell", "cat", "dog", "never seen")
NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_100")


def oracle(truth, detections, classes=CLASSES):
    """The same numbers from pycocotools, given ids as it needs them; -1 becomes NaN."""
    numbers = {t["image_id"]: i for i, t in enumerate(truth, start=1)}
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
                    "iscrowd": 0 if scored else int(item["crowd"][j]),
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
        evaluator = COCOeval(coco(truth, False), coco(detections, True), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    stats = evaluator.stats
    values = dict(zip(NAMES, [*stats[:6], stats[8]], strict=True))
    for i, name in enumerate(classes):
        precision = evaluator.eval["precision"][:, :, i, 0, -1]
        defined = precision[precision > -1]
        values[f"AP/{name}"] = defined.mean() if defined.size else -1
    return {k: math.nan if v == -1 else float(v) for k, v in values.items()}


def assert_equals_oracle(truth, detections):
    found = coco_metrics(truth, detections, CLASSES)
    expected = oracle(truth, detections)
    assert set(found) == {*expected, "images"}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9, nan_ok=True), name
    return found


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
    # The reference sorts images by id; ours has to without being told.
    return truth[::-1], detections[::-1]


@pytest.mark.parametrize("seed", range(4))
def test_random_boxes(seed):
    truth, detections = random_case(seed)
    metrics = assert_equals_oracle(truth, detections)
    assert 0.05 < metrics["AP"] < 0.95 and metrics["images"] == 12


@pytest.mark.parametrize("seed", range(4))
def test_tied_scores(seed):
    assert_equals_oracle(*random_case(seed, levels=3))


@pytest.mark.parametrize("seed", range(4))
def test_crowd_regions(seed):
    truth, detections = random_case(seed, crowds=0.4, levels=5)
    assert_equals_oracle(truth, detections)
    without = [{**t, "crowd": np.zeros_like(t["crowd"])} for t in truth]
    assert coco_metrics(truth, detections, CLASSES) != coco_metrics(without, detections, CLASSES)


def test_more_than_100_detections_of_an_image():
    truth, detections = random_case(1, images=2, extra=0)
    rng = np.random.default_rng(5)
    for found in detections:
        wrong = random_boxes(rng, 450)
        found["boxes"] = np.concatenate([wrong, found["boxes"]])
        found["labels"] = np.concatenate([rng.integers(0, 3, 450), found["labels"]])
        found["scores"] = np.concatenate([np.full(450, 0.9), np.full(len(found["scores"]), 0.1)])
    assert_equals_oracle(truth, detections)


def test_the_order_of_the_images_does_not_matter():
    truth, detections = random_case(2, levels=2)
    turned = np.random.default_rng(0).permutation(len(truth))
    again = coco_metrics([truth[i] for i in turned], [detections[i] for i in turned], CLASSES)
    np.testing.assert_equal(again, coco_metrics(truth, detections, CLASSES))
    by_name = [
        [{**t, "image_id": f"{t['image_id']:03d}.jpg"} for t in part]
        for part in (truth, detections)
    ]
    np.testing.assert_equal(again, coco_metrics(*by_name, CLASSES))


def test_perfect_detections_score_one():
    """With an annotation id of 0 the evaluators call the first object unmatched."""
    boxes = [[10, 10, 60, 60], [100, 100, 220, 300]]
    truth = [image(0, boxes, [0, 1])]
    metrics = coco_metrics(truth, [found_on(0, boxes, [0, 1], [0.9, 0.8])], CLASSES)
    assert metrics["AP"] == metrics["AR_100"] == pytest.approx(1)
    assert metrics["AP_medium"] == metrics["AP_large"] == pytest.approx(1)
    assert math.isnan(metrics["AP_small"])


def test_a_false_alarm_on_an_empty_image_counts():
    box = [[10, 10, 60, 60]]
    truth = [image("a", box, [0]), image("b"), image("c")]
    alarm = found_on("b", box, [0], [0.9])
    metrics = coco_metrics(truth, [found_on("a", box, [0], [0.5]), alarm], CLASSES)
    assert metrics["AP"] == pytest.approx(0.5)
    assert metrics["images"] == 3


def test_an_image_without_detections_counts():
    box = [[10, 10, 60, 60]]
    truth = [image(1, box, [0]), image(2, box, [0])]
    metrics = coco_metrics(truth, [found_on(1, box, [0], [0.5])], CLASSES)
    assert metrics["AR_100"] == pytest.approx(0.5)
    assert metrics["AP"] == pytest.approx(51 / 101)  # recall points 0.00 to 0.50


@pytest.mark.parametrize("detections", [[], [found_on(1), found_on(2)]])
def test_no_detections_at_all_score_zero(detections):
    truth = [image(1, [[10, 10, 60, 60]], [1]), image(2)]
    metrics = assert_equals_oracle(truth, detections)
    assert metrics["AP"] == metrics["AP50"] == metrics["AR_100"] == metrics["AP/cat"] == 0
    assert math.isnan(metrics["AP/cell"])


def test_nothing_to_find_is_not_a_number():
    for truth in ([], [image(1)], [image(1, [[10, 10, 60, 60]], [1], crowd=[True])]):
        detections = [found_on(1, [[1, 2, 3, 4]], [0], [0.5])] if truth else []
        metrics = coco_metrics(truth, detections, CLASSES)
        assert metrics.pop("images") == len(truth)
        assert all(math.isnan(value) for value in metrics.values())


def test_classes_absent_from_the_truth_stay_out_of_the_mean():
    truth, detections = random_case(3)
    metrics = coco_metrics(truth, detections, CLASSES)
    assert math.isnan(metrics["AP/never seen"])
    seen = [metrics[f"AP/{name}"] for name in CLASSES[:3]]
    assert metrics["AP"] == pytest.approx(np.mean(seen))


def test_given_areas_sort_boxes_by_size():
    """COCO's small, medium and large go by the outline's area, smaller than its box."""
    box = [[0, 0, 40, 40]]
    truth = [image(1, box, [0], area=np.array([500.0]))]
    metrics = assert_equals_oracle(truth, [found_on(1, box, [0], [0.5])])
    assert metrics["AP_small"] == pytest.approx(1) and math.isnan(metrics["AP_medium"])


def test_the_engine_prints_nothing(capfd):
    coco_metrics(*random_case(0), CLASSES)
    assert capfd.readouterr() == ("", "")


BOX = [[10, 10, 60, 60]]


@pytest.mark.parametrize(
    ("truth", "detections", "message"),
    [
        ([image(7), image(7)], [], "truth: image 7 is given twice"),
        ([image(7)], [found_on(7), found_on(7)], "detections: image 7 is given twice"),
        ([image(7)], [found_on("7")], "'7' is not in the truth"),
        ([image(7, BOX, [4])], [], "image 7: label 4"),
        ([image(7)], [found_on(7, BOX, [-1], [0.5])], "image 7: label -1"),
        ([image(7)], [found_on(7, BOX, [0], [math.nan])], "image 7: scores"),
        ([image(7)], [found_on(7, [[0, 0, math.inf, 9]], [0], [0.5])], "image 7: a box"),
        ([image(7)], [found_on(7, BOX, [0, 1], [0.5, 0.5])], "1 boxes but 2 labels"),
        ([image(7)], [found_on(7, BOX, [0], [])], "1 boxes but 0 scores"),
    ],
)
def test_wrong_input_is_refused(truth, detections, message):
    with pytest.raises(ValueError, match=message):
        coco_metrics(truth, detections, CLASSES)


def test_two_classes_of_one_name_are_refused():
    with pytest.raises(ValueError, match="'cat' stands twice"):
        coco_metrics([image(1)], [], ("cat", "dog", "cat"))


def with_confidences(detections):
    for found in detections:
        count = len(found["boxes"])
        found["file_name"] = f"{found['image_id']}.jpg"
        found["box_confidence"] = np.linspace(0.2, 0.8, count, dtype=np.float32)
        found["class_confidence"] = np.linspace(0.9, 0.4, count, dtype=np.float32)
    return detections


def test_results_file_fields():
    box = np.array([[10.5, 20, 60, 80]], np.float32)
    found = with_confidences([found_on(np.int64(12), box, [1], [0.25])])
    (result,) = json.loads(json.dumps(coco_results(found, CLASSES)))
    assert result == {
        "image_id": 12,
        "category_id": 2,
        "bbox": [10.5, 20, 49.5, 60],
        "score": 0.25,
        "file_name": "12.jpg",
        "category_name": "cat",
        "box_confidence": pytest.approx(0.2),
        "class_confidence": pytest.approx(0.9),
    }
    (result,) = coco_results(found, CLASSES, category_ids=[10, 17, 18, 90])
    assert result["category_id"] == 17


def test_results_file_scores_the_same_in_the_reference():
    truth, detections = random_case(3, levels=4)
    results = json.loads(json.dumps(coco_results(with_confidences(detections), CLASSES)))
    assert len(results) == sum(len(found["boxes"]) for found in detections)
    back = {t["image_id"]: found_on(t["image_id"]) for t in truth}
    for image_id in back:
        mine = [r for r in results if r["image_id"] == image_id]
        corners = [[x, y, x + w, y + h] for x, y, w, h in (r["bbox"] for r in mine)]
        back[image_id] = {
            "image_id": image_id,
            "boxes": np.reshape(corners, (-1, 4)),
            "labels": [r["category_id"] - 1 for r in mine],
            "scores": [r["score"] for r in mine],
        }
    expected = oracle(truth, list(back.values()))
    metrics = coco_metrics(truth, detections, CLASSES)
    for name in NAMES:
        assert metrics[name] == pytest.approx(expected[name], abs=1e-9), name


def test_table_is_aligned_and_marks_what_was_not_there():
    truth, detections = random_case(0)
    metrics = coco_metrics(truth, detections, CLASSES)
    lines = ap_table(metrics, CLASSES).splitlines()
    assert lines[0] == "12 images"
    assert lines[1].split() == list(NAMES)
    assert lines[2].split() == [f"{metrics[name]:.3f}" for name in NAMES]
    assert len(lines[1]) == len(lines[2])
    assert lines[-4:] == [
        f"cell        {metrics['AP/cell']:.3f}",
        f"cat         {metrics['AP/cat']:.3f}",
        f"dog         {metrics['AP/dog']:.3f}",
        "never seen      -",
    ]


def test_table_of_many_classes_names_each_once_in_columns():
    classes = [f"class {i}" for i in range(80)]
    metrics = {f"AP/{name}": 0.5 for name in classes} | {"AP": None, "images": 1}
    table = ap_table(metrics, classes)
    lines = table.splitlines()
    assert len(lines) < 30 and max(map(len, lines)) <= 80
    assert all(table.count(f"{name} ") == 1 for name in classes)
    assert lines[0] == "1 image" and lines[2].split()[0] == "-"
