import jax
import numpy as np
import pytest
import reference

from convmesh.geometry import Grid, grid_points
from convmesh.ops import selection
from convmesh.tasks.assignment import GroundTruth, assign, assign_centres

POINTS, BOXES, CLASSES = 20, 4, 2  # the shapes of every hand-made case: compiled once
FAR = -1000.0

RULES = {"aligned": jax.jit(assign), "centres": jax.jit(assign_centres)}


def assigned(
    points,
    predicted,
    boxes,
    logits=(),
    labels=(),
    valid=None,
    crowd=(),
    strides=8,
    rule="aligned",
):
    """The assignment of an image of these points and boxes, the rest of both being padding.

    `logits`: of the two classes, for each point; 0, a score of 1/2, where not given.
    """

    def padded(values, shape, fill, dtype=np.float32):
        array = np.full(shape, fill, dtype)
        array[: len(values)] = np.reshape(values, (len(values), *shape[1:]))
        return array

    n = len(points)
    result = RULES[rule](
        Grid(padded(points, (POINTS, 2), FAR), padded(np.broadcast_to(strides, n), (POINTS,), 8)),
        padded(predicted, (POINTS, 4), 0),
        padded(logits, (POINTS, CLASSES), 0),
        GroundTruth(
            padded(boxes, (BOXES, 4), 0),
            padded(labels, (BOXES,), 0, np.int32),
            padded([True] * len(boxes) if valid is None else valid, (BOXES,), False, bool),
            padded(crowd, (BOXES,), False, bool),
        ),
    )
    assert not result.positive[n:].any() and not result.ignored[n:].any()
    points = {k: np.asarray(v)[:n] for k, v in result._asdict().items() if k != "missed"}
    return result._replace(**points)


def close(values):
    return pytest.approx(values, rel=1e-4, abs=1e-7)


def test_one_box_one_point():
    # (4, 4) is inside, and its box is right: IoU 1, so the target is 1.
    box = [0, 0, 8, 8]
    a = assigned([[4, 4], [12, 4]], [box, box], [box])
    assert a.positive.tolist() == [True, False]
    assert a.target.tolist() == close([1, 0])
    assert a.confidence.tolist() == close([1, 0])
    assert a.box[0] == 0 and a.missed == 0 and not a.ignored.any()


def test_targets_are_the_metric_scaled_to_the_best_overlap():
    # Scores 1/2. Overlaps 1 and 1/2: metrics 1/2 and 1/2 x 1/64, so targets 1 and 1/64.
    points, box = [[4, 4], [12, 4]], [0, 0, 16, 8]
    a = assigned(points, [[0, 0, 16, 8], [0, 0, 8, 8]], [box])
    assert a.target.tolist() == close([1, 1 / 64])
    assert a.confidence.tolist() == close([1, 1 / 64])  # not the overlap of each
    # Overlaps 1/2 and 1/4: the best point has the box's best overlap 1/2, the other a 64th of it.
    a = assigned(points, [[0, 0, 8, 8], [0, 0, 4, 8]], [box])
    assert a.target.tolist() == close([1 / 2, 1 / 128])


def test_the_best_point_gets_the_best_overlap_even_if_another_point_has_it():
    # Overlaps 0.8 and 1, scores 0.5 and 0.01: metrics 0.5 x 0.8^6 = 0.131072 and 0.01.
    # The first is the best, with the box's best overlap 1; the other has 0.01 / 0.131072.
    logits = [[0, 0], [np.log(0.01 / 0.99), 0]]
    a = assigned([[2, 5], [8, 5]], [[0, 0, 8, 10], [0, 0, 10, 10]], [[0, 0, 10, 10]], logits)
    assert a.target.tolist() == close([1, 0.01 / 0.131072])


def test_the_score_is_that_of_the_class_of_the_box():
    # Equal overlaps; for class 1 the scores are 0.8 and 0.2, so the targets are 1 and 1/4.
    logits = [[-9, np.log(4)], [9, -np.log(4)]]
    box = [0, 0, 16, 8]
    a = assigned([[4, 4], [12, 4]], [box, box], [box], logits, labels=[1])
    assert a.target.tolist() == close([1, 1 / 4])


