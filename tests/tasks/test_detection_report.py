"""Curves, confusion matrix and image scores: by hand on small cases, and against pycocotools."""

import json
import math

import numpy as np
import pytest
from coco_oracle import (
    BOX,
    CLASSES,
    FAR,
    OTHER,
    evaluator,
    found_on,
    image,
    random_case,
    small_case,
)

from convmesh.tasks import detection_report as report
from convmesh.tasks.average_precision import coco_metrics
from convmesh.tasks.matching import SCORE, match


@pytest.mark.parametrize("seed", range(8))
def test_precision_is_that_of_pycocotools(seed):
    truth, detections = random_case(seed, levels=(None, 4)[seed % 2], crowds=0.2)
    if seed > 3:  # the same boxes again and again
        for one in (*truth, *detections):
            one["boxes"] = np.round(one["boxes"] / 30) * 30
    found = report.precision_at_recall(match(truth, detections, CLASSES))
    judge = evaluator(truth, detections)
    expected = judge.eval["precision"][0, :, :, 0, -1]
    np.testing.assert_allclose(found, np.where(expected < 0, math.nan, expected), atol=1e-12)
    np.testing.assert_array_equal(report.RECALLS, judge.params.recThrs)
    ap50 = coco_metrics(truth, detections, CLASSES)["AP50"]
    assert np.nanmean(found) == pytest.approx(ap50, abs=1e-9) and 0 < ap50 < 1


def test_precision_by_hand():
    precision = report.precision_at_recall(match(*small_case()))
    # Cats: right, wrong, wrong, right, wrong, right; three objects.
    np.testing.assert_allclose(precision[:, 0], np.where(report.RECALLS <= 1 / 3, 1, 0.5))
    assert (precision[:, 1] == 0).all()


def test_f1_by_hand():
    matches = match(*small_case())
    curves = report.f1_at_thresholds(matches, np.array([0, 0.125, 0.25, 0.375, 0.5, 0.9]))
    cats = [6 / 9, 6 / 9, 4 / 8, 4 / 7, 2 / 6, 0]
    np.testing.assert_allclose(curves[:, 0], cats)
    assert (curves[:, 1] == 0).all()
    together = [6 / 10, 6 / 10, 4 / 9, 4 / 8, 2 / 7, 0]
    np.testing.assert_allclose(curves[:, 2], together)
    assert report.best_threshold(matches) == (0.1, pytest.approx(6 / 10))
    assert report.best_f1(matches) == {"best_threshold": 0.1, "F1": pytest.approx(0.6)}


@pytest.mark.parametrize("seed", range(4))
def test_no_threshold_has_a_better_f1(seed):
    matches = match(*random_case(seed, crowds=0.1), CLASSES)
    threshold, f1 = report.best_threshold(matches)
    at = lambda *values: report.f1_at_thresholds(matches, np.array(values))[:, -1]  # noqa: E731
    assert at(threshold)[0] == f1
    assert at(*matches.score, 0, 1).max() == f1
    higher = min(score for score in matches.score if score >= threshold)
    assert len(str(threshold)) <= len(str(higher))


def test_equal_scores_are_kept_or_dropped_together():
    truth = [image(1, [BOX, OTHER], [0, 0])]
    found = found_on(1, [BOX, FAR, FAR, FAR], [0] * 4, [0.5] * 4)
    matches = match(truth, [found], CLASSES)
    assert report.best_threshold(matches) == (0.5, pytest.approx(2 / (4 + 2)))
    curve = report.f1_at_thresholds(matches, np.array([0.5, 0.51]))
    assert curve[:, -1].tolist() == [pytest.approx(2 / 6), 0]


@pytest.mark.parametrize(
    "below, score, threshold",
    [(0.0, 0.4567, 0.4), (0.4, 0.4567, 0.45), (0.0, 0.00812, 0.008), (0.29, 0.3, 0.3)],
)
def test_a_threshold_has_as_few_digits_as_it_needs(below, score, threshold):
    assert report._fewest_digits(below, score) == threshold
    assert report._fewest_digits(np.nextafter(score, 0), score) <= score


def test_nothing_found_and_nothing_to_find():
    truth, _, classes = small_case()
    threshold, f1 = report.best_threshold(match(truth, [], classes))
    assert math.isnan(threshold) and f1 == 0
    for empty in ([], [image(1)], [image(1, [BOX], [0], crowd=[True])]):
        detections = [found_on(1, [FAR], [0], [0.5])] if empty else []
        matches = match(empty, detections, classes)
        assert all(math.isnan(value) for value in report.best_f1(matches).values())
        curves = json.loads(json.dumps(report.curves(matches, classes), allow_nan=False))
        assert curves["precision"] == {"mean": None, "classes": {"cat": None, "dog": None}}
        assert curves["F1"]["all"] is curves["best_threshold"] is curves["best_F1"] is None


