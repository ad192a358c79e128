"""COCO's layout, its variants, and every error in them: formats/coco/dataset.py."""

import json
import math
import os

import numpy as np
import pytest
from coco_files import (
    CATEGORIES,
    box,
    config,
    image,
    picture,
    simple,
    stated,
    warnings,
    write,
)
from PIL import Image

from convmesh.data.checks.inspection import inspect
from convmesh.data.formats.coco import dataset as coco
from convmesh.data.formats.evidence import Evidence
from convmesh.data.formats.registry import find_format, open_dataset
from convmesh.data.splits import open_eval, open_train
from convmesh.errors import ConfigError, DataError


def test_cocos_own_files_and_folders(tmp_path):
    notes = tmp_path / "annotations"
    for split, names in (("train", "ab"), ("val", "c")):
        for name in names:
            picture(tmp_path / f"{split}2017" / f"{name}.jpg")
        images = [image(ord(name), f"{name}.jpg") for name in names]
        outline = [[1, 2, 3, 4, 5, 6]]
        boxes = [
            box(5, ord(names[0]), (1.5, 2.25, 3, 4), segmentation=outline, area=5.5, iscrowd=0),
            box(6, ord(names[0]), (0, 0, 30, 20), 3, segmentation={"counts": [1]}, iscrowd=1),
        ]
        write(notes / f"instances_{split}2017.json", images, boxes)
        for other in ("person_keypoints", "captions", "panoptic", "stuff"):
            (notes / f"{other}_{split}2017.json").write_text("[]")
    (notes / "image_info_test2017.json").write_text("{}")
    made = config(tmp_path)
    assert find_format(made) == "coco"
    dataset, train, val = open_dataset(made), open_train(made), open_eval(made)
    assert dataset.splits == ("train", "val") and dataset.problems == []
    assert train.classes == ("cat", "dog") and train.category_ids == (3, 7)
    assert [train.name(i) for i in range(2)] == ["train2017/a.jpg", "train2017/b.jpg"]
    record = train[0]
    assert record.image_id == 97 and record.labels.tolist() == [1, 0]
    assert record.boxes.tolist() == [[1.5, 2.25, 4.5, 6.25], [0, 0, 30, 20]]
    assert record.crowd.tolist() == [False, True]
    assert record.area.tolist() == [5.5, 600]  # the outline's, or without one the box's
    assert len(train[1].boxes) == 0  # an image without boxes is an example too
    assert (val.split, val.name(0)) == ("val", "val2017/c.jpg")
    assert open_eval(made, "val2017").name(0) == "val2017/c.jpg"
    assert open_train(config(tmp_path, train_split="train2017")).name(1) == "train2017/b.jpg"


@pytest.mark.parametrize(
    "annotations, pictures, name",
    [
        ("annotations/instances_default.json", "images", "a.jpg"),  # CVAT
        ("annotations/train.json", "images/train", "a.jpg"),
        ("annotations/instances_train2014.json", "images/train2014", "a.jpg"),
        ("annotations/train.json", "images", "a.jpg"),
        ("annotations/train.json", "annotations", "a.jpg"),
        ("annotations/train.json", "train/x", "x/a.jpg"),
        ("annotations/train.json", "anywhere/x", "anywhere/x/a.jpg"),
        ("annotations/train.json", "train/x", "x\\a.jpg"),
        ("annotations/train.json", "train", "./a.jpg"),
        ("train/_annotations.coco.json", "train", "a.jpg"),  # Roboflow
        ("all/_annotations.coco.json", "all", "a.jpg"),
        ("_annotations.coco.json", ".", "a.jpg"),
        ("labels.json", "data", "a.jpg"),  # FiftyOne
        ("result.json", "images", "images/a.jpg"),  # Label Studio
        ("result.json", "images", "../../media/upload/1/a.jpg"),
        ("result.json", "images", "/data/local-files/?d=some%20where/a.jpg"),
        ("result.json", "images", "/data/local-files/?d=a.jpg"),
        ("result.json", "images", "/data/upload/%61.jpg"),
        ("instances_train.json", "images", "a.jpg"),
        ("set.json", "images", "a.jpg"),
    ],
)
def test_the_names_that_tools_give_to_files_and_folders(tmp_path, annotations, pictures, name):
    picture(tmp_path / pictures / "a.jpg")
    write(tmp_path / annotations, [image(1, name)], [box(1, 1)])
    made = config(tmp_path)
    assert find_format(made) == "coco"
    train = open_train(made)
    assert train.name(0) == (f"{pictures}/a.jpg" if pictures != "." else "a.jpg")
    assert train[0].boxes.tolist() == [[1, 2, 4, 6]]
    # An image that is not found under its own name is reported.
    assert bool(warnings(open_dataset(made))) == name.startswith(("..", "/data"))


