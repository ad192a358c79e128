import dataclasses
import functools
import re

import equality
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from coco_oracle import CLASSES, random_case
from jax.sharding import NamedSharding
from jax.test_util import check_grads

from convmesh import mesh as meshes
from convmesh.config import DETECT_METRICS
from convmesh.data.placement import Placement
from convmesh.distributed.batch import Batch
from convmesh.geometry import grid_points
from convmesh.mesh import DATA, P
from convmesh.models.detector import BINS, DetectorOutput
from convmesh.ops import boxes as box_ops
from convmesh.ops import losses
from convmesh.tasks.assignment import Assignment
from convmesh.tasks.detect import Detect

SIZE = (64, 64)
TASK = Detect(classes=3, image_size=SIZE)
POINTS, STRIDES = grid_points(SIZE)
N = len(POINTS)
# Edges at 4 + 8 i: from the points of stride 8 its distances are multiples of the stride.
BOX = [4, 4, 36, 36]


def quiet(images=1):
    """Outputs that find nothing: no confidence, and boxes without area."""
    distances = np.full((images, N, 4, BINS), -40, np.float32)
    distances[..., 0] = 0
    logits, confidence = (np.full((images, N, *c), -20, np.float32) for c in ((3,), ()))
    return DetectorOutput(logits, distances, confidence)


def point_at(x, y):
    return int(np.flatnonzero((POINTS == (x, y)).all(1))[0])


def show(outputs, image, point, box, label, class_logit=20.0, confidence_logit=20.0):
    """Makes a point of `outputs` give that box, exactly, and class."""
    x, y = POINTS[point]
    sides = np.array([x - box[0], y - box[1], box[2] - x, box[3] - y]) / STRIDES[point]
    for side, distance in enumerate(sides):
        weights = np.maximum(0, 1 - abs(distance - np.arange(BINS)))
        outputs.distance_logits[image, point, side] = np.log(np.maximum(weights, 1e-17))
    outputs.class_logits[image, point, label] = class_logit
    outputs.confidence_logits[image, point] = confidence_logit


def noise(images=2, seed=0):
    rng = np.random.default_rng(seed)
    shapes = ((images, N, 3), (images, N, 4, BINS), (images, N))
    return DetectorOutput(*(rng.normal(size=shape).astype(np.float32) for shape in shapes))


def batch_of(*images, rows=4):
    """A batch; each image is a list of (box, label) or (box, "crowd"), None a padding example."""
    n = len(images)
    batch = Batch(
        image=None,
        present=np.array([image is not None for image in images]),
        boxes=np.zeros((n, rows, 4), np.float32),
        labels=np.zeros((n, rows), np.int32),
        valid=np.zeros((n, rows), bool),
        crowd=np.zeros((n, rows), bool),
        truncated=np.zeros(n, np.int32),
    )
    for i, image in enumerate(images):
        for j, (box, label) in enumerate(image or ()):
            batch.boxes[i, j], batch.valid[i, j] = box, True
            batch.crowd[i, j] = label == "crowd"
            batch.labels[i, j] = 0 if label == "crowd" else label
    return batch


TWO_IMAGES = ([(BOX, 2), ([30, 20, 60, 62], 0)], [([2, 30, 50, 60], 1)])

loss_of = jax.jit(TASK.loss)


@jax.jit
def gradient_of(outputs, batch):
    return jax.grad(lambda outputs: TASK.loss(outputs, batch)[0])(outputs)


def assert_finite(tree):
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


# --- boxes --------------------------------------------------------------------------------------


def test_boxes_are_strides_times_the_mean_of_the_bins():
    distances = np.full((1, N, 4, BINS), -50, np.float32)
    point = point_at(24, 40)  # of stride 16
    distances[0, point, 0, 2] = 0  # left: 2
    distances[0, point, 1, [0, 1]] = 0  # top: 1/2
    distances[0, point, 2, 15] = 0  # right: 15, the farthest
    distances[0, point, 3, [1, 3]] = np.log([0.25, 0.75])  # bottom: 2.5
    box = TASK.boxes(distances)[0, point]
    np.testing.assert_allclose(box, [24 - 32, 40 - 8, 24 + 240, 40 + 40], atol=1e-4)


