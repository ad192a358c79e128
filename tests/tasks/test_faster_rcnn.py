"""Faster R-CNN's proposals and what is drawn of them, its loss and its detections at the edges."""

import dataclasses

import jax
import numpy as np
import pytest

from convmesh.distributed.batch import Batch
from convmesh.models.faster_rcnn import FasterRCNNOutput, anchors_of, propose
from convmesh.ops.anchors import boxes_to_offsets
from convmesh.tasks.faster_rcnn import WEIGHTS, FasterRCNNDetection, draw

SIZE = (64, 64)
TASK = FasterRCNNDetection(classes=2, image_size=SIZE, anchors_drawn=32, boxes_drawn=8)
ANCHORS = np.concatenate(anchors_of(SIZE))
BOX = [8.0, 8, 40, 40]

loss_of, find = jax.jit(TASK.loss), jax.jit(TASK.predict)
proposals_of = jax.jit(propose, static_argnums=(2, 3))


@jax.jit
def gradients_of(found, batch):
    def loss(class_logits, offsets):
        return TASK.loss(found._replace(class_logits=class_logits, offsets=offsets), batch)[0]

    return jax.grad(loss, argnums=(0, 1))(found.class_logits, found.offsets)


def batch_of(*images, rows=3):
    """Each image is a list of (box, label); label -1 is a crowd region."""
    n = len(images)
    batch = Batch(
        image=None,
        index=np.arange(n) + 5,
        present=np.ones(n, bool),
        boxes=np.zeros((n, rows, 4), np.float32),
        labels=np.zeros((n, rows), np.int32),
        valid=np.zeros((n, rows), bool),
        crowd=np.zeros((n, rows), bool),
        truncated=np.zeros(n, np.int32),
    )
    for i, image in enumerate(images):
        for j, (box, label) in enumerate(image):
            batch.boxes[i, j], batch.valid[i, j] = box, True
            batch.labels[i, j], batch.crowd[i, j] = max(label, 0), label < 0
    return batch


def outputs(*boxes, images=1):
    """Outputs of both stages that find nothing, with these boxes in the second."""
    n = max(1, len(boxes))
    placed = np.zeros((images, n, 4), np.float32)
    placed[:] = np.reshape(boxes or np.zeros(4), (-1, 4))
    logits = np.zeros((images, n, 3), np.float32)
    logits[..., 0] = 20
    return FasterRCNNOutput(
        object_logits=np.full((images, len(ANCHORS)), -20, np.float32),
        anchor_offsets=np.zeros((images, len(ANCHORS), 4), np.float32),
        sampled=np.ones((images, len(ANCHORS)), bool),
        boxes=placed,
        valid=np.full((images, n), bool(boxes)),
        class_logits=logits,
        offsets=np.zeros((images, n, 3, 4), np.float32),
    )


# --- proposals ------------------------------------------------------------------------------------


def test_proposals_are_the_best_of_each_level_without_those_they_suppress():
    logits, offsets = np.full(len(ANCHORS), -9, np.float32), np.zeros((len(ANCHORS), 4), np.float32)
    logits[[100, 101, 400]] = [3, 2, 5]
    offsets[100] = boxes_to_offsets(np.float32(BOX), ANCHORS[100])
    offsets[101] = boxes_to_offsets(np.float32([8, 8, 40, 41]), ANCHORS[101])  # too near the first
    offsets[400] = np.nan
    boxes, valid = proposals_of(logits, offsets, SIZE, 20)
    assert boxes.shape == (20, 4) and valid.all()
    np.testing.assert_allclose(boxes[0], BOX, atol=1e-4)
    assert not (np.abs(boxes - np.array([8, 8, 40, 41])).max(1) < 0.5).any()
    assert (boxes >= 0).all() and (boxes <= 64).all()
    _, valid = proposals_of(np.full_like(logits, np.nan), offsets, SIZE, 20)
    assert not valid.any()


# --- what is drawn --------------------------------------------------------------------------------


def test_at_most_a_fraction_of_positives_and_as_many_negatives_as_are_left():
    positive, negative = np.arange(100) < 40, np.arange(100) >= 50
    index, valid = draw(positive, negative, 32, 0.25, jax.random.key(0))
    drawn = np.asarray(index)[np.asarray(valid)]
    assert len(set(drawn)) == 32
    assert positive[drawn].sum() == 8 and negative[drawn].sum() == 24
    other = draw(positive, negative, 32, 0.25, jax.random.key(1))[0]
    assert set(drawn) != set(np.asarray(other).tolist())
    # Few positives leave room for negatives, few negatives do not for positives.
    index, valid = draw(np.arange(100) < 2, negative, 32, 0.25, jax.random.key(0))
    assert valid.all() and (np.asarray(index) < 2).sum() == 2
    index, valid = draw(positive, np.arange(100) >= 97, 32, 0.25, jax.random.key(0))
    assert valid.sum() == 8 + 3