def test_splits_in_folders_or_a_part_is_held_out(tmp_path):
    for split in ("train", "valid", "test"):
        names = [f"{split}{i}.jpg" for i in range(4)]
        for name in names:
            picture(tmp_path / "some" / split / name)
            picture(tmp_path / "one" / "images" / name)
        images = [image(i, name) for i, name in enumerate(names)]
        write(tmp_path / "some" / split / "_annotations.coco.json", images)
    write(tmp_path / "one" / "annotations" / "annotations.json", images)
    assert open_eval(config(tmp_path / "some")).name(0) == "valid/valid0.jpg"
    assert open_dataset(config(tmp_path / "some")).splits == ("test", "train", "valid")
    made = config(tmp_path / "one", val_fraction=0.25)
    train, held_out = open_train(made), open_eval(made)
    assert (len(train), len(held_out), held_out.split) == (3, 1, "val")


def test_two_years_of_a_split_keep_their_years(tmp_path):
    for year in ("2014", "2017"):
        picture(tmp_path / f"train{year}" / f"{year}.jpg")
        path = tmp_path / "annotations" / f"instances_train{year}.json"
        write(path, [image(1, f"{year}.jpg")])
    assert open_train(config(tmp_path, train_split="train2014")).name(0) == "train2014/2014.jpg"
    with pytest.raises(ConfigError, match="no split 'train' .* it has train2014, train2017"):
        open_train(config(tmp_path))


def test_files_and_folders_that_the_config_names(tmp_path):
    for part in ("first", "second"):
        picture(tmp_path / "pictures" / part / "a.jpg")
        write(tmp_path / "json" / f"{part}.json", [image(1, "a.jpg")], [box(1, 1)])
    keys = {
        "train_annotations": "json/first.json",
        "train_images": "pictures/first",
        "eval_annotations": str(tmp_path / "json" / "second.json"),
        "eval_images": "pictures/second",
    }
    made = config(tmp_path, **keys)
    assert find_format(made) == "coco"
    assert open_train(made).name(0) == "pictures/first/a.jpg"
    assert (open_eval(made).split, open_eval(made).name(0)) == ("val", "pictures/second/a.jpg")
    for key in keys:
        with pytest.raises(ConfigError, match=f"data.{key}: .*/none is not a f"):
            open_train(config(tmp_path, **keys | {key: "none"}))


def test_one_key_leaves_the_other_split_to_be_found(tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / "there" / f"{split}.jpg")
        picture(tmp_path / split / f"{split}.jpg")
        write(tmp_path / "annotations" / f"{split}.json", [image(1, f"{split}.jpg")])
    write(tmp_path / "few.json", [image(5, "train.jpg")])
    made = config(tmp_path, train_annotations="few.json", eval_images="there")
    assert open_dataset(made).splits == ("train", "val")
    assert open_train(made)[0].image_id == 5
    assert open_eval(made).name(0) == "there/val.jpg"


@pytest.mark.parametrize("found", ["val", "valid", "validation", "valid2017"])
def test_the_file_named_for_evaluation_is_used_instead_of_one_that_is_found(tmp_path, found):
    for split in ("train", found, "test"):
        picture(tmp_path / split / f"{split}.jpg")
        write(tmp_path / "annotations" / f"{split}.json", [image(1, f"{split}.jpg")])
    picture(tmp_path / "images" / "mine.jpg")
    write(tmp_path / "mine.json", [image(1, "mine.jpg")])
    made = config(tmp_path, eval_annotations="mine.json")
    assert open_eval(made).name(0) == "images/mine.jpg"
    assert open_dataset(made).splits == ("val", "test", "train")
    # Also with its own split name, next to one that is found; other splits can still be opened.
    assert open_eval(config(tmp_path, eval_annotations="mine.json", eval_split="mine")).split == (
        "mine"
    )
    assert open_eval(made, "test").name(0) == "test/test.jpg"