# --- loss ---------------------------------------------------------------------------------------


def test_the_loss_is_near_0_for_a_perfect_prediction_and_large_for_a_wrong_one():
    batch = batch_of([(BOX, 1)])
    right = quiet()
    show(right, 0, point_at(12, 12), BOX, 1)
    loss, numbers = loss_of(right, batch)
    assert 0 <= loss < 1e-5
    assert numbers["boxes_without_point"] == 0 and numbers["positive_points"] == 13

    def costs(part, box, label, **logits):
        wrong = quiet()
        show(wrong, 0, point_at(12, 12), box, label, **logits)
        loss, numbers = loss_of(wrong, batch)
        assert loss == pytest.approx(sum(float(numbers[f"loss/{p}"]) for p in PARTS))
        return numbers[f"loss/{part}"]

    assert costs("class", BOX, 2) > 10  # confident of a wrong class
    assert costs("class", BOX, 1, class_logit=-20) > 10  # no confidence in the correct one
    assert costs("confidence", BOX, 1, confidence_logit=-20) > 10
    # From (12, 12) the edges of 4, 4, 28, 36 lie 1, 1, 2, 3 strides away: overlap 3/4, hull the
    # same, weight 2, target 3/4. One of four sides has no weight on its bin, e^-39.
    assert costs("box", [4, 4, 28, 36], 1) == pytest.approx(2 * 0.25 * 0.75, rel=1e-4)
    assert costs("distribution", [4, 4, 28, 36], 1) == pytest.approx(
        0.5 * 0.75 * -np.log(1e-17) / 4, rel=1e-3
    )


PARTS = ("class", "confidence", "box", "distribution")


def test_the_parts_by_their_formulas():
    # Two positive points, one of them at a coarser level; two that a crowd covers.
    outputs, batch = noise(1), batch_of([(BOX, 2), ([10, 20, 60, 62], 0)])
    fine, coarse, covered = point_at(12, 20), point_at(40, 40), [3, 70]
    box, target, sure = np.zeros((1, N), np.int32), np.zeros((1, N)), np.zeros((1, N))
    box[0, coarse] = 1
    target[0, [fine, coarse]], sure[0, [fine, coarse]] = [0.9, 0.6], [0.7, 0.5]
    ignored = np.isin(np.arange(N), covered)[None]
    given = Assignment(box, target > 0, target, sure, ignored, np.array([1]))
    _, numbers = loss_of(outputs, batch, given)

    total, seen = 0.9 + 0.6, [p for p in range(N) if p not in covered]
    classes = np.zeros((N, 3))
    classes[fine, 2], classes[coarse, 0] = 0.9, 0.6
    wanted = dict.fromkeys(PARTS, 0.0)
    wanted["class"] = losses.quality_focal(outputs.class_logits[0], classes)[seen,].sum()
    confidence = losses.quality_focal(outputs.confidence_logits[0], sure[0])
    wanted["confidence"] = confidence[seen,].sum()
    predicted = TASK.boxes(outputs.distance_logits)[0]
    for p, weight, truth in [(fine, 0.9, BOX), (coarse, 0.6, [10, 20, 60, 62])]:
        wanted["box"] += 2 * weight * (1 - box_ops.giou(predicted[p], jnp.array(truth)))
        (x, y), s = POINTS[p], STRIDES[p]
        sides = np.array([x - truth[0], y - truth[1], truth[2] - x, truth[3] - y]) / s
        bins = losses.distribution_focal(outputs.distance_logits[0, p], sides)
        wanted["distribution"] += 0.5 * weight * bins.mean()
    for part in PARTS:
        assert numbers[f"loss/{part}"] == pytest.approx(float(wanted[part]) / total, rel=1e-4), part
    heavier = dataclasses.replace(TASK, class_weight=3.0).loss(outputs, batch, given)[1]
    assert heavier["loss/class"] == pytest.approx(3 * float(wanted["class"]) / total, rel=1e-4)
    assert heavier["loss/box"] == pytest.approx(float(numbers["loss/box"]), rel=1e-6)
    assert numbers["positive_points"] == 2 and numbers["boxes_without_point"] == 1


