"""Folders named after their classes: src/convmesh/data/formats/folder.py."""

import pickle

import cv2
import numpy as np
import pytest

from convmesh.config import defaults
from convmesh.data import splits
from convmesh.data.formats.folder import FolderSet
from convmesh.data.record import BadExample
from convmesh.errors import ConfigError, DataError


def write(path, value=0, size=(6, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*size, 3), value, np.uint8))


def config_for(root, **changes):
    config = defaults("classify")
    config.data.root = str(root)
    config.data.update(changes)
    return config


@pytest.fixture
def split_root(tmp_path):
    """ROOT/SPLIT/CLASS, with a nested folder, upper-case suffix, hidden and other files."""
    for split in ("train", "valid", "test"):
        for name in ("dog", "cat", "emu"):
            for i in range(3):
                write(tmp_path / split / name / f"{i}.png", 10 * i)
    write(tmp_path / "train/cat/more/9.JPG")
    write(tmp_path / "train/cat/.hidden.png")
    write(tmp_path / "train/.cache/x.png")
    (tmp_path / "train/dog/notes.txt").write_text("no image")
    (tmp_path / "README").write_text("about")
    return tmp_path


def test_splits_and_classes_are_found(split_root):
    found = FolderSet(config_for(split_root))
    assert sorted(found.splits) == ["test", "train", "valid"]
    assert found.classes == ("cat", "dog", "emu")
    train = found.source("train", training=True)
    assert [train[i].file_name for i in range(len(train))] == [
        "train/cat/0.png",
        "train/cat/1.png",
        "train/cat/2.png",
        "train/cat/more/9.JPG",
        *(f"train/{name}/{i}.png" for name in ("dog", "emu") for i in range(3)),
    ]
    assert [train[i].label for i in range(len(train))] == [0] * 4 + [1] * 3 + [2] * 3
    assert [train[i].image_id for i in range(3)] == [1, 2, 3]
    assert train.ignored_files == ["train/dog/notes.txt"]
    record = train[2]
    assert record.image.shape == (6, 8, 3) and (record.image == 20).all()


def test_a_layout_without_splits_is_all_for_training(tmp_path):
    for name in ("b", "a", "train"):
        write(tmp_path / name / "0.png")
    found = FolderSet(config_for(tmp_path))
    assert found.splits == ("train",) and found.classes == ("a", "b", "train")


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
@pytest.mark.parametrize("asked", [None, "val", "valid", "validation"])
def test_the_validation_split_has_three_names_in_folders(tmp_path, name, asked):
    for split in ("train", name, "test"):
        write(tmp_path / split / "a" / f"{split}.png")
    source = splits.open_eval(config_for(tmp_path), asked)
    assert source.split == name and source[0].file_name == f"{name}/a/{name}.png"


def test_classes_in_the_config_order_the_ids(split_root):
    config = config_for(split_root, classes=("emu", "owl", "cat", "dog"))
    train = FolderSet(config).source("train", training=True)
    assert train.classes == ("emu", "owl", "cat", "dog")
    assert {train[i].file_name.split("/")[1]: train[i].label for i in range(len(train))} == {
        "emu": 0,
        "cat": 2,
        "dog": 3,
    }


def test_a_class_folder_that_is_not_in_the_given_classes(split_root):
    with pytest.raises(DataError, match=r"/dog: class 'dog' is not in data.classes.*mean dug"):
        FolderSet(config_for(split_root, classes=("cat", "emu", "dug")))


def test_a_class_that_only_evaluation_has_is_named(split_root):
    write(split_root / "test/gnu/0.png")
    with pytest.raises(DataError, match="test/gnu: class 'gnu' is in split test and not in train"):
        FolderSet(config_for(split_root))


def test_an_empty_class_is_refused_in_training_only(split_root):
    for split in ("train", "test"):
        (split_root / split / "gnu").mkdir()
    (split_root / "train/gnu/a.txt").write_text("")
    found = FolderSet(config_for(split_root))
    assert len(found.source("test", training=False)) == 9
    with pytest.raises(DataError, match="train/gnu: no images for this class"):
        found.source("train", training=True)


def test_missing_images_are_refused(tmp_path):
    with pytest.raises(DataError, match="no class folders"):
        FolderSet(config_for(tmp_path))
    (tmp_path / "train/a").mkdir(parents=True)
    with pytest.raises(DataError, match="no images in split 'train'"):
        FolderSet(config_for(tmp_path)).source("train", training=True)


def test_wrong_roots_splits_and_tasks_are_refused(split_root):
    with pytest.raises(ConfigError, match="data.root: /not/there is not a folder"):
        FolderSet(config_for("/not/there"))
    with pytest.raises(ConfigError, match="data.root: not set"):
        FolderSet(config_for(""))
    with pytest.raises(ConfigError, match="no split 'tets' .*mean test"):
        FolderSet(config_for(split_root)).source("tets", training=False)
    config = defaults("detect")
    config.data.root = str(split_root)
    with pytest.raises(ConfigError, match="without boxes"):
        FolderSet(config)


def test_an_unreadable_image_is_named(split_root):
    (split_root / "train/cat/0.png").write_bytes(b"")
    train = FolderSet(config_for(split_root)).source("train", training=True)
    with pytest.raises(BadExample, match="train/cat/0.png: the file is empty"):
        train[0]
    assert train[1].label == 0


def test_a_source_can_be_sent_to_another_process(split_root):
    train = FolderSet(config_for(split_root)).source("train", training=True)
    copy = pickle.loads(pickle.dumps(train))
    assert len(copy) == len(train) and copy[3].file_name == train[3].file_name


def test_large_jpegs_are_decoded_smaller_in_training_only(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / split / "cat" / "a.jpg", size=(640, 800))
        write(tmp_path / split / "dog" / "a.png", size=(640, 800))
    config = config_for(tmp_path, image_size=(64, 64))
    found = FolderSet(config)
    train, val = found.source("train", training=True), found.source("val", training=False)
    assert [train[i].image.shape for i in (0, 1)] == [(160, 200, 3), (640, 800, 3)]
    assert [val[i].image.shape for i in (0, 1)] == [(640, 800, 3), (640, 800, 3)]
    assert pickle.loads(pickle.dumps(train))[0].image.shape == (160, 200, 3)


def test_training_at_several_sizes_decodes_enough_for_the_largest(tmp_path):
    write(tmp_path / "train" / "cat" / "a.jpg", size=(640, 800))
    write(tmp_path / "train" / "dog" / "a.jpg", size=(640, 800))
    config = config_for(tmp_path, image_size=(64, 64), sizes=(1.0, 2.0))
    # The narrowest crop for 128 pixels allows sqrt(0.35 * 640 * 800 / 128**2 * 3 / 4) = 2.9.
    assert FolderSet(config).source("train", training=True)[0].image.shape == (320, 400, 3)


def test_quarter_turns_decode_enough_for_the_rotated_input(tmp_path):
    write(tmp_path / "train" / "cat" / "a.jpg", size=(800, 800))
    config = config_for(tmp_path, image_size=(64, 512))
    config.data.augment.crop = (1.0, 1.0)
    # Upright 800 / 512 allows nothing smaller, and neither does 800 / 512 of the rotated input.
    assert FolderSet(config).source("train", training=True)[0].image.shape == (800, 800, 3)
    write(tmp_path / "train" / "cat" / "a.jpg", size=(800, 3200))
    assert FolderSet(config).source("train", training=True)[0].image.shape == (200, 800, 3)
    config.data.augment.quarter_turn = 0.5
    assert FolderSet(config).source("train", training=True)[0].image.shape == (800, 3200, 3)
