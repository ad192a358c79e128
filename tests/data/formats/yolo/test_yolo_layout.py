"""The layouts that tools and hubs write: src/convmesh/data/formats/yolo/layout.py and its parts."""

import re

import pytest
from yolo_sets import ROW, annotated, config, picture, text, warnings

from convmesh.data.formats.evidence import Evidence
from convmesh.data.formats.registry import find_format, open_dataset
from convmesh.data.formats.yolo import dataset as yolo
from convmesh.data.splits import open_train
from convmesh.errors import ConfigError, DataError

NAMES = ("cat", "dog")


def labelimg(root):
    annotated(root)
    text(root / "classes.txt", *NAMES)
    return {"train": ["a.jpg"]}


def labelimg_with_splits(root):
    for split in ("Training", "VALID"):
        annotated(root / split)
        text(root / split / "classes.txt", *NAMES)
    return {"train": ["Training/a.jpg"], "valid": ["VALID/a.jpg"]}


def roboflow_darknet(root):
    for split in ("train", "valid"):
        annotated(root / split)
        text(root / split / "_darknet.labels", *NAMES)
    text(root / "README.roboflow.txt", "read me")
    return {"train": ["train/a.jpg"], "valid": ["valid/a.jpg"]}


def roboflow(root):
    for split in ("train", "valid"):
        annotated(root / split, "images/a.jpg", "labels/a.txt")
    paths = ["train: ../train/images", "val: ../valid/images", "test: ../test/images"]
    text(root / "data.yaml", *paths, "nc: 2", "names: ['cat', 'dog']", "roboflow: {version: 1}")
    return {"train": ["train/images/a.jpg"], "val": ["valid/images/a.jpg"]}


def darknet(root):
    for name in "abc":
        annotated(root / "obj", f"{name}.jpg", f"{name}.txt")
    keys = [
        "classes = 2",
        "train  = build/x64/data/train.txt",
        "valid = data/test.txt  # a comment",
    ]
    text(root / "obj.data", *keys, "names = data/obj.names", "backup = backup/")
    text(root / "obj.names", *NAMES)
    text(root / "train.txt", "build/x64/data/obj/a.jpg", "data/obj/c.jpg")
    text(root / "test.txt", "data/obj/b.jpg")
    return {"train": ["obj/a.jpg", "obj/c.jpg"], "valid": ["obj/b.jpg"]}


def cvat_yolo_11(root):
    for split in ("train", "valid"):
        annotated(root / f"obj_{split}_data")
        text(root / f"{split}.txt", f"data/obj_{split}_data/a.jpg")
    text(root / "obj.data", "classes = 2", *(f"{s} = data/{s}.txt" for s in ("train", "valid")))
    text(root / "obj.names", *NAMES)
    return {"train": ["obj_train_data/a.jpg"], "valid": ["obj_valid_data/a.jpg"]}


def cvat_without_its_lists(root):
    expected = cvat_yolo_11(root)
    for name in ("obj.data", "train.txt", "valid.txt"):
        (root / name).unlink()
    return expected


def cvat_ultralytics(root):
    for split in ("train", "Validation"):
        annotated(root, f"images/{split}/a.jpg", f"labels/{split}/a.txt")
        text(root / f"{split}.txt", f"data/images/{split}/a.jpg")
    text(root / "data.yaml", "path: ./", "train: train.txt", "Validation: Validation.txt")
    with open(root / "data.yaml", "a") as file:
        file.write("names: {0: cat, 1: dog}\n")
    return {"train": ["images/train/a.jpg"], "validation": ["images/Validation/a.jpg"]}


def label_studio(root):
    annotated(root, "images/a.jpg", "labels/a.txt")
    text(root / "classes.txt", *NAMES)
    names = ", ".join(f'{{"id": {i}, "name": "{name}"}}' for i, name in enumerate(NAMES))
    text(root / "notes.json", f'{{"categories": [{names}]}}')
    return {"train": ["images/a.jpg"]}


def fiftyone(root):
    for split in ("train", "val"):
        annotated(root, f"images/{split}/a.jpg", f"labels/{split}/a.txt")
    text(root / "dataset.yaml", "path: /home/them/export", "train: ./images/train/")
    with open(root / "dataset.yaml", "a") as file:
        file.write("val: ./images/val/\nnames:\n  0: cat\n  1: dog\n")
    return {"train": ["images/train/a.jpg"], "val": ["images/val/a.jpg"]}


def capitals(root):
    for split in ("train", "val"):
        annotated(root, f"Images/{split}/a.jpg", f"Labels/{split}/a.txt")
    text(root / "classes.txt", *NAMES)
    return {"train": ["Images/train/a.jpg"], "val": ["Images/val/a.jpg"]}


def lists_beside_one_folder_of_images(root):
    for name in "ab":
        annotated(root, f"images/{name}.jpg", f"labels/{name}.txt")
    text(root / "classes.txt", *NAMES)
    text(root / "train.txt", "\ufeff./images/a.jpg\r")
    text(root / "val.txt", "images/b.jpg")
    return {"train": ["images/a.jpg"], "val": ["images/b.jpg"]}


LAYOUTS = [
    labelimg,
    labelimg_with_splits,
    roboflow_darknet,
    roboflow,
    darknet,
    cvat_yolo_11,
    cvat_without_its_lists,
    cvat_ultralytics,
    label_studio,
    fiftyone,
    capitals,
    lists_beside_one_folder_of_images,
]


