"""Boxes in another form than corners in pixels: src/convmesh/data/formats/pixel_boxes.py."""

from pathlib import Path

import numpy as np
import pytest
from annotation_files import bounds, config_of, save_image, save_xml

from convmesh.data.formats.annotated import AnnotatedImage
from convmesh.data.formats.pixel_boxes import unit_problems
from convmesh.data.splits import open_train
from convmesh.errors import DataError


def problems(boxes, size=(200, 300)):
    """The problems of boxes, two in each image, as (what, error)."""
    images = [
        AnnotatedImage(Path("a"), f"{i}.jpg", i, f"{i}.xml", boxes=np.array(pair, float), size=size)
        for i, pair in enumerate(zip(boxes[::2], boxes[1::2], strict=True))
    ]
    found = unit_problems({"none": [], "val": images}, "Annotations")
    assert all((problem.file, problem.split) == ("Annotations", "val") for problem in found)
    return [(problem.what, problem.error) for problem in found]


CORNERS = [(i, 2 * i, i + 20, 2 * i + 10) for i in range(50)]


def test_corners_in_pixels_are_no_problem_even_if_some_have_no_area():
    assert problems(CORNERS) == []
    assert problems([*CORNERS[:44], *[(5, 5, 5, 9)] * 6]) == []
    assert problems([(0, 0, 1, 1), (0, 0, 1, 1)]) == []  # a pixel


def test_most_boxes_in_fractions_are_refused():
    fraction = (0.1, 0.25, 0.5, 1)
    said = "such as (0.1, 0.25, 0.5, 1) in 0.xml: box 0; fractions of the image size? They must"
    ((what, error),) = problems([fraction] * 8 + CORNERS[:2])
    assert what.startswith(f"8 of 10 boxes are between 0 and 1, {said}") and error
    assert problems([fraction] * 2 + CORNERS[:8]) == []  # a warning of check-data for each image


def as_sizes(boxes):
    return [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes]


def test_a_corner_and_a_size_instead_of_corners_are_refused():
    (what, error), *others = problems(as_sizes(CORNERS))
    assert error and not others
    assert what == (
        "45 of 50 boxes end before they begin, such as (5, 10, 20, 10) in 2.xml: box 1;"
        " x, y, width and height? They must be x0, y0, x1, y1"
    )
    # Of large objects few end before they begin, but all fit as sizes.
    large = [(i, i, i + 28, i + 250 - i) for i in range(34)]
    assert problems(as_sizes(large), size=(260, 70))[0][1]
    assert problems(as_sizes(large), size=(260, 50)) == []  # one does not fit


def test_swapped_corners_are_refused():
    ((what, error),) = problems(
        [(x1 + 200, y1 + 90, x0 + 200, y0 + 90) for x0, y0, x1, y1 in CORNERS]
    )
    assert error and "swapped corners? They must be" in what


def test_images_without_boxes_or_with_relative_ones_are_no_problem():
    empty = AnnotatedImage(Path("a"), "a.jpg", 1)
    relative = AnnotatedImage(
        Path("b"), "b.jpg", 2, boxes=np.array([[0.1, 0.1, 0.5, 0.5]]), relative=True
    )
    assert unit_problems({"train": [empty, relative]}, "") == []


@pytest.mark.parametrize("policy", ["fail", "drop", "clip"])
def test_no_policy_accepts_voc_boxes_in_fractions(tmp_path, policy):
    for name in "ab":
        save_image(tmp_path / f"{name}.jpg")
        save_xml(
            tmp_path / f"{name}.xml", f"<object><name>a</name>{bounds(0.1, 0.2, 0.5, 1)}</object>"
        )
    with pytest.raises(
        DataError, match="2 of 2 boxes are between 0 and 1, such as .* in a.xml: obj"
    ):
        open_train(config_of(tmp_path, on_bad_box=policy))