def test_a_missing_box_is_computed_from_the_polygons(tmp_path):
    polygons = [[5, 6, 9.5, 6, 9, 12], [4, 8, 5, 8, 5, 9]]
    for nothing in (None, []):
        train = open_train(config(simple(tmp_path, bbox=nothing, segmentation=polygons)))
        assert train[0].boxes.tolist() == [[4, 6, 9.5, 12]]
        assert train[0].area.tolist() == [5.5 * 6]
    for outline in (None, []):
        simple(tmp_path, bbox=None, segmentation=outline)
        with pytest.raises(DataError, match="train.json: has no box: annotation 1"):
            open_train(config(tmp_path))
        with pytest.raises(DataError, match="none of its 1 boxes can be used"):
            open_train(config(tmp_path, on_bad_box="drop"))


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"bbox": ["1", 2, 3, 4]}, "bbox: .* contains a value that is not a number"),
        ({"bbox": [1, 2, True, 4]}, "bbox: .* contains a value that is not a number"),
        ({"bbox": [1, 2, 3]}, r"bbox: \[1, 2, 3\] is not \[x, y, width, height\]"),
        ({"bbox": {"x": 1}}, "bbox: .* is not"),
        ({"bbox": 0}, "bbox: 0 is not"),
        ({"bbox": [1, 2, 10**400, 4]}, "bbox: contains a number that is too large"),
        ({"bbox": [1, 2, math.inf, 4]}, "bbox: contains a number that is too large"),
        (
            {"bbox": [], "segmentation": [[1, 2, 3]]},
            "segmentation: contains a value that is not a polygon",
        ),
        ({"bbox": [], "segmentation": [["1", 2, 3, 4, 5, 6]]}, "segmentation: '1' is not a number"),
        ({"area": "12"}, "area: '12' is not a number"),
        ({"iscrowd": "0"}, "iscrowd: '0' is neither 0 nor 1"),
        ({"iscrowd": 2}, "iscrowd: 2 is neither 0 nor 1"),
        ({"category_id": "07"}, "category_id: '07' is not an integer; write it as one"),
        ({"category_id": 7.5}, "category_id: 7.5 is not an integer"),
        ({"category_id": None}, "has no category_id"),
        ({"image_id": None}, "has no image_id"),
        ({"image_id": [1]}, r"image_id: \[1\] is not an id"),
        ({"image_id": "01"}, "image_id '01' is not the id of an image"),
        ({"image_id": 1.5}, "image_id: 1.5 is not an id"),
        ({"image_id": 99}, "image_id 99 is not the id of an image"),
        ({"category_id": 99}, "category 99 is not one of the classes"),
        ({"bbox": [1, 2, math.nan, 4]}, r"\(.*\) has no area in the image of 30 x 20"),
        ({"bbox": [1, 2, 0, 4]}, r"\(.*\) has no area in the image of 30 x 20"),
        ({"bbox": [1, 2, 40, 4]}, r"\(1, 2, 41, 6\) is outside of the image of 30 x 20"),
    ],
)
def test_a_wrong_annotation_is_refused_with_its_id_and_field(tmp_path, fields, said):
    simple(tmp_path, **{"xywh": (1, 2, 3, 4)})
    made = box(1, 1) | fields
    write(tmp_path / "annotations" / "train.json", [image(1, "a.jpg")], [made])
    with pytest.raises(DataError, match=f"^annotations/train.json: {said}.*: annotation 1;"):
        open_train(config(tmp_path))


