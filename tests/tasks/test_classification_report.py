"""Numbers by class, calibration and doubtful labels, computed by hand."""

import numpy as np
import pytest

from convmesh.tasks import classification_report as report

CLASSES = ("ant", "bee", "cat")


def images(*rows):
    """(truth, found) of rows (label, probabilities)."""
    truth = [{"label": label, "file_name": f"{i}.png"} for i, (label, _) in enumerate(rows)]
    found = []
    for _, p in rows:
        order = np.argsort(-np.array(p), kind="stable")
        found.append({"labels": order, "scores": np.array(p)[order]})
    return truth, found


FOUND = images(
    (0, (0.7, 0.2, 0.1)),  # right
    (0, (0.9, 0.1, 0.0)),  # right
    (0, (0.1, 0.8, 0.1)),  # an ant that is called a bee
    (1, (0.3, 0.6, 0.1)),  # right
    (1, (0.5, 0.4, 0.1)),  # a bee that is called an ant
)


def test_the_confusion_counts_truth_by_row():
    table = report.confusion(*FOUND, 3)
    assert table.tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]


def test_precision_recall_and_f1_by_class():
    rows = report.class_rows(report.confusion(*FOUND, 3), CLASSES)
    two_thirds = round(2 / 3, 6)
    assert rows == [
        {"class": "ant", "images": 3, "precision": two_thirds, "recall": two_thirds,
         "F1": two_thirds},
        {"class": "bee", "images": 2, "precision": 0.5, "recall": 0.5, "F1": 0.5},
        {"class": "cat", "images": 0, "precision": None, "recall": None, "F1": None},
    ]  # fmt: skip


def test_means_are_over_the_classes_with_images():
    numbers = report.summary(*FOUND, 3)
    assert numbers["precision"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert numbers["recall"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert numbers["F1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    # Never predicted: a precision of 0, and an F1 of 0.
    numbers = report.summary(*images((0, (1.0, 0.0)), (1, (1.0, 0.0))), 2)
    assert (numbers["precision"], numbers["recall"]) == (0.25, 0.5)
    assert numbers["F1"] == pytest.approx((2 / 3 + 0) / 2)


def test_calibration_by_hand():
    # Confidences 0.7, 0.9, 0.8, 0.6, 0.5 are in bins of their own, but for 0.6 = 9/15.
    found = report.calibration(*FOUND)
    assert [row["images"] for row in found["bins"]] == [1] * 5
    errors = [abs(row["confidence"] - row["accuracy"]) for row in found["bins"]]
    assert sorted(errors) == pytest.approx([0.1, 0.3, 0.4, 0.5, 0.8])
    assert found["ECE"] == pytest.approx((0.1 + 0.3 + 0.4 + 0.5 + 0.8) / 5)
    # One bin: half of two images at a mean confidence of 0.97.
    both = report.calibration(*images((0, (0.96, 0.04)), (1, (0.98, 0.02))))
    assert both["ECE"] == pytest.approx(0.47)
    (row,) = both["bins"]
    assert (row["low"], row["high"], row["images"]) == (pytest.approx(14 / 15), 1.0, 2)


def test_the_ends_of_the_confidence_have_bins():
    found = report.calibration(*images((0, (1.0, 0.0)), (0, (0.0, 0.0))))
    assert [row["low"] for row in found["bins"]] == [0.0, pytest.approx(14 / 15)]


def test_doubtful_labels_by_hand():
    # Mean probability of the label: of ants (0.7 + 0.9 + 0.1) / 3 = 0.57, of bees 0.5.
    [(position, row)] = report.likely_mislabelled(*FOUND, CLASSES)
    assert position == 2
    assert [row] == [
        {
            "index": 2,
            "file_name": "2.png",
            "label": "ant",
            "suggested": "bee",
            "probability_of_label": 0.1,
            "probability_of_suggested": 0.8,
        }
    ]  # the last bee, 0.5 an ant, is below the 0.57


def test_the_most_certain_doubt_comes_first_and_an_absent_class_is_never_suggested():
    rows = [(0, (0.9, 0.1, 0.0))] * 4 + [(1, (0.2, 0.8, 0.0))] * 4
    rows += [(0, (0.15, 0.85, 0.0)), (0, (0.05, 0.95, 0.0)), (0, (0.0, 0.0, 1.0))]
    found = report.likely_mislabelled(*images(*rows), CLASSES)
    assert [position for position, _ in found] == [9, 8]


def test_a_label_that_is_the_most_probable_class_is_not_doubted():
    # Means of the label: of ants (0.9 * 9 + 0.6) / 10 = 0.87, of bees 0.35: the last ant is a
    # confident bee, but the network calls it an ant.
    rows = [(0, (0.9, 0.1, 0.0))] * 9 + [(1, (0.6, 0.35, 0.05))] * 3 + [(0, (0.6, 0.4, 0.0))]
    assert report.likely_mislabelled(*images(*rows), CLASSES) == []


def test_a_doubt_names_the_image_by_its_index_in_the_split():
    truth, found = FOUND
    truth = [row | {"index": 10 * i} for i, row in enumerate(truth)]
    [(position, row)] = report.likely_mislabelled(truth, found, CLASSES)
    assert (position, row["index"]) == (2, 20)


def test_the_worst_mistakes_give_the_truth_the_least():
    assert report.worst_mistakes(*FOUND, 5) == [2, 4]
    assert report.worst_mistakes(*FOUND, 1) == [2]
