import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from convmesh.ops.suppression import best_distinct, suppress

THRESHOLDS = [0.2, 0.35, 0.5, 0.65, 0.8, 0.9]

on_device = jax.jit(suppress)


def kept(boxes, threshold, labels=None, valid=None):
    """The numbers of the boxes that are kept."""
    n = len(boxes)
    labels = np.zeros(n, np.int32) if labels is None else np.array(labels, np.int32)
    valid = np.ones(n, bool) if valid is None else np.array(valid)
    keep = on_device(np.array(boxes, np.float32).reshape(n, 4), labels, valid, threshold)
    return np.flatnonzero(keep).tolist()


def in_a_row(*starts):
    """Boxes of 10 x 10 from those places on: a step of 3 is an IoU of 7/13, one of 6 of 4/16."""
    return [[x, 0, x + 10, 10] for x in starts]


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_random_boxes_equal_a_greedy_loop(threshold):
    dropped = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        corner, side = rng.uniform(0, 20, (60, 2)), rng.uniform(8, 20, (60, 2))
        boxes = np.concatenate([corner, corner + side], 1).astype(np.float32)
        labels = rng.integers(0, 3, 60).astype(np.int32)
        valid = rng.uniform(size=60) < 0.9
        wanted = reference.greedy_suppression(boxes, labels, valid, threshold)
        assert kept(boxes, threshold, labels, valid) == np.flatnonzero(wanted).tolist()
        dropped += valid.sum() - wanted.sum()
    assert dropped > 0 or threshold > 0.8


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_near_copies_equal_a_greedy_loop(threshold):
    # As a detector gives them: many boxes around few objects, so that all thresholds bite.
    rng = np.random.default_rng(7)
    objects = np.array([[0, 0, 30, 30], [20, 0, 50, 30], [0, 20, 30, 60], [25, 25, 60, 60]])
    boxes = (objects[rng.integers(0, 4, 60)] + rng.normal(0, 1.5, (60, 4))).astype(np.float32)
    labels = rng.integers(0, 2, 60).astype(np.int32)
    wanted = reference.greedy_suppression(boxes, labels, np.ones(60, bool), threshold)
    assert kept(boxes, threshold, labels) == np.flatnonzero(wanted).tolist()
    assert wanted.sum() < 60


def test_a_suppressed_box_suppresses_nothing():
    # The first drops the second; the second alone would have dropped the third.
    assert kept(in_a_row(0, 3, 6), 0.5) == [0, 2]
    assert kept(in_a_row(3, 6), 0.5) == [0]


def test_a_chain_as_long_as_the_boxes():
    # Each box hangs on the one before: as many rounds as there are boxes.
    assert kept(in_a_row(*range(0, 180, 3)), 0.5) == list(range(0, 60, 2))


def test_the_earlier_box_is_kept_whatever_its_size():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 11]]
    assert kept(boxes, 0.5) == [0]
    assert kept(boxes[::-1], 0.5) == [0]


def test_overlap_equal_to_the_threshold_is_kept():
    halves = [[0, 0, 2, 1], [0, 0, 1, 1]]  # IoU 1/2 exactly
    assert kept(halves, 0.5) == [0, 1]
    assert kept(halves, 0.4999) == [0]


def test_classes_do_not_suppress_each_other():
    boxes = in_a_row(0, 0, 1, 1)
    assert kept(boxes, 0.5, labels=[0, 1, 0, 1]) == [0, 1]
    assert kept(boxes, 0.5, labels=[0, 0, 0, 0]) == [0]


def test_invalid_boxes_are_not_kept_and_suppress_nothing():
    assert kept(in_a_row(0, 1, 2), 0.5, valid=[False, True, True]) == [1]
    assert kept(in_a_row(0, 1, 30), 0.5, valid=[False, False, False]) == []


def test_boxes_without_area_are_not_suppressed():
    # Overlap with nothing, not even themselves; no NaN decides.
    assert kept([[5, 5, 5, 5], [5, 5, 5, 5], [0, 0, 10, 10]], 0.5) == [0, 1, 2]


def test_no_boxes():
    assert kept([], 0.5) == []


def test_many_images_at_once():
    boxes = np.array([in_a_row(0, 3, 6), in_a_row(0, 20, 21), in_a_row(0, 1, 2)], np.float32)
    labels, valid = np.zeros((3, 3), np.int32), np.ones((3, 3), bool)
    keep = jax.vmap(lambda *image: suppress(*image, 0.5))(boxes, labels, valid)
    wanted = [[True, False, True], [True, True, False], [True, False, False]]
    assert keep.tolist() == wanted


@pytest.mark.parametrize("count", [3, 60])
def test_best_distinct_is_the_beginning_of_greedy_suppression(count):
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 30, (40, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 20, (40, 2))], 1).astype(np.float32)
    labels, scores = rng.integers(0, 2, 40), rng.permutation(40).astype(np.float32) - 5
    order = np.argsort(-scores)
    kept = suppress(boxes[order], labels[order], scores[order] >= 0, 0.4)
    expected = order[np.asarray(kept)]
    assert 3 < len(expected) < 35  # something is dropped, and not all
    index, valid = best_distinct(*map(jnp.asarray, (boxes, labels, scores)), 0.4, count)
    assert index.shape == valid.shape == (count,)
    np.testing.assert_array_equal(np.asarray(index)[np.asarray(valid)], expected[:count])