@pytest.mark.parametrize(
    "images, said",
    [
        ([image(1, "a.jpg"), image(1, "b.jpg")], r"the id 1 is also that of images\[0\].*\[1\]"),
        ([image(1, "a.jpg"), image(2, "a.jpg")], r"a.jpg is also images\[0\]: images\[1\]"),
        ([{"id": 1}], r"has no file_name: images\[0\]"),
        ([image(1, "")], "file_name: '' is not text"),
        ([image(1, 5)], "file_name: 5 is not text"),
        ([{"file_name": "a.jpg"}], r"has no id: images\[0\]"),
        ([image(1.5, "a.jpg")], "id: 1.5 is not an id"),
        ([image(1, "a.jpg", width="30")], "width: '30' is not a number"),
        ([image(1, "a.jpg", height=-20)], "height: -20 is not a number of pixels"),
        ([image(1, "a.jpg", height=math.nan)], "height: nan is not a number of pixels"),
        (["a.jpg"], r"is not an object: images\[0\]"),
        ([image(1, "none.jpg")], "image 1: none.jpg not found in train, "),
    ],
)
def test_a_wrong_image_entry_is_refused_with_its_index_and_field(tmp_path, images, said):
    for name in "ab":
        picture(tmp_path / "train" / f"{name}.jpg")
    write(tmp_path / "annotations" / "train.json", images)
    with pytest.raises(DataError, match=f"^annotations/train.json: {said}"):
        open_train(config(tmp_path))


@pytest.mark.parametrize(
    "text, said",
    [
        ('{"images": [}', "train.json: line 1: invalid JSON"),
        ("[]", "not in COCO format: it is a list"),
        ("{}", "not in COCO format: it has no list `images`"),
        ('{"images": [], "categories": []}', "not in COCO format: it has no list `annotations`"),
        ('{"images": [], "annotations": []}', "not in COCO format: it has no list `categories`"),
        ('{"images": [], "annotations": [], "categories": []}', "no categories, so no classes"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "has no name: categories"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": "one", "name": "a"}]}',
            "id: 'one' is not an integer",
        ),
        (
            '{"images": [], "annotations": [],'
            ' "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            "category 1 is 'a' and 'b'",
        ),
    ],
)
def test_a_file_that_is_not_coco_is_refused(tmp_path, text, said):
    path = tmp_path / "annotations" / "train.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        open_train(config(tmp_path))


def test_a_file_of_an_unused_split_is_ignored_and_reported(tmp_path):
    simple(tmp_path)
    (tmp_path / "annotations" / "licences.json").write_text("[]")
    dataset = open_dataset(config(tmp_path))
    assert dataset.splits == ("train",)
    assert warnings(dataset) == [
        "annotations/licences.json: not in COCO format: it is a list; ignored"
    ]


ONCE = {"images": [image(1, "a.jpg")], "categories": CATEGORIES}


@pytest.mark.parametrize(
    "document, said",
    [
        (ONCE | {"annotations": [{"id": 4}]}, "has no image_id: annotation 4"),
        (ONCE | {"annotations": [], "images": [{"id": 1}]}, "has no file_name"),
        (
            ONCE | {"annotations": [], "images": [image(1, "x/a.jpg"), image(2, "y/a.jpg")]},
            "x/a.jpg and y/a.jpg are the same image",
        ),
        (
            ONCE | {"annotations": [], "categories": [{"id": 7, "name": "cow"}]},
            "category 7 is 'cow', but 'dog' in annotations/train.json",
        ),
        (
            ONCE | {"annotations": [], "categories": [{"id": 1, "name": "dog"}]},
            "category 1 is 'dog', which is category 7 in annotations/train.json",
        ),
        (
            ONCE
            | {
                "annotations": [box(1, 1, category_id=1), box(2, 1, category_id=2)],
                "categories": [{"id": n, "name": "cow"} for n in (1, 2)],
            },
            "categories 1 and 2 are all 'cow'",
        ),
        ("{", "line 1: invalid JSON"),
    ],
)
@pytest.mark.parametrize("other", ["extra", "test"])  # before and after `train` and `val`
def test_an_error_in_an_unused_split_refuses_nothing(tmp_path, document, said, other):
    for split in ("train", "val"):
        picture(tmp_path / split / "a.jpg")
        write(tmp_path / "annotations" / f"{split}.json", [image(1, "a.jpg")], [box(1, 1)])
    picture(tmp_path / other / "a.jpg")
    text = document if isinstance(document, str) else json.dumps(document)
    (tmp_path / "annotations" / f"{other}.json").write_text(text)
    made = config(tmp_path)
    for source in (open_train(made), open_eval(made)):
        assert source.classes[-1] == "dog" and len(set(source.classes)) == len(source.classes)
        assert source[0].labels.tolist() == [len(source.classes) - 1]
    with pytest.raises(DataError, match=said):
        open_eval(made, other)
    found = [f.problem for f in inspect(made).findings if f.kind == "file"]
    assert not any(problem.error for problem in found)
    assert any(said.partition(":")[0] in problem.what for problem in found)
    assert any(problem.what.endswith(f"(split {other!r}, which is not used)") for problem in found)