@pytest.mark.parametrize("make", LAYOUTS, ids=lambda make: make.__name__)
def test_what_tools_write_is_read(tmp_path, make):
    splits = make(tmp_path)
    made = config(tmp_path)
    assert find_format(made) == "yolo"
    dataset = open_dataset(made)
    found = {split: dataset.source(split, training=False) for split in dataset.splits}
    assert {split: [s.name(i) for i in range(len(s))] for split, s in found.items()} == splits
    assert all(len(s[i].boxes) == 1 for s in found.values() for i in range(len(s)))
    assert dataset.classes == NAMES
    ignored = ["data.yaml: test: ../test/images is neither a folder nor a list of images in the"]
    ignored = [f"{ignored[0]} folder; ignored"] if make is roboflow else []
    assert warnings(dataset) == ignored


@pytest.mark.parametrize("make", LAYOUTS, ids=lambda make: make.__name__)
def test_what_tools_write_is_recognized_for_classification_too_and_refused(tmp_path, make):
    make(tmp_path)
    made = config(tmp_path)
    made.task = "classify"
    with pytest.raises(ConfigError, match="task: classify, but .* holds boxes; set task to detect"):
        open_dataset(made)


def test_captions_beside_images_are_no_labels(tmp_path):
    for name in ("cat", "dog"):
        annotated(tmp_path / name, rows=["a photo of a cat"])
    assert not yolo.looks_like(tmp_path, "classify", Evidence.LAYOUT)
    text(tmp_path / "cat" / "a.txt", ROW)
    assert yolo.looks_like(tmp_path, "classify", Evidence.LAYOUT)


def test_empty_label_files_are_a_sign_only_with_the_names_of_classes(tmp_path):
    annotated(tmp_path, rows=[])
    assert not yolo.looks_like(tmp_path, "detect", Evidence.LAYOUT)
    text(tmp_path / "classes.txt", "cat")
    assert yolo.looks_like(tmp_path, "detect", Evidence.LAYOUT)


@pytest.mark.parametrize(
    "key, split", [("valid", "valid"), ("Validation", "validation"), ("VAL", "val"), ("dev", "val")]
)
def test_keys_of_data_yaml_name_splits_in_any_spelling(tmp_path, key, split):
    annotated(tmp_path, "images/x/a.jpg", "labels/x/a.txt")
    text(tmp_path / "data.yaml", "Train: images/x", f"{key}: images/x", "names: [cat, dog]")
    assert open_dataset(config(tmp_path)).splits == ("train", split)


def test_two_keys_for_one_split_are_refused(tmp_path):
    annotated(tmp_path, "images/x/a.jpg", "labels/x/a.txt")
    text(tmp_path / "data.yaml", "train: images/x", "training: images/x", "names: [cat, dog]")
    with pytest.raises(DataError, match="^data.yaml: train and training are both the split"):
        open_dataset(config(tmp_path))


def test_a_folder_that_is_stated_in_another_case_is_found(tmp_path):
    annotated(tmp_path, "Images/Train/a.jpg", "Labels/Train/a.txt")
    text(tmp_path / "data.yaml", "train: images/train", "names: [cat, dog]")
    assert open_train(config(tmp_path)).name(0) == "Images/Train/a.jpg"


def test_a_folder_that_does_not_exist_is_refused_with_those_that_do(tmp_path):
    annotated(tmp_path, "images/one/a.jpg", "labels/one/a.txt")
    text(tmp_path / "data.yaml", "train: images/trian", "names: [cat, dog]")
    said = f"list of images in {tmp_path}, whose images are in images/one (1)"
    with pytest.raises(DataError, match=re.escape(said)):
        open_dataset(config(tmp_path))


@pytest.mark.parametrize("missing", ["/x/set/test/images", "../test/images"])
def test_a_missing_split_is_not_the_folder_of_all_images(tmp_path, missing):
    annotated(tmp_path, "images/train/a.jpg", "labels/train/a.txt")
    text(tmp_path / "data.yaml", "train: images/train", f"test: {missing}", "names: [cat, dog]")
    assert open_dataset(config(tmp_path)).splits == ("train",)


def test_two_folders_of_another_machine_are_not_one_here(tmp_path):
    annotated(tmp_path, "images/a.jpg", "labels/a.txt")
    text(tmp_path / "data.yaml", "train: /x/one/images", "val: /x/two/images", "names: [cat, dog]")
    with pytest.raises(DataError, match="val: x/two/images and x/one/images would both be images,"):
        open_dataset(config(tmp_path))


def test_folders_images_and_Images_are_refused(tmp_path):
    for name in ("images", "Images"):
        annotated(tmp_path, f"{name}/a.jpg", f"{name}/a.txt")
    text(tmp_path / "classes.txt", *NAMES)
    with pytest.raises(DataError, match="has the folders Images and images; merge them"):
        open_dataset(config(tmp_path, format="yolo"))


def test_several_yaml_files_with_names_are_refused(tmp_path):
    annotated(tmp_path)
    for name in ("one.yaml", "two.yml"):
        text(tmp_path / name, "names: [cat, dog]")
    with pytest.raises(DataError, match="one.yaml, two.yml: each states names of classes; call"):
        open_dataset(config(tmp_path))


def test_the_number_of_classes_in_obj_data_is_that_of_its_names(tmp_path):
    darknet(tmp_path)
    text(tmp_path / "obj.data", "classes = 3", "train = train.txt", "names = obj.names")
    with pytest.raises(DataError, match="obj.data: classes: '3', but there are 2 names"):
        open_dataset(config(tmp_path))


def test_images_of_masks_are_no_split(tmp_path):
    annotated(tmp_path / "train")
    picture(tmp_path / "masks" / "a.png")
    text(tmp_path / "classes.txt", *NAMES)
    assert open_dataset(config(tmp_path)).splits == ("train",)