def test_switched_off_parts_of_the_loss_are_0():
    outputs, batch = noise(), batch_of(*TWO_IMAGES)
    all_parts, without = (
        TASK,
        dataclasses.replace(TASK, distribution_weight=0.0, box_confidence=False),
    )
    all_parts, without = (jax.jit(task.sums)(outputs, batch) for task in (all_parts, without))
    assert all_parts["loss/distribution"] > 0 and all_parts["loss/confidence"] > 0
    assert without["loss/distribution"] == without["loss/confidence"] == 0
    assert without["loss"] == pytest.approx(
        float(all_parts["loss/class"] + all_parts["loss/box"]), rel=1e-6
    )


def test_without_box_confidence_the_score_is_the_class_confidence():
    outputs = quiet()
    show(outputs, 0, point_at(20, 20), BOX, 1, class_logit=2.0, confidence_logit=-9.0)
    task = dataclasses.replace(TASK, box_confidence=False)
    found = jax.jit(task.predict)(outputs)
    assert found["scores"][0, 0] == pytest.approx(1 / (1 + np.exp(-2)))
    assert found["class_confidence"][0, 0] == found["box_confidence"][0, 0] == found["scores"][0, 0]


def test_the_assignment_may_be_by_centres():
    batch = batch_of([(BOX, 2)])
    task = dataclasses.replace(TASK, assignment="centres")
    assigned = jax.jit(task.assign)(noise(1), batch)
    near = np.abs(POINTS - 20).max(1) < 12
    assert assigned.positive[0].tolist() == (near & (STRIDES == 8)).tolist()


@pytest.mark.usefixtures("float64")
def test_the_gradient_is_that_of_finite_differences():
    outputs = jax.tree.map(lambda leaf: leaf.astype(np.float64), noise(1))
    batch = batch_of([(BOX, 2), ([10, 20, 60, 62], 0)])
    given = jax.jit(TASK.assign)(outputs, batch)
    loss = jax.jit(lambda outputs: TASK.loss(outputs, batch, given)[0])
    check_grads(loss, (outputs,), order=1, modes=["rev"], rtol=1e-5)


def test_no_gradient_flows_through_the_assignment():
    # Otherwise the targets would be pulled towards the predictions.
    outputs, batch = noise(), batch_of(*TWO_IMAGES)
    given = jax.jit(TASK.assign)(outputs, batch)
    fixed = jax.jit(jax.grad(lambda outputs: TASK.loss(outputs, batch, given)[0]))(outputs)
    for one, other in zip(fixed, gradient_of(outputs, batch), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)


def test_padding_boxes_change_nothing():
    outputs, batch = noise(), batch_of(*TWO_IMAGES)
    more = batch_of(*TWO_IMAGES, rows=7)
    more.boxes[:, 4:] = [[3, 3, 50, 50], [0, 0, 64, 64], [9, 9, 9, 9]]
    more.labels[:, 4:] = 2
    more.crowd[:, 4] = True
    loss, numbers = loss_of(outputs, batch)
    other, others = loss_of(outputs, more)
    assert other == pytest.approx(float(loss), rel=1e-6)
    assert {k: float(v) for k, v in numbers.items()} == pytest.approx(
        {k: float(v) for k, v in others.items()}, rel=1e-5
    )
    for one, two in zip(gradient_of(outputs, batch), gradient_of(outputs, more), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-8)


def test_padding_examples_change_nothing():
    outputs, batch = noise(4), batch_of(*TWO_IMAGES, None, None)
    loss, numbers = loss_of(outputs, batch)
    alone, numbers_alone = loss_of(
        jax.tree.map(lambda leaf: leaf[:2], outputs), batch_of(*TWO_IMAGES)
    )
    assert loss == pytest.approx(float(alone), rel=1e-6)
    assert numbers["positive_points"] == numbers_alone["positive_points"]
    for leaf in gradient_of(outputs, batch):
        assert leaf[:2].any() and not leaf[2:].any()