def test_the_test_split_is_used_if_there_is_no_validation_split(tmp_path):
    simple(tmp_path)
    path = tmp_path / "annotations" / "test.json"
    path.write_text("{")
    with pytest.raises(DataError, match="test.json: line 1: invalid JSON"):
        open_eval(config(tmp_path))
    write(path, [{"id": 1}])
    with pytest.raises(DataError, match="test.json: has no file_name"):
        open_eval(config(tmp_path))


def test_missing_annotations_are_refused(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "captions_train2017.json").write_text("{}")
    with pytest.raises(DataError, match="no COCO annotations; expected annotations"):
        open_train(config(tmp_path, format="coco"))
    with pytest.raises(ConfigError, match="data.root: /not/there is not a folder"):
        open_train(config("/not/there", format="coco"))


def test_ids_may_be_missing_zero_or_duplicates(tmp_path):
    picture(tmp_path / "train" / "a.jpg")
    boxes = [box(0, 1), box(0, 1), box(None, 1), box("x", 1, (1, 2, 99, 4))]
    del boxes[2]["id"]
    write(tmp_path / "annotations" / "train.json", [image(1, "a.jpg")], boxes)
    made = config(tmp_path, on_bad_box="drop")
    assert len(open_train(made)[0].boxes) == 3
    assert warnings(open_dataset(made)) == ["annotations/train.json: 2 annotations have the id 0"]
    with pytest.raises(DataError, match="annotation x"):
        open_train(config(tmp_path))


@pytest.mark.parametrize("sizes", [{}, {"height": None, "width": None}, {"height": 0, "width": 0}])
def test_without_a_stated_size_boxes_are_checked_as_far_as_possible(tmp_path, sizes):
    entry = {"id": 1, "file_name": "a.jpg"} | sizes
    for xywh, said in (((-9, 2, 3, 4), "is outside of the image:"), ((1, 2, 0, 4), "has no area")):
        simple(tmp_path)
        write(tmp_path / "annotations" / "train.json", [entry], [box(1, 1, xywh)])
        with pytest.raises(DataError, match=said):
            open_train(config(tmp_path))
    write(tmp_path / "annotations" / "train.json", [entry], [box(1, 1, (1, 2, 40, 4))])
    train = open_train(config(tmp_path))
    with pytest.raises(DataError, match="train.json: .* is outside of the image of 30 x 20: ann"):
        train[0]


def test_a_stated_size_that_is_not_the_images_is_refused(tmp_path):
    simple(tmp_path)
    picture(tmp_path / "train" / "a.jpg", (10, 15))
    train = open_train(config(tmp_path))
    with pytest.raises(DataError, match="a.jpg: is 15 x 10, but annotations/train.json says 30 x "):
        train[0]


def test_boxes_on_the_stored_pixels_are_rotated_with_the_image(tmp_path):
    (tmp_path / "train").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # the picture's top is the file's left side, from the bottom up
    Image.new("RGB", (30, 20)).save(tmp_path / "train" / "a.jpg", exif=exif)
    for sides, xywh in (((20, 30), (1, 2, 3, 4)), ((30, 20), (14, 1, 4, 3))):
        entry = image(1, "a.jpg", height=sides[0], width=sides[1])
        write(tmp_path / "annotations" / "train.json", [entry], [box(1, 1, xywh)])
        record = open_train(config(tmp_path))[0]
        assert record.image.shape[:2] == (30, 20)
        assert record.boxes.tolist() == [[14, 1, 18, 4]]


