"""SSD's default boxes, assignment, and the edges of its loss and its detections."""

import jax
import numpy as np
import pytest

from convmesh.distributed.batch import Batch
from convmesh.models.ssdlite import SSDOutput
from convmesh.ops.anchors import boxes_to_offsets
from convmesh.tasks.assignment import GroundTruth
from convmesh.tasks.ssd import SSD, WEIGHTS, assign, default_boxes

SIZE = (64, 96)
TASK = SSD(classes=2, image_size=SIZE, strides=(16, 32))
BOXES = TASK.default_boxes
N = len(BOXES)

loss_of, find = jax.jit(TASK.loss), jax.jit(TASK.predict)
assign_of = jax.jit(lambda logits, truth: assign(BOXES, logits, truth))


@jax.jit
def gradient_of(outputs, batch):
    return jax.grad(lambda outputs: TASK.loss(outputs, batch)[0])(outputs)


def truth(*boxes, crowd=False, padding=1):
    """Boxes of class 1, and a row of padding that would match."""
    array = np.concatenate([np.reshape(boxes, (-1, 4)), BOXES[:padding]]).astype(np.float32)
    valid = np.arange(len(array)) < len(boxes)
    return GroundTruth(array, np.ones(len(array), np.int32), valid, valid & crowd)


def batch_of(truth, present=True):
    rows = {k: v[None] for k, v in truth._asdict().items()}
    return Batch(image=None, present=np.array([present]), truncated=np.zeros(1, np.int32), **rows)


def outputs(background=5.0):
    logits = np.zeros((1, N, 3), np.float32)
    logits[..., 0] = background
    return SSDOutput(logits, np.zeros((1, N, 4), np.float32))


def test_default_boxes_by_hand():
    boxes = default_boxes((160, 320), (16, 32))
    assert len(boxes) == 6 * (10 * 20 + 5 * 10)
    # The first point is half a stride from the corner; sides are parts of those of the image.
    first = boxes[:6]
    centre, sides = (first[:, :2] + first[:, 2:]) / 2, first[:, 2:] - first[:, :2]
    np.testing.assert_allclose(centre, np.tile([8, 8], (6, 1)), atol=1e-4)
    both, wide, wider = np.sqrt(0.2 * 0.95), 0.2 * np.sqrt(2), 0.2 * np.sqrt(3)
    by_hand = [[0.2, 0.2], [both, both], [wide, wide / 2], [wide / 2, wide], [wider, wider / 3], [wider / 3, wider]]  # fmt: skip # noqa: E501
    np.testing.assert_allclose(sides / [320, 160], by_hand, rtol=1e-6)
    # Then the next column of the row; and no side is longer than that of the image.
    np.testing.assert_allclose(boxes[6:12], first + [16, 0, 16, 0], atol=1e-4)
    assert (boxes[-6:, 2:] - boxes[-6:, :2]).max(0).tolist() == [320, 160]


def test_a_box_goes_to_all_that_overlap_it_by_half_and_to_its_best():
    box = BOXES[100] + [1, 1, 0, 0]
    tiny = [10, 10, 12, 12]  # overlaps none by half
    found = assign_of(np.zeros((N, 3)), truth(box, tiny))
    assert found.positive[100] and found.box[100] == 0 and found.missed == 0
    assert (found.box[found.positive] == 1).sum() == 1  # the best one of the tiny box
    assert found.negative.sum() == 3 * found.positive.sum()
    assert not (found.negative & found.positive).any()


def test_of_two_boxes_with_one_best_default_box_the_last_has_it():
    found = assign_of(np.zeros((N, 3)), truth([10, 10, 12, 12], [10.5, 10.5, 12.5, 12.5]))
    assert found.positive.sum() == 1 and found.box[found.positive] == 1
    assert found.missed == 1


def test_the_negatives_are_those_that_look_least_like_background():
    logits = np.zeros((N, 3), np.float32)
    logits[[7, 90, 150], 1] = 9  # nothing is there
    found = assign_of(logits, truth([10, 10, 12, 12]))
    assert np.flatnonzero(found.negative).tolist() == [7, 90, 150]


def test_crowds_and_padding_are_no_boxes_and_what_a_crowd_covers_is_no_negative():
    crowd = assign_of(np.zeros((N, 3)), truth(BOXES[0], crowd=True))
    assert not crowd.positive.any() and not crowd.negative.any() and crowd.missed == 0
    both = truth([10, 10, 12, 12], [0, 0, 48, 64])
    both = both._replace(crowd=np.array([False, True, False]))
    logits = np.zeros((N, 3), np.float32)
    logits[:, 0] = np.where(BOXES[:, 2] < 48, -9, 9)  # inside the crowd region
    found = assign_of(logits, both)
    assert found.negative.sum() == 3 and not found.negative[BOXES[:, 2] < 48].any()


def test_a_perfect_prediction_has_almost_no_loss_and_is_found():
    box = np.array([20, 10, 70, 50], np.float32)
    batch = batch_of(truth(box))
    found = outputs(20.0)
    assigned = TASK.assign(found, batch)
    positive = np.asarray(assigned.positive[0])
    found.class_logits[0, positive] = [-20, -20, 20]
    found.offsets[0] = boxes_to_offsets(box, BOXES.astype(np.float32), WEIGHTS)
    loss, numbers = loss_of(found, batch)
    assert 0 <= loss < 1e-4
    assert numbers["positive_points"] == positive.sum() > 1
    detections = find(found)
    valid = np.asarray(detections["valid"][0])
    assert valid.sum() == 1  # the others are suppressed
    np.testing.assert_allclose(detections["boxes"][0][0], box, atol=1e-3)
    assert detections["labels"][0][0] == 1
    for key in ("scores", "class_confidence", "box_confidence"):
        assert detections[key][0][0] == pytest.approx(1)


def test_padding_examples_and_empty_images_cost_nothing_and_gradients_are_finite():
    box = [20, 10, 70, 50]
    for batch in (batch_of(truth(box), present=False), batch_of(truth())):
        assert all((leaf == 0).all() for leaf in gradient_of(outputs(), batch))
    gradient = gradient_of(outputs(), batch_of(truth(box)))
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in gradient)


def test_outputs_that_are_not_finite_give_no_detection():
    found = outputs(-5.0)
    found.class_logits[0, ::2] = np.nan
    found.offsets[0, 1::2] = np.inf
    assert not np.asarray(find(found)["valid"]).any()
    assert not np.isfinite(loss_of(found, batch_of(truth([20, 10, 70, 50])))[0])