def test_curves_for_a_file():
    truth, detections, _ = small_case()
    classes = ("cat", "dog", "mean")
    curves = report.curves(match(truth, detections, classes), classes)
    assert json.loads(json.dumps(curves, allow_nan=False)) == curves
    assert curves["recall"] == curves["threshold"] == [i / 100 for i in range(101)]
    assert curves["precision"]["classes"]["cat"][:35] == [1.0] * 34 + [0.5]
    assert curves["precision"]["mean"][:35] == [0.5] * 34 + [0.25]  # the dog's is 0
    assert curves["precision"]["classes"]["mean"] is None
    assert curves["F1"]["all"][12:14] == [0.6, pytest.approx(4 / 9, abs=1e-6)]
    assert (curves["iou"], curves["best_threshold"], curves["best_F1"]) == (0.5, 0.1, 0.6)


def test_confusion_by_hand():
    table = report.confusion(*small_case())
    # Rows: what it is. Of "a" one cat is found, one missed (0.125), and the dog is called a cat;
    # the second find of the first cat is of nothing. The crowd of dogs takes the dog alone.
    assert table.tolist() == [[2, 0, 1], [1, 0, 0], [2, 0, 0]]
    assert report.most_confused(table, ("cat", "dog"), 5) == [
        {"truth": "dog", "predicted": "cat", "count": 1}
    ]
    assert report.most_confused(table, ("cat", "dog"), 0) == []


def test_the_best_score_matches_first_whatever_its_class():
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
    shown = [d["labels"][d["scores"] >= SCORE] for d in detections]
    assert table[:-1].sum(1).tolist() == objects.tolist()
    assert table[:, :-1].sum(0).tolist() == np.bincount(np.concatenate(shown), minlength=4).tolist()
    assert table[-1, -1] == 0


def test_scores_of_images_by_hand():
    truth, detections, classes = small_case()
    scores = report.image_scores(match(truth, detections, classes), truth)
    names = ("image_id", "file_name", "true_positives", "false_positives", "misses", "F1")
    assert [tuple(one[name] for name in names) for one in scores] == [
        ("a", "a.png", 1, 2, 2, 2 / 6),
        ("b", "b.png", 1, 1, 0, 2 / 3),
        ("c", "c.png", 0, 0, 0, None),
    ]
    assert report.worst_images(scores, 9) == [0, 1] and report.best_images(scores, 9) == [1, 0]
    assert report.worst_images(scores, 1) == [0] and report.best_images(scores, 1) == [1]


@pytest.mark.parametrize("threshold", [SCORE, 0.5])
def test_a_detection_exactly_at_the_threshold_counts(threshold):
    truth = [image(1, [BOX, OTHER], [0, 0])]
    found = [found_on(1, [BOX, OTHER], [0, 0], [threshold, threshold - 1 / 1024])]
    matches = match(truth, found, ("cat", "dog"))
    [row] = report.image_scores(matches, truth, threshold)
    counts = {"true_positives": 1, "false_positives": 0, "misses": 1, "F1": 2 / 3}
    assert row == {"image_id": 1} | counts
    shown = report.image_matches(matches, 0, threshold)
    assert (shown.index.tolist(), shown.correct.tolist()) == ([0], [True])
    assert shown.missed.tolist() == [False, True]
    if threshold == SCORE:
        table = report.confusion(truth, found, ("cat", "dog"))
        assert table.tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_images_of_equal_f1_are_ranked_by_their_counts():
    one = lambda tp, fp, fn, f1: {  # noqa: E731
        "true_positives": tp, "false_positives": fp, "misses": fn, "F1": f1
    }  # fmt: skip
    scores = [one(1, 0, 0, 1.0), one(3, 0, 0, 1.0), one(0, 1, 0, 0.0), one(0, 2, 2, 0.0)]
    assert report.worst_images(scores, 9) == [3, 2]
    assert report.best_images(scores, 9) == [1, 0]


def test_matches_of_an_image():
    matches = match(*small_case())
    shown = report.image_matches(matches, 0)
    assert (shown.index.tolist(), shown.correct.tolist()) == ([0, 1, 3], [True, False, False])
    assert not shown.ignored.any() and shown.missed.tolist() == [False, True, True]
    shown = report.image_matches(matches, 1)
    assert (shown.index.tolist(), shown.correct.tolist()) == ([0, 2, 1], [False, True, False])
    assert shown.ignored.tolist() == [True, False, False]
    assert shown.missed.tolist() == [False, False]
    shown = report.image_matches(matches, 2)
    assert len(shown.index) == len(shown.missed) == 0


def test_the_most_confused_pairs_come_first():
    #        true:  cat          dog          bird, and what is not there
    table = np.array([[9, 2, 0, 1], [5, 9, 2, 1], [7, 0, 9, 1], [8, 8, 8, 0]])
    found = report.most_confused(table, ("cat", "dog", "bird"), 3)
    assert [(pair["truth"], pair["predicted"], pair["count"]) for pair in found] == [
        ("bird", "cat", 7),
        ("dog", "cat", 5),
        ("cat", "dog", 2),  # of equals the first in the table
    ]
    assert len(report.most_confused(table, ("cat", "dog", "bird"), 9)) == 4
    assert table[0, 0] == 9  # unchanged


def test_ids_of_numpy_are_written_as_json():
    truth = [image(np.int64(7), [BOX], [0])]
    (row,) = report.image_scores(match(truth, [], ("cat",)), truth)
    counts = {"true_positives": 0, "false_positives": 0, "misses": 1, "F1": 0.0}
    assert json.loads(json.dumps(row)) == {"image_id": 7} | counts
