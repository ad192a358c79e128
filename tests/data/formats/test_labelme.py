"""LabelMe's JSON files: src/convmesh/data/formats/labelme.py."""

import json
import math

import numpy as np
import pytest
from annotation_files import config_of, images, problems, read, save_image, save_xml

from convmesh.data.formats.registry import find_format
from convmesh.data.splits import open_eval, open_train
from convmesh.errors import ConfigError, DataError


def shape(label="dog", points=((1, 2), (9, 8)), kind="rectangle", **more):
    return {"label": label, "points": [list(p) for p in points], "shape_type": kind} | more


def document(*shapes, name="a.jpg", **more):
    return {
        "version": "5.4.1",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": name,
        "imageData": None,
        "imageHeight": 20,
        "imageWidth": 30,
    } | more


def save(root, image, note, *shapes, **more):
    """Writes an image (if it has a name) and its JSON file."""
    if image:
        save_image(root / image)
    (root / note).parent.mkdir(parents=True, exist_ok=True)
    name = more.pop("name", image)
    (root / note).write_text(json.dumps(document(*shapes, name=name, **more)), encoding="utf-8")


def boxes_of(root, *shapes):
    save(root, "a.jpg", "a.json", *shapes)
    return read(root).unchecked("train").annotated(0)


def test_rectangles_and_polygons_of_each_image_are_objects(tmp_path):
    outline = [(4, 2), (9.5, 5), (1, 8)]
    save(tmp_path, "a.jpg", "a.json", shape(), shape("cat", outline, "polygon"))
    save(tmp_path, "b.jpg", "b.json")
    assert find_format(config_of(tmp_path)) == "labelme"
    train = open_train(config_of(tmp_path))
    assert train.classes == ("cat", "dog") and len(train) == 2
    assert train[0].boxes.tolist() == [[1, 2, 9, 8], [1, 2, 9.5, 8]]
    assert train[0].labels.tolist() == [1, 0] and train[0].image_id == 1
    assert len(train[1].boxes) == 0 and problems(read(tmp_path)) == []
    chosen = open_train(config_of(tmp_path, classes=("dog", "cat")))
    assert chosen[0].labels.tolist() == [0, 1]
    with pytest.raises(ConfigError, match="holds boxes; set task to detect"):
        read_as_classes = config_of(tmp_path)
        read_as_classes.task = "classify"
        open_train(read_as_classes)


@pytest.mark.parametrize(
    "points, kind, expected",
    [
        ([(9, 2), (1, 8)], "rectangle", [1, 2, 9, 8]),
        ([(1, 2), (9, 2), (9, 8), (1, 8)], "rectangle", [1, 2, 9, 8]),
        ([(1, 2), (9, 5), (4, 8)], None, [1, 2, 9, 8]),
        ([(10, 10), (13, 14)], "circle", [5, 5, 15, 15]),
        ([(1, 2), (9, 8)], "mask", [1, 2, 9, 8]),
        ([(5, 2), (9, 5), (5, 8), (1, 5)], "rotation", [1, 2, 9, 8]),
    ],
)
def test_the_box_around_each_type_of_shape(tmp_path, points, kind, expected):
    assert boxes_of(tmp_path, shape("dog", points, kind)).boxes.tolist() == [expected]


def test_shapes_of_a_group_are_one_object(tmp_path):
    found = boxes_of(
        tmp_path,
        shape("dog", [(1, 2), (5, 6)], group_id=1),
        shape("cat", [(20, 2), (22, 6)], group_id=1),
        shape("dog", [(8, 1), (9, 4)], group_id=1),
        shape("dog", [(10, 11), (12, 13)], group_id=2),
        shape("dog", [(3, 3), (4, 4)], group_id=None),
        shape("dog", [(3, 3), (4, 4)]),
    )
    assert found.boxes.tolist() == [
        *([1, 1, 9, 6], [20, 2, 22, 6], [10, 11, 12, 13]),
        *([3, 3, 4, 4], [3, 3, 4, 4]),
    ]
    assert found.locations == ("shape 1", "shape 2", "shape 4", "shape 5", "shape 6")
    assert problems(read(tmp_path)) == [
        "1 shape has the label and group_id of another, such as a.json: shape 3; joined to one"
        " object"
    ]


