"""Matching of detections to objects: by hand on small cases, and as pycocotools does it."""

import math

import numpy as np
import pytest
from coco_oracle import BOX, CLASSES, FAR, OTHER, evaluator, found_on, image, small_case

from convmesh.tasks import detection_report as report
from convmesh.tasks.average_precision import coco_metrics
from convmesh.tasks.matching import match


@pytest.mark.parametrize("order, wanted", [([0, 1], [0.5, 0.75]), ([1, 0], [-math.inf, 0.75])])
def test_between_equal_overlaps_the_last_object_is_taken(order, wanted):
    """As pycocotools does; it decides whether the next detection matches the other one."""
    objects = np.array([[0, 0, 10, 10], [0, 4, 10, 14]])[order]
    truth = [image(1, objects, [0, 0])]
    detections = [found_on(1, [[0, 2, 10, 12], [0, 0, 10, 10]], [0, 0], [0.75, 0.5])]
    matches = match(truth, detections, CLASSES)
    assert matches.object_score.tolist() == wanted
    precision = report.precision_at_recall(matches)[:, 0]
    expected = evaluator(truth, detections).eval["precision"][0, :, 0, 0, -1]
    np.testing.assert_allclose(precision, expected, atol=1e-12)
    metrics = coco_metrics(truth, detections, CLASSES)
    assert metrics["AP50"] == pytest.approx(expected.mean())


def test_only_the_best_100_of_a_class_and_image_count():
    boxes, scores = [FAR] * 101 + [BOX], np.linspace(1, 0.5, 102)
    truth = [image(1, [BOX, OTHER], [0, 1])]
    matches = match(truth, [found_on(1, boxes, [0] * 102, scores)], CLASSES)
    assert len(matches.score) == 100 and not matches.correct.any()
    matches = match(truth, [found_on(1, boxes, [1] * 101 + [0], scores)], CLASSES)
    assert len(matches.score) == 101 and matches.correct.sum() == 1


def test_matches_by_hand():
    matches = match(*small_case())
    assert matches.score.tolist() == [0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    assert matches.image.tolist() == [0, 0, 1, 0, 1, 1, 0]
    assert matches.index.tolist() == [0, 1, 0, 3, 2, 1, 2]
    assert matches.label.tolist() == [0, 0, 1, 0, 0, 0, 0]
    assert matches.correct.tolist() == [True, False, False, False, True, False, True]
    assert matches.ignored.tolist() == [False, False, True, False, False, False, False]
    assert matches.object_image.tolist() == [0, 0, 0, 1]
    assert matches.object_label.tolist() == [0, 0, 1, 0]
    assert matches.object_score.tolist() == [0.875, 0.125, -math.inf, 0.375]
