"""The layouts and how they are recognized: src/convmesh/data/formats/registry.py."""

import importlib

import cv2
import numpy as np
import pytest

from convmesh.config import KEYS, defaults
from convmesh.config.keys import DATA_FORMATS
from convmesh.data.formats import registry
from convmesh.data.formats.evidence import Evidence
from convmesh.data.splits import open_eval, open_train
from convmesh.errors import ConfigError


def config_at(root, task="classify", **changes):
    config = defaults(task)
    config.data.root = str(root)
    config.data.update(changes)
    return config


def test_auto_recognizes_class_folders(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(5):
            cv2.imwrite(str(tmp_path / name / f"{i}.png"), np.full((4, 4, 3), i, np.uint8))
    config = config_at(tmp_path)
    train, val = open_train(config), open_eval(config)
    assert (len(train), len(val), train.classes) == (9, 1, ("cat", "dog"))
    assert len({train[i].image_id for i in range(9)} | {val[0].image_id}) == 10


@pytest.mark.parametrize(
    "files, layout",
    [
        (["annotations/instances_train2017.json", "train2017/0.jpg"], "coco"),
        (["annotations/instances_default.json", "images/0.jpg"], "coco"),
        (["train/_annotations.coco.json", "train/0.jpg"], "coco"),
        (["train/_annotations.coco.json", "train/0.jpg", "data.yaml"], "coco"),
        (["result.json", "images/0.jpg"], "coco"),
        (["data.yaml"], "yolo"),
        (["data.yaml", "train/images/0.jpg", "train/labels/0.txt"], "yolo"),
        (["data.yaml", "annotations/instances_val2017.json", "labels/0.txt"], "yolo"),
        (["images/train/0.jpg", "labels/train/0.txt"], "yolo"),
        (["images/0.jpg", "labels/0.txt", "classes.txt", "notes.json"], "yolo"),
        (["train/images/0.jpg", "train/labels/0.txt"], "yolo"),
        (["Annotations/0.xml", "JPEGImages/0.jpg", "ImageSets/Main/train.txt"], "voc"),
        (["train/0.xml", "train/0.jpg"], "voc"),
        (["0.xml", "0.jpg"], "voc"),
        (["train/images/0.jpg", "train/annotations/0.xml"], "voc"),
        (["train/cat/0.jpg", "train/dog/0.jpg"], "folder"),
        (["cat/0.jpg", "dog/0.jpg", "notes.json"], "folder"),
        (["images/0.jpg", "labels/0.jpg"], "folder"),
        (["train/images/0.jpg", "train/labels/0.jpg"], "folder"),
    ],
)
def test_auto_recognizes_each_layout_by_the_names_of_its_files(tmp_path, files, layout):
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    task = "classify" if layout == "folder" else "detect"
    assert registry.find_format(config_at(tmp_path, task)) == layout


def test_an_unknown_layout_or_format_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="set data.root to a folder or data.name"):
        open_train(defaults("detect"))
    with pytest.raises(ConfigError, match="data.root: /not/there is not a folder"):
        open_train(config_at("/not/there"))
    (tmp_path / "0.jpg").write_text("")
    with pytest.raises(ConfigError, match="no known layout"):
        open_train(config_at(tmp_path))
    with pytest.raises(ConfigError, match="data.format: got 'zip', wanted auto or one of tfds, co"):
        open_train(config_at(tmp_path, format="zip"))


@pytest.mark.parametrize("chosen", ["auto", "own"])
@pytest.mark.parametrize(
    "files, layout, what",
    [
        (["images/train/0.jpg", "labels/train/0.txt"], "yolo", "YOLO labels"),
        (["Annotations/0.xml", "JPEGImages/0.jpg"], "voc", "Pascal VOC XML"),
        (["annotations/instances_val2017.json"], "coco", "COCO annotations"),
        (["set/train/_annotations.coco.json", "set/train/0.jpg"], "coco", "COCO annotations"),
    ],
)
def test_boxes_are_refused_for_classification_by_name(tmp_path, files, layout, what, chosen):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    message = f"task: classify, but {tmp_path}.* holds boxes; set task to detect .* its {what}"
    with pytest.raises(ConfigError, match=message):
        open_train(config_at(tmp_path, format=layout if chosen == "own" else "auto"))


