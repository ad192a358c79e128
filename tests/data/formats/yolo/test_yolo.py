"""YOLO's layout, its variants, and every error in them: formats/yolo/dataset.py."""

import re

import numpy as np
import pytest
from PIL import Image
from yolo_sets import ROW, config, picture, simple, text, warnings

from convmesh.data.formats.evidence import Evidence
from convmesh.data.formats.registry import find_format, open_dataset
from convmesh.data.formats.yolo import dataset as yolo
from convmesh.data.splits import open_eval, open_train
from convmesh.errors import ConfigError, DataError


def test_a_row_is_a_class_and_a_box_relative_to_the_image(tmp_path):
    made = simple(tmp_path, ROW, "", "0.0 0.5 0.5 1.0 1.0")
    assert find_format(made) == "yolo"
    train = open_train(made)
    assert (train.classes, train.category_ids) == (("cat", "dog"), None)
    record = train[0]
    np.testing.assert_allclose(record.boxes, [[12, 4, 18, 6], [0, 0, 30, 20]], rtol=1e-6)
    assert record.labels.tolist() == [1, 0] and record.image_id == 1
    assert not record.crowd.any() and record.area is None
    annotated = open_dataset(made).unchecked("train").annotated(0)
    assert list(annotated.locations) == ["line 1", "line 3"]


def test_a_polygon_becomes_the_box_around_it(tmp_path):
    made = simple(tmp_path, "0 0.1 0.5 0.4 0.2 0.2 0.9", "1 0.1 0.1 0.2 0.1 0.2 0.3 0.1 0.3")
    boxes = open_train(made)[0].boxes
    np.testing.assert_allclose(boxes, [[3, 4, 12, 18], [3, 2, 6, 6]], rtol=1e-6)


def test_a_side_on_the_edge_may_be_rounded_over_it(tmp_path):
    record = open_train(simple(tmp_path, "0 0.917 0.5 0.167 1.001"))[0]
    assert record.boxes[0, 2:].tolist() == [30, 20] and record.boxes[0, 1] == 0
    with pytest.raises(DataError, match=r"labels/a.txt: .* is outside of the image: line 1"):
        open_train(simple(tmp_path, "0 0.92 0.5 0.167 1.0"))


@pytest.mark.parametrize(
    "row, said",
    [
        ("0 0.5 0.5 0.2", "line 2: 4 numbers, wanted class x y width height, or class and points"),
        ("0 0.5 0.5 0.2 0.2 0.9", "line 2: 6 numbers, .*; is the last one a confidence?"),
        ("0 0.5 0.5 0.2 0.2 0.9 0.9 2", "line 2: 8 numbers, .*; keypoints?"),
        ("cat 0.5 0.5 0.2 0.2", "line 2: 'cat' is not a number"),
        ("0 0.5 nan 0.2 0.2", "line 2: 'nan' is not a number"),
        ("0 0.5 0.5 0.2 0.2_0", "line 2: '0.2_0' is not a number"),
        ("0.5 0.5 0.5 0.2 0.2", "line 2: class id 0.5 is not an integer"),
        ("1e99 0.5 0.5 0.2 0.2", "line 2: class id 1e99 is not an integer"),
    ],
)
def test_a_wrong_row_is_refused_with_its_line_or_the_image_skipped(tmp_path, row, said):
    made = simple(tmp_path, ROW, row)
    with pytest.raises(DataError, match=f"^labels/a.txt: {said}"):
        open_train(made)
    train = open_train(config(tmp_path, on_bad_example="skip"))
    with pytest.raises(DataError, match="labels/a.txt: line 2"):
        train[0]  # the loader skips it, and counts it


def test_of_several_wrong_rows_the_first_is_named_and_the_others_counted(tmp_path):
    with pytest.raises(DataError, match=r"line 1: 2 numbers, .* \(and 2 more lines\)"):
        open_train(simple(tmp_path, "0 1", ROW, "x", "0"))


