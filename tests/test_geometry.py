"""Strides, grid points and box overlaps, by hand and against independent implementations."""

import numpy as np
import pytest
import reference
from pycocotools import mask as coco_mask

from convmesh import geometry
from convmesh.geometry import coco_iou, grid_points, pairwise_intersection_union, pairwise_iou


def random_boxes(n, seed=0, dtype=np.float64):
    """Boxes x0 y0 x1 y1, many of which overlap."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 50, (n, 2))
    return np.concatenate([corner, corner + rng.uniform(1, 40, (n, 2))], axis=1).astype(dtype)


def test_grid_points_of_a_224_px_image():
    points, strides = grid_points((224, 224))
    assert points.shape == (1029, 2)
    assert {s: int((strides == s).sum()) for s in (8, 16, 32)} == {8: 784, 16: 196, 32: 49}
    assert points.dtype == strides.dtype == np.float32


def test_grid_points_by_hand():
    # 24 rows, 40 columns: 3 x 5 of stride 8, 2 x 3 of stride 16, 1 x 2 of stride 32.
    points, strides = grid_points((24, 40))
    assert strides.tolist() == [8] * 15 + [16] * 6 + [32] * 2
    # Centres of their cells, x first, along a row first.
    assert points[:6].tolist() == [[4, 4], [12, 4], [20, 4], [28, 4], [36, 4], [4, 12]]
    assert points[15:].tolist() == [[8, 8], [24, 8], [40, 8], [8, 24], [24, 24], [40, 24],
                                    [16, 16], [48, 16]]  # fmt: skip


def test_grid_points_of_coarser_levels_by_hand():
    # 72 rows, 136 columns: 2 x 3 of stride 64, 1 x 2 of stride 128.
    points, strides = grid_points((72, 136), (64, 128))
    assert strides.tolist() == [64] * 6 + [128] * 2
    assert points.tolist() == [[32, 32], [96, 32], [160, 32], [32, 96], [96, 96], [160, 96],
                               [64, 64], [192, 64]]  # fmt: skip


@pytest.mark.parametrize("size", [(64, 64), (33, 50), (15, 8)])
def test_the_grid_is_that_of_its_levels(size):
    strides = grid_points(size, (8, 64)).strides
    for stride in (8, 64):
        rows, columns = geometry.grid_shape(size, stride)
        assert (strides == stride).sum() == rows * columns


def test_full_cells_alone_count_and_halving_rounds_up():
    assert geometry.grid_shape((7, 8), 8) == (1, 1)  # 1 and 2 cells of 4 pixels
    assert geometry.grid_shape((12, 36), 8) == (2, 5)
    assert geometry.grid_shape((36, 3), 32) == (2, 0)


@pytest.mark.parametrize(
    "side, rounded", [(1, 32), (15.9, 32), (47, 32), (49, 64), (224.5, 224), (241, 256)]
)
def test_sides_are_rounded_to_the_coarsest_stride(side, rounded):
    assert geometry.round_to_stride(side) == rounded


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pairwise_iou_is_that_of_each_pair(dtype):
    a, b = random_boxes(20, 0, dtype), random_boxes(15, 1, dtype)
    found = pairwise_iou(a, b)
    assert found.dtype == dtype and found.shape == (20, 15)
    wanted = [[reference.iou(one, other) for other in b] for one in a]
    np.testing.assert_allclose(found, wanted, rtol=1e-5 if dtype == np.float32 else 1e-12)
    assert 0 < np.count_nonzero(found) < found.size


def test_boxes_without_area_overlap_nothing():
    boxes = np.array([[5.0, 5, 5, 5], [0, 0, 10, 10], [10, 0, 20, 10]])
    np.testing.assert_array_equal(pairwise_iou(boxes, boxes), np.diag([0.0, 1, 1]))
    assert pairwise_iou(boxes, boxes[:0]).shape == (3, 0)


def test_intersection_and_union_by_hand():
    a, b = np.array([[0.0, 0, 10, 10]]), np.array([[5.0, 5, 15, 10], [20, 0, 30, 10]])
    both, union = pairwise_intersection_union(a, b)
    assert both.tolist() == [[25, 0]] and union.tolist() == [[125, 200]]


def test_coco_iou_is_bit_for_bit_that_of_pycocotools():
    a, b = random_boxes(40, 0), random_boxes(30, 1)
    for boxes in (a, b):
        boxes[:, 2:] -= boxes[:, :2]
    crowd = np.arange(30) % 3 == 0
    wanted = coco_mask.iou(a, b, crowd.astype(np.uint8).tolist())
    np.testing.assert_array_equal(coco_iou(a, b, crowd), wanted)


def test_coco_iou_of_a_crowd_is_the_part_of_the_box_inside():
    box, region = np.array([[0.0, 0, 10, 10]]), np.array([[5.0, 0, 100, 100]])
    assert coco_iou(box, region, np.array([True])).tolist() == [[0.5]]
    assert coco_iou(box, region, np.array([False])).tolist() == [[50 / (100 + 10_000 - 50)]]