def test_class_folders_are_refused_for_detection_without_talk_of_classes_first(tmp_path):
    for name in ("train/cat/0.jpg", "train/dog/0.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    with pytest.raises(ConfigError) as caught:
        open_train(config_at(tmp_path, "detect"))
    assert str(caught.value) == (
        f"data.root: {tmp_path} has no known layout of boxes; found 2 images (train/cat/0.jpg);"
        " convert it to COCO JSON, Pascal VOC XML or YOLO text, see docs/data.md; if its folders"
        " are classes, set task to classify (recipe classify)"
    )


def test_a_json_file_of_another_tool_is_not_taken_for_coco(tmp_path):
    (tmp_path / "x.json").write_text('{"_via_settings": {}}')
    with pytest.raises(ConfigError, match="VGG Image Annotator"):
        open_train(config_at(tmp_path, "detect"))
    (tmp_path / "x.json").write_text("{}")
    assert registry.find_format(config_at(tmp_path, "detect")) == "coco"


def test_a_data_set_name_selects_tfds(tmp_path):
    assert registry.find_format(config_at(tmp_path, name="coco/2017")) == "tfds"


def test_named_annotation_files_are_coco(tmp_path):
    for key in ("train_annotations", "eval_annotations"):
        assert registry.find_format(config_at(tmp_path, "detect", **{key: "a.json"})) == "coco"


def test_a_new_layout_needs_one_file_and_one_line(tmp_path, monkeypatch):
    (tmp_path / "zip_layout.py").write_text(
        "def looks_like(root, task, evidence):\n"
        "    return evidence == 3 and (root / 'index.zip').exists()\n"
        "def open_dataset(config):\n"
        "    return f'opened {config.data.root}'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(DATA_FORMATS, "zip", "zip_layout")
    root = tmp_path / "data"
    (root / "cat").mkdir(parents=True)
    assert registry.find_format(config_at(root)) == "folder"
    (root / "index.zip").touch()
    assert registry.find_format(config_at(root)) == "zip"
    assert registry.find_format(config_at(root, format="zip")) == "zip"
    assert registry.open_dataset(config_at(root)) == f"opened {root}"


def test_the_config_takes_every_layout_by_name():
    assert set(KEYS["data.format"].choices) == {"auto", *DATA_FORMATS}


@pytest.mark.parametrize("name", DATA_FORMATS)
def test_every_layout_is_a_module_that_opens_a_data_set(name, tmp_path):
    module = importlib.import_module(DATA_FORMATS[name])
    with pytest.raises(ConfigError):
        module.open_dataset(defaults("detect"))  # without a root or a name
    if name != "tfds":
        assert not any(module.looks_like(tmp_path, "detect", level) for level in Evidence)


@pytest.mark.parametrize("key", ["train_annotations", "eval_annotations"])
def test_one_named_annotation_file_makes_it_coco(tmp_path, key):
    config = defaults("detect")
    config.data.root, config.data[key] = str(tmp_path), "x.json"
    assert registry.find_format(config) == "coco"


def test_the_root_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "set" / "cat").mkdir(parents=True)
    config = defaults("classify")
    config.data.root = "~/set"
    assert registry.find_format(config) == "folder"


CLASSES = ("cat/0.jpg", "cat/1.jpg", "dog/0.jpg", "dog/1.jpg")
STRAY = {
    "labels.json": '{"0": "cat"}',
    "train/labels.json": '{"0": "cat"}',
    "annotations/classes.json": '{"0": "cat"}',
    "annotations.json": '{"images": [], "annotations": [{"image_id": 0, "category_id": 1}]}',
    "metadata.xml": "<project/>",
    "Annotations/readme.txt": "none",
    "dataset.yaml": "path: .",
}


@pytest.mark.parametrize("top", [("train/", "val/"), ("",), ("images/",)])
@pytest.mark.parametrize("stray", STRAY)
def test_a_stray_file_beside_class_folders_is_no_sign_of_boxes(tmp_path, top, stray):
    for name in (*(part + path for part in top for path in CLASSES), stray):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(STRAY.get(name, ""))
    assert registry.find_format(config_at(tmp_path)) == "folder"


@pytest.mark.parametrize(
    "name, text",
    [
        ("annotations.json", '{"annotations": [{"bbox": [0, 0, 1, 1]}]}'),
        ("0.xml", "<annotation><object></object></annotation>"),
        ("train/cat/0.txt", "0 0.5 0.5 1e-1 .25\n"),
    ],
)
def test_boxes_beside_class_folders_are_refused_with_both_ways_out(tmp_path, name, text):
    for file in (*(f"train/{path}" for path in CLASSES), "classes.txt", name):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text if file == name else "")
    message = "holds boxes; set task to detect .*; if its folders are the classes, set data.format"
    with pytest.raises(ConfigError, match=message):
        registry.find_format(config_at(tmp_path))
    assert registry.find_format(config_at(tmp_path, format="folder")) == "folder"
