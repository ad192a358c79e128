"""`check-data` on data sets with one fault each, compared with what training does with them."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image
from voc_faults import FAULTS, image_cut_short, turned, zero_area
from voc_sets import config_for, lists, noise, write, write_set

from convmesh.config import defaults
from convmesh.data.box_checks import BoxPolicy, StatedBoxes, check_boxes
from convmesh.data.checks import inspection
from convmesh.data.checks.inspection import inspect
from convmesh.data.formats import registry
from convmesh.data.formats.annotated import AnnotatedImage, AnnotatedSet
from convmesh.data.record import BadExample, DataSet, Record, Source
from convmesh.data.splits import open_eval, open_train
from convmesh.errors import ConfigError, DataError


@pytest.fixture
def root(tmp_path):
    """A data set without faults, see `write_set`."""
    write_set(tmp_path / "set")
    return tmp_path / "set"


def use_layout(monkeypatch, open_dataset):
    """Makes `open_dataset` open every data set, whatever its layout."""
    layout = SimpleNamespace(open_dataset=open_dataset, looks_like=lambda *_: True)
    monkeypatch.setattr(registry, "load_format", lambda name: layout)


def refused_by_training(config):
    """Whether reading all that a run uses raises."""
    try:
        for source in (open_train(config), open_eval(config)):
            for i in range(len(source)):
                try:
                    source[i]
                except BadExample:
                    if config.data.on_bad_example == "fail":
                        raise
    except DataError:
        return True
    return False


def test_a_clean_set_has_neither_errors_nor_warnings(root):
    found = inspect(config_for(root))
    assert found.findings == [] and not found.refused
    assert found.verdict() == "0 errors, 0 warnings: training accepts this data"
    splits = found.summary["splits"]
    assert {name: split["images"] for name, split in splits.items()} == {"train": 3, "test": 2}
    assert splits["train"]["boxes_by_class"] == {"cat": 2, "dog": 2}
    assert "voc data in" in found.lines()[0] and "2 classes" in found.lines()[0]


# --- each fault by itself -------------------------------------------------------------------------


@pytest.mark.parametrize("spoil, line", FAULTS, ids=[spoil.__name__ for spoil, _ in FAULTS])
def test_each_fault_is_one_finding_and_an_error_if_training_refuses_it(root, spoil, line):
    spoil(root)
    config = config_for(root)
    found = inspect(config)
    assert len(found.findings) == 1
    assert found.lines()[0].startswith(line)
    assert found.refused == refused_by_training(config) == ("warning" not in line)
    assert found.verdict().startswith("1 error, 0" if found.refused else "0 errors, 1 warning (1 ")


def test_a_turned_image_with_an_upright_stated_size_has_no_finding(root):
    turned(root, 6, (30, 20))
    assert inspect(config_for(root)).findings == []


def test_a_turned_square_image_has_a_warning(root):
    write(root, "b", [("dog", 1, 2, 20, 18)], noise(ord("b"), (20, 20)))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(ord("b"), (20, 20))).save(root / "JPEGImages/b.png", exif=exif)
    [finding] = inspect(config_for(root)).findings
    assert "taken as those of the upright image" in str(finding)


def test_a_split_without_images_is_refused(root, monkeypatch):
    empty = lambda config: AnnotatedSet(config, {"train": [], "val": []}, ["dog"])  # noqa: E731
    use_layout(monkeypatch, empty)
    found = inspect(config_for(root))
    assert [str(f) for f in found.findings] == [
        "class dog: warning: does not occur",
        "split train: has no images",
        "split val: has no images",
    ]
    assert refused_by_training(config_for(root)) and found.refused
    assert found.lines() and list(found.sample(4)) == []


def test_unknown_and_unused_classes_are_findings(root):
    found = inspect(config_for(root, classes=("dog", "emu")))
    assert [str(finding) for finding in found.findings] == [
        "Annotations/a.xml: class 'cat' is not one of the classes: object 2",
        "Annotations/c.xml: class 'cat' is not one of the classes: object 1",
        "Annotations/d.xml: class 'cat' is not one of the classes: object 1",
        "class emu: warning: does not occur",
    ]
    assert found.summary["splits"]["train"]["boxes_by_class"] == {"dog": 2, "emu": 0}
    # Many unused classes are one finding.
    many = tuple(f"emu{i}" for i in range(11))
    found = inspect(config_for(root, classes=("cat", "dog", *many)))
    assert [str(finding) for finding in found.findings] == [
        f"classes: warning: 11 of 13 do not occur: {', '.join(many[:10])}, ... (11 in all)"
    ]


def test_more_boxes_than_a_batch_holds_are_a_warning(root):
    [finding] = inspect(config_for(root, max_boxes=1)).findings
    assert str(finding) == (
        "data.max_boxes: warning: 1 of 3 images of train have more than 1 box (at most 2); training"
        " drops the smallest ones"
    )


def test_all_images_are_checked_if_a_run_uses_the_first_ones_only(root):
    image_cut_short(root)
    found = inspect(config_for(root, first=1))
    assert [str(finding) for finding in found.findings if finding.kind != "example"] == [
        "data.first: warning: a run trains on 1 of the 3 images of train; all of them are"
        " checked and counted here"
    ]
    assert found.refused and found.summary["splits"]["train"]["images"] == 3
    assert len(inspect(config_for(root, first=3)).findings) == 1  # the split has three images


def test_many_unit_warnings_are_merged(root):
    names = [f"x{i}" for i in range(inspection.MAX_WARNINGS["units"] + 1)]
    for name in names:
        write(
            root, name, [("dog", 0.1, 0.2, 0.5, 1.0), ("cat", 0.3, 0.2, 0.5, 1.0)], noise(len(name))
        )
    for i, name in enumerate(names):
        cv2.imwrite(str(root / f"JPEGImages/{name}.png"), noise(1000 + i))
    lists(root, train=names, more="abc")
    found = inspect(config_for(root)).findings
    [error], [finding] = (
        [f for f in found if f.kind == "units"],
        [f for f in found if f.problem.error],
    )[::-1]
    assert str(error).startswith("Annotations: 22 of 22 boxes are between 0 and 1")
    assert str(finding).startswith(
        "split train: warning: 11 images, first JPEGImages/x0.png: no co"
    )


@pytest.mark.parametrize("key, value", [("on_bad_box", "drop"), ("on_bad_box", "clip")])
def test_the_policy_for_boxes_turns_errors_into_warnings(root, key, value):
    zero_area(root)
    failing = inspect(config_for(root))
    assert failing.verdict() == (
        "1 error, 0 warnings: training would be refused; fix them, or set data.on_bad_box to drop"
        " or clip"
    )
    config = config_for(root, **{key: value})
    found = inspect(config)
    assert not found.refused and not refused_by_training(config)
    assert str(found.findings[0]).startswith("Annotations/b.xml: warning: (5, 5, 5, 9) has no area")


def test_the_policy_for_images_does_not_apply_to_their_boxes(root):
    zero_area(root)
    image_cut_short(root)
    both = inspect(config_for(root))
    assert both.verdict().endswith(
        "set data.on_bad_box to drop or clip and data.on_bad_example to skip"
    )
    config = config_for(root, on_bad_example="skip")
    found = inspect(config)  # training refuses the box before it opens the image
    assert [f.problem.error for f in found.findings] == [True, False]
    assert found.refused and refused_by_training(config)
    config = config_for(root, on_bad_example="skip", on_bad_box="drop")
    assert not inspect(config).refused and not refused_by_training(config)


def test_a_missing_split_is_a_config_error_and_missing_annotations_are_a_finding(root):
    config = config_for(root, eval_split="tset")
    with pytest.raises(ConfigError, match="no split 'tset'.* did you mean test"):
        inspect(config)
    for file in (root / "Annotations").iterdir():
        file.unlink()
    for file in (root / "JPEGImages").iterdir():
        file.unlink()
    for file in (root / "ImageSets/Main").iterdir():
        file.unlink()
    found = inspect(config_for(root))
    assert found.refused and "no XML annotations" in found.lines()[0]
    assert list(found.sample(4)) == [] and json.dumps(found.to_json())


def test_evaluating_the_training_split_is_a_warning(root):
    found = inspect(config_for(root, eval_split="train"))
    assert [f.kind for f in found.findings] == ["set"]
    assert list(found.summary["splits"]) == ["train"]


def test_the_held_out_examples_are_those_of_training(root):
    (root / "ImageSets/Main/test.txt").unlink()
    lists(root, train="abcde")
    config = config_for(root, val_fraction=0.4)
    parts = inspect(config).splits
    assert [part.name for part in parts] == ["train", "val"]
    for part, source in zip(parts, (open_train(config), open_eval(config)), strict=True):
        names = [source.name(i) for i in range(len(source))]
        assert [part.image_name(i) for i in range(len(part))] == names
    with pytest.raises(ConfigError, match="data.val_fraction: 0"):
        inspect(config_for(root, val_fraction=0.0))


def test_a_doubtful_label_is_described_in_pixels_of_its_image(root):
    """Half of the boxes are in images of half the size, so sizes must be compared at the input."""
    lists(root, train=[f"x{i}" for i in range(21)], test=["y"], more="abcde")
    for i in range(1, 21):
        times = 1 + i % 2
        objects = [
            (name, *(times * v for v in box))
            for name, box in (("dog", (2, 2, 18, 18)), ("cat", (20, 2, 22, 4)))
        ]
        write(root, f"x{i}", objects, noise(i, (20 * times, 30 * times)))
    write(root, "x0", [("dog", 5, 5, 5, 5)], noise(60))  # a bad box does not count
    write(root, "y", [("cat", 4, 4, 36, 36)], noise(50, (40, 60)))
    [finding] = [f for f in inspect(config_for(root)).findings if f.kind == "label"]
    assert str(finding) == (
        "Annotations/y.xml: warning: is this a dog? Its side is 32 pixels; the median is 4 for cat"
        " and 32 for dog: object 1"
    )
    assert (finding.kind, finding.position, finding.boxes) == ("label", (1, 0), (0,))


# --- other layouts --------------------------------------------------------------------------------


def relative_set(config):
    """A set with relative boxes, and pixels in one file."""
    path = config.data.root
    ones = {
        "fine": AnnotatedImage(
            f"{path}/JPEGImages/a.png",
            "a.png",
            1,
            boxes=np.array([[0.1, 0.1, 0.5, 0.5]]),
            labels=np.zeros(1, np.int64),
            relative=True,
        ),
        "pixels": AnnotatedImage(
            f"{path}/JPEGImages/b.png",
            "b.png",
            2,
            boxes=np.array([[3, 4, 20, 10.0]]),
            labels=np.zeros(1, np.int64),
            crowd=np.array([False]),
            relative=True,
        ),
    }
    return AnnotatedSet(config, {"train": [*ones.values()], "val": [ones["fine"]]}, ["dog"])


def test_pixels_instead_of_fractions_are_a_warning(root, monkeypatch):
    use_layout(monkeypatch, relative_set)
    lines = [str(finding) for finding in inspect(config_for(root)).findings]
    assert lines == [
        "a.png: warning: is in train and in val",
        "b.png: (3, 4, 20, 10) is outside of the image; in pixels? coordinates must be fractions"
        " of the image size: box 0",
        "b.png: warning: a coordinate is 20; are the boxes pixels, not fractions of the image?",
    ]


def test_a_classification_set_with_faults(tmp_path):
    for i, name in enumerate(
        ["train/cat/0", "train/cat/1", "train/dog/2", "val/cat/3", "val/dog/4"]
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / f"{name}.png"), noise(i))
    config = config_for(tmp_path, "classify")
    clean = inspect(config)
    assert clean.findings == []
    assert clean.summary["splits"]["train"]["images_by_class"] == {"cat": 2, "dog": 1}

    cv2.imwrite(str(tmp_path / "train/dog/again.png"), noise(0))
    (tmp_path / "val/dog/4.png").write_bytes(b"")
    (tmp_path / "train/emu").mkdir()
    (tmp_path / "train/cat/notes.txt").write_text("none")
    found = inspect(config)
    assert [str(finding) for finding in found.findings] == [
        "class emu: its folder in train has no images",
        "split train: warning: 1 file ignored, not an image by suffix: train/cat/notes.txt",
        "train/dog/again.png: warning: the same image as train/cat/0.png, which has the class cat",
        "val/dog/4.png: the file is empty",
    ]
    assert refused_by_training(config)
    pictures = [example for _, example in found.sample(4)]
    assert pictures[0] == {"name": "train: train/dog/again.png", "label": 1}
    (tmp_path / "val/gnu").mkdir()
    assert inspect(config).verdict().startswith("1 error, 0 warnings")  # the set cannot be opened


class Scenes(DataSet, Source):
    """A data set without files or annotations."""

    splits = ("train", "val")
    classes, task, split = ("dog",), "detect", "train"

    def __init__(self, config):
        self.policy = config.data.on_bad_box

    def source(self, split, training):
        assert training  # difficult boxes are kept as in training
        return self

    def __len__(self):
        return 3

    def name(self, index):
        return f"scenes {index}"

    def __getitem__(self, index):
        if index == 1:
            raise BadExample("scenes 1: damaged")
        boxes = np.array([[2, 2, 9, 9], [5, 5, 5, 5 + index * 2]], np.float32)[: 1 + index]
        labels, crowd = np.zeros(len(boxes), int), np.zeros(len(boxes), bool)
        name = self.name(index)
        stated, policy = StatedBoxes(boxes, labels, crowd), BoxPolicy(1, self.policy)
        checked = check_boxes(stated, (20, 30), policy, name)
        found = {"boxes": checked.boxes, "labels": checked.labels, "crowd": checked.crowd}
        return Record(noise(index), 1, name, bad_boxes=checked.bad, **found)


def test_a_source_without_annotations_is_checked_by_its_records(monkeypatch):
    use_layout(monkeypatch, Scenes)
    config = defaults("detect")
    config.data.name, config.data.eval_split = "scenes", "train"
    found = inspect(config)
    lines = [str(finding) for finding in found.findings[1:]]
    assert lines[0] == "scenes 1: damaged"
    assert lines[1].startswith("scenes 2: box 1: (5, 5, 5, 9) has no area") and len(lines) == 2
    assert [f.problem.error for f in found.findings[1:]] == [True, True]
    config.data.on_bad_box, config.data.on_bad_example = "drop", "skip"
    found = inspect(config)
    assert [str(finding) for finding in found.findings[1:]] == [
        "scenes 1: warning: damaged",
        "scenes 2: warning: 1 of its boxes are bad (dropped or clipped)",
    ]
    assert found.summary["splits"]["train"]["boxes"] == 2


def test_as_many_unused_classes_as_allowed_are_listed_one_by_one(root):
    emus = tuple(f"emu{i}" for i in range(10))
    found = inspect(config_for(root, classes=("cat", "dog", *emus)))
    assert sorted(str(finding) for finding in found.findings) == [
        f"class {name}: warning: does not occur" for name in emus
    ]


def test_three_ignored_files_are_all_named_and_of_four_the_first_three(tmp_path):
    for i, folder in enumerate(("train/cat", "train/dog", "val/cat", "val/dog")):
        (tmp_path / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / folder / "0.png"), noise(i))
    for name, ending in (("a", "a"), ("b", "b"), ("c", "c"), ("d", "c, ...")):
        (tmp_path / "train" / "cat" / name).touch()
        [finding] = inspect(config_for(tmp_path, "classify")).findings
        assert str(finding).endswith(f"train/cat/{ending}")


def test_two_unreadable_images_are_not_the_same_image(root):
    for name in "ab":
        (root / f"JPEGImages/{name}.png").write_bytes(b"")
    found = inspect(config_for(root)).findings
    kinds = [finding.kind for finding in found if finding.position is not None]
    assert kinds == ["example", "example"]


def test_the_data_set_is_named_by_its_name_or_its_folder(root, monkeypatch):
    assert inspect(config_for(root)).summary["data"] == str(root)
    use_layout(monkeypatch, Scenes)
    config = defaults("detect")
    config.data.name, config.data.eval_split = "scenes", "train"
    summary = inspect(config).summary
    assert (summary["format"], summary["data"]) == ("tfds", "scenes")
