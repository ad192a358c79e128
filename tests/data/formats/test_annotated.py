"""What the layouts with annotation files have in common: src/convmesh/data/formats/annotated.py."""

import numpy as np

from convmesh.config import defaults
from convmesh.data.formats.annotated import AnnotatedImage, AnnotatedSet, Numbered


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
