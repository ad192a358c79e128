"""Matching anchors by overlap."""

import jax.numpy as jnp
import numpy as np
import pytest

from convmesh.tasks.anchor_matching import match_anchors
from convmesh.tasks.assignment import GroundTruth

# IoU with the box 0 0 10 10: 1, 0.8, 0.5, 0.45, 0.2, 0.
ANCHORS = jnp.array([[0.0, 0, 10, w] for w in (10, 8, 5, 4.5, 2)] + [[50, 50, 60, 60]])


def truth(boxes, crowd=(), valid=None):
    crowd = np.isin(np.arange(len(boxes)), crowd)
    valid = np.ones(len(boxes), bool) if valid is None else np.array(valid)
    boxes = jnp.array(boxes, jnp.float32).reshape(-1, 4)
    return GroundTruth(boxes, jnp.zeros(len(boxes), int), jnp.array(valid), jnp.array(crowd))


def test_thresholds():
    match = match_anchors(ANCHORS, truth([[0, 0, 10, 10]]), 0.5, 0.4)
    assert match.positive.tolist() == [True, True, True, False, False, False]
    assert match.ignored.tolist() == [False, False, False, True, False, False]
    assert match.box.tolist()[:3] == [0, 0, 0]
    assert match.missed == 0


@pytest.mark.parametrize("best_anchors", [True, False])
def test_the_best_anchors_of_a_box_are_positive(best_anchors):
    """Both anchors of the same, low, IoU."""
    anchors = jnp.array([[0.0, 0, 10, 10], [10, 0, 20, 10], [0, 30, 10, 40]])
    match = match_anchors(anchors, truth([[5, 0, 15, 3]]), 0.5, 0.4, best_anchors)
    assert match.positive.tolist() == [best_anchors, best_anchors, False]
    assert match.missed == int(not best_anchors)


def test_a_best_anchor_learns_the_box_of_its_own_highest_overlap():
    """Then the other box has none, and is counted."""
    match = match_anchors(ANCHORS[:1], truth([[0, 0, 10, 9], [0, 0, 10, 2]]), 0.5, 0.4)
    assert match.positive.tolist() == [True]
    assert match.box.tolist() == [0]
    assert match.missed == 1


def test_a_box_that_overlaps_with_no_anchor_has_none():
    match = match_anchors(ANCHORS[:5], truth([[80, 80, 90, 90]]), 0.5, 0.4)
    assert not match.positive.any()
    assert match.missed == 1


def test_a_crowd_region_hides_anchors_and_has_none():
    match = match_anchors(ANCHORS, truth([[48, 50, 56, 60], [0, 0, 10, 4]], crowd=[0, 1]), 0.5, 0.4)
    assert not match.positive.any()
    # Of the first, 0.4 of the anchor is in the region, of the second exactly 0.5.
    assert match.ignored.tolist() == [False, False, True, True, True, True]
    assert match.missed == 0


def test_padding_and_boxes_without_area_are_no_boxes():
    boxes = truth([[0, 0, 10, 10], [0, 0, 0, 10]], valid=[False, True])
    match = match_anchors(ANCHORS, boxes, 0.5, 0.4)
    assert not match.positive.any() and not match.ignored.any()
    assert match.missed == 0