@pytest.mark.parametrize("image", [None, [], [(BOX, "crowd")], [([9, 9, 9, 9], 1)]], ids=str)
def test_images_without_boxes_to_learn_give_finite_losses(image):
    for outputs in (noise(), quiet(2)):
        batch = batch_of(image, image)
        loss, numbers = loss_of(outputs, batch)
        gradient = gradient_of(outputs, batch)
        assert_finite((loss, numbers, gradient))
        assert numbers["positive_points"] == 0
        assert numbers["loss/box"] == numbers["loss/distribution"] == 0
        assert not np.any(gradient.distance_logits)
        if image is None:
            assert loss == 0


def test_padded_and_empty_boxes_beside_real_ones_give_finite_losses():
    images = [(BOX, 1), ([20, 20, 20, 50], 2), ([40, 40, 30, 30], 0)], [(BOX, "crowd"), (BOX, 0)]
    for outputs in (noise(), quiet(2)):
        batch = batch_of(*images)
        assert_finite((loss_of(outputs, batch), gradient_of(outputs, batch)))


def test_ignored_points_have_no_class_or_confidence_gradient():
    crowd = [0, 0, 32, 32]
    batch = batch_of([(crowd, "crowd"), ([40, 40, 60, 60], 1)], [])
    gradient = gradient_of(noise(), batch)
    covered = np.asarray(box_ops.inside(POINTS, np.array([crowd])))[0]
    assert covered.sum() == 16 + 4 + 1  # a quarter of each level, less the borders' other sides
    for leaf in (gradient.class_logits, gradient.confidence_logits):
        assert not leaf[0, covered].any()
        assert (np.asarray(leaf)[0, ~covered] != 0).all() and (np.asarray(leaf)[1] != 0).all()


def test_the_divisor_is_the_sum_over_all_images():
    # The same images twice cost the same; a background image added costs its own part alone.
    outputs, batch = noise(), batch_of(*TWO_IMAGES)
    assert jax.jit(TASK.assign)(outputs, batch).target.sum() > 1
    loss, numbers = loss_of(outputs, batch)
    twice = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf]), (outputs, batch))
    again, numbers_again = loss_of(*twice)
    assert again == pytest.approx(float(loss), rel=1e-5)
    assert numbers_again["positive_points"] == numbers["positive_points"]
    more = jax.tree.map(lambda *leaves: np.concatenate(leaves), outputs, quiet(2))
    added, _ = loss_of(more, batch_of(*TWO_IMAGES, [], []))
    assert added == pytest.approx(float(loss), rel=1e-5)


def test_the_divisor_is_at_least_one():
    # The first predictions hardly overlap: divided by so little, the loss would be huge.
    outputs, batch = quiet(), batch_of([(BOX, 1)])
    outputs.confidence_logits[...] = 0
    # 84 points, error 1/2, cross-entropy log 2, background only.
    _, numbers = loss_of(outputs, batch)
    assert numbers["loss/confidence"] == pytest.approx(84 * np.log(2) / 4, rel=1e-4)


def test_boxes_without_a_point_and_truncated_boxes_are_counted():
    batch = batch_of([(BOX, 1), ([200, 200, 220, 220], 1)], [(BOX, 0)])
    batch.truncated[:] = [3, 4]
    _, numbers = loss_of(noise(), batch)
    assert numbers["boxes_without_point"] == 1 and numbers["boxes_truncated"] == 7


# --- decoding -----------------------------------------------------------------------------------

predict = jax.jit(TASK.predict)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def test_one_known_box():
    outputs = quiet()
    box = [10, 21, 50, 43]
    show(outputs, 0, point_at(24, 24), box, 2, class_logit=1.5, confidence_logit=-0.5)
    found = jax.tree.map(lambda leaf: leaf[0], predict(outputs))
    assert found["valid"].tolist() == [True] + [False] * (len(found["valid"]) - 1)
    np.testing.assert_allclose(found["boxes"][0], box, atol=1e-3)
    assert found["labels"][0] == 2 and found["labels"].dtype == np.int32
    assert found["class_confidence"][0] == pytest.approx(sigmoid(1.5), rel=1e-5)
    assert found["box_confidence"][0] == pytest.approx(sigmoid(-0.5), rel=1e-5)
    assert found["scores"][0] == pytest.approx(np.sqrt(sigmoid(1.5) * sigmoid(-0.5)), rel=1e-5)