def test_a_point_taken_twice_goes_to_the_higher_overlap():
    # (12, 4) is in both boxes, overlaps 8/16 and 1: it goes to the second, though its score of the
    # first box's class is the higher. (4, 4), overlap 4/16, is left to the first box, and is now
    # its best: target 1/4.
    points, predicted = [[4, 4], [12, 4]], [[0, 0, 4, 8], [8, 0, 16, 8]]
    boxes, logits = [[0, 0, 16, 8], [8, 0, 16, 8]], [[0, 0], [5, -5]]
    a = assigned(points, predicted, boxes, logits, labels=[0, 1])
    assert a.box.tolist() == [0, 1]
    assert a.target.tolist() == close([1 / 4, 1])
    assert a.missed == 0
    # Without (4, 4) the first box has no point.
    a = assigned(points[1:], predicted[1:], boxes, logits[1:], labels=[0, 1])
    assert a.box.tolist() == [1]
    assert a.missed == 1


def test_of_equal_overlaps_the_first_box_wins():
    box = [0, 0, 8, 8]
    a = assigned([[4, 4]], [box], [box, box])
    assert a.box.tolist() == [0] and a.target.tolist() == close([1]) and a.missed == 1


def test_a_small_box_is_grown_to_the_finest_stride():
    points = [[4, 4], [12, 4], [4, 12], [12, 12]]
    # 6 px, centre 8: grown from 5..11 to 4..12, which holds 4 and not 12.
    small = [5, 5, 11, 11]
    a = assigned(points, [small] * 4, [small])
    assert a.positive.tolist() == [True, False, False, False]
    assert a.target.tolist() == close([1, 0, 0, 0])  # against the box as it is
    # 14 px are enough: 5..19 holds 12 alone.
    a = assigned(points, [small] * 4, [[5, 5, 19, 19]])
    assert a.positive.tolist() == [False, False, False, True]
    # 16 x 6 px: only the height grows, to 4..12.
    a = assigned(points, [small] * 4, [[0, 5, 16, 11]])
    assert a.positive.tolist() == [True, True, False, False]
    # 1..7 grows to 0..8, by the finest stride: the point (8, 8) of a coarse one stays outside.
    a = assigned([[4, 4], [8, 8]], [small] * 2, [[1, 1, 7, 7]], strides=[8, 16])
    assert a.positive.tolist() == [True, False]


def test_thirteen_points_a_box():
    # 20 points in one box, overlaps 1/20 to 20/20 in some order: the best 13 are taken.
    width = np.random.default_rng(0).permutation(20) + 1
    points = [[i + 0.5, 4] for i in range(20)]
    a = assigned(points, [[0, 0, w, 8] for w in width], [[0, 0, 20, 8]])
    assert a.positive.tolist() == (width > 7).tolist()
    # Metrics are (w / 20)^6 x 1/2 and the best overlap is 1.
    assert a.target.tolist() == close(np.where(width > 7, (width / 20) ** 6, 0).tolist())


def test_padded_and_empty_boxes_get_no_point():
    points, box = [[4, 4], [12, 4]], [0, 0, 16, 16]
    padded = [box, box, box, box]
    a = assigned(points, [box] * 2, padded, valid=[False] * 4, crowd=[False, True, False, True])
    assert not a.positive.any() and not a.ignored.any() and a.missed == 0
    # A point, a line, and swapped corners; grown to the stride they would contain (4, 4).
    empty = [[4, 4, 4, 4], [1, 4, 7, 4], [7, 7, 1, 1]]
    a = assigned(points, [box] * 2, empty)
    assert not a.positive.any() and a.missed == 0
    a = assigned(points, [box] * 2, [*empty, box])
    assert a.box[a.positive].tolist() == [3, 3] and a.missed == 0


def test_crowds_mask_the_points_they_cover_except_positives():
    points = [[4, 4], [12, 4], [20, 4]]
    crowd, box = [0, 0, 16, 16], [0, 0, 8, 8]
    # The second point predicts the crowd exactly, which does not make it positive.
    a = assigned(points, [box, crowd, crowd], [crowd, box], crowd=[True, False])
    assert a.positive.tolist() == [True, False, False]
    assert a.box[0] == 1
    assert a.ignored.tolist() == [False, True, False]
    assert a.missed == 0
    # A crowd of 4 px is not grown, as a box is: it covers no point.
    a = assigned(points, [box] * 3, [[6, 2, 10, 6]], crowd=[True])
    assert not a.ignored.any()


