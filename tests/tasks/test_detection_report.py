"""What stands behind an AP: by hand on small cases, and as the reference evaluator finds it."""

import json
import math

import numpy as np
import pytest
from coco_oracle import CLASSES, evaluator, found_on, image, random_case

from convmesh.tasks import detection_report as report
from convmesh.tasks.average_precision import coco_metrics

BOX, OTHER, THIRD, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [70, 70, 90, 90]


def by_hand():
    """Two classes, three images, and a crowd; scores that binary fractions hold."""
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


@pytest.mark.parametrize("seed", range(8))
def test_precision_is_that_of_the_reference(seed):
    truth, detections = random_case(seed, levels=(None, 4)[seed % 2], crowds=0.2)
    if seed > 3:  # the same boxes again and again
        for one in (*truth, *detections):
            one["boxes"] = np.round(one["boxes"] / 30) * 30
    found = report.precision_at_recall(report.match(truth, detections, CLASSES))
    judge = evaluator(truth, detections)
    expected = judge.eval["precision"][0, :, :, 0, -1]
    np.testing.assert_allclose(found, np.where(expected < 0, math.nan, expected), atol=1e-12)
    np.testing.assert_array_equal(report.RECALLS, judge.params.recThrs)
    ap50 = coco_metrics(truth, detections, CLASSES)["AP50"]
    assert np.nanmean(found) == pytest.approx(ap50, abs=1e-9) and 0 < ap50 < 1


@pytest.mark.parametrize("order, found_at", [([0, 1], [0.5, 0.75]), ([1, 0], [-math.inf, 0.75])])
def test_between_equal_overlaps_the_last_object_is_taken(order, found_at):
    """As the reference does; it decides whether the next detection finds the other one."""
    objects = np.array([[0, 0, 10, 10], [0, 4, 10, 14]])[order]
    truth = [image(1, objects, [0, 0])]
    detections = [found_on(1, [[0, 2, 10, 12], [0, 0, 10, 10]], [0, 0], [0.75, 0.5])]
    matches = report.match(truth, detections, CLASSES)
    assert matches.found_at.tolist() == found_at
    precision = report.precision_at_recall(matches)[:, 0]
    expected = evaluator(truth, detections).eval["precision"][0, :, 0, 0, -1]
    np.testing.assert_allclose(precision, expected, atol=1e-12)
    metrics = coco_metrics(truth, detections, CLASSES)
    assert metrics["AP50"] == pytest.approx(expected.mean())


def test_only_the_best_100_of_a_class_and_image_count():
    boxes, scores = [FAR] * 101 + [BOX], np.linspace(1, 0.5, 102)
    truth = [image(1, [BOX, OTHER], [0, 1])]
    matches = report.match(truth, [found_on(1, boxes, [0] * 102, scores)], CLASSES)
    assert len(matches.score) == 100 and not matches.right.any()
    matches = report.match(truth, [found_on(1, boxes, [1] * 101 + [0], scores)], CLASSES)
    assert len(matches.score) == 101 and matches.right.sum() == 1