@pytest.mark.parametrize(
    "row, said",
    [
        ("2 0.5 0.5 0.2 0.2", "class id 2 is not one of 0..1"),
        ("-1 0.5 0.5 0.2 0.2", "class id -1 is not one of 0..1"),
        ("0 0.5 0.5 0 0.2", r"\(0.5, 0.4, 0.5, 0.6\) has no area in the image"),
        ("0 15 10 4 4", "is outside of the image; in pixels\\? coordinates must be fractions of"),
        ("0 0.5 0.5 1.2 0.2", "is outside of the image; in pixels"),
    ],
)
def test_a_bad_box_is_refused_with_its_line_or_dropped(tmp_path, row, said):
    made = simple(tmp_path, ROW, row)
    with pytest.raises(DataError, match=f"^labels/a.txt: .*{said}.*: line 2;"):
        open_train(made)
    record = open_train(config(tmp_path, on_bad_box="drop"))[0]
    assert len(record.boxes) == 1 and record.bad_boxes == 1
    problems = open_dataset(made).unchecked("train").open_image(0).problems
    assert [problem.where for problem in problems] == ["line 2"]


def test_images_without_a_label_file_are_counted_and_an_empty_one_is_fine(tmp_path):
    made = simple(tmp_path)
    assert len(open_train(made)[0].boxes) == 0 and open_dataset(made).problems == []
    for name in "bc":
        picture(tmp_path / "images" / f"{name}.jpg")
    assert warnings(open_dataset(made)) == [
        "images: 2 images of split 'train' have no label file, such as labels/b.txt for"
        " images/b.jpg; they are images without boxes"
    ]
    assert [len(open_train(made)[i].boxes) for i in range(3)] == [0, 0, 0]
    (tmp_path / "labels" / "a.txt").unlink()
    with pytest.raises(
        DataError, match="images: none of the 3 images of split 'train' has a label"
    ):
        open_train(made)


def test_a_split_without_any_label_file_is_refused_if_it_is_used(tmp_path):
    for split in ("train", "test"):
        picture(tmp_path / "images" / split / "a.jpg")
    text(tmp_path / "labels" / "train" / "a.txt", ROW)
    text(tmp_path / "classes.txt", "cat", "dog")
    made = config(tmp_path)
    assert len(open_train(made)) == 1
    said = "images/test: the only image of split 'test' has no label file"
    with pytest.raises(DataError, match=said):
        open_eval(made)  # without a validation split, it is the one evaluated
    picture(tmp_path / "images" / "val" / "a.jpg")
    text(tmp_path / "labels" / "val" / "a.txt", ROW)
    assert open_eval(made).split == "val"
    with pytest.raises(DataError, match=said):
        open_eval(made, "test")


def test_labels_without_an_image_are_reported(tmp_path):
    made = simple(tmp_path)
    text(tmp_path / "labels" / "b.txt", ROW)
    text(tmp_path / "labels" / "classes.txt", "cat")  # where labelImg puts it
    assert warnings(open_dataset(made)) == [
        "labels: 1 label file has no image, such as labels/b.txt"
    ]


@pytest.mark.parametrize(
    "train, image, label",
    [
        ("images/train", "images/train/a.jpg", "labels/train/a.txt"),
        ("./images/train/", "images/train/a.jpg", "labels/train/a.txt"),
        ("train", "train/images/a.jpg", "train/labels/a.txt"),
        ("../train/images", "train/images/a.jpg", "train/labels/a.txt"),  # Roboflow
        ("/content/set/train/images", "train/images/a.jpg", "train/labels/a.txt"),
        ("D:\\set\\train\\images", "train/images/a.jpg", "train/labels/a.txt"),
        ("images", "images/x/images/y/a.JPG", "images/x/labels/y/a.txt"),  # the last `images`
        ("photos", "photos/a.jpg", "photos/a.txt"),  # no `images`: same folder
    ],
)
@pytest.mark.parametrize("path", [None, "../datasets/set", "/content/set", "."])
def test_data_yaml_states_the_folders_also_those_of_another_machine(
    tmp_path, path, train, image, label
):
    picture((tmp_path / image).with_suffix(".jpg"))
    (tmp_path / image).with_suffix(".jpg").rename(tmp_path / image)
    text(tmp_path / label, ROW)
    lines = [f"train: {train}", "names: {0: cat, 1: dog}", "nc: 2"]
    text(tmp_path / "data.yaml", *lines, *([f"path: {path}"] if path else []))
    made = config(tmp_path)
    assert find_format(made) == "yolo"
    train = open_train(made)
    assert train.classes == ("cat", "dog") and train.name(0) == image
    np.testing.assert_allclose(train[0].boxes, [[12, 4, 18, 6]], rtol=1e-6)


