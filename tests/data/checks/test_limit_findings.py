"""`check-data` refuses what training refuses because too much is bad, and warns of the rest."""

import cv2
import pytest
from voc_sets import CAT, DOG, config_for, lists, noise, write

from convmesh.data.checks.inspection import inspect
from convmesh.data.splits import open_data
from convmesh.errors import DataError

LIMIT = "3 of {} {} are bad, more than data.{}=0.1 allows"


def limits(config):
    return [finding.problem for finding in inspect(config).findings if finding.kind == "limit"]


def write_bad(root, bad, good, stated=True):
    """Images with one box each: `bad` of these are beyond the image."""
    names = [f"x{i}" for i in range(bad + good)]
    for i, name in enumerate(names):
        box = DOG if i >= bad else ("dog", 5, 5, 35, 9)
        write(root, name, [box], noise(i))
        if not stated:
            file = root / f"Annotations/{name}.xml"
            file.write_text(file.read_text().replace("size>", "other>"))
    write(root, "y", [DOG, CAT], noise(99))
    lists(root, train=names, test="y")
    return root


@pytest.mark.parametrize("policy", ["drop", "clip"])
def test_too_many_bad_boxes_are_refused_by_both(tmp_path, policy):
    config = config_for(write_bad(tmp_path, 3, 20), on_bad_box=policy)
    [problem] = limits(config)
    assert problem.error and problem.file == "split train"
    assert problem.what.startswith(LIMIT.format(23, "boxes", "max_bad_boxes") + ", such as Annot")
    assert problem.what.endswith("; fix them, or set data.max_bad_boxes higher")
    assert inspect(config).verdict().endswith("training would be refused; fix them")
    with pytest.raises(DataError, match="^split train: 3 of 23 boxes are bad"):
        open_data(config)
    config.data.max_bad_boxes = 0.2
    assert limits(config) == [] and len(open_data(config).train) == 23


@pytest.mark.parametrize("policy", ["drop", "clip"])
def test_training_on_no_box_at_all_is_refused_by_both(tmp_path, policy):
    for name in ("x0", "x1", "y"):
        write(tmp_path, name, [("dog", 5, 5, 5, 9)] if name != "y" else [DOG], noise(ord(name[-1])))
    lists(tmp_path, train=["x0", "x1"], test="y")
    config = config_for(tmp_path, on_bad_box=policy)
    [problem] = limits(config)
    assert problem.error and problem.what.startswith("none of its 2 boxes can be used, such as Ann")
    with pytest.raises(DataError, match="split train: none of its 2 boxes can be used"):
        open_data(config)


def test_a_split_held_out_shares_the_error(tmp_path):
    write_bad(tmp_path, 3, 20)
    (tmp_path / "ImageSets/Main/test.txt").unlink()
    [problem] = limits(config_for(tmp_path, on_bad_box="drop"))
    assert problem.error


def test_what_only_images_show_is_a_warning_of_the_used_split(tmp_path):
    config = config_for(write_bad(tmp_path, 3, 20, stated=False), on_bad_box="clip")
    [problem] = limits(config)
    assert not problem.error and problem.what == LIMIT.format(23, "boxes", "max_bad_boxes")
    assert len(open_data(config).train) == 23


def test_if_most_are_bad_it_is_an_error_even_if_only_images_show_it(tmp_path):
    config = config_for(write_bad(tmp_path, 12, 11, stated=False), on_bad_box="clip")
    [problem] = limits(config)
    assert problem.error and problem.what.startswith("12 of 23 boxes are bad")
    config.data.max_bad_boxes = 0.6
    assert limits(config) == []


def test_too_many_missing_images_are_refused_and_unreadable_ones_a_warning(tmp_path):
    config = config_for(write_bad(tmp_path, 0, 20), on_bad_example="skip")
    for i in range(3):
        (tmp_path / f"JPEGImages/x{i}.png").write_bytes(b"")
    [problem] = limits(config)
    assert not problem.error and problem.what == LIMIT.format(20, "images", "max_bad_examples")
    assert len(open_data(config).train) == 20
    for i in range(3):
        (tmp_path / f"JPEGImages/x{i}.png").unlink()
    [problem] = limits(config)
    assert problem.error and "such as Annotations/x0.xml: its image is missing" in problem.what
    with pytest.raises(DataError, match="^split train: 3 of 20 images are bad"):
        open_data(config)
    config.data.on_bad_example = "fail"
    assert limits(config) == []


def test_only_drop_is_advised_for_class_ids_that_do_not_exist(tmp_path):
    """`data.classes` is not set, so nothing is left out; the labels are numbers."""
    (tmp_path / "images/train").mkdir(parents=True)
    (tmp_path / "labels/train").mkdir(parents=True)
    (tmp_path / "classes.txt").write_text("cat\n")
    for i in range(2):
        cv2.imwrite(str(tmp_path / f"images/train/{i}.png"), noise(i))
        (tmp_path / f"labels/train/{i}.txt").write_text(f"{i} 0.5 0.5 0.2 0.2\n")
    verdict = inspect(config_for(tmp_path, on_bad_box="clip")).verdict()
    assert verdict.endswith("would be refused; fix them, or set data.on_bad_box to drop")
    assert not inspect(config_for(tmp_path, on_bad_box="drop")).refused
