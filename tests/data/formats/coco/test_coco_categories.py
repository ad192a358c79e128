"""The classes of COCO files: src/convmesh/data/formats/coco/categories.py."""

import pytest
from coco_files import CATEGORIES, box, config, image, picture, simple, warnings, write

from convmesh.data.formats.registry import open_dataset
from convmesh.data.splits import open_eval, open_train
from convmesh.errors import ConfigError, DataError


def test_classes_of_all_files_are_merged_by_their_ids(tmp_path):
    for split, categories in (("train", CATEGORIES), ("val", [{"id": 5, "name": "cow"}])):
        picture(tmp_path / split / "a.jpg")
        path = tmp_path / "annotations" / f"{split}.json"
        boxes = [box(1, 1, category_id=categories[0]["id"])]
        write(path, [image(1, "a.jpg")], boxes, categories)
    train, val = open_train(config(tmp_path)), open_eval(config(tmp_path))
    assert train.classes == val.classes == ("cat", "cow", "dog")
    assert train.category_ids == (3, 5, 7)
    assert (train[0].labels.tolist(), val[0].labels.tolist()) == ([2], [1])
    write(path, [image(1, "a.jpg")], [], [{"id": 7, "name": "cow"}])
    said = "annotations/val.json: category 7 is 'cow', but 'dog' in annotations/train.json"
    with pytest.raises(DataError, match=said):
        open_train(config(tmp_path))


def test_classes_in_the_config_select_and_order(tmp_path):
    picture(tmp_path / "train" / "a.jpg")
    boxes = [box(8, 1, category_id=3), box(9, 1, category_id=7)]
    write(tmp_path / "annotations" / "train.json", [image(1, "a.jpg")], boxes)
    train = open_train(config(tmp_path, classes=("dog", "cat")))
    assert train.category_ids == (7, 3) and train[0].labels.tolist() == [1, 0]
    said = "annotations/train.json: class 'cat' is not one of the classes: annotation 8"
    with pytest.raises(DataError, match=said):
        open_train(config(tmp_path, classes=("dog",)))
    record = open_train(config(tmp_path, classes=("dog",), on_bad_box="drop"))[0]
    assert record.labels.tolist() == [0] and record.bad_boxes == 1
    with pytest.raises(ConfigError, match="data.classes: 'dgo' is not a cat.*did you mean dog"):
        open_train(config(tmp_path, classes=("dgo",)))


def test_two_categories_with_the_same_name(tmp_path):
    picture(tmp_path / "train" / "a.jpg")
    path = tmp_path / "annotations" / "train.json"
    twins = [{"id": 0, "name": "dog", "supercategory": "none"}, {"id": 1, "name": "dog"}]
    write(path, [image(1, "a.jpg")], [box(1, 1, category_id=1)], twins)
    train = open_train(config(tmp_path))  # Roboflow's category 0
    assert (train.classes, train.category_ids) == (("dog",), (1,))
    assert (
        "category 0, also 'dog', has no boxes; ignored"
        in warnings(open_dataset(config(tmp_path)))[0]
    )
    boxes = [box(1, 1, category_id=1), box(2, 1, category_id=0)]
    write(path, [image(1, "a.jpg")], boxes, twins)
    with pytest.raises(DataError, match="train.json: categories 0 and 1 are all 'dog'"):
        open_train(config(tmp_path))


def test_the_id_of_a_category_is_no_truth_value(tmp_path):
    simple(tmp_path, category_id=True)
    with pytest.raises(DataError, match="category_id: True is not an integer"):
        open_train(config(tmp_path))


def test_a_category_that_is_named_twice_alike_is_one(tmp_path):
    simple(tmp_path)
    path = tmp_path / "annotations" / "train.json"
    write(path, [image(1, "a.jpg")], [box(1, 1)], [*CATEGORIES, CATEGORIES[0]])
    assert open_train(config(tmp_path)).classes == ("cat", "dog")
