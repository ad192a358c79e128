"""Which splits are opened, and what is held out: src/convmesh/data/__init__.py."""

import cv2
import numpy as np
import pytest

from convmesh import data
from convmesh.config import defaults
from convmesh.data import FORMATS, Record, open_eval, open_train
from convmesh.data.cache import Cached
from convmesh.errors import ConfigError, DataError


class Listed:
    classes, task = ("a", "b"), "classify"

    def __init__(self, split, count, training):
        self.split, self.count, self.training = split, count, training

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return Record(np.zeros((2, 2, 3), np.uint8), index + 1, f"{self.split}/{index}", label=0)


class Made:
    """A data set with the splits asked for."""

    def __init__(self, sizes):
        self.sizes, self.splits, self.opened = sizes, tuple(sizes), []

    def source(self, split, training):
        if split not in self.sizes:
            raise ConfigError(f"no split {split!r}")
        self.opened.append((split, training))
        return Listed(split, self.sizes[split], training)


def names(source):
    return [source[i].file_name for i in range(len(source))]


@pytest.fixture
def made(monkeypatch):
    def make(sizes, **changes):
        make.last = Made(sizes)
        monkeypatch.setitem(FORMATS, "folder", lambda config: make.last)
        config = defaults("classify")
        config.data.update({"format": "folder", "cache": "false"} | changes)
        return config

    return make


def test_the_validation_split_is_evaluated_and_nothing_held_out(made):
    config = made({"train": 10, "test": 4, "validation": 5})
    assert (open_train(config).split, len(open_train(config))) == ("train", 10)
    assert (open_eval(config).split, len(open_eval(config))) == ("validation", 5)
    assert open_eval(config, "test").split == "test"
    assert open_eval(config, "val").split == "validation"
    assert names(open_eval(config, "train")) == names(open_train(config))


def test_the_test_split_where_there_is_no_validation(made):
    config = made({"train": 10, "test": 4})
    assert len(open_train(config)) == 10 and open_eval(config).split == "test"
    with pytest.raises(ConfigError, match="no split 'val'"):
        open_eval(config, "val")  # those examples were trained on


@pytest.mark.parametrize(
    "size, fraction, held", [(10, 0.1, 1), (101, 0.3, 30), (2, 0.1, 1), (2, 0.9, 1)]
)
def test_without_an_eval_split_a_part_of_training_is_held_out(made, size, fraction, held):
    config = made({"train": size}, val_fraction=fraction)
    train, val = open_train(config), open_eval(config)
    assert (train.split, val.split) == ("train", "val") and len(val) == held
    assert not set(names(train)) & set(names(val))
    assert len(set(names(train)) | set(names(val))) == size
    assert names(open_eval(config, "val")) == names(val)
    assert names(open_eval(config, "train")) == names(train)


def test_only_the_first_of_the_training_split(made):
    config = made({"train": 20, "test": 4}, first=3)
    assert names(open_train(config)) == ["train/0", "train/1", "train/2"]
    assert open_train(config).split == "train[:3]" and len(open_eval(config)) == 4
    config.data.eval_split = "train"
    assert names(open_eval(config)) == names(open_train(config))
    assert [training for _, training in made.last.opened][-2:] == [True, False]
    # After a part was held out, which stays as it was.
    config = made({"train": 20}, val_fraction=0.2)
    train, val = names(open_train(config)), names(open_eval(config))
    config.data.first = 5
    assert names(open_train(config)) == train[:5] and names(open_eval(config)) == val


def test_what_is_held_out_follows_from_the_number_of_examples_alone(made):
    config = made({"train": 40}, val_fraction=0.2)
    first = names(open_eval(config))
    config.train.seed = 99
    assert names(open_eval(config)) == first
    numbers = [int(name.split("/")[1]) for name in first]
    assert numbers == sorted(numbers) and numbers not in (list(range(8)), list(range(32, 40)))


def test_validation_can_be_held_out_beside_a_test_split(made):
    config = made({"train": 20, "test": 4}, eval_split="val", val_fraction=0.25)
    assert (len(open_train(config)), len(open_eval(config))) == (15, 5)
    assert open_eval(config).split == "val" and open_eval(config, "test").split == "test"


def test_a_named_split_is_evaluated_and_nothing_held_out(made):
    config = made({"train": 10, "extra": 3}, eval_split="extra")
    assert len(open_train(config)) == 10 and open_eval(config).split == "extra"
    with pytest.raises(ConfigError, match="no split 'nope'"):
        open_eval(made({"train": 10}, eval_split="nope"))


def test_nothing_can_be_held_out_of_one_example_or_with_fraction_zero(made):
    with pytest.raises(DataError, match="'train' has 1 example: too few"):
        open_train(made({"train": 1}))
    config = made({"train": 9}, val_fraction=0.0)
    assert len(open_train(config)) == 9
    with pytest.raises(ConfigError, match="data.val_fraction: 0.* among train"):
        open_eval(config)


def test_training_is_opened_for_training_and_evaluation_for_evaluation(made):
    for sizes in ({"train": 10, "val": 5}, {"train": 10}):
        config = made(sizes)
        open_train(config)
        open_eval(config)
        open_eval(config, "train")
        assert [training for _, training in made.last.opened] == [True, False, False]


def test_the_cache_is_the_one_asked_for(made):
    for wanted in ("true", True):
        config = made({"train": 10, "val": 5}, cache=wanted)
        assert isinstance(open_train(config), Cached) and isinstance(open_eval(config), Cached)
    assert isinstance(open_train(made({"train": 10}, cache="false")), data.Subset)


def config_at(root, task="classify", **changes):
    config = defaults(task)
    config.data.root = str(root)
    config.data.update(changes)
    return config


def test_auto_finds_class_folders(tmp_path):
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
        (["train/cat/0.jpg", "train/dog/0.jpg"], "folder"),
        (["cat/0.jpg", "dog/0.jpg", "notes.json"], "folder"),
        (["images/0.jpg", "labels/0.jpg"], "folder"),
        (["train/images/0.jpg", "train/labels/0.jpg"], "folder"),
    ],
)
def test_auto_finds_each_layout_by_the_names_of_its_files(tmp_path, files, layout):
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    task = "classify" if layout == "folder" else "detect"
    assert data.find_format(config_at(tmp_path, task)) == layout


def test_an_unknown_layout_or_format(tmp_path):
    with pytest.raises(ConfigError, match="set data.root to a folder or data.name"):
        open_train(defaults("detect"))
    with pytest.raises(ConfigError, match="data.root: /not/there is not a folder"):
        open_train(config_at("/not/there"))
    (tmp_path / "0.jpg").write_text("")
    with pytest.raises(ConfigError, match="no layout that is known"):
        open_train(config_at(tmp_path))
    with pytest.raises(ConfigError, match="data.format: got 'zip', wanted auto or one of tfds, fo"):
        open_train(config_at(tmp_path, format="zip"))


def test_a_name_means_tfds(tmp_path):
    assert data.find_format(config_at(tmp_path, name="coco/2017")) == "tfds"