def chosen(batch, seed=0, proposals=(BOX, [0.0, 0, 30, 60], [30.0, 30, 64, 64], [0.0, 0, 1, 1])):
    placed = np.tile(np.float32(proposals), (len(batch.index), 1, 1))
    valid = np.tile(np.arange(len(proposals)) < 3, (len(batch.index), 1))
    return jax.jit(lambda: TASK.choose(batch, jax.random.key(seed))(placed, valid))()


def test_a_draw_depends_on_the_step_and_the_example_and_not_on_its_neighbours():
    one, two = [(BOX, 1), ([30, 4, 50, 60], 0)], [([20, 20, 60, 60], 1)]
    both = chosen(batch_of(one, two))
    swapped = dataclasses.replace(batch_of(two, one), index=np.array([6, 5]))
    for got, other in zip(both[:3], chosen(swapped)[:3], strict=True):
        np.testing.assert_array_equal(got, other[::-1])
    assert (np.asarray(both.anchors) != chosen(batch_of(one, two), seed=1).anchors).any()
    assert both.anchors.sum(1).tolist() == [32, 32]


def test_boxes_are_added_to_the_proposals_but_no_crowds_and_no_padding():
    sample = chosen(batch_of([([50, 4, 60, 12], 1), ([0, 0, 10, 10], -1)]))
    boxes = np.asarray(sample.boxes[0])[np.asarray(sample.valid[0])].tolist()
    assert [50, 4, 60, 12] in boxes  # the only positive one
    assert [0, 0, 10, 10] not in boxes and [0, 0, 1, 1] not in boxes
    assert len(boxes) == 4


def test_what_is_drawn_has_been_matched_once():
    batch = batch_of([(BOX, 1), ([50, 4, 60, 12], 0)], [([0, 0, 30, 60], 1), ([0, 0, 9, 9], -1)])
    sample = chosen(batch)
    drawn = outputs(images=2)._replace(boxes=sample.boxes, valid=sample.valid)
    first, second = jax.jit(TASK.assign)(drawn, batch)
    assert np.asarray(second.positive & sample.valid).sum() > 2
    for got, wanted in zip(sample.targets[0], first, strict=True):
        np.testing.assert_array_equal(got, wanted)
    for got, wanted in zip(sample.targets[1][:3], second[:3], strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert TASK.assign(drawn._replace(targets=sample.targets), batch) is sample.targets


# --- loss and detections --------------------------------------------------------------------------


def test_a_perfect_prediction_has_almost_no_loss_and_is_found():
    batch = batch_of([(BOX, 1)])
    found = outputs(BOX, [9.0, 9, 42, 42], [50.0, 50, 60, 60])
    first, _ = TASK.assign(found, batch)
    positive = np.asarray(first.positive[0])
    found.object_logits[0, positive] = 20
    found.anchor_offsets[0] = boxes_to_offsets(np.float32(BOX), ANCHORS)
    found.class_logits[0, :2] = [-20, -20, 20]
    found.offsets[0, :, 2] = boxes_to_offsets(np.float32(BOX), found.boxes[0], WEIGHTS)
    loss, numbers = loss_of(found, batch)
    assert 0 <= loss < 1e-4 and numbers["positive_points"] == positive.sum() > 0
    detections = find(found)
    valid = np.asarray(detections["valid"][0])
    assert valid.sum() == 1  # the other one is suppressed
    np.testing.assert_allclose(detections["boxes"][0][0], BOX, atol=1e-3)
    assert detections["labels"][0][0] == 1
    for key in ("scores", "class_confidence", "box_confidence"):
        assert detections[key][0][0] == pytest.approx(1)


def test_each_part_is_a_mean_over_what_was_drawn_of_all_images():
    batch = batch_of([(BOX, 1)], [])
    found = outputs(BOX, [50.0, 50, 60, 60], images=2)
    found.valid[1, 0] = False
    found.class_logits[...] = 0
    _, numbers = loss_of(found, batch)
    assert numbers["loss/class"] == pytest.approx(np.log(3))
    found.object_logits[...] = 0
    _, numbers = loss_of(found, batch)
    assert numbers["loss/object"] == pytest.approx(np.log(2))


def test_empty_images_and_padding_have_finite_gradients():
    for batch in (batch_of([], [(BOX, -1)]), batch_of([(BOX, 1)], [(BOX, 0)])):
        batch = dataclasses.replace(batch, present=np.array([True, False]))
        found = outputs(BOX, [0.0, 0, 0, 0], images=2)
        found.valid[:, 1] = False
        gradients = gradients_of(found, batch)
        assert all(np.isfinite(leaf).all() for leaf in gradients)
        assert all((leaf[1] == 0).all() for leaf in gradients)


def test_outputs_that_are_not_finite_give_no_detection():
    found = outputs(BOX, [50.0, 50, 60, 60])
    found.class_logits[0] = [[-20, 20, np.nan], [-20, 20, 0]]
    found.offsets[0, 1, 1] = np.inf
    assert not np.asarray(find(found)["valid"]).any()
