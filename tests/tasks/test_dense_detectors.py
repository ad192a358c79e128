"""RetinaNet and FCOS: crowd regions, padding, broken outputs, and which point learns a box."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convmesh.distributed.batch import Batch
from convmesh.models.fcos import FCOSOutput
from convmesh.models.retinanet import RetinaNetOutput
from convmesh.tasks.assignment import GroundTruth
from convmesh.tasks.fcos import FCOSDetection, Points, assign_points, centreness
from convmesh.tasks.retinanet import RetinaNetDetection

CLASSES, SIZE = 2, (64, 96)
RETINANET, FCOS = RetinaNetDetection(CLASSES, SIZE), FCOSDetection(CLASSES, SIZE)
CELLS = 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2 + 1


def outputs(task, images=2, seed=0):
    """Random outputs, of few detections."""
    rng = np.random.default_rng(seed)
    n = CELLS * (9 if task is RETINANET else 1)
    logits = jnp.array(rng.normal(-1, 1, (images, n, 1 + CLASSES)), jnp.float32)
    sides = jnp.array(rng.uniform(0, 1, (images, n, 4)), jnp.float32)
    if task is RETINANET:
        return RetinaNetOutput(logits, 0.2 * sides - 0.1)
    return FCOSOutput(logits, 1 + sides, logits[..., 0])


def batch(crowd=False, present=True):
    """Two images with a box each, of which the second may be a crowd region or padding."""
    boxes = np.array([[[8, 8, 40, 48]], [[30, 10, 90, 60]]], np.float32)
    return Batch(
        image=np.zeros((2, *SIZE, 3), np.uint8),
        present=np.array([True, present]),
        boxes=boxes,
        labels=np.array([[0], [1]]),
        valid=np.array([[True], [present]]),
        crowd=np.array([[False], [crowd]]),
        truncated=np.zeros(2, int),
    )


@pytest.mark.parametrize("task", [RETINANET, FCOS])
def test_a_crowd_region_is_not_learned_and_hides_what_it_covers(task):
    found = outputs(task)
    plain, crowd = (task.assign(found, batch(crowd=crowd)) for crowd in (False, True))
    assert plain.positive[1].any() and not plain.missed.any()
    assert not crowd.positive[1].any() and crowd.ignored[1].any() and crowd.missed[1] == 0
    assert not crowd.ignored[1].all()
    # What is hidden has no loss, whatever its class logits are.
    hidden = crowd.ignored[1][:, None]
    logits = found.class_logits.at[1].set(jnp.where(hidden, 5.0, found.class_logits[1]))
    first, second = (
        task.sums(each, batch(crowd=True)) for each in (found, found._replace(class_logits=logits))
    )
    assert first["loss"] == second["loss"]


@pytest.mark.parametrize("task", [RETINANET, FCOS])
def test_an_example_that_only_pads_has_no_part_in_the_loss(task):
    found, alone = outputs(task), batch(present=False)
    one = jax.tree.map(lambda leaf: leaf[:1], (found, alone))
    both = task.loss(found, alone)[0]
    np.testing.assert_allclose(both, task.loss(*one)[0], rtol=1e-6)
    assert task.sums(found, alone)["images"] == 1


@pytest.mark.parametrize("task", [RETINANET, FCOS])
def test_the_first_class_is_learned_to_be_low_and_never_predicted(task):
    found = outputs(task)
    logits = found.class_logits.at[..., 0].set(9.0)
    high = found._replace(class_logits=logits)
    assert task.loss(high, batch())[0] > task.loss(found, batch())[0]
    for name, array in task.predict(found).items():
        np.testing.assert_array_equal(task.predict(high)[name], array)


@pytest.mark.parametrize("task", [RETINANET, FCOS])
def test_outputs_that_are_not_finite_give_no_detections(task):
    found = outputs(task)
    best = found.class_logits.at[0, 3].set(jnp.inf).at[0, 4].set(jnp.nan)
    boxes = found[1].at[0, 5].set(jnp.nan)
    predicted = task.predict(type(found)(best, boxes, *found[2:]))
    assert predicted["valid"].sum(1).min() > 10
    assert all(np.isfinite(leaf).all() for leaf in predicted.values())


@pytest.mark.parametrize("task", [RETINANET, FCOS])
def test_detections_are_sorted_clipped_and_of_the_options(task):
    found = task.predict(outputs(task))
    valid = np.asarray(found["valid"][0])
    scores, boxes = np.asarray(found["scores"][0])[valid], np.asarray(found["boxes"][0])[valid]
    assert (np.diff(scores) <= 0).all() and scores.min() > task.score_threshold
    assert boxes.min() >= 0 and boxes[:, 2].max() <= SIZE[1] and boxes[:, 3].max() <= SIZE[0]
    assert set(np.asarray(found["labels"][0])[valid]) == {0, 1}
    product = found["class_confidence"] * found["box_confidence"]
    wanted = np.sqrt(product)[0][valid]  # of RetinaNet both are the score
    np.testing.assert_allclose(scores, wanted, rtol=1e-5)


def test_a_point_of_two_boxes_learns_the_smaller_and_a_box_has_one_level():
    grid = Points(jnp.array([[32.0, 32]] * 2), jnp.array([8.0, 16]))
    boxes = jnp.array([[0.0, 0, 60, 60], [22, 22, 42, 42], [24, 24, 40, 41]])
    truth = GroundTruth(boxes, jnp.zeros(3, int), jnp.ones(3, bool), jnp.zeros(3, bool))
    targets = assign_points(grid, truth)
    # No side is farther than 4 strides of the coarser point: boxes for the finer one alone.
    assert targets.positive.tolist() == [True, False]
    assert targets.box[0] == 2 and targets.missed == 2


def test_centreness():
    distances = jnp.array([[4.0, 4, 4, 4], [1, 4, 3, 4], [0, 4, 8, 4]])
    np.testing.assert_allclose(centreness(distances), [1, np.sqrt(1 / 3), 0], rtol=1e-6)
