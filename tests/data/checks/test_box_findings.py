"""Duplicate boxes, and labels that do not fit the size of their box."""

from types import SimpleNamespace

import numpy as np
import pytest

from convmesh.data.checks import box_findings
from convmesh.data.checks.box_findings import (
    find_duplicates,
    find_likelier_classes,
    label_findings,
)
from convmesh.data.checks.scan import ScannedExample, ScannedSplit


def test_a_label_is_doubtful_if_another_class_fits_and_its_own_does_not():
    rng = np.random.default_rng(0)
    sides = np.concatenate([rng.normal(100, 10, 50), rng.normal(10, 1, 50), [10, 101, 400, 30]])
    labels = np.array([0] * 50 + [1] * 50 + [0, 1, 1, 0])
    other, typical = find_likelier_classes(sides, labels, 3)
    # A small 0 and a large 1; 400 and 30 fit no class.
    assert np.flatnonzero(other >= 0).tolist() == [100, 101]
    assert other[100:].tolist() == [1, 0, -1, -1]
    assert typical[:2] == pytest.approx([100, 10], rel=0.05) and np.isnan(typical[2])


def test_long_tails_and_small_classes_make_no_label_doubtful():
    few = box_findings.MIN_BOXES
    sides = np.concatenate([np.full(few - 1, 100.0), [10.0], np.full(few, 10.0)])
    labels = np.array([0] * few + [1] * few)
    assert np.flatnonzero(find_likelier_classes(sides, labels, 2)[0] >= 0).tolist() == [few - 1]
    # With one box fewer a class is not judged, nor are other boxes compared with it.
    assert (find_likelier_classes(sides[1:], labels[1:], 2)[0] == -1).all()
    assert (find_likelier_classes(sides[:-1], labels[:-1], 2)[0] == -1).all()
    # A tenth of class 0 is as small: not an outlier.
    sides[: few // 10 + 1] = 10.0
    assert (find_likelier_classes(sides, labels, 2)[0] == -1).all()


@pytest.mark.parametrize("max_pairs", [2**18, 1, 9])
def test_duplicates_are_found_in_chunks_of_any_size(monkeypatch, max_pairs):
    monkeypatch.setattr(box_findings, "_MAX_PAIRS", max_pairs)
    boxes = np.array(
        [
            [0, 0, 10, 10],
            [0, 0, 10, 8],  # 0.80 of the first: not above
            [0, 0, 10, 9],  # 0.90 of the first, 0.89 of the second
            [0, 0, 10, 10],  # equal to the first, of another class
            [50, 0, 60, 10],
            [0, 0, 10, 9.5],  # of the class of the fourth, not of the first
        ],
        float,
    )
    found = find_duplicates(boxes, np.array([0, 0, 0, 1, 0, 1]))
    assert [(i, j) for i, j, _ in found] == [(2, 0), (3, 0), (5, 3)]
    assert [iou for *_, iou in found] == pytest.approx([0.9, 1, 0.95])
    assert find_duplicates(boxes[:0], np.zeros(0, int)) == []


def test_a_label_is_doubtful_beyond_four_deviations_and_within_two_of_another():
    """Equal boxes have the least deviation, 0.2 of the logarithm of the area."""
    few = box_findings.MIN_BOXES
    near, far = 10.0, 10.0 * np.exp(0.5)  # of a side: 1.0 of the area, or five deviations
    labels = np.array([0] * few + [1] * few + [0])

    def other(deviations):
        side = near * np.exp(deviations * 0.1)
        sides = np.concatenate([np.full(few, near), np.full(few, far), [side]])
        return find_likelier_classes(sides, labels, 2)[0][-1]

    # From the boxes of class 0, and so five minus that from those of class 1.
    assert [int(other(d)) for d in (3.9, 4.1, 5, 6.9, 7.1)] == [-1, 1, 1, 1, -1]


def test_boxes_that_are_not_usable_do_not_shift_the_findings():
    few = box_findings.MIN_BOXES
    class_of = {"task": "detect", "classes": ("cat", "dog")}

    def example(side, label):
        boxes = np.array([[0, 0, 1, 1], [0, 0, side, side]], float)
        crowd = np.array([True, False])
        return ScannedExample(
            [], (99, 99), boxes, np.array([label, label]), np.zeros(2, bool), crowd, crowd & False
        )

    examples = [example(10, 0) for _ in range(few)] + [example(90, 1) for _ in range(few)]
    examples.append(example(90, 0))

    class Named(SimpleNamespace):
        def name(self, index):
            return f"{index}.png"

    split = ScannedSplit("train", Named(**class_of), range(len(examples)), examples)
    [finding] = label_findings([split], ("cat", "dog"), (99, 99))
    assert (finding.position, finding.boxes) == ((0, 2 * few), (1,))
    assert finding.problem.what == (
        "is this a dog? Its side is 90 pixels; the median is 10 for cat and 90 for dog"
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_first_look_finds_the_examples_that_have_duplicates(seed):
    rng = np.random.default_rng(seed)
    examples = []
    for n in rng.integers(0, 9, 400):
        start, side = rng.uniform(0, 9, (n, 2)), rng.uniform(18, 24, (n, 2))
        boxes = np.concatenate([start, start + side], 1)
        boxes[n // 2 + 2 :] = boxes[: max(0, n - n // 2 - 2)]  # equal ones, of any class
        none = np.zeros(n, bool)
        labels, bad = rng.integers(0, 2, n), rng.random(n) < 0.2
        examples.append(ScannedExample([], None, boxes, labels, bad, none, none))
    expected = {
        i for i, e in enumerate(examples) if find_duplicates(e.boxes[e.usable], e.labels[e.usable])
    }
    assert box_findings.examples_with_duplicates(examples) == expected
    assert 20 < len(expected) < 380
    assert box_findings.examples_with_duplicates([]) == set()