def test_points_and_lines_are_left_out_and_said(tmp_path):
    points = [shape("nose", [(1, 2)], "point"), shape("leash", [(1, 2), (3, 4)], "linestrip")]
    found = boxes_of(tmp_path, shape(), *points)
    assert len(found.boxes) == 1 and read(tmp_path).classes == ("dog",)
    said = "2 shapes are points or lines, which have no area, such as a.json: shape 2; left out"
    assert problems(read(tmp_path)) == [said]
    save(tmp_path, "a.jpg", "a.json", *points)
    with pytest.raises(DataError, match="none of its shapes has an area"):
        read(tmp_path)


def test_difficult_shapes_of_anylabeling_are_ignored_in_evaluation(tmp_path):
    save(tmp_path, "a.jpg", "a.json", shape(difficult=True), shape(difficult=False))
    assert read(tmp_path).source("train", training=False)[0].crowd.tolist() == [True, False]


@pytest.mark.parametrize(
    "given, said",
    [
        (shape("dog", [(1, 2)]), "shape 1: a rectangle needs 2 points [x, y] or more"),
        (shape("dog", [(1, 2), (3, 4)], "polygon"), "shape 1: a polygon needs 3 points"),
        (shape("dog", [(1, "2"), (3, 4)]), "shape 1: a rectangle needs 2 points"),
        (shape("dog", [(1, math.nan), (3, 4)]), "shape 1: a rectangle needs 2 points"),
        (shape("dog", [(1, 10**400), (3, 4)]), "shape 1: a rectangle needs 2 points"),
        (shape("dog", [(1, 2, 3), (3, 4, 5)]), "shape 1: a rectangle needs 2 points"),
        (shape("dog", kind="cuboid"), "shape 1: shape_type 'cuboid' is not one of rectangle, po"),
        (shape(""), "shape 1 has no label"),
        (shape(None), "shape 1 has no label"),
        ("dog", "shape 1 is 'dog', wanted an object"),
    ],
)
def test_a_shape_that_is_not_understood_is_refused_by_name(tmp_path, given, said):
    save(tmp_path, "a.jpg", "a.json", given)
    save(tmp_path, "b.jpg", "b.json", shape())
    assert problems(read(tmp_path)) == [f"a.json: {said}"] or said in problems(read(tmp_path))[0]
    with pytest.raises(DataError, match="^a.json: shape 1"):
        open_train(config_of(tmp_path))
    assert len(open_train(config_of(tmp_path, on_bad_example="skip"))) == 2


def test_a_document_without_shapes_is_refused(tmp_path):
    save(tmp_path, "a.jpg", "a.json", shape())
    save(tmp_path, "b.jpg", "b.json", shapes={})
    save_image(tmp_path / "c.jpg")
    (tmp_path / "c.json").write_text("[1]")
    assert problems(read(tmp_path)) == [
        f"{name}.json: has no list `shapes`: this is not LabelMe's JSON" for name in "bc"
    ]


def test_boxes_are_checked_against_the_image_and_for_their_units(tmp_path):
    found = boxes_of(tmp_path, shape("dog", [(1, 2), (31, 8)]))
    assert found.size == (20, 30)
    assert "(1, 2, 31, 8) is outside of the image" in problems(read(tmp_path))[0]
    boxes_of(tmp_path, shape("dog", [(0.1, 0.2), (0.5, 0.8)]))
    with pytest.raises(DataError, match="1 of 1 boxes are between 0 and 1.*; fractions of the ima"):
        open_train(config_of(tmp_path, on_bad_box="drop"))


@pytest.mark.parametrize("height", [None, 0, "20", True, math.inf])
def test_a_size_that_is_not_stated_is_unknown(tmp_path, height):
    save(tmp_path, "a.jpg", "a.json", shape(), imageHeight=height)
    assert read(tmp_path).unchecked("train").annotated(0).size is None


# Files.


@pytest.mark.parametrize(
    "image, note",
    [
        ("{}/0.jpg", "{}/0.json"),
        ("images/{}/0.jpg", "annotations/{}/0.json"),
        ("{}/images/0.jpg", "{}/labels/0.json"),
        ("{}/images/0.jpg", "{}/annotations/0.json"),
    ],
)
def test_folders_of_splits(tmp_path, image, note):
    for split in ("train", "Val"):
        save(tmp_path, image.format(split), note.format(split), shape(split))
    config = config_of(tmp_path)
    assert find_format(config) == "labelme"
    assert images(read(tmp_path)) == {
        "train": [image.format("train")],
        "val": [image.format("Val")],
    }
    assert open_eval(config).split == "val" and problems(read(tmp_path)) == []