def test_matches_by_hand():
    matches = report.match(*by_hand())
    assert matches.score.tolist() == [0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    assert matches.image.tolist() == [0, 0, 1, 0, 1, 1, 0]
    assert matches.place.tolist() == [0, 1, 0, 3, 2, 1, 2]
    assert matches.label.tolist() == [0, 0, 1, 0, 0, 0, 0]
    assert matches.right.tolist() == [True, False, False, False, True, False, True]
    assert matches.ignored.tolist() == [False, False, True, False, False, False, False]
    assert matches.object_image.tolist() == [0, 0, 0, 1]
    assert matches.object_label.tolist() == [0, 0, 1, 0]
    assert matches.found_at.tolist() == [0.875, 0.125, -math.inf, 0.375]


def test_precision_by_hand():
    precision = report.precision_at_recall(report.match(*by_hand()))
    # Cats: right, wrong, wrong, right, wrong, right; three objects.
    np.testing.assert_allclose(precision[:, 0], np.where(report.RECALLS <= 1 / 3, 1, 0.5))
    assert (precision[:, 1] == 0).all()


def test_f1_by_hand():
    matches = report.match(*by_hand())
    curves = report.f1_at_thresholds(matches, np.array([0, 0.125, 0.25, 0.375, 0.5, 0.9]))
    cats = [6 / 9, 6 / 9, 4 / 8, 4 / 7, 2 / 6, 0]
    np.testing.assert_allclose(curves[:, 0], cats)
    assert (curves[:, 1] == 0).all()
    together = [6 / 10, 6 / 10, 4 / 9, 4 / 8, 2 / 7, 0]
    np.testing.assert_allclose(curves[:, 2], together)
    assert report.best_threshold(matches) == (0.1, pytest.approx(6 / 10))
    assert report.numbers(matches) == {"best_threshold": 0.1, "F1": pytest.approx(0.6)}


@pytest.mark.parametrize("seed", range(4))
def test_no_threshold_has_a_better_f1(seed):
    matches = report.match(*random_case(seed, crowds=0.1), CLASSES)
    threshold, f1 = report.best_threshold(matches)
    at = lambda *values: report.f1_at_thresholds(matches, np.array(values))[:, -1]  # noqa: E731
    assert at(threshold)[0] == f1
    assert at(*matches.score, 0, 1).max() == f1
    higher = min(score for score in matches.score if score >= threshold)
    assert len(str(threshold)) <= len(str(higher))


def test_equal_scores_are_kept_or_dropped_together():
    truth = [image(1, [BOX, OTHER], [0, 0])]
    found = found_on(1, [BOX, FAR, FAR, FAR], [0] * 4, [0.5] * 4)
    matches = report.match(truth, [found], CLASSES)
    assert report.best_threshold(matches) == (0.5, pytest.approx(2 / (4 + 2)))
    curve = report.f1_at_thresholds(matches, np.array([0.5, 0.51]))
    assert curve[:, -1].tolist() == [pytest.approx(2 / 6), 0]


@pytest.mark.parametrize(
    "below, score, threshold",
    [(0.0, 0.4567, 0.4), (0.4, 0.4567, 0.45), (0.0, 0.00812, 0.008), (0.29, 0.3, 0.3)],
)
def test_a_threshold_has_as_few_digits_as_it_needs(below, score, threshold):
    assert report._shortest(below, score) == threshold
    assert report._shortest(np.nextafter(score, 0), score) <= score


def test_nothing_found_and_nothing_to_find():
    truth, _, classes = by_hand()
    threshold, f1 = report.best_threshold(report.match(truth, [], classes))
    assert math.isnan(threshold) and f1 == 0
    for empty in ([], [image(1)], [image(1, [BOX], [0], crowd=[True])]):
        detections = [found_on(1, [FAR], [0], [0.5])] if empty else []
        matches = report.match(empty, detections, classes)
        assert all(math.isnan(value) for value in report.numbers(matches).values())
        curves = json.loads(json.dumps(report.curves(matches, classes), allow_nan=False))
        assert curves["precision"] == {"mean": None, "classes": {"cat": None, "dog": None}}
        assert curves["F1"]["all"] is curves["best_threshold"] is curves["best_F1"] is None


def test_curves_for_a_file():
    truth, detections, _ = by_hand()
    classes = ("cat", "dog", "mean")
    curves = report.curves(report.match(truth, detections, classes), classes)
    assert json.loads(json.dumps(curves, allow_nan=False)) == curves
    assert curves["recall"] == curves["threshold"] == [i / 100 for i in range(101)]
    assert curves["precision"]["classes"]["cat"][:35] == [1.0] * 34 + [0.5]
    assert curves["precision"]["mean"][:35] == [0.5] * 34 + [0.25]  # the dog's is 0
    assert curves["precision"]["classes"]["mean"] is None
    assert curves["F1"]["all"][12:14] == [0.6, pytest.approx(4 / 9, abs=1e-6)]
    assert (curves["iou"], curves["best_threshold"], curves["best_F1"]) == (0.5, 0.1, 0.6)


def test_confusion_by_hand():
    table = report.confusion(*by_hand())
    # Rows: what it is. Of "a" one cat is found, one missed (0.125), and the dog is called a cat;
    # the second find of the first cat is of nothing. The crowd of dogs takes the dog alone.
    assert table.tolist() == [[2, 0, 1], [1, 0, 0], [2, 0, 0]]
    assert report.most_confused(table, ("cat", "dog"), 5) == [
        {"truth": "dog", "predicted": "cat", "count": 1}
    ]
    assert report.most_confused(table, ("cat", "dog"), 0) == []


def test_the_best_score_chooses_first_whatever_its_class():
    truth = [image(1, [BOX], [0])]
    both = found_on(1, [BOX, BOX], [0, 1], [0.5, 0.75])
    assert report.confusion(truth, [both], ("cat", "dog")).tolist() == [
        *([0, 1, 0], [0, 0, 0], [1, 0, 0])
    ]
    # Two objects in one place: each is called what it is.
    truth = [image(1, [BOX, BOX], [0, 1])]
    for scores in ([0.5, 0.75], [0.75, 0.5]):
        both["scores"] = np.array(scores)
        table = report.confusion(truth, [both], ("cat", "dog"))
        assert table.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("seed", range(4))
def test_confusion_counts_every_object_and_every_detection_once(seed):
    truth, detections = random_case(seed, levels=8)
    table = report.confusion(truth, detections, CLASSES)
    objects = np.bincount(np.concatenate([t["labels"] for t in truth]), minlength=4)
    shown = [d["labels"][d["scores"] >= report.SCORE] for d in detections]
    assert table[:-1].sum(1).tolist() == objects.tolist()
    assert table[:, :-1].sum(0).tolist() == np.bincount(np.concatenate(shown), minlength=4).tolist()
    assert table[-1, -1] == 0


def test_scores_of_images_by_hand():
    truth, detections, classes = by_hand()
    scores = report.image_scores(report.match(truth, detections, classes), truth)
    names = ("image_id", "file_name", "true_positives", "false_positives", "misses", "F1")
    assert [tuple(one[name] for name in names) for one in scores] == [
        ("a", "a.png", 1, 2, 2, 2 / 6),
        ("b", "b.png", 1, 1, 0, 2 / 3),
        ("c", "c.png", 0, 0, 0, None),
    ]
    assert report.worst_images(scores, 9) == [0, 1] and report.best_images(scores, 9) == [1, 0]
    assert report.worst_images(scores, 1) == [0] and report.best_images(scores, 1) == [1]


@pytest.mark.parametrize("threshold", [report.SCORE, 0.5])
def test_what_is_found_exactly_at_the_threshold_is_found_and_not_missed(threshold):
    truth = [image(1, [BOX, OTHER], [0, 0])]
    found = [found_on(1, [BOX, OTHER], [0, 0], [threshold, threshold - 1 / 1024])]
    matches = report.match(truth, found, ("cat", "dog"))
    [row] = report.image_scores(matches, truth, threshold)
    counts = {"true_positives": 1, "false_positives": 0, "misses": 1, "F1": 2 / 3}
    assert row == {"image_id": 1} | counts
    place, right, _, missed = report.marks(matches, 0, threshold)
    assert (place.tolist(), right.tolist(), missed.tolist()) == ([0], [True], [False, True])
    if threshold == report.SCORE:
        table = report.confusion(truth, found, ("cat", "dog"))
        assert table.tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_images_of_one_f1_go_by_how_much_is_wrong_or_right():
    one = lambda tp, fp, fn, f1: {  # noqa: E731
        "true_positives": tp, "false_positives": fp, "misses": fn, "F1": f1
    }  # fmt: skip
    scores = [one(1, 0, 0, 1.0), one(3, 0, 0, 1.0), one(0, 1, 0, 0.0), one(0, 2, 2, 0.0)]
    assert report.worst_images(scores, 9) == [3, 2]
    assert report.best_images(scores, 9) == [1, 0]


def test_marks_of_an_image():
    matches = report.match(*by_hand())
    place, right, ignored, missed = report.marks(matches, 0)
    assert (place.tolist(), right.tolist()) == ([0, 1, 3], [True, False, False])
    assert not ignored.any() and missed.tolist() == [False, True, True]
    place, right, ignored, missed = report.marks(matches, 1)
    assert (place.tolist(), right.tolist()) == ([0, 2, 1], [False, True, False])
    assert ignored.tolist() == [True, False, False] and missed.tolist() == [False, False]
    assert [len(part) for part in report.marks(matches, 2)] == [0, 0, 0, 0]


def explained(truth, detections, classes=("cat", "dog")):
    metrics = coco_metrics(truth, detections, classes)
    return " ".join(report.why_zero(truth, detections, metrics))


def test_an_ap_that_is_not_zero_needs_no_explanation():
    assert explained(*by_hand()[:2]) == ""


def test_why_zero_without_objects():
    assert "none of the 2 images has a box to find. Evaluate" in explained([image(1), image(2)], [])
    crowd = [image(1, [BOX, FAR], [0, 0], crowd=[True, True])]
    assert "(2 crowd regions, which are only ignored)" in explained(crowd, [])
    assert "none of the 0 images" in explained([], [])


def test_why_zero_without_detections():
    truth = [image(1, [BOX], [0]), image(2)]
    for detections in ([], [found_on(1), found_on(2)]):
        assert explained(truth, detections).startswith(
            "AP is 0: nothing was detected on 2 images, no score reached the threshold."
        )


def test_why_zero_when_nothing_overlaps():
    truth = [image(1, [[0, 0, 100, 50]], [0])]
    said = explained(truth, [found_on(1, [[0, 0, 1, 0.5], FAR], [0, 0], [0.25, 0.75])])
    assert "the best of 2 detections (highest score 0.75) reaches 0.00." in said
    assert "The middle detection has 10.5 x 10.2 pixels, the middle object 100 x 50" in said
    said = explained(truth, [found_on(1, [[0, 0, 40, 50]], [0], [0.5])])
    assert "reaches 0.40." in said and "wrong units" in said
    # What overlaps a crowd alone has found nothing.
    truth = [image(1, [FAR, BOX], [0, 0], crowd=[True, False])]
    assert "reaches 0.00." in explained(truth, [found_on(1, [FAR], [0], [0.5])])


def test_why_zero_when_the_classes_are_wrong():
    truth = [image(1, [[0, 0, 10, 10], FAR], [0, 1])]
    said = explained(truth, [found_on(1, [[0, 0, 10, 9], [0, 0, 4, 10]], [1, 0], [0.5, 0.25])])
    assert "the best overlaps an object by IoU 0.90, but none" in said
    assert "of its own class by more than 0.40." in said and "data.classes" in said


def test_why_zero_when_the_right_ones_come_last():
    truth = [image(1, [BOX] + [[i, 200, i + 5, 205] for i in range(0, 600, 6)], [0] * 101)]
    wrong = [found_on(1, [FAR] * 99 + [BOX], [0] * 100, np.linspace(1, 0.1, 100))]
    said = explained(truth, wrong)
    assert said.startswith("AP is ") and "IoU 1.00, but of 100 detections" in said