def test_data_yaml_with_a_path_lists_of_folders_and_lists_of_images(tmp_path):
    for i, name in enumerate(("one/a", "two/b", "three/c", "four/d"), start=1):
        picture(tmp_path / "deep" / "images" / f"{name}.jpg")
        text(tmp_path / "deep" / "labels" / f"{name}.txt", *[ROW] * i)
    text(
        tmp_path / "deep" / "val.txt",
        "./images/three/c.jpg",
        "",
        "/home/them/set/images/four/d.jpg",
        "images/three/c.jpg",
        "./images/three/none.jpg",
    )
    text(
        tmp_path / "data.yaml",
        "path: deep",
        "train: [images/one, images/two]",
        "val: val.txt",
        "test: ../test/images",
        "names: [cat, dog]",
    )
    made = config(tmp_path, on_bad_example="skip")
    dataset, train, val = open_dataset(made), open_train(made), open_eval(made)
    assert dataset.splits == ("train", "val")
    assert [len(train[i].boxes) for i in range(len(train))] == [1, 2]
    assert [len(val[i].boxes) for i in range(2)] == [3, 4] and len(val) == 3
    assert [val[i].image_id for i in range(2)] == [1, 2]
    assert warnings(dataset) == [
        "data.yaml: 1 image is more than once in split 'val', such as deep/images/three/c.jpg;"
        " used once",
        "data.yaml: test: ../test/images is neither a folder nor a list of images in the folder;"
        " ignored",
    ]
    with pytest.raises(DataError, match="none.jpg: is in a list, but does not exist"):
        open_eval(config(tmp_path))


def test_nothing_outside_of_the_root_is_read(tmp_path):
    root = tmp_path / "root"
    picture(tmp_path / "other" / "images" / "a.jpg")
    text(tmp_path / "other" / "labels" / "a.txt", ROW)
    for path, train in (
        ("../other", "images"),
        (str(tmp_path / "other"), "images"),
        (".", "../other/images"),
        (".", "x/../../other/images"),
        (".", str(tmp_path / "other" / "images")),
    ):
        text(root / "data.yaml", f"path: {path}", f"train: {train}", "names: [cat, dog]")
        with pytest.raises(DataError, match="data.yaml: train: .* is neither a folder nor a list"):
            open_train(config(root))
    text(root / "data.yaml", "train: train.txt", "names: [cat, dog]")
    text(root / "train.txt", "x/../../other/images/a.jpg")
    with pytest.raises(DataError, match="train.txt: line 1: .* leads outside"):
        open_train(config(root))


