"""Duplicate boxes, and labels that do not fit the size of their box."""

import numpy as np
import pytest

from convmesh.data.checks import box_findings
from convmesh.data.checks.box_findings import find_duplicates, find_likelier_classes


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
