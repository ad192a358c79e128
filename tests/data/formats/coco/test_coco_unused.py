"""Files that no split is read from are named: src/convmesh/data/formats/coco/unused.py."""

import json

import pytest
from coco_files import box, config, image, picture, warnings, write

from convmesh.data.checks.inspection import warnings_at_start
from convmesh.data.formats.registry import open_dataset
from convmesh.errors import DataError

NO_SPLIT, BESIDE = ": annotations of no split; not used", ": annotations beside those of the split"


def one(root, annotations, name, folder):
    picture(root / folder / name)
    write(root / annotations, [image(1, name)], [box(1, 1)])


def in_annotations(root):
    for split in ("train", "val"):
        one(root, f"annotations/{split}.json", f"{split}.jpg", split)


def in_folders(root):
    for split in ("train", "valid"):
        one(root, f"{split}/_annotations.coco.json", f"{split}.jpg", split)


@pytest.mark.parametrize(
    "make, file, said",
    [
        (in_folders, "extra/_annotations.coco.json", NO_SPLIT),
        (in_folders, "more/extra/_annotations.coco.json", NO_SPLIT),
        (in_folders, "more.json", NO_SPLIT),
        (in_folders, "train/part2.json", BESIDE),
        (in_folders, "valid/part2.json", BESIDE),
        (in_annotations, "annotations/extra.json", NO_SPLIT),
        (in_annotations, "annotations/train_extra.json", BESIDE),
        (in_annotations, "batch2/_annotations.coco.json", NO_SPLIT),
        (in_annotations, "train/_annotations.coco.json", BESIDE),
        (in_annotations, "unofficial.json", NO_SPLIT),
    ],
)
def test_a_file_with_boxes_that_is_not_used_is_named_once(tmp_path, make, file, said):
    make(tmp_path)
    write(tmp_path / file, [image(1, "x.jpg")], [box(1, 1)])
    made = config(tmp_path)
    dataset = open_dataset(made)
    (found,) = warnings(dataset)
    assert found.startswith(file + said)
    assert any(file in line for line in warnings_at_start(dataset, made))


@pytest.mark.parametrize(
    "file",
    [
        "test/_annotations.coco.json",
        "test.json",
        "copy/train/_annotations.coco.json",
        "annotations/person_keypoints_train.json",
        "captions_val.json",
    ],
)
def test_what_the_run_does_not_need_is_not_named(tmp_path, file):
    in_folders(tmp_path)
    one(tmp_path, file, "a.jpg", file.rpartition("/")[0] or "images")
    assert warnings(open_dataset(config(tmp_path))) == []


@pytest.mark.parametrize(
    "document",
    [
        {"images": [image(1, "a.jpg")], "categories": [], "annotations": []},
        [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}],
        {"name": "a settings file"},
    ],
)
def test_json_without_boxes_is_not_named(tmp_path, document):
    in_annotations(tmp_path)
    (tmp_path / "other.json").write_text(json.dumps(document))
    (tmp_path / "empty.json").touch()
    assert warnings(open_dataset(config(tmp_path))) == []


def test_one_json_for_each_image_is_not_looked_into(tmp_path):
    in_folders(tmp_path)
    for i in range(60):
        write(tmp_path / "json" / f"{i}.json", [image(1, "x.jpg")], [box(1, 1)])
    assert warnings(open_dataset(config(tmp_path))) == []


def test_many_files_are_one_warning(tmp_path):
    in_folders(tmp_path)
    for i in range(5):
        write(tmp_path / f"batch{i}" / "_annotations.coco.json", [image(1, "x.jpg")], [box(1, 1)])
    (found,) = warnings(open_dataset(config(tmp_path)))
    assert "batch2/_annotations.coco.json and 2 more: annotations of no split" in found


def test_files_named_in_the_config_are_all_that_is_wanted(tmp_path):
    in_annotations(tmp_path)
    one(tmp_path, "annotations/extra.json", "x.jpg", "train")
    picked = config(tmp_path, train_annotations="annotations/extra.json")
    found = warnings(open_dataset(picked))
    assert not any("not used" in line for line in found)


def test_coco_json_in_a_folder_labels_is_read(tmp_path):
    one(tmp_path, "labels/instances.json", "a.jpg", "images")
    assert open_dataset(config(tmp_path)).splits == ("train",)


def test_json_that_is_not_cocos_is_named_by_what_it_is(tmp_path):
    folder = tmp_path / "annotations"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.json").write_text('{"annotations": [{"bounding_box": {"x": 1}}]}')
    said = "annotations/0.json and 2 more: Darwin JSON of V7; export it from V7 as COCO"
    with pytest.raises(DataError, match=said):
        open_dataset(config(tmp_path))
    for i in range(3):
        (folder / f"{i}.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match="annotations/0.json and 2 more: JSON that is not COCO's"):
        open_dataset(config(tmp_path))


def test_a_single_file_of_another_tool_is_named(tmp_path):
    folder = tmp_path / "annotations"
    folder.mkdir()
    (folder / "default.json").write_text('{"categories": {"label": {}}, "items": []}')
    said = "no list `images`; Datumaro JSON; export it from Datumaro as COCO"
    with pytest.raises(DataError, match=said):
        open_dataset(config(tmp_path))