@pytest.mark.parametrize("folder", ["annotations", "labels", "json", "Annotations"])
def test_json_files_in_a_folder_of_their_own(tmp_path, folder):
    save(tmp_path, "images/a.jpg", f"{folder}/a.json", shape(), name="..\\images\\a.jpg")
    save(tmp_path, "images/IMG 1.jpg", f"{folder}/0.json", shape(), name="../images/IMG 1.jpg")
    assert find_format(config_of(tmp_path)) == "labelme"
    found = read(tmp_path)
    assert images(found) == {"train": ["images/IMG 1.jpg", "images/a.jpg"]}
    assert problems(found) == [
        f"{folder}: 1 annotation is of the image of another name stated inside, such as"
        f" {folder}/0.json for images/IMG 1.jpg"
    ]


def test_a_missing_image_is_named_and_where_its_pixels_are(tmp_path):
    save(tmp_path, "a.jpg", "a.json", shape())
    save(tmp_path, "", "b.json", shape(), name="b.jpg", imageData="aGVsbG8=")
    save(tmp_path, "", "c.json", shape(), name="c.jpg")
    assert problems(read(tmp_path)) == [
        "b.json: its image is missing; imageData holds it: save it as a file, named like the JSON"
        " file",
        "c.json: its image is missing",
    ]


def test_json_files_of_other_programs_are_ignored_and_said(tmp_path):
    save(tmp_path, "a.jpg", "a.json", shape())
    (tmp_path / "settings.json").write_text('{"theme": "dark"}')
    (tmp_path / "z_coco.json").write_text('{"images": [], "annotations": [], "categories": []}')
    found = read(tmp_path, format="labelme")
    assert images(found) == {"train": ["a.jpg"]}
    assert problems(found) == ["2 JSON files are not LabelMe's, such as settings.json; ignored"]


def test_images_without_a_json_file_are_said(tmp_path):
    save(tmp_path, "a.jpg", "a.json", shape())
    for i in range(5):
        save_image(tmp_path / f"{i}.jpg")
    assert problems(read(tmp_path)) == [
        "5 images without an annotation, such as 0.jpg; in no split"
    ]


def test_a_folder_without_labelme_files_is_refused(tmp_path):
    save_image(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="no LabelMe annotations; expected a JSON file for each"):
        read(tmp_path, format="labelme")


# Detection.


def test_other_annotations_are_told_apart(tmp_path):
    coco = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    for name in ("instances_train.json", "a.json"):
        path = tmp_path / name.partition(".")[0] / "annotations" / name
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(coco))
        assert find_format(config_of(path.parents[1])) == "coco"
    root = tmp_path / "voc"  # of which tools made XML
    save(root, "a.jpg", "a.json", shape())
    save_xml(root / "a.xml")
    assert find_format(config_of(root)) == "voc"
    for root in (tmp_path / "yolo", tmp_path / "yolo2/train"):
        save(root, "images/a.jpg", "images/a.json", shape())
        (root / "labels").mkdir()
        (root / "labels/a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert find_format(config_of(tmp_path / "yolo")) == "yolo"
    assert find_format(config_of(tmp_path / "yolo2")) == "yolo"


def test_only_the_beginning_of_one_file_is_read(tmp_path, monkeypatch):
    pixels = "x" * 100_000
    save(tmp_path, "a.jpg", "a.json", shape(), imageData=pixels)
    (tmp_path / "b.json").write_text("not JSON")
    assert find_format(config_of(tmp_path)) == "labelme"
    (tmp_path / "a.json").write_text(json.dumps({"imageData": pixels, "shapes": []}))
    assert find_format(config_of(tmp_path)) == "labelme"
    (tmp_path / "a.json").unlink()
    assert find_format(config_of(tmp_path)) != "labelme"


def test_boxes_are_float64(tmp_path):
    assert boxes_of(tmp_path, shape("dog", [(1.123456789, 2), (9, 8)])).boxes.dtype == np.float64


def test_annotated_images_in_other_folders_are_counted(tmp_path):
    save(tmp_path, "images/a.jpg", "annotations/a.json", shape())
    save(tmp_path, "b.jpg", "b.json", shape())
    said = "1 annotation is outside of the folders that are read, such as b.json; not used"
    assert [str(problem) for problem in read(tmp_path).problems] == [f"annotations: {said}"]


def test_an_image_that_is_not_read_is_named(tmp_path):
    save(tmp_path, "a.jpg", "a.json", shape())
    (tmp_path / "a.jpg").rename(tmp_path / "a.heic")
    assert "its image a.heic is in a format that is not read" in str(problems(read(tmp_path)))