def test_no_boxes():
    a = assigned([[4, 4], [12, 4]], [[0, 0, 8, 8]] * 2, [])
    assert not a.positive.any() and not a.ignored.any()
    assert not a.target.any() and not a.confidence.any() and a.missed == 0


def test_boxes_without_a_point_are_counted():
    boxes = [[0, 0, 8, 8], [100, 100, 130, 130], [-50, 0, -20, 8]]
    a = assigned([[4, 4]], [boxes[0]], boxes)
    assert a.missed == 2
    assert a.missed.dtype == np.int32


def test_a_point_whose_prediction_overlaps_nothing_learns_no_class():
    a = assigned([[4, 4]], [[50, 50, 60, 60]], [[0, 0, 8, 8]])
    assert a.positive.tolist() == [True]
    assert a.target.tolist() == [0] and a.confidence.tolist() == [0]


def test_tiny_metrics_do_not_underflow():
    # Overlaps 1/500 and 1/1000, scores e^-90: products below 1e-55, too small for float32.
    logits = np.full((2, 2), -90)
    box = [0, 0, 1000, 8]
    a = assigned([[4, 4], [12, 4]], [[0, 0, 2, 8], [0, 0, 1, 8]], [box], logits)
    assert a.target.tolist() == close([1 / 500, 1 / 500 / 64])


def assign_in_loops(points, strides, predicted, logits, boxes, labels, valid, crowd):
    """The assignment in loops: (box, positive, target) of each point, and boxes missed."""
    taken, real = {}, [i for i in range(len(boxes)) if valid[i] and not crowd[i]]
    for i in real:
        centre, half = (boxes[i, :2] + boxes[i, 2:]) / 2, (boxes[i, 2:] - boxes[i, :2]) / 2
        half = np.maximum(half, strides.min() / 2)
        metrics = {}
        for p, point in enumerate(points):
            if (point >= centre - half).all() and (point < centre + half).all():
                score = 1 / (1 + np.exp(-logits[p, labels[i]]))
                metrics[p] = score * max(reference.iou(boxes[i], predicted[p]), 1e-9) ** 6
        for p in sorted(metrics, key=metrics.get, reverse=True)[:13]:
            taken.setdefault(p, []).append((reference.iou(boxes[i], predicted[p]), -i, metrics[p]))
    kept = {p: max(claims) for p, claims in taken.items()}
    result = np.zeros((3, len(points)))
    for p, (_, minus_i, metric) in kept.items():
        own = [claim for claim in kept.values() if claim[1] == minus_i]
        target = metric / max(c[2] for c in own) * max(c[0] for c in own)
        result[:, p] = -minus_i, 1, target
    return *result, len(real) - len({-claim[1] for claim in kept.values()})


def test_random_images_equal_loops():
    grid = grid_points((64, 64))
    points, strides = grid
    positives = missed = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        corner, side = rng.uniform(-5, 45, (6, 2)), rng.uniform(2, 40, (6, 2))
        boxes = np.concatenate([corner, corner + side], 1).astype(np.float32)
        reach = strides[:, None] * rng.uniform(0.2, 3, (len(points), 4))
        predicted = np.concatenate([points - reach[:, :2], points + reach[:, 2:]], 1)
        logits = rng.normal(size=(len(points), 3)).astype(np.float32)
        labels = rng.integers(0, 3, 6).astype(np.int32)
        valid, crowd = rng.uniform(size=(2, 6)) < [[0.8], [0.2]]
        predicted, truth = predicted.astype(np.float32), (boxes, labels, valid, crowd)
        a = RULES["aligned"](grid, predicted, logits, GroundTruth(*truth))
        wanted = assign_in_loops(*grid, predicted, logits, *truth)
        np.testing.assert_array_equal(a.positive, wanted[1])
        np.testing.assert_array_equal(np.where(a.positive, a.box, 0), wanted[0])
        np.testing.assert_allclose(a.target, wanted[2], rtol=1e-3, atol=1e-6)
        np.testing.assert_array_equal(a.confidence, a.target)
        assert a.missed == wanted[3]
        positives += int(a.positive.sum())
        missed += int(a.missed)
    assert positives > 100 and missed > 0  # the cases are not empty


