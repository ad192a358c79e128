"""Anchors and offsets; the numbers are those of torchvision's AnchorGenerator and BoxCoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convmesh.ops.anchors import (
    LARGEST_LOG,
    boxes_to_offsets,
    cell_anchors,
    clip_to_image,
    grid_anchors,
    offsets_to_boxes,
)


def test_the_cell_of_retinanets_finest_level():
    cell = cell_anchors((32, 40, 50), (0.5, 1.0, 2.0))
    assert cell.dtype == np.float32
    assert cell[0].tolist() == [-23, -11, 23, 11]
    assert cell[4].tolist() == [-20, -20, 20, 20]  # the ratio 1 is second
    assert cell[8].tolist() == [-18, -35, 18, 35]
    # An odd side is rounded as torch rounds, to the even number.
    assert cell_anchors((101,), (1.0,)).tolist() == [[-50, -50, 50, 50]]


def test_anchors_are_ordered_by_row_column_and_cell():
    cell = cell_anchors((8, 16), (1.0,))
    (level,) = grid_anchors((32, 64), [16], [cell])
    assert level.shape == (2 * 4 * 2, 4)
    assert level[:4].tolist() == [
        [-4, -4, 4, 4],
        [-8, -8, 8, 8],
        [12, -4, 20, 4],
        [8, -8, 24, 8],
    ]
    assert level[8].tolist() == [-4, 12, 4, 20]


def test_the_distance_of_points_is_the_side_divided_by_their_number():
    """Of 800 pixels at stride 64, 13 points: 61 pixels."""
    cell = cell_anchors((8,), (1.0,))
    (level,) = grid_anchors((800, 800), [64], [cell])
    assert len(level) == 13 * 13
    assert level[1].tolist() == [61 - 4, -4, 61 + 4, 4]


def test_an_image_of_another_side_has_the_anchors_of_the_padded_one():
    cell = cell_anchors((8,), (1.0,))
    (level,), (padded,) = (grid_anchors((size, 64), [16], [cell]) for size in (50, 64))
    assert len(level) == 3 * 4
    np.testing.assert_array_equal(level, padded[: len(level)])


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (10, 10, 5, 5)])
def test_offsets_are_the_inverse_of_boxes(weights):
    with jax.enable_x64(True):
        anchors = jnp.array([[0.0, 0, 32, 16], [8, 8, 24, 72]])
        boxes = jnp.array([[4.0, 2, 20, 30], [-5, 0, 50, 41]])
        offsets = boxes_to_offsets(boxes, anchors, weights)
        expected = np.array([(12 - 16) / 32, (16 - 8) / 16, np.log(16 / 32), np.log(28 / 16)])
        np.testing.assert_allclose(offsets[0], expected * weights, rtol=1e-12)
        np.testing.assert_allclose(offsets_to_boxes(offsets, anchors, weights), boxes, rtol=1e-12)


def test_a_side_cannot_overflow():
    box = offsets_to_boxes(jnp.array([0.0, 0, 1e4, 0]), jnp.array([0.0, 0, 2, 2]))
    np.testing.assert_allclose(box[2] - box[0], 2 * np.exp(LARGEST_LOG), rtol=1e-6)


def test_boxes_are_clipped_to_height_and_width():
    box = clip_to_image(jnp.array([[-3.0, 5, 70, 50]]), (40, 60))
    assert box.tolist() == [[0, 5, 60, 40]]
