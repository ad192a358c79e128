"""What the entries of a COCO file have in common: src/convmesh/data/formats/coco/file.py."""

import pytest
from coco_files import CATEGORIES, box, config, image, picture, simple, warnings, write

from convmesh.data.checks.inspection import inspect
from convmesh.data.formats.registry import open_dataset
from convmesh.data.splits import open_train
from convmesh.errors import DataError

NAME = "annotations/train.json"


def a_set(root, images, boxes, categories=CATEGORIES):
    for name in "ab":
        picture(root / "train" / f"{name}.jpg")
    write(root / NAME, images, boxes, categories)
    return config(root)


def labels(made):
    train = open_train(made)
    return [train[i].labels.tolist() for i in range(len(train))]


def test_ids_that_are_numbers_with_a_point_are_integers(tmp_path):
    images = [image(1.0, "a.jpg"), image(2, "b.jpg")]
    boxes = [box(1.0, 1, category_id=3.0), box(2, 2.0)]
    made = a_set(tmp_path, images, boxes, [{"id": 3.0, "name": "cat"}, {"id": 7, "name": "dog"}])
    assert labels(made) == [[0], [1]]
    assert warnings(open_dataset(made)) == [] and open_train(made)[0].image_id == 1


def test_ids_in_quotes_are_taken_as_numbers_and_counted(tmp_path):
    images = [image(1, "a.jpg"), image("2", "b.jpg")]
    boxes = [box(1, "1", category_id="3"), box(2, 2), box(3, "2")]
    made = a_set(tmp_path, images, boxes, [{"id": "3", "name": "cat"}, {"id": 7, "name": "dog"}])
    assert labels(made) == [[0], [1, 1]]
    taken = "taken as the numbers that they are"
    assert warnings(open_dataset(made)) == [
        f"{NAME}: ids of images in annotations in quotes: 2; {taken}",
        f"{NAME}: category ids in quotes: 2; {taken}",
    ]


def test_an_id_in_quotes_is_another_one_where_both_exist(tmp_path):
    images = [image(1, "a.jpg"), image("1", "b.jpg")]
    made = a_set(tmp_path, images, [box(1, "1", category_id=3), box(2, 1)])
    assert labels(made) == [[1], [0]] and warnings(open_dataset(made)) == []


@pytest.mark.parametrize(
    "part, key, other",
    [
        ("annotations", "image_id", "imageId"),
        ("annotations", "category_id", "categoryId"),
        ("annotations", "bbox", "BBox"),
        ("annotations", "bbox", "bounding_box"),
        ("annotations", "iscrowd", "isCrowd"),
        ("annotations", "iscrowd", "is_crowd"),
        ("annotations", "area", "Area"),
        ("images", "file_name", "fileName"),
        ("images", "file_name", "filename"),
        ("images", "width", "Width"),
        ("categories", "name", "Name"),
    ],
)
def test_a_key_in_another_spelling_is_refused_by_name(tmp_path, part, key, other):
    document = {
        "images": [image(1, "a.jpg")],
        "annotations": [box(1, 1, area=12, iscrowd=0), box(2, 1, area=12, iscrowd=0)],
        "categories": CATEGORIES,
    }
    # Of the annotations, only the second has the other key.
    document[part] = [dict(entry) for entry in document[part]]
    document[part][-1][other] = document[part][-1].pop(key)
    made = a_set(tmp_path, document["images"], document["annotations"], document["categories"])
    count = f"1 of {len(document[part])}"
    with pytest.raises(DataError, match=f"{part} have `{other}` instead of `{key}`: {count}; ren"):
        open_train(made)


def test_other_keys_are_nobodys_business(tmp_path):
    boxes = [box(1, 1, Area=5, area=12, box="x"), box(2, 1)]  # an area may be left out
    made = a_set(tmp_path, [image(1, "a.jpg", Name="x")], boxes)
    assert labels(made) == [[1, 1]]


@pytest.mark.parametrize(
    "instead, said",
    [
        ({"segmentation": {"counts": "abc", "size": [20, 30]}}, "a mask (RLE in segmentation)"),
        ({"segmentation": [], "keypoints": [1, 2, 2]}, "keypoints"),
    ],
)
def test_annotations_without_boxes_are_named_by_what_they_have(tmp_path, instead, said):
    without = [{"id": i, "image_id": 1, "category_id": 7} | instead for i in (5, 6)]
    made = a_set(tmp_path, [image(1, "a.jpg")], [box(1, 1), *without])
    what = f"annotations with {said} and no bbox: 2 of 3, such as annotation 5; only boxes are read"
    with pytest.raises(DataError) as error:
        open_train(made)
    assert what in str(error.value)
    made.data.on_bad_box, made.data.max_boxes = "drop", 50
    assert what in warnings(open_dataset(made))[0]


@pytest.mark.parametrize("ids, stated", [((0, 1), (1, 2)), ((1, 2), (0, 1))])
def test_categories_counted_from_another_number_are_refused(tmp_path, ids, stated):
    categories = [{"id": i, "name": name} for i, name in zip(ids, "xy", strict=True)]
    boxes = [box(i, 1, category_id=i) for i in stated]
    made = a_set(tmp_path, [image(1, "a.jpg")], boxes, categories)
    for policy in ("fail", "drop", "clip"):
        made.data.on_bad_box = policy
        said = f"category_id goes from {stated[0]} to {stated[1]}, but the ids of categories from"
        with pytest.raises(DataError, match=f"{said} {ids[0]} to {ids[1]}"):
            open_train(made)


def test_boxes_that_are_corners_are_refused_under_every_policy(tmp_path):
    boxes = [box(i, 1, (20, 10, 28, 19)) for i in range(3)]
    made = a_set(tmp_path, [image(1, "a.jpg")], boxes)
    for policy in ("fail", "drop", "clip"):
        made.data.on_bad_box = policy
        with pytest.raises(DataError, match="3 of 3 boxes leave their images.*corners x0, y0"):
            open_train(made)


def test_the_finding_of_check_data_is_about_the_file(tmp_path):
    simple(tmp_path, category_id="7")
    made = config(tmp_path, eval_split="train")
    found = [str(f) for f in inspect(made).findings if f.kind == "file"]
    assert found[0].startswith(f"{NAME}: warning: category ids in quotes: 1;")
