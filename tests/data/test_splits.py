"""Which splits a run uses, and what is held out: src/convmesh/data/splits.py."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from convmesh.config import defaults
from convmesh.data.formats import registry
from convmesh.data.record import BadExample, DataSet, Record, Source
from convmesh.data.splits import open_eval, open_train, used_splits
from convmesh.errors import ConfigError, DataError


class FakeSource(Source):
    classes, task = ("a", "b"), "classify"

    def __init__(self, split, count, training):
        self.split, self.count, self.training = split, count, training

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return Record(np.zeros((2, 2, 3), np.uint8), index + 1, self.name(index), label=0)

    def name(self, index):
        return f"{self.split}/{index}"


class FakeDataSet(DataSet):
    """A data set with splits of the given sizes."""

    def __init__(self, sizes):
        self.sizes, self.splits, self.opened = sizes, tuple(sizes), []

    def source(self, split, training):
        if split not in self.sizes:
            raise ConfigError(f"no split {split!r}")
        self.opened.append((split, training))
        return FakeSource(split, self.sizes[split], training)


def names(source):
    return [source[i].file_name for i in range(len(source))]


@pytest.fixture
def made(monkeypatch):
    def make(sizes, **changes):
        make.last = FakeDataSet(sizes)
        layout = SimpleNamespace(open_dataset=lambda config: make.last)
        monkeypatch.setattr(registry, "load_format", lambda name: layout)
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


def test_of_several_validation_splits_the_preferred_name_is_evaluated(made):
    assert open_eval(made({"train": 10, "val": 4, "validation": 5})).split == "validation"
    assert open_eval(made({"train": 10, "valid": 4, "val": 5})).split == "val"


def test_the_test_split_is_evaluated_if_there_is_no_validation(made):
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


def test_data_first_limits_the_training_split(made):
    config = made({"train": 20, "test": 4}, first=3)
    assert names(open_train(config)) == ["train/0", "train/1", "train/2"]
    assert open_train(config).split == "train[:3]" and len(open_eval(config)) == 4
    config.data.eval_split = "train"
    assert names(open_eval(config)) == names(open_train(config))
    assert [training for _, training in made.last.opened][-2:] == [True, False]
    # Applied after holding out, which does not change.
    config = made({"train": 20}, val_fraction=0.2)
    train, val = names(open_train(config)), names(open_eval(config))
    config.data.first = 5
    assert names(open_train(config)) == train[:5] and names(open_eval(config)) == val


def test_held_out_examples_depend_on_their_number_alone(made):
    config = made({"train": 40}, val_fraction=0.2)
    first = names(open_eval(config))
    config.train.seed = 99
    assert names(open_eval(config)) == first
    numbers = [int(name.split("/")[1]) for name in first]
    assert numbers == sorted(numbers) and numbers not in (list(range(8)), list(range(32, 40)))


def test_validation_can_be_held_out_although_there_is_a_test_split(made):
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


@pytest.mark.parametrize(
    "sizes, eval_split, used",
    [
        ({"train": 10, "valid": 5}, "", [("train", 10), ("valid", 5)]),
        ({"train": 10, "valid": 5}, "train", [("train", 10)]),
        ({"train": 10}, "", [("train", 8), ("val", 2)]),
    ],
)
def test_used_splits_are_those_of_training_and_evaluation(made, sizes, eval_split, used):
    config = made(sizes, val_fraction=0.2, eval_split=eval_split)
    dataset = registry.open_dataset(config)
    found = used_splits(dataset, config, lambda split: dataset.source(split, training=True))
    assert [(split.name, len(split.indices)) for split in found] == used
    held = {split.name: [split.source.name(i) for i in split.indices] for split in found}
    assert held["train"] == names(open_train(config))
    if len(found) > 1:
        assert held[found[1].name] == names(open_eval(config))


OPEN_A_FOLDER = """
import json, sys
from convmesh.config import defaults
from convmesh.data import splits
config = defaults("classify")
config.data.root = sys.argv[1]
train, val = splits.open_train(config), splits.open_eval(config)
print(json.dumps([len(train), train[0].image.shape, len(val), sorted(sys.modules)]))
"""


def test_opening_data_imports_neither_jax_nor_grain(tmp_path):
    for folder in ("train/cat", "train/dog", "val/cat", "val/dog"):
        (tmp_path / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / folder / "0.png"), np.zeros((4, 6, 3), np.uint8))
    path = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", OPEN_A_FOLDER, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": path}
    out = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    train, shape, val, modules = json.loads(out.stdout)
    assert (train, shape, val) == (2, [4, 6, 3], 2)
    assert "convmesh.data.splits" in modules
    assert not {"jax", "grain"} & set(modules)


def test_the_number_of_held_out_examples_is_rounded_to_the_nearest(made):
    assert len(open_eval(made({"train": 27}, val_fraction=0.1))) == 3  # 2.7
    assert len(open_eval(made({"train": 24}, val_fraction=0.1))) == 2  # 2.4


def test_used_splits_are_refused_if_there_is_no_split_to_evaluate(made):
    config = made({"train": 9}, val_fraction=0.0)
    dataset = registry.open_dataset(config)
    with pytest.raises(ConfigError, match="data.val_fraction: 0.* among train"):
        used_splits(dataset, config, lambda split: dataset.source(split, training=True))


class Boxes(FakeSource):
    """Example 0 is unreadable; in evaluation example 1 has regions to ignore only."""

    task = "detect"

    def __getitem__(self, index):
        if index == 0:
            raise BadExample("0: damaged")
        ignored = index == 1 and not self.training
        crowd = np.array([ignored])
        return Record(np.zeros((2, 2, 3), np.uint8), index, self.name(index), crowd=crowd)


def test_the_first_examples_are_readable_and_have_objects_in_evaluation(made, monkeypatch):
    config = made({"train": 5, "val": 1}, first=2, on_bad_example="skip")
    dataset = registry.open_dataset(config)
    monkeypatch.setattr(dataset, "source", lambda split, training: Boxes(split, 5, training))
    monkeypatch.setattr("convmesh.data.splits.open_dataset", lambda config: dataset)
    train = open_train(config)
    assert [train.name(i) for i in range(len(train))] == ["train/2", "train/3"]
    config.data.on_bad_example = "fail"
    with pytest.raises(BadExample, match="0: damaged"):
        open_train(config)


@pytest.mark.parametrize("given", [(), ("a",)])
def test_a_classifier_of_one_class_is_refused(made, monkeypatch, given):
    monkeypatch.setattr(FakeSource, "classes", ("a",))
    config = made({"train": 9, "val": 2}, classes=given, root="here")
    dataset = registry.open_dataset(config)
    calls = [
        lambda: open_train(config),
        lambda: open_eval(config),
        lambda: used_splits(dataset, config, lambda split: dataset.source(split, True)),
    ]
    error, message = DataError, "^here: only one class, 'a'; a classifier needs two"
    if given:
        error, message = ConfigError, "^data.classes: only one class, 'a'; a classifier needs two"
    for call in calls:
        with pytest.raises(error, match=message):
            call()


def test_a_detector_of_one_class_is_trained(made, monkeypatch):
    monkeypatch.setattr(FakeSource, "classes", ("a",))
    monkeypatch.setattr(FakeSource, "task", "detect")
    assert len(open_train(made({"train": 9, "val": 2}))) == 9