# --- assign_centres -------------------------------------------------------------------------------


def image_with_ties(seed):
    """Few values of logits and boxes that repeat, so that many metrics and overlaps are equal."""
    rng, grid = np.random.default_rng(seed), grid_points((64, 64))
    corner = rng.integers(0, 5, (12, 2)) * 8
    boxes = np.concatenate([corner, corner + rng.integers(1, 5, (12, 2)) * 8], 1)
    predicted = np.asarray(grid.points)[:, None] + np.array([[-8, -8], [8, 8]])
    logits = rng.integers(-1, 2, (len(grid.points), 3)).astype(np.float32)
    valid, crowd = rng.uniform(size=12) < 0.9, rng.uniform(size=12) < 0.3
    truth = GroundTruth(boxes.astype(np.float32), rng.integers(0, 3, 12), valid, crowd)
    return predicted.reshape(-1, 4).astype(np.float32), logits, truth


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_every_platform_assigns_the_same(monkeypatch, platform):
    grid = grid_points((64, 64))
    here = jax.jit(lambda *image: assign(grid, *image))
    wanted = [here(*image_with_ties(seed)) for seed in range(8)]
    assert sum(each.positive.sum() for each in wanted) > 100
    assert any(each.ignored.any() for each in wanted)
    monkeypatch.setattr(selection, "form", lambda: platform)
    there = jax.jit(lambda *image: assign(grid, *image))
    found = [there(*image_with_ties(seed)) for seed in range(8)]
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def by_centres(points, boxes, strides=8, predicted=None, **given):
    predicted = [[0, 0, 1, 1]] * len(points) if predicted is None else predicted
    return assigned(points, predicted, boxes, strides=strides, rule="centres", **given)


def test_centres_take_the_points_within_one_and_a_half_strides_that_are_inside():
    # The centre is (20, 20): (12, 20) and (28, 20) are 8 away, (4, 20) is 16, (20, 33) is 13 below.
    points = [[20, 20], [12, 20], [28, 20], [4, 20], [20, 33]]
    a = by_centres(points, [[0, 0, 40, 40]])
    assert a.positive.tolist() == [True, True, True, False, False]
    assert a.target.tolist() == [1, 1, 1, 0, 0] and a.missed == 0
    # 8 away and outside of a box of 12 by 40.
    assert by_centres(points, [[14, 0, 26, 40]]).positive.tolist() == [True] + [False] * 4


@pytest.mark.parametrize(
    "half, stride", [(3, 8), (64, 8), (65, 16), (128, 16), (129, 32), (500, 32)]
)
def test_centres_take_the_level_whose_strides_suit_the_box(half, stride):
    # A side 8 strides away still belongs to a level: 64 pixels to stride 8.
    box = [[600 - half, 600 - half, 600 + half, 600 + half]]
    a = by_centres([[600, 600]] * 3, box, strides=np.array([8, 16, 32]))
    assert [s for s, p in zip((8, 16, 32), a.positive, strict=True) if p] == [stride]


def test_centres_give_a_point_taken_twice_to_the_smaller_box_and_crowds_are_ignored():
    boxes = [[0, 0, 40, 40], [10, 10, 30, 30], [0, 0, 100, 100]]
    a = by_centres(
        [[20, 20], [90, 90]],
        boxes,
        crowd=[False, False, True],
        predicted=[[10, 10, 30, 20], [0, 0, 1, 1]],
    )
    assert a.box[0] == 1 and a.positive.tolist() == [True, False]
    assert a.confidence.tolist() == close([0.5, 0]) and a.ignored.tolist() == [False, True]
    assert a.missed == 1  # the larger box has lost its only point


def test_centres_with_nothing_but_padding():
    a = by_centres([[20, 20]], [[5, 5, 5, 9]])
    assert not a.positive.any() and a.missed == 0
