"""The warnings that a run prints at its start are those of `check-data` that files show."""

import cv2
import numpy as np
import pytest
from PIL import Image
from voc_faults import (
    FAULTS,
    image_cut_short,
    image_is_text,
    same_pixels_in_both,
    size_of_another,
    turned_as_stored,
    upside_down,
    zero_area,
)
from voc_sets import CAT, DOG, config_for, lists, noise, write, write_set

from convmesh.data import images
from convmesh.data.checks import inspection
from convmesh.data.checks.findings import Finding, brief_lines
from convmesh.data.checks.inspection import inspect, warnings_at_start
from convmesh.data.formats.registry import open_dataset
from convmesh.data.problems import Problem
from convmesh.data.splits import open_data
from convmesh.errors import DataError

# What only opening an image shows.
UNSEEN = {
    *(image_cut_short, image_is_text, size_of_another),
    *(same_pixels_in_both, turned_as_stored, upside_down),
}


@pytest.fixture
def root(tmp_path):
    """A data set without faults, see `write_set`."""
    write_set(tmp_path / "set")
    return tmp_path / "set"


@pytest.fixture
def unopened(monkeypatch):
    """Fails if an image is opened."""
    monkeypatch.setattr(inspection, "sample_of", lambda total: [])

    def refuse(path):
        raise AssertionError(f"{path} was opened")

    monkeypatch.setattr(images, "read_turned", refuse)


def warnings(config):
    return warnings_at_start(open_dataset(config), config)


@pytest.mark.parametrize("spoil, line", FAULTS, ids=[spoil.__name__ for spoil, _ in FAULTS])
def test_each_fault_that_files_show_is_said_without_opening_an_image(root, spoil, line, unopened):
    spoil(root)
    config = config_for(root, on_bad_box="drop", on_bad_example="skip")
    lines = warnings(config)
    if spoil in UNSEEN:
        assert lines == []
        return
    head, kind, finding = lines
    assert head == "1 warning about the data; `convmesh check-data` lists all"
    assert kind.startswith("  ") and kind.endswith(": 1")
    finding = finding.replace(" (dropped)", "")
    assert finding.startswith("    " + line.replace(": warning:", ":"))


def test_a_clean_set_says_nothing(root):
    assert warnings(config_for(root)) == []


def test_of_each_kind_the_count_and_the_first_three_are_said(root, unopened):
    write(root, "a", [DOG, CAT, DOG, DOG, DOG, DOG])
    write(root, "b", [DOG, DOG])
    config = config_for(root, max_boxes=4)
    assert warnings(config) == [
        "6 warnings about the data; `convmesh check-data` lists all",
        "  duplicate boxes: 5",
        *(
            f"    Annotations/a.xml: duplicate: the same box as object 1: object {i}"
            for i in (3, 4, 5)
        ),
        "    ...",
        "  about the data set: 1",
        "    data.max_boxes: 1 of 3 images of train have more than 4 boxes (at most 6); training"
        " drops the smallest ones",
    ]


def test_three_findings_are_all_shown_and_a_sample_is_said_to_be_one():
    found = [Finding(Problem(f"{i}", "odd", error=False), "units") for i in range(3)]
    assert brief_lines(found, found[:1], 16)[1:] == [
        "  doubtful units: 3",
        *(f"    {i}: odd" for i in range(3)),
        "  doubtful units: 1 in a sample of 16 images",
        "    0: odd",
    ]
    assert brief_lines([], [], 16) == []


def test_a_sample_of_images_is_opened_for_what_they_alone_show(root, monkeypatch):
    upside_down(root)  # the second image
    assert [line.strip() for line in warnings(config_for(root))] == [
        "1 warning about the data; `convmesh check-data` lists all",
        "images turned by EXIF: 1 in a sample of 3 images",
        "JPEGImages/b.png: EXIF turns the image (orientation 3); its boxes are taken as those of"
        " the upright image; check that they fit",
    ]
    monkeypatch.setattr(inspection, "sample_of", lambda total: [0])
    assert warnings(config_for(root)) == []