def test_suppression_is_per_class():
    outputs = quiet(2)
    for image, second in enumerate((2, 1)):
        show(outputs, image, point_at(12, 12), BOX, 2, class_logit=3)
        show(outputs, image, point_at(20, 20), BOX, second, class_logit=1)
    found = predict(outputs)
    assert found["valid"].sum(1).tolist() == [1, 2]
    assert found["labels"][1, :2].tolist() == [2, 1]  # best first
    # One point may give detections of two classes.
    show(outputs, 0, point_at(12, 12), BOX, 0, class_logit=2)
    found = predict(outputs)
    assert found["labels"][0, :2].tolist() == [2, 0] and found["valid"][0].sum() == 2


def test_scores_below_the_threshold_are_not_valid():
    outputs = quiet()
    show(outputs, 0, point_at(12, 12), BOX, 2, 0.0, 0.0)  # score 1/2
    for threshold, n in [(0.49, 1), (0.51, 0)]:
        task = Detect(3, SIZE, score_threshold=threshold)
        assert jax.jit(task.predict)(outputs)["valid"].sum() == n


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("name", ["class_logits", "distance_logits", "confidence_logits"])
def test_logits_that_are_not_finite_give_no_valid_boxes(name, value):
    outputs = quiet()
    show(outputs, 0, point_at(12, 12), BOX, 1, class_logit=3)
    show(outputs, 0, point_at(44, 44), [40, 40, 56, 56], 2, class_logit=2)
    getattr(outputs, name)[0, point_at(12, 12)] = value
    found = jax.jit(Detect(3, SIZE, score_threshold=0.0).predict)(outputs)
    valid = found["valid"][0]
    assert found["labels"][0, 0] == 2 and valid[0]
    assert np.isfinite(found["boxes"][0][valid]).all()
    assert (found["scores"][0][valid] >= 0).all() and np.isfinite(found["scores"][0][valid]).all()


def brute_force(task, outputs, image):
    """All (point, class) pairs sorted, the candidates suppressed one by one, in numpy."""
    classes, confidence = (
        sigmoid(outputs.class_logits[image]),
        sigmoid(outputs.confidence_logits[image]),
    )
    scores = np.sqrt(classes * confidence[:, None])
    weights = np.exp(outputs.distance_logits[image].astype(np.float64))
    distances = (weights / weights.sum(-1, keepdims=True)) @ np.arange(BINS) * STRIDES[:, None]
    boxes = np.concatenate([POINTS - distances[:, :2], POINTS + distances[:, 2:]], 1)
    pairs = np.argsort(-scores, axis=None)[: task.candidates]
    point, label = np.unravel_index(pairs, scores.shape)
    score = scores[point, label]
    valid = score >= task.score_threshold
    keep = reference.greedy_suppression(boxes[point], label, valid, task.iou_threshold)
    keep = np.flatnonzero(keep)[: task.max_detections]
    return boxes[point[keep]], label[keep], score[keep]


@pytest.mark.parametrize(
    "candidates, max_detections, score, iou",
    # Few of the 252 pairs, and more; more than there are points; all; more than there are.
    [
        (8, 8, 0.001, 0.9),
        (40, 10, 0.001, 0.5),
        (200, 100, 0.3, 0.65),
        (252, 252, 0.001, 0.3),
        (300, 100, 0.6, 0.9),
    ],
)
def test_decoding_equals_a_search_over_all_pairs(candidates, max_detections, score, iou):
    task = Detect(3, SIZE, score, iou, max_detections, candidates=candidates)
    outputs = noise(seed=3)
    outputs = outputs._replace(distance_logits=3 * outputs.distance_logits)
    found = jax.jit(task.predict)(outputs)
    for image in range(2):
        boxes, labels, scores = brute_force(task, outputs, image)
        valid = np.asarray(found["valid"][image])
        n = valid.sum()
        assert n == len(boxes) and n > 3
        assert valid[:n].all()  # what is valid comes first
        np.testing.assert_array_equal(found["labels"][image, :n], labels)
        np.testing.assert_allclose(found["scores"][image, :n], scores, rtol=1e-5)
        np.testing.assert_allclose(found["boxes"][image, :n], boxes, atol=1e-3)


