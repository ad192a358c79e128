"""Average precision equals the reference evaluator, pycocotools, also where that one stumbles."""

import json
import math

import numpy as np
import pytest
from coco_oracle import CLASSES, NAMES, found_on, image, oracle, random_boxes, random_case

from convmesh.tasks.average_precision import (
    ap_table,
    coco_metrics,
    coco_results,
    image_numbers,
)


def assert_equals_oracle(truth, detections):
    found = coco_metrics(truth, detections, CLASSES)
    expected = oracle(truth, detections)
    assert set(found) == {*expected, "images"}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9, nan_ok=True), name
    return found


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


@pytest.mark.parametrize("seed", range(4))
def test_equal_overlaps(seed):
    """On a coarse grid many boxes are the same: which of two objects is taken decides."""
    truth, detections = random_case(seed, levels=2, crowds=0.2)
    for one in (*truth, *detections):
        one["boxes"] = np.round(one["boxes"] / 30) * 30
    assert_equals_oracle(truth, detections)


def test_equal_scores_keep_their_order():
    """By the ids of the images, then as they were given."""
    box, other = [10, 10, 60, 60], [200, 200, 260, 260]
    truth = [image(9, [box], [0]), image(2, [box], [0])]
    right, wrong = found_on(2, [box], [0], [0.5]), found_on(9, [other, box], [0, 0], [0.5, 0.5])
    metrics = assert_equals_oracle(truth, [wrong, right])
    assert metrics["AP/cell"] == pytest.approx((51 + 50 * 2 / 3) / 101)  # right, wrong, right
    wrong["boxes"] = wrong["boxes"][::-1]
    assert assert_equals_oracle(truth, [wrong, right])["AP/cell"] == pytest.approx(1)


@pytest.mark.parametrize("name", [int, str, "{:03d}.jpg".format], ids=["from 0", "digits", "files"])
def test_image_ids_of_any_type(name):
    truth, detections = random_case(5, images=12, levels=2)
    for one in (*truth, *detections):
        one["image_id"] = name(100 - one["image_id"])
    assert {name(0), name(11)} <= {t["image_id"] for t in truth}
    assert_equals_oracle(truth, detections)


def test_truth_without_crowd():
    truth, detections = random_case(6)
    expected = coco_metrics(truth, detections, CLASSES)
    for one in truth:
        del one["crowd"]
    found = assert_equals_oracle(truth, detections)
    np.testing.assert_equal(found, expected)


def test_boxes_on_some_images_and_detections_on_others():
    truth, detections = random_case(7, levels=3)
    for i, one in enumerate(truth):
        if i % 2:
            one.update(image(one["image_id"]))
    for i, one in enumerate(detections):
        if i % 3 == 0:
            one.update(found_on(one["image_id"]))
    assert 0 < assert_equals_oracle(truth, detections)["AP"] < 1


def test_the_best_100_of_300_detections():
    """The 100 limit is an image's and class's: a right box that comes 101st is lost."""
    rng = np.random.default_rng(0)
    truth = [image(1, [[10, 10, 60, 60]], [0]), image(2, random_boxes(rng, 5), [0] * 5)]
    wrong = random_boxes(rng, 299) + 500
    scores = np.linspace(0.9, 0.1, 300)
    for place, hit in ((99, True), (100, False)):
        boxes = np.insert(wrong, place, [10, 10, 60, 60], axis=0)
        metrics = assert_equals_oracle(truth, [found_on(1, boxes, [0] * 300, scores)])
        assert (metrics["AR_100"] > 0) == hit and metrics["AR_10"] == 0


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


def test_metrics_without_objects_are_nan():
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


def test_nothing_is_printed(capfd):
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


def test_classes_of_the_same_name_are_refused():
    with pytest.raises(ValueError, match="'cat' is given twice"):
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


def test_results_file_gives_the_same_metrics_in_pycocotools():
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


def test_table_is_aligned_and_marks_undefined_metrics():
    truth, detections = random_case(0)
    metrics = coco_metrics(truth, detections, CLASSES)
    lines = ap_table(metrics, CLASSES).splitlines()
    assert lines[0] == "12 images"
    for row, names in ((1, NAMES[:6]), (3, NAMES[6:])):
        assert lines[row].split() == list(names)
        assert lines[row + 1].split() == [f"{metrics[name]:.3f}" for name in names]
    assert len({len(line) for line in lines[1:5]}) == 1 and len(lines[1]) <= 80
    assert not any("F1" in line for line in lines)
    assert lines[-4:] == [
        f"cell        {metrics['AP/cell']:.3f}",
        f"cat         {metrics['AP/cat']:.3f}",
        f"dog         {metrics['AP/dog']:.3f}",
        "never seen      -",
    ]


def test_table_names_the_best_threshold():
    f1_line = lambda **more: ap_table({"AP": 0.5, **more}, ["cat"]).splitlines()[4]  # noqa: E731
    assert f1_line(F1=0.71234, best_threshold=0.42) == "F1 0.712 (IoU 0.5), its best, at score 0.42"
    assert f1_line(F1=0.0, best_threshold=math.nan) == "F1 0.000 (IoU 0.5): no detections"


def test_table_of_many_classes_names_each_once_in_columns():
    classes = [f"class {i}" for i in range(80)]
    metrics = {f"AP/{name}": 0.5 for name in classes} | {"AP": None, "images": 1}
    table = ap_table(metrics, classes)
    lines = table.splitlines()
    assert len(lines) < 30 and max(map(len, lines)) <= 80
    assert all(table.count(f"{name} ") == 1 for name in classes)
    assert lines[0] == "1 image" and lines[2].split()[0] == "-"


def test_columns_of_many_classes_are_read_downwards():
    classes = [f"class {i:02}" for i in range(13)]
    metrics = {f"AP/{name}": i / 100 for i, name in enumerate(classes)}
    lines = ap_table(metrics, classes).splitlines()
    lines = lines[lines.index("AP of each class") + 1 :]
    # 15 wide and 4 between: four columns of 4, 4, 4 and 1.
    assert lines == [
        "    ".join(f"class {i:02}  {i / 100:.3f}" for i in range(row, 13, 4)) for row in range(4)
    ]
    lines = ap_table(metrics, classes[:12]).splitlines()
    assert lines[-12:] == [f"class {i:02}  {i / 100:.3f}" for i in range(12)]


def test_integer_ids_come_before_strings():
    truth = [image(i) for i in ("10", 3, "9", 20)]
    assert image_numbers(truth) == {3: 1, 20: 2, "10": 3, "9": 4}


@pytest.mark.parametrize(
    "area, message", [([1.0], "2 boxes but 1 area"), ([1.0, math.nan], "area has a value that")]
)
def test_wrong_areas_are_refused(area, message):
    truth = [image(7, BOX * 2, [0, 0], area=np.array(area))]
    with pytest.raises(ValueError, match=f"image 7: {message}"):
        coco_metrics(truth, [], CLASSES)