@pytest.mark.parametrize(
    "lines, said",
    [
        (["names: [cat]", "nc: 2"], "nc: 2, but there are 1 names"),
        (["names: {0: cat, 2: dog}"], "names: the ids are not 0..1"),
        (["names: cat"], "names: 'cat' is not a list of names"),
        (["names: []"], r"names: \[\] is not a list of names"),
        (["names: [cat, '']"], "names: '' is not text; write it in quotes"),
        (["names: [cat, cat]"], "names: 'cat' occurs 2 times"),
        (["names: [cat", "x"], "line 3: invalid YAML|line 2: invalid YAML"),
        (["- names"], "has no keys and values"),
        (["names: [cat, dog]", "train: 5"], "train: 5 is not a path"),
        (["names: [cat, dog]", "train: none"], "train: none is neither a folder nor a list"),
        (["names: [cat, dog]", "train: images", "val: none"], "val: none is neither a folder"),
        (["names: [cat, dog]", "kpt_shape: [17, 3]"], "kpt_shape: its labels are keypoints"),
    ],
)
def test_a_wrong_data_yaml_is_refused_with_its_key(tmp_path, lines, said):
    simple(tmp_path, ROW)
    text(tmp_path / "data.yaml", *lines)
    with pytest.raises(DataError, match=f"data.yaml: ({said})"):
        open_train(config(tmp_path))


@pytest.mark.parametrize(
    "pattern, folder, splits",
    [
        ("images/{}/a.jpg", "train", ("test", "train", "val")),
        ("{}/images/a.jpg", "train", ("test", "train", "val")),
        ("images/{}2017/a.jpg", "train2017", ("test", "train", "val")),
    ],
)
def test_folders_of_splits_without_data_yaml(tmp_path, pattern, folder, splits):
    for i, split in enumerate(("train", "val", "test")):
        image = pattern.format(split)
        picture(tmp_path / image)
        text(tmp_path / image.replace("images", "labels").replace(".jpg", ".txt"), *[ROW] * i)
    text(tmp_path / "classes.txt", "cat", "dog", "")
    made = config(tmp_path)
    assert find_format(made) == "yolo" and open_dataset(made).splits == splits
    assert open_train(made).name(0) == pattern.format("train")
    assert len(open_eval(made)[0].boxes) == 1 and len(open_eval(made, "test")[0].boxes) == 2
    assert open_train(config(tmp_path, train_split=folder)).name(0) == pattern.format("train")


def test_folders_that_are_not_splits_are_all_for_training(tmp_path):
    for name in ("monday/a", "tuesday/a"):
        picture(tmp_path / "images" / f"{name}.jpg")
        text(tmp_path / "labels" / f"{name}.txt", ROW)
    made = config(tmp_path, classes=("cat", "dog"))
    assert [open_train(made).name(i) for i in range(2)] == [
        "images/monday/a.jpg",
        "images/tuesday/a.jpg",
    ]


def test_the_files_that_state_the_names_of_classes(tmp_path):
    simple(tmp_path, ROW)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(ConfigError, match="data.classes: not set, and .* names the classes"):
        open_train(config(tmp_path))
    assert open_train(config(tmp_path, classes=("a", "b"))).classes == ("a", "b")
    notes = '{"categories": [{"id": 1, "name": "d"}, {"id": 0, "name": "c"}]}'
    text(tmp_path / "notes.json", notes)  # Label Studio
    assert open_train(config(tmp_path)).classes == ("c", "d")
    text(tmp_path / "obj.names", "e", "f")
    assert open_train(config(tmp_path)).classes == ("e", "f")
    text(tmp_path / "set.yaml", "names: [g, 8]")
    assert open_train(config(tmp_path)).classes == ("g", "8")
    text(tmp_path / "classes.txt", "a", "", "b")
    (tmp_path / "set.yaml").unlink()
    with pytest.raises(DataError, match="classes.txt: line 2: empty, and more lines follow"):
        open_train(config(tmp_path))


def test_classes_in_the_config_select_and_order(tmp_path):
    simple(tmp_path, ROW, "0 0.5 0.5 0.1 0.1", "7 0.5 0.5 0.1 0.1")
    both = open_train(config(tmp_path, classes=("dog", "cat"), on_bad_box="drop"))
    assert both[0].labels.tolist() == [0, 1] and both[0].bad_boxes == 1
    with pytest.raises(DataError, match="a.txt: class 'cat' is not one of the classes: line 2; "):
        open_train(config(tmp_path, classes=("dog",)))
    with pytest.raises(ConfigError, match="data.classes: 'dgo' is not a class .*did you mean dog"):
        open_train(config(tmp_path, classes=("dgo",)))


