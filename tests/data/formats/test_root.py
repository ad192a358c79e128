"""The folder of a data set, at `data.root` or below: src/convmesh/data/formats/root.py."""

import json

import cv2
import numpy as np
import pytest

from convmesh.config import defaults
from convmesh.data.formats import registry
from convmesh.data.splits import open_eval, open_train
from convmesh.errors import ConfigError, DataError

PNG = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
XML = (
    "<annotation><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax>"
    "<ymax>5</ymax></bndbox></object></annotation>"
)
COCO = {
    "images": [{"id": i, "file_name": f"{i}.png", "width": 8, "height": 8} for i in (0, 1)],
    "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 1, 4, 4]}],
    "categories": [{"id": 1, "name": "cat"}],
}
YOLO = "0 0.5 0.5 0.5 0.5\n"


def make(root, files):
    """Write `files`: name -> text; an image for each name in .png, two for a name without."""
    for name, text in files.items():
        for file in (
            [name] if "." in name.rpartition("/")[2] else [f"{name}/0.png", f"{name}/1.png"]
        ):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_bytes(PNG if file.endswith(".png") else text.encode())
    return root


def images(*folders):
    return dict.fromkeys(folders, "")


def config_at(root, task="classify", **changes):
    config = defaults(task)
    config.data.root = str(root)
    config.data.update(changes)
    return config


def warnings(root, task="classify", **changes):
    return [str(p) for p in registry.open_dataset(config_at(root, task, **changes)).problems]


LAYOUTS = {
    "folder": images("train/cat", "train/dog", "val/cat", "val/dog"),
    "coco": {"train/_annotations.coco.json": json.dumps(COCO), **images("train")},
    "voc": {"Annotations/0.xml": XML, "Annotations/1.xml": XML, **images("JPEGImages")},
    "yolo": {
        "data.yaml": "train: images\nnames: [cat]\n",
        "labels/0.txt": YOLO,
        "labels/1.txt": YOLO,
        **images("images"),
    },
}


