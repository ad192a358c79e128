"""Lists of images, and how their lines are matched: src/convmesh/data/formats/yolo/lists.py."""

import re

import pytest
from yolo_sets import annotated, config, text, warnings

from convmesh.data.formats.registry import open_dataset
from convmesh.data.splits import open_train
from convmesh.errors import DataError


def listed(root, images, lines):
    """A data set with these images, and a list of these lines for training."""
    for image in images:
        annotated(root, image, image.replace(".jpg", ".txt"))
    text(root / "data.yaml", "train: train.txt", "names: [cat, dog]")
    text(root / "train.txt", *lines)
    return config(root)


@pytest.mark.parametrize(
    "line",
    [
        "b/a.jpg",
        "./b/a.jpg",
        "data/b/a.jpg",
        "/home/me/set/b/a.jpg",
        "D:\\set\\b\\a.jpg",
        '"b/a.jpg"',
    ]
    + ["../b/a.jpg", "B/A.JPG", "b//a.jpg\r"],
)
def test_a_line_is_matched_by_the_end_of_its_path(tmp_path, line):
    made = listed(tmp_path, ["b/a.jpg"], [line])
    assert open_train(made).name(0) == "b/a.jpg" and warnings(open_dataset(made)) == []


def test_matches_by_the_name_alone_are_counted(tmp_path):
    made = listed(tmp_path, ["a.jpg", "b.jpg"], ["/x/cam/a.jpg", "/x/cam/b.jpg"])
    assert len(open_train(made)) == 2
    assert warnings(open_dataset(made)) == [
        "train.txt: 2 lines are matched by the name of the file alone, such as a.jpg for"
        " /x/cam/a.jpg"
    ]


def test_images_in_other_folders_are_found_and_counted(tmp_path):
    made = listed(tmp_path, ["images/one/a.jpg"], ["a.jpg"])
    assert open_train(made).name(0) == "images/one/a.jpg"
    assert warnings(open_dataset(made)) == [
        "train.txt: 1 image is in other folders than the list states, such as images/one/a.jpg for"
        " a.jpg"
    ]


@pytest.mark.parametrize("line", ["a.jpg", "/x/three/a.jpg"])
def test_a_line_that_may_mean_several_images_is_refused(tmp_path, line):
    made = listed(tmp_path, ["one/a.jpg", "two/a.jpg"], [line])
    said = f"train.txt: line 1: {line} may be any of one/a.jpg, two/a.jpg; correct the path"
    with pytest.raises(DataError, match=said):
        open_train(made)


def test_the_image_whose_folders_are_most_alike_is_meant(tmp_path):
    made = listed(tmp_path, ["x/one/a.jpg", "x/two/a.jpg", "a.jpg"], ["set/one/a.jpg"])
    with pytest.raises(DataError, match="line 1: set/one/a.jpg may be any of x/one/a.jpg"):
        open_train(made)  # a.jpg is there too, and matches by its name
    (tmp_path / "a.jpg").unlink()
    assert open_train(made).name(0) == "x/one/a.jpg"


def test_two_lines_of_other_folders_are_not_one_image(tmp_path):
    made = listed(tmp_path, ["a.jpg"], ["/x/cam1/a.jpg", "/x/cam2/a.jpg"])
    with pytest.raises(DataError, match="train.txt: lines 1 and 2: x/cam1/a.jpg and x/cam2/a.jpg"):
        open_train(made)


def test_a_list_of_which_no_image_exists_is_one_error(tmp_path):
    made = listed(tmp_path, ["a.jpg"], ["images/b.jpg", "images/c.jpg"])
    said = "train.txt: none of the 2 images that it lists exists, such as images/b.jpg; are they in"
    with pytest.raises(DataError, match=f"^{said}"):
        open_train(made)


@pytest.mark.parametrize("line", ["a.jpg 10,20,30,40,1", "set/a.jpg 1,2,3,4,0 5,6,7,8,1"])
def test_boxes_in_the_list_are_refused(tmp_path, line):
    made = listed(tmp_path, ["a.jpg"], [line])
    with pytest.raises(DataError, match=re.escape(f"line 1: boxes behind the image, {line!r}")):
        open_train(made)