def test_boxes_are_relative_to_the_upright_image(tmp_path):
    made = simple(tmp_path, ROW)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    Image.new("RGB", (30, 20)).save(tmp_path / "images" / "a.jpg", exif=exif)
    record = open_train(made)[0]
    assert record.image.shape[:2] == (30, 20)
    np.testing.assert_allclose(record.boxes, [[8, 6, 12, 9]], rtol=1e-6)


def test_boxes_are_refused_for_classification(tmp_path):
    made = simple(tmp_path, ROW)
    made.task = "classify"
    with pytest.raises(ConfigError, match="task: classify, but .* holds boxes; set task to detect"):
        open_train(made)


def test_folders_of_masks_or_of_a_class_called_labels_are_not_yolo(tmp_path):
    for name in ("images", "labels"):
        picture(tmp_path / name / "a.jpg")
    assert not yolo.looks_like(tmp_path, "detect", Evidence.LAYOUT)
    made = config(tmp_path)
    made.task = "classify"
    assert find_format(made) == "folder"
    text(tmp_path / "labels" / "a.txt", ROW)
    assert yolo.looks_like(tmp_path, "detect", Evidence.LAYOUT)


@pytest.mark.parametrize(
    "row, hint",
    [
        ("0 .5 .5 .2 .2 .9", "; is the last one a confidence?"),
        ("0 .1 .2 .3 .4 .5 .6 .7", "; keypoints?"),
        ("0 .1 .2", ""),
    ],
)
def test_the_hint_about_a_wrong_row_depends_on_its_length(tmp_path, row, hint):
    with pytest.raises(DataError, match=f"points x y{re.escape(hint)};? ?"):
        open_train(simple(tmp_path, row))
    with pytest.raises(DataError) as raised:
        open_train(simple(tmp_path, row))
    assert ("confidence" in str(raised.value), "keypoints" in str(raised.value)) == (
        "confidence" in hint,
        "keypoints" in hint,
    )


def test_the_largest_class_id(tmp_path):
    with pytest.raises(DataError, match="class id 2147483647 is not one of 0..1"):
        open_train(simple(tmp_path, "2147483647 .5 .5 .2 .2"))
    with pytest.raises(DataError, match="class id 2147483648 is not an integer"):
        open_train(simple(tmp_path, "2147483648 .5 .5 .2 .2"))


def test_empty_lines_after_the_names_are_ignored(tmp_path):
    made = simple(tmp_path, ROW, names=("cat", "dog", "", " "))
    assert open_train(made).classes == ("cat", "dog")


def test_the_number_of_classes_is_an_integer(tmp_path):
    simple(tmp_path, "0 .5 .5 .2 .2")
    text(tmp_path / "data.yaml", "names: [cat]", "nc: yes")
    with pytest.raises(DataError, match="data.yaml: nc: True, but there are 1 names"):
        open_train(config(tmp_path))


def test_labels_replace_the_last_folder_of_images(tmp_path):
    picture(tmp_path / "images" / "train" / "images" / "a.JPG")
    text(tmp_path / "images" / "train" / "labels" / "a.txt", ROW)
    text(tmp_path / "data.yaml", "names: [cat, dog]", "train: images/train/images")
    train = open_train(config(tmp_path))
    assert train.name(0) == "images/train/images/a.JPG" and len(train[0].boxes) == 1


def test_a_box_beside_the_image_by_less_than_its_size_is_not_in_pixels(tmp_path):
    with pytest.raises(DataError) as raised:  # the centre is at 0.99: inside
        open_train(simple(tmp_path, "0 .99 .5 .2 .2"))
    assert "outside" in str(raised.value) and "pixels" not in str(raised.value)
    with pytest.raises(DataError, match="in pixels"):  # the centre is outside
        open_train(simple(tmp_path, "0 1.01 .5 .2 .2"))