@pytest.mark.parametrize("given", ["auto", "own"])
@pytest.mark.parametrize("below", ["archive", "a/b", "set/set"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_found_one_folder_deeper(tmp_path, layout, below, given):
    make(tmp_path / below, LAYOUTS[layout])
    make(tmp_path, {"README.md": "about", "__MACOSX/train/cat/a.png": ""})
    if below == "archive":
        make(tmp_path, {"docs/a.pdf": ""})
    task = "classify" if layout == "folder" else "detect"
    config = config_at(tmp_path, task, format=layout if given == "own" else "auto")
    train = open_train(config)
    assert config.data.root == str(tmp_path)
    assert train.name(0).split("/")[0] in ("train", "JPEGImages", "images")
    assert registry.find_format(config) == layout
    first = warnings(tmp_path, task, format=config.data.format)[0]
    assert first == f"{below}: the data set is in this folder of data.root; used from there"


def test_class_folders_without_splits_are_found_deeper(tmp_path):
    make(tmp_path, {**images("PetImages/Cat", "PetImages/Dog"), "docs/a.pdf": "", "readme.txt": ""})
    train = open_train(config_at(tmp_path))
    assert train.classes == ("Cat", "Dog") and train.name(0).startswith("Cat/")
    [warning] = warnings(tmp_path)
    assert warning.startswith("PetImages: the data set is in this folder of data.root")


@pytest.mark.parametrize("folders", [["cat/a", "cat/b"], ["cat"]])
def test_a_folder_beside_images_or_other_classes_is_a_class(tmp_path, folders):
    make(tmp_path, images(*folders, "dog"))
    assert open_train(config_at(tmp_path)).classes == ("cat", "dog")


def test_a_root_with_a_layout_is_not_left_for_another_below(tmp_path):
    make(tmp_path, {**LAYOUTS["folder"], **images("train/cat/train/x", "train/cat/val/x")})
    assert open_train(config_at(tmp_path)).classes == ("cat", "dog")
    assert not warnings(tmp_path)


def test_files_of_use_beside_the_only_folder_keep_the_root(tmp_path):
    files = {name: text for name, text in LAYOUTS["yolo"].items() if name != "data.yaml"}
    make(tmp_path / "set", files)
    make(tmp_path, {"classes.txt": "cat\n"})
    dataset = registry.open_dataset(config_at(tmp_path, "detect"))
    assert dataset.classes == ("cat",)
    assert dataset.source(dataset.splits[0], False).name(0).startswith("set/")


def test_several_data_sets_are_refused_by_name(tmp_path):
    for name in ("a", "more/b"):
        make(tmp_path / name, LAYOUTS["folder"])
    message = f"data.root: {tmp_path} holds several data sets: a, more/b; set data.root to one"
    with pytest.raises(ConfigError, match=message):
        open_train(config_at(tmp_path))


def test_images_beside_a_data_set_are_said_or_refused(tmp_path):
    make(tmp_path / "set", LAYOUTS["coco"])
    make(tmp_path, images("raw"))
    assert "raw: has images, but is no data set; left out" in warnings(tmp_path, "detect")
    root = tmp_path / "classes"
    make(root / "set", LAYOUTS["folder"])
    make(root, images("raw"))
    assert warnings(root) == [
        "set: the data set is in this folder of data.root; used from there",
        "raw: has images, but is no data set; left out",
    ]
    make(root, images("more/cat", "more/dog"))
    with pytest.raises(ConfigError, match="holds several data sets: set, more; set data.root to"):
        open_train(config_at(root))


@pytest.mark.parametrize("suffix, text", [("xml", XML), ("txt", YOLO)])
def test_a_copy_of_images_and_annotations_in_one_folder_is_refused(tmp_path, suffix, text):
    files = {f"{i}.{kind}": text for i in (0, 1) for kind in ("png", suffix)}
    make(tmp_path, {**files, "classes.txt": "cat\n"})
    make(tmp_path / "masks", {"0.png": "", "1.png": ""})  # no copy: without annotations
    make(tmp_path / "train", files)  # a split
    registry.find_format(config_at(tmp_path, "detect"))
    make(tmp_path / "copy", files)
    message = f"{tmp_path}/copy has 2 images with the names of those in {tmp_path} itself, such as"
    with pytest.raises(ConfigError, match=message):
        open_train(config_at(tmp_path, "detect"))


def test_a_copy_named_as_the_data_set_is_said_by_its_whole_path(tmp_path):
    for root in ("set", "set/set"):
        make(tmp_path / root, LAYOUTS["folder"])
    first, second = warnings(tmp_path)
    assert first.startswith("set: the data set is in this folder")
    assert second.startswith("set/set: looks like a copy of the data set")


@pytest.mark.parametrize("layout", ["coco", "voc", "yolo"])
def test_a_copy_of_boxes_is_said(tmp_path, layout):
    for root in (tmp_path, tmp_path / "set"):
        make(root, LAYOUTS[layout])
        make(root, {"valid/_annotations.coco.json": json.dumps(COCO), **images("valid")})
    found = [line for line in warnings(tmp_path, "detect") if line.startswith("set:")]
    assert len(found) == 1 and "set: looks like a copy of the data set (" in found[0]


# Too high.


def test_a_part_of_a_data_set_is_refused_with_the_folder_to_give(tmp_path):
    make(tmp_path / "set", {**LAYOUTS["yolo"], **images("images/train"), "labels/a.png": ""})
    for part in ("images", "images/train"):
        message = f"no known layout of boxes.*; {tmp_path}/set looks like a data set in format yolo"
        with pytest.raises(ConfigError, match=message):
            open_train(config_at(tmp_path / "set" / part, "detect"))


def test_a_class_folder_is_refused_with_the_folder_to_give(tmp_path):
    make(tmp_path, images("set/cat", "set/dog"))
    with pytest.raises(
        ConfigError, match=f"2 images.*is it one class of several in {tmp_path}/set"
    ):
        open_train(config_at(tmp_path / "set/cat"))
    make(tmp_path, images("alone/cat"))
    with pytest.raises(ConfigError, match="see docs/data.md$"):
        open_train(config_at(tmp_path / "alone/cat"))


def test_folders_of_images_named_as_no_part_get_no_hint(tmp_path):
    make(tmp_path, {**LAYOUTS["yolo"], **images("photos/2020")})
    with pytest.raises(ConfigError, match="set task to classify .recipe classify.$"):
        open_train(config_at(tmp_path / "photos", "detect"))


def test_the_evaluation_split_is_that_of_the_folder_below(tmp_path):
    make(tmp_path / "archive", images("Training/a", "Training/b", "Testing/a", "Testing/b"))
    assert open_eval(config_at(tmp_path)).name(0) == "Testing/a/0.png"


def test_a_single_class_is_not_left_for_the_folders_in_it(tmp_path):
    make(tmp_path, images("cat", "cat/a", "cat/b"))
    with pytest.raises(DataError, match="only one class, 'cat'"):
        open_train(config_at(tmp_path))
    make(tmp_path / "split", images("train/images", "train/labels"))
    with pytest.raises(ConfigError, match=f"^{tmp_path}/split: no class folders"):
        open_train(config_at(tmp_path / "split"))


def test_the_only_folder_keeps_images_beside_it_and_the_name_of_a_split(tmp_path):
    files = {name: text for name, text in LAYOUTS["yolo"].items() if name != "data.yaml"}
    for top in ("beside/set", "split/train"):
        make(tmp_path / top, files)
    make(tmp_path, {"beside/a.png": ""})
    for root in ("beside", "split"):
        dataset = registry.open_dataset(config_at(tmp_path / root, "detect", classes=("cat",)))
        assert "/" in dataset.source(dataset.splits[0], False).name(0).removeprefix("images/")


def test_a_copy_of_class_folders_is_said_once(tmp_path):
    for root in (tmp_path, tmp_path / "set"):
        make(root, LAYOUTS["folder"])
    assert warnings(tmp_path) == ["set: looks like a copy of the data set, with 8 images; left out"]


def test_a_folder_that_shares_one_of_many_names_is_no_copy(tmp_path):
    make(tmp_path, {**LAYOUTS["yolo"], **images("other/images", "raw")})
    assert not [line for line in warnings(tmp_path, "detect") if "copy" in line]


def test_a_copy_of_the_only_split_is_said(tmp_path):
    for root in (tmp_path, tmp_path / "set"):
        make(root, LAYOUTS["coco"])
    assert "set: looks like a copy of the data set (train); left out" in warnings(
        tmp_path, "detect"
    )


def test_warnings_of_the_layout_are_kept_beside_that_about_the_root(tmp_path):
    make(tmp_path / "archive", {**LAYOUTS["folder"], **images("train")})
    found = warnings(tmp_path)
    assert len(found) == 2 and found[1].startswith("train: 2 images in no class folder")