def test_boxes_go_back_to_the_original_image():
    # The input shows the image at half size, 8 px down; the image is 55 wide and 50 high.
    one = {
        "boxes": np.array([[10, 18, 20, 30], [-3, 2, 30, 40], [0, 0, 9, 9]], np.float32),
        "labels": np.array([1, 2, 0], np.int32),
        "scores": np.array([0.9, 0.5, 0.1], np.float32),
        "class_confidence": np.array([0.8, 0.4, 0.1], np.float32),
        "box_confidence": np.array([0.7, 0.3, 0.1], np.float32),
        "valid": np.array([True, True, False]),
    }
    placement = Placement(np.float32(0.5), np.array([0, 8], np.float32), np.array([50, 55]))
    back = TASK.to_host(one, placement)
    # (20 - 0) / 0.5 = 40 and (30 - 8) / 0.5 = 44; the second is clipped on all sides.
    assert back["boxes"].tolist() == [[20, 20, 40, 44], [0, 0, 55, 50]]
    assert back["boxes"].dtype == np.float32
    assert back["labels"].tolist() == [1, 2]
    assert len(back["scores"]) == len(back["class_confidence"]) == len(back["box_confidence"]) == 2
    assert "valid" not in back


def test_distinct_detections_are_suppressed_across_classes():
    found = {
        "boxes": np.array([[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 6], [20, 0, 30, 10]], float),
        "labels": np.array([1, 2, 1, 0]),
        "image_id": 7,
    }
    # IoU with the first: 0.8, above 0.65, and 0.6. The third overlaps the second by 0.75, but that
    # is dropped.
    distinct = TASK.distinct(found)
    assert distinct["labels"].tolist() == [1, 1, 0] and distinct["image_id"] == 7
    assert distinct["boxes"].tolist() == found["boxes"][[0, 2, 3]].tolist()
    empty = TASK.distinct({"boxes": np.zeros((0, 4)), "labels": np.zeros(0, int)})
    assert empty["boxes"].shape == (0, 4)


# --- on a mesh ----------------------------------------------------------------------------------

COLLECTIVES = re.compile(r"all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter")
EIGHT = [[(BOX, i % 3), ([30 - i, 20, 60, 62 - i], 0)] for i in range(8)]


def compiled(function, *trees, mesh):
    """`function` compiled for `mesh`, all its arguments given by examples."""

    def placed(leaf):
        at = NamedSharding(mesh, P(DATA))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at)

    with jax.set_mesh(mesh):
        return jax.jit(function).lower(*jax.tree.map(placed, trees)).compile()


@pytest.mark.parametrize("name", ["assign", "predict"])
def test_decoding_and_assignment_need_no_communication(name):
    given = (noise(8), batch_of(*EIGHT)) if name == "assign" else (noise(8),)
    function, mesh = getattr(TASK, name), equality.make_mesh((8, 1, 1))
    program = compiled(function, *given, mesh=mesh)
    assert COLLECTIVES.findall(program.as_text()) == []
    # And each does all the work for its own examples.
    given = jax.device_put(given, NamedSharding(mesh, P(DATA)))
    found, wanted = program(*given), jax.jit(function)(*jax.device_get(given))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert one.sharding.spec == P(DATA)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_without_per_example_there_would_be_collectives(monkeypatch):
    # This shows that the test above can fail.
    monkeypatch.setattr(meshes, "per_example", lambda function: function)
    assign = functools.partial(TASK.assign)
    program = compiled(assign, noise(8), batch_of(*EIGHT), mesh=equality.make_mesh((8, 1, 1)))
    assert COLLECTIVES.search(program.as_text())


def test_every_metric_that_can_select_a_checkpoint_is_computed():
    measured = Detect(len(CLASSES), SIZE).metrics(*random_case(0), CLASSES)
    assert [name for name in DETECT_METRICS if name not in measured] == []
