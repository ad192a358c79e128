import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from convmesh.ops import boxes as box_ops

# Boxes with integer corners on a grid of 12 x 12 cells, some without area: areas can be counted.
GRID = 12
CORNER = st.tuples(st.integers(0, GRID), st.integers(0, GRID))
BOX = st.tuples(CORNER, CORNER).map(lambda c: [c[0][0], c[0][1], c[1][0], c[1][1]])
BOXES = st.lists(BOX, min_size=5, max_size=5).map(lambda boxes: np.array(boxes, np.float32))

# Padding, a point, a line, corners the wrong way round.
EMPTY = np.array([[0, 0, 0, 0], [5, 5, 5, 5], [2, 3, 9, 3], [8, 8, 2, 2], [8, 1, 2, 9]], np.float32)
REAL = np.array([[0, 0, 4, 4], [5, 5, 6, 6], [2, 2, 9, 9]], np.float32)


def cells(box):
    """The cells of the grid that a half-open box covers: bool [GRID, GRID]."""
    y, x = np.mgrid[:GRID, :GRID]
    return (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])


@settings(deadline=None, max_examples=60)
@given(BOXES)
def test_area_and_iou_count_cells(boxes):
    grids = np.stack([cells(box) for box in boxes]).reshape(5, -1).astype(int)
    both = grids @ grids.T
    either = grids.sum(1)[:, None] + grids.sum(1)[None] - both
    np.testing.assert_array_equal(box_ops.area(boxes), grids.sum(1))
    wanted = both / np.maximum(either, 1)
    np.testing.assert_allclose(box_ops.pairwise_iou(boxes, boxes), wanted, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(BOXES, BOXES)
def test_giou_is_iou_less_the_empty_part_of_the_hull(a, b):
    got = box_ops.giou(a, b)
    for one, other, value in zip(a, b, got, strict=True):
        both, either = (cells(one) & cells(other)).sum(), (cells(one) | cells(other)).sum()
        hull = cells([*np.minimum(one, other)[:2], *np.maximum(one, other)[2:]]).sum()
        wanted = (both / either if either else 0) - ((hull - either) / hull if hull else 0)
        assert value == pytest.approx(wanted, abs=1e-6)
        assert -1 <= value <= 1


def test_iou_by_hand():
    a = np.array([0, 0, 2, 2], np.float32)
    others = np.array([[1, 1, 3, 3], [0, 0, 2, 2], [2, 0, 4, 2], [0, 0, 1, 1]], np.float32)
    np.testing.assert_allclose(box_ops.iou(a, others), [1 / 7, 1, 0, 1 / 4], rtol=1e-6)
    assert box_ops.pairwise_iou(others, others[:2]).shape == (4, 2)
    assert box_ops.pairwise_iou(np.stack([others] * 3), np.stack([others[:2]] * 3)).shape == (
        3,
        4,
        2,
    )


def test_giou_by_hand():
    # Overlap 1, union 7, hull 9; then apart by one: union 2, hull 3; then the same box.
    a = np.array([[0, 0, 2, 2], [0, 0, 1, 1], [0, 0, 2, 2]], np.float32)
    b = np.array([[1, 1, 3, 3], [2, 0, 3, 1], [0, 0, 2, 2]], np.float32)
    np.testing.assert_allclose(box_ops.giou(a, b), [1 / 7 - 2 / 9, -1 / 3, 1], rtol=1e-5)


def test_boxes_without_area_overlap_nothing():
    every = np.concatenate([EMPTY, REAL])
    np.testing.assert_array_equal(box_ops.area(EMPTY), 0)
    np.testing.assert_array_equal(box_ops.pairwise_iou(EMPTY, every), 0)
    np.testing.assert_array_equal(box_ops.pairwise_iou(every, EMPTY), 0)
    assert np.isfinite(box_ops.giou(every[:, None], every[None])).all()


@pytest.mark.parametrize("measure", [box_ops.iou, box_ops.giou])
def test_gradients_are_finite_whatever_the_boxes(measure):
    every = np.concatenate([EMPTY, REAL])

    def total(a, b):
        return measure(a[:, None], b[None]).sum()

    for gradient in jax.grad(total, argnums=(0, 1))(every, every):
        assert np.isfinite(gradient).all()


def test_padding_has_no_gradient():
    padding = jnp.zeros((2, 4))
    assert not np.any(jax.grad(lambda a: box_ops.iou(a, REAL[:2]).sum())(padding))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("measure", [box_ops.iou, box_ops.giou])
def test_gradients_are_those_of_finite_differences(measure):
    a = np.array([[0.0, 0, 4, 4], [1, 1, 3, 3], [0, 0, 2, 2]])
    b = np.array([[1.0, 2, 5, 7], [0, 0, 4, 4.5], [3, 1, 5, 3]])  # crossing, inside, apart
    check_grads(measure, (a, b), order=1, modes=["rev"])


def test_inside_is_half_open():
    points = np.array([[2, 3], [5, 3], [2, 7], [4.99, 6.99], [5, 7], [1.99, 4]], np.float32)
    box = np.array([[2, 3, 5, 7], [2, 3, 2, 7]], np.float32)
    inside = box_ops.inside(points, box)
    assert inside.tolist() == [[True, False, False, True, False, False], [False] * 6]


@settings(deadline=None, max_examples=40)
@given(BOXES)
def test_each_cell_of_a_tiling_is_inside_one_box(boxes):
    # A point on an edge between two boxes belongs to one of them.
    points = np.stack(np.mgrid[:GRID, :GRID], -1).reshape(-1, 2)[:, ::-1].astype(np.float32)
    cut = int(boxes[0, 0])
    halves = np.array([[0, 0, cut, GRID], [cut, 0, GRID, GRID]], np.float32)
    np.testing.assert_array_equal(box_ops.inside(points, halves).sum(0), 1)
    counted = box_ops.inside(points, boxes)
    np.testing.assert_array_equal(counted, [cells(box).reshape(-1) for box in boxes])


def test_distances_by_hand():
    # Left, top, right, bottom of the point (10, 20).
    points = np.array([[10, 20]], np.float32)
    boxes = np.array([[7, 15, 18, 22]], np.float32)
    distances = box_ops.boxes_to_distances(points, boxes)
    assert distances.tolist() == [[3, 5, 8, 2]]
    assert box_ops.distances_to_boxes(points, distances).tolist() == boxes.tolist()


@settings(deadline=None, max_examples=40)
@given(BOXES, st.integers(0, 2**31))
def test_distances_and_boxes_are_inverse(boxes, seed):
    points = np.random.default_rng(seed).uniform(-5, 20, (5, 2)).astype(np.float32)
    batch = np.stack([boxes, boxes + 1])
    back = box_ops.distances_to_boxes(points, box_ops.boxes_to_distances(points, batch))
    np.testing.assert_allclose(back, batch, atol=1e-5)
