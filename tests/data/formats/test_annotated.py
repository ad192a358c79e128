"""What the layouts with annotation files have in common: src/convmesh/data/formats/annotated.py."""

import cv2
import numpy as np
import pytest

from convmesh.config import defaults
from convmesh.data.formats.annotated import AnnotatedImage, AnnotatedSet, Numbered
from convmesh.errors import DataError


def one(tmp_path, boxes, labels=None, **fields):
    labels = np.zeros(len(boxes), np.int64) if labels is None else np.array(labels)
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    return AnnotatedImage(tmp_path / "a.jpg", "a.jpg", 1, "file", boxes, labels, **fields)


def test_one_pass_over_all_boxes_finds_the_images_with_problems(tmp_path):
    nan, sized = float("nan"), {"size": (20, 30)}
    sound = [
        one(tmp_path, [], **sized),
        one(tmp_path, [[0, 0, 30.01, 20]], **sized),
        one(tmp_path, [[0, 0, 1, 1]], relative=True),
        one(tmp_path, [[500, 500, 900, 900]]),  # of no stated size
    ]
    faulty = [
        one(tmp_path, [], broken="is missing"),
        one(tmp_path, [[1, 2, 3, 4], [0, 0, 30.1, 20]], **sized),
        one(tmp_path, [[0, 0, 20, 30]], **sized),
        one(tmp_path, [[1, 2, 3, 4]], [1], **sized),
        one(tmp_path, [[1, 2, 3, 4]], [-1], unknown=("cow",)),
        one(tmp_path, [[0, 0, 1.001, 1]], relative=True),
        one(tmp_path, [[-1, 500, 900, 900]]),
        one(tmp_path, [[nan] * 4]),
        one(tmp_path, [[3, 3, 3, 4]]),
    ]
    mixed = [example for pair in zip(faulty, sound * 3, strict=False) for example in pair]
    source = AnnotatedSet(defaults("detect"), {"train": mixed}, ["dog"]).unchecked("train")
    bad = [i for i in range(len(source)) if source.stated_problems(i)]
    assert source.images_with_problems() == bad == list(range(0, 2 * len(faulty), 2))
    assert AnnotatedSet(defaults("detect"), {"train": faulty[:1] + sound[:1]}, ["dog"]).unchecked(
        "train"
    ).images_with_problems() == [0]


def test_numbered_names_are_formatted_on_access():
    names = Numbered("line", np.array([3, 5, 8]))
    assert list(names) == ["line 3", "line 5", "line 8"]
    assert list(names[1:]) == ["line 5", "line 8"] and len(names) == 3


def test_a_broken_image_states_no_labels(tmp_path):
    examples = [one(tmp_path, [[1, 2, 3, 4]], broken=broken) for broken in ("", "is missing")]
    source = AnnotatedSet(defaults("detect"), {"train": examples}, ["dog"]).unchecked("train")
    assert [source.stated_labels(i).tolist() for i in range(2)] == [[0], []]


def test_parts_of_numbered_names_are_formatted_on_access():
    part = Numbered("line", range(1_000_000))[10:]
    assert isinstance(part, Numbered) and part[0] == "line 10" and part[1:][0] == "line 11"


def source_of(tmp_path, examples, names=("dog", "cat"), **changes):
    config = defaults("detect")
    config.data.update(changes)
    return AnnotatedSet(config, {"train": examples}, names).source("train", training=True)


GOOD = [0.1, 0.1, 0.5, 0.5]


def test_clip_refuses_class_ids_without_a_name(tmp_path):
    """As labels that count from 1: the last class would be lost, and the others be wrong."""
    examples = [one(tmp_path, [GOOD, GOOD], [1, 2], relative=True, locations=("line 1", "line 2"))]
    with pytest.raises(DataError, match="^file: class id 2 is not one of 0..1: line 2; `convmesh"):
        source_of(tmp_path, examples, on_bad_box="clip")
    source = source_of(tmp_path, examples, on_bad_box="drop")
    [problem] = source.stated_problems(0)
    assert str(problem) == "file: class id 2 is not one of 0..1 (dropped): line 2"
    with pytest.raises(DataError, match="split train: 5 of 10 boxes are bad"):
        source_of(tmp_path, examples * 5, on_bad_box="drop")
    id_of_no_category = [one(tmp_path, [GOOD], [-1], relative=True, unknown=(7,))]
    for classes in ((), ("dog", "cat")):
        with pytest.raises(DataError, match="category 7 is not one of the classes"):
            source_of(tmp_path, id_of_no_category, on_bad_box="clip", classes=classes)


@pytest.mark.parametrize("policy", ["drop", "clip"])
def test_classes_that_the_config_leaves_out_are_dropped_and_no_fault(tmp_path, policy):
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((20, 30, 3), np.uint8))
    left_out = {"relative": True, "unknown": ("dog", "cow", "cow", "cow")}
    examples = [one(tmp_path, [GOOD] * 4, [0, -1, -1, -1], **left_out)]
    source = source_of(tmp_path, examples, ("dog",), on_bad_box=policy, classes=("dog",))
    assert source.left_out(0).tolist() == [False, True, True, True]
    record = source[0]
    assert (len(record.boxes), record.dropped_boxes, record.left_out_boxes) == (1, 3, 3)
    assert [p.what for p in source.stated_problems(0)] == [
        "class 'cow' is not one of the classes (dropped)"
    ] * 3
    # A name that the config does not leave out is unknown to the files themselves.
    with pytest.raises(DataError, match="class 'cow' is not one of|3 of 4 boxes are bad"):
        source_of(tmp_path, examples, ("dog",), on_bad_box=policy)
    with pytest.raises(DataError, match="class 'cow' is not one of the classes: box 1"):
        source_of(tmp_path, examples, ("dog",), classes=("dog",))


def test_the_first_bad_box_beside_one_left_out_is_the_example(tmp_path):
    outside = [0.5, 0.5, 1.5, 0.9]
    boxes = [GOOD, GOOD, outside, outside, outside]
    examples = [
        one(tmp_path, [GOOD], relative=True),
        one(
            tmp_path, boxes, [0, -1, 0, 0, 0], relative=True, unknown=("dog", "cow") + 3 * ("dog",)
        ),
    ]
    with pytest.raises(DataError, match=r"3 of 5 boxes are bad, .* such as file: \(.*: box 2; fix"):
        source_of(tmp_path, examples, ("dog",), on_bad_box="drop", classes=("dog",))


def test_boxes_of_images_that_cannot_be_used_do_not_count(tmp_path):
    bad = [[0.5, 0.5, 1.5, 0.9]] * 4
    examples = [one(tmp_path, bad, relative=True, broken="is missing")]
    examples += [one(tmp_path, [GOOD], relative=True)] * 5
    assert len(source_of(tmp_path, examples, on_bad_box="drop", on_bad_example="skip")) == 6
