"""Boxes that are not x, y, width and height: src/convmesh/data/formats/coco/units.py."""

import numpy as np
import pytest

from convmesh.data.formats.coco.units import BoxColumns, wrong_units

# x0, y0, x1, y1 in an image of 100 x 200 (height, width), all over it.
CORNERS = np.array(
    [[10, 20, 60, 50], [120, 10, 190, 90], [5, 60, 45, 95], [90, 40, 130, 70]], np.float64
)
SIZES = np.full((4, 2), (100.0, 200.0))
UNKNOWN = np.full((4, 2), np.nan)
NO_AREA = np.full(4, np.nan)


def sized(corners):
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)


def areas(corners):
    return (corners[:, 2:] - corners[:, :2]).prod(1)


def judge(values, sizes=SIZES, area=NO_AREA):
    return wrong_units(BoxColumns(np.asarray(values, np.float64), sizes, area))


def test_boxes_as_they_should_be():
    for sizes in (SIZES, UNKNOWN):
        assert judge(sized(CORNERS), sizes, areas(CORNERS)) == ""
        assert judge(sized(CORNERS), sizes, areas(CORNERS) * 0.6) == ""  # of outlines
    assert judge(np.zeros((0, 4)), np.zeros((0, 2)), np.zeros(0)) == ""
    assert judge(np.full((4, 4), np.nan)) == ""


def test_corners_are_known_by_the_size_of_the_image():
    said = judge(CORNERS)
    assert said.startswith("3 of 4 boxes leave their images, such as [120, 10, 190, 90]; corners x")
    assert judge(CORNERS, UNKNOWN) == ""


def test_corners_are_known_by_their_areas():
    said = judge(CORNERS, UNKNOWN, areas(CORNERS))
    assert said.startswith("the areas of 4 of 4 boxes are those of corners x0, y0, x1, y1, such as")
    whole = (CORNERS[:, 2:] - CORNERS[:, :2] + 1).prod(1)  # with both ends
    assert judge(CORNERS, UNKNOWN, whole)
    assert judge(CORNERS, UNKNOWN, areas(CORNERS) * 0.6) == ""


def test_centres_and_swapped_axes_are_known_by_the_size_of_the_image():
    centres = np.concatenate([(CORNERS[:, :2] + CORNERS[:, 2:]) / 2, sized(CORNERS)[:, 2:]], 1)
    swapped = sized(CORNERS)[:, [1, 0, 3, 2]]
    for values, said in ((centres, "centre, width and height?"), (swapped, "y, x, height, width?")):
        assert said in judge(*(np.concatenate([part] * 2) for part in (values, SIZES, NO_AREA)))


def test_a_few_boxes_that_leave_their_images_are_mistakes_of_their_own():
    values = sized(CORNERS)
    values[1, 2:] = 190, 90
    assert judge(values) == ""
    values[:, :2] += (100, 50)  # all of them, in no known form
    assert judge(values) == ""


def test_small_boxes_beyond_the_right_and_lower_edge_are_mistakes_of_their_own():
    inside = np.tile([20.0, 30, 10, 10], (10, 1))
    edge = np.array([[195.0, 40, 9, 9], [60, 95, 9, 9], [196, 20, 8, 9]])
    # As centre and size all of these fit, too.
    assert (
        judge(np.concatenate([inside, edge]), np.full((13, 2), (100.0, 200.0)), np.full(13, np.nan))
        == ""
    )


@pytest.mark.parametrize("sizes", [SIZES, UNKNOWN])
def test_fractions(sizes):
    said = judge(sized(CORNERS) / (200, 100, 200, 100), sizes)
    assert said.startswith("4 of 4 boxes are between 0 and 1, such as [0.05, 0.2, 0.25, 0.3];")
    values = sized(CORNERS)
    values[0] = 0.1, 0.1, 0.5, 0.5  # a single speck
    assert judge(values, sizes) == ""
    assert judge(np.tile([0.0, 0, 1, 1], (4, 1)), sizes) == ""  # pixels


def test_fractions_of_a_pixel_in_an_image_of_one_pixel():
    assert judge(np.tile([0.1, 0.1, 0.5, 0.5], (4, 1)), np.ones((4, 2))) == ""