def test_boxes_are_assigned_to_their_images_in_any_order_of_the_file(tmp_path):
    for name in "abc":
        picture(tmp_path / "train" / f"{name}.jpg")
    images = [image(30, "a.jpg"), image(20, "b.jpg"), image(10, "c.jpg")]
    boxes = [box(i, i % 10 * 10, (i, 0, 1, 1)) for i in (11, 23, 1, 13, 3)]
    write(tmp_path / "annotations" / "train.json", images, boxes)
    train = open_train(config(tmp_path))
    lefts = [train[i].boxes[:, 0].tolist() for i in range(3)]
    assert lefts == [[23, 13, 3], [], [11, 1]]  # in the order of the file
    locations = open_dataset(config(tmp_path)).unchecked("train").annotated(0).locations
    assert list(locations) == ["annotation 23", "annotation 13", "annotation 3"]


def test_the_area_of_a_clipped_box_is_scaled_to_its_visible_part(tmp_path):
    picture(tmp_path / "train" / "a.jpg")
    boxes = [
        box(1, 1, (20, 10, 20, 20), area=100),  # a quarter of it is in the image
        box(2, 1, (20, 10, 20, 20)),  # its own area
        box(3, 1, (1, 2, 0, 4), area=7),  # dropped
        box(4, 1, (0, 0, 30.01, 20), area=50),  # rounding is not clipping
    ]
    write(tmp_path / "annotations" / "train.json", [image(1, "a.jpg")], boxes)
    record = open_train(config(tmp_path, on_bad_box="clip", max_bad_boxes=1.0))[0]
    assert record.boxes.tolist() == [[20, 10, 30, 20]] * 2 + [[0, 0, 30, 20]]
    assert record.area.tolist() == [25, 100, 50] and record.bad_boxes == 3
    dropped = open_train(config(tmp_path, on_bad_box="drop", max_bad_boxes=1.0))[0]
    assert dropped.area.tolist() == [50] and dropped.area.dtype == np.float32


def test_any_json_file_may_be_coco_for_a_detector_only(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "notes.json").write_text("{}")
    assert not coco.looks_like(tmp_path, "detect", Evidence.LAYOUT)
    assert coco.looks_like(tmp_path, "detect", Evidence.POSSIBLE)
    assert not coco.looks_like(tmp_path, "classify", Evidence.POSSIBLE)
    made = config(tmp_path)
    assert find_format(made) == "coco"
    made.task = "classify"
    assert find_format(made) == "folder"


def test_a_changed_file_is_read_again_even_if_its_time_or_its_length_is_the_same(tmp_path):
    path = tmp_path / "annotations" / "train.json"
    assert stated(tmp_path, area=10).area.tolist() == [10]
    before = path.stat()
    for area in (11, 1234):  # of the same length, and longer
        write(path, [image(1, "a.jpg")], [box(1, 1, area=area)])
        if area > 99:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        else:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        found = open_dataset(config(tmp_path)).unchecked("train").annotated(0)
        assert found.area.tolist() == [area]


def test_optional_fields_of_an_annotation_may_be_null(tmp_path):
    found = stated(tmp_path, iscrowd=None, area=None)
    assert found.crowd.tolist() == [False] and found.area.tolist() == [3 * 4]


@pytest.mark.parametrize("polygon", [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7]])
def test_a_polygon_has_three_points_or_more(tmp_path, polygon):
    simple(tmp_path, bbox=[], segmentation=[polygon])
    with pytest.raises(DataError, match="contains a value that is not a polygon"):
        open_train(config(tmp_path))


def test_a_side_in_parts_of_pixels_is_refused(tmp_path):
    simple(tmp_path)
    write(tmp_path / "annotations" / "train.json", [image(1, "a.jpg", width=30.5)])
    with pytest.raises(DataError, match="width: 30.5 is not a number of pixels"):
        open_train(config(tmp_path))
    write(tmp_path / "annotations" / "train.json", [image(1, "a.jpg", width=30.0)])
    assert open_dataset(config(tmp_path)).unchecked("train").annotated(0).size == (20, 30)


def test_an_annotation_may_have_an_id_of_any_length(tmp_path):
    found = stated(tmp_path, id=2**63)
    assert list(found.locations) == [f"annotation {2**63}"]