def test_problems_of_splits_that_are_not_used_are_not_said(root, unopened):
    lists(root, train="abca", test="ded", third="abca")
    lines = warnings(config_for(root))
    assert [line.strip() for line in lines if "names" in line] == [
        f"ImageSets/Main/{split}.txt: names {name} 2 times"
        for split, name in (("test", "d"), ("third", "a"), ("train", "a"))
    ]  # VOC does not say which split is affected

    dataset = open_dataset(config_for(root))
    dataset.problems = [Problem("x", "odd", error=False, split=s) for s in ("", "train", "third")]
    assert warnings_at_start(dataset, config_for(root))[1] == "  files: 2"


def test_boxes_of_no_stated_size_are_compared_without_it(root, unopened):
    for file in (root / "Annotations").iterdir():
        text = file.read_text()
        file.write_text(text[: text.index("<size>")] + text[text.index("</size>") + 7 :])
    zero_area(root)
    write(root, "c", [CAT, CAT])
    text = (root / "Annotations/c.xml").read_text().replace("<size>", "<other>")
    (root / "Annotations/c.xml").write_text(text.replace("</size>", "</other>"))
    lines = warnings(config_for(root, on_bad_box="drop"))
    assert [line.strip() for line in lines[1:]] == [
        "bad boxes: 1",
        "Annotations/b.xml: (5, 5, 5, 9) has no area in the image of 30 x 20 (dropped): object 2",
        "duplicate boxes: 1",
        "Annotations/c.xml: duplicate: the same box as object 1: object 2",
    ]


def test_a_doubtful_label_is_said_where_sizes_are_stated(root, unopened):
    names = [f"x{i}" for i in range(20)]
    for name in names:
        write(root, name, [("dog", 2, 2, 18, 18), ("cat", 20, 2, 22, 4)])
    write(root, "y", [("cat", 2, 2, 18, 18)])
    lists(root, train=names, test="y")
    found = warnings(config_for(root))
    assert found[found.index("  doubtful labels: 1") :] == [
        "  doubtful labels: 1",
        "    Annotations/y.xml: is this a dog? Its side is 16 pixels; the median is 2 for cat and"
        " 16 for dog: object 1",
    ]


def test_boxes_that_the_config_leaves_out_are_one_line(root, unopened):
    write(root, "c", [DOG, CAT, ("cat", 5, 5, 5, 9), DOG])
    area = "(5, 5, 5, 9) has no area in the image of 30 x 20 (dropped)"
    assert warnings(config_for(root, classes=("cat",), on_bad_box="drop"))[1:] == [
        "  bad boxes: 1",
        f"    Annotations/c.xml: {area}: object 3",
        "  about the data set: 2",
        "    data.classes: leaves out 4 boxes of train, which are dropped",
        "    data.classes: leaves out 1 box of test, which are dropped",
    ]


def test_a_run_on_the_first_examples_evaluates_them_on_purpose(root, unopened):
    assert "also the training split" in warnings(config_for(root, eval_split="train"))[-1]
    assert warnings(config_for(root, eval_split="train", first=2)) == []


def test_classification_says_what_folders_show(tmp_path, unopened):
    for i, name in enumerate(("train/cat/0", "train/dog/2", "val/cat/3", "val/dog/4")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / f"{name}.png"), noise(i))
    (tmp_path / "train/cat/notes.txt").touch()
    config = config_for(tmp_path, "classify", classes=("cat", "dog", "emu"))
    assert warnings(config)[1:] == [
        "  about the data set: 2",
        "    class emu: does not occur",
        "    split train: 1 file ignored, not an image by suffix: train/cat/notes.txt",
    ]


def test_the_data_set_is_opened_once_for_all(root, monkeypatch):
    opened, load = [], inspection.open_dataset
    monkeypatch.setattr(
        "convmesh.data.splits.open_dataset", lambda config: opened.append(1) or load(config)
    )
    data = open_data(config_for(root))
    assert opened == [1]
    assert (len(data.train), len(data.eval)) == (3, 2) and data.dataset.splits == ("test", "train")


def test_what_only_images_show_is_not_guessed(root):
    """An image of another size than its file states is refused when it is read."""
    size_of_another(root)
    assert warnings(config_for(root)) == []
    with pytest.raises(DataError, match="its boxes would be wrong"):
        open_data(config_for(root)).train[1]
    assert inspect(config_for(root)).refused
    image = np.asarray(Image.open(root / "JPEGImages/b.png"))
    assert image.shape == (20, 30, 3)
