"""Folders named after their classes: src/convmesh/data/formats/folder/dataset.py."""

import pickle
import unicodedata

import cv2
import numpy as np
import pytest

from convmesh.config import defaults
from convmesh.data import splits
from convmesh.data.formats.evidence import Evidence
from convmesh.data.formats.folder.dataset import FolderSet, looks_like
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
        for label in "ab":
            write(tmp_path / split / label / f"{split}.png")
    source = splits.open_eval(config_for(tmp_path), asked)
    assert source.split == name and source[0].file_name == f"{name}/a/{name}.png"


def test_validation_images_without_folders_of_classes_are_refused(tmp_path):
    # As ImageNet is distributed; a part of train under the name val would be another measure.
    for name in ("cat", "dog"):
        write(tmp_path / "train" / name / "1.png")
    write(tmp_path / "val" / "ILSVRC2012_val_00000001.png")
    for wanted in ("", "val"):
        with pytest.raises(DataError, match="val: its images are in no folders of classes; sort"):
            FolderSet(config_for(tmp_path, eval_split=wanted))
    assert FolderSet(config_for(tmp_path, eval_split="train")).splits == ("train",)
    write(tmp_path / "test" / "cat" / "1.png")  # is what is evaluated, if nothing else is wanted
    assert FolderSet(config_for(tmp_path)).splits == ("test", "train")
    with pytest.raises(DataError, match="val: its images"):
        FolderSet(config_for(tmp_path, eval_split="validation"))


def test_a_class_may_be_called_valid(tmp_path):
    for name in ("valid", "invalid"):
        write(tmp_path / name / "1.png")
    assert FolderSet(config_for(tmp_path, classes=("valid", "invalid"))).splits == ("train",)


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


@pytest.mark.parametrize("spelling", ["Cat", "cat ", "CAT"])
def test_another_spelling_of_a_class_in_another_split_is_named(split_root, spelling):
    (split_root / "test/cat").rename(split_root / "test" / spelling)
    message = f"test/{spelling}: class {spelling!r} is in split test.*; 'cat' is: rename"
    with pytest.raises(DataError, match=message):
        FolderSet(config_for(split_root))
    with pytest.raises(DataError, match=f"{spelling!r} is not in data.classes; 'cat' is: rename"):
        FolderSet(config_for(split_root, classes=("cat", "dog", "emu")))


def test_a_decomposed_class_name_is_that_in_the_config(split_root):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    for split in ("train", "valid", "test"):
        (split_root / split / "emu").rename(split_root / split / decomposed)
    found = FolderSet(config_for(split_root, classes=("dog", composed, "cat")))
    labels = found.source("train", training=True).stated_labels
    assert found.classes == ("dog", composed, "cat") and labels(3).tolist() == [1]


def test_a_split_has_the_spelling_of_its_folder_too(split_root):
    (split_root / "train").rename(split_root / "Training")
    found = FolderSet(config_for(split_root))
    assert "train" in found.splits and "Training" not in found.splits
    for name in ("train", "Training"):
        source = found.source(name, training=True)
        assert source.split == "train" and source.name(0) == "Training/cat/0.png"
    config = config_for(split_root, train_split="Training", eval_split="valid")
    assert splits.open_train(config).split == "train"
    with pytest.raises(DataError, match="gnu' is in split test and not in train"):
        write(split_root / "test/gnu/0.png")
        FolderSet(config)


def test_warnings_about_folders_are_problems_of_the_data_set(split_root):
    write(split_root / "valid/loose.png")
    [problem] = FolderSet(config_for(split_root)).problems
    assert str(problem) == "valid: 1 image in no class folder, such as valid/loose.png; left out"
    assert problem.split == "valid" and not problem.error


@pytest.mark.parametrize(
    "files, strengths",
    [
        (["train/cat/0.png"], {Evidence.LAYOUT, Evidence.POSSIBLE}),
        (["Testing/cat/0.png"], {Evidence.LAYOUT, Evidence.POSSIBLE}),
        (["train/images/0.png"], {Evidence.POSSIBLE}),
        (["cat/0.png"], {Evidence.POSSIBLE}),
        (["0.png"], set()),
    ],
)
def test_the_evidence_for_class_folders(tmp_path, files, strengths):
    for name in files:
        write(tmp_path / name)
    assert {one for one in Evidence if looks_like(tmp_path, "classify", one)} == strengths
    assert not any(looks_like(tmp_path, "detect", one) for one in Evidence)


def test_an_empty_class_is_refused_in_training_only(split_root):
    for split in ("train", "test"):
        (split_root / split / "gnu").mkdir()
    (split_root / "train/gnu/a.txt").write_text("")
    found = FolderSet(config_for(split_root))
    assert len(found.source("test", training=False)) == 9
    with pytest.raises(DataError, match="train/gnu: no images for this class .1 other.*gnu/a.txt"):
        found.source("train", training=True)


def test_missing_images_are_refused(tmp_path):
    with pytest.raises(
        ConfigError, match="no class folders with images, expected CLASS/.*no files"
    ):
        FolderSet(config_for(tmp_path))
    (tmp_path / "train/a").mkdir(parents=True)
    with pytest.raises(ConfigError, match="no class folders with images"):
        FolderSet(config_for(tmp_path))
    write(tmp_path / "val/a/0.png")
    write(tmp_path / "train/a.png")
    with pytest.raises(ConfigError, match="no split 'train' .*; it has val"):
        FolderSet(config_for(tmp_path)).source("train", training=True)


def test_one_folder_beside_a_table_of_labels_is_no_class(tmp_path):
    write(tmp_path / "photos/0.png")
    assert FolderSet(config_for(tmp_path)).classes == ("photos",)
    (tmp_path / "labels.csv").write_text("file,label\n0.png,cat\n")
    message = r"one folder with images, photos, is no class; .*a table of labels \(labels.csv\)"
    with pytest.raises(ConfigError, match=message):
        FolderSet(config_for(tmp_path))
    assert FolderSet(config_for(tmp_path, classes=("photos", "cat"))).splits == ("train",)


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
