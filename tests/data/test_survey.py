"""What a split contains, decoding as few images as possible: src/convmesh/data/survey.py."""

import math

import cv2
import numpy as np
import pytest

from convmesh.config import defaults
from convmesh.data.formats.annotated import AnnotatedImage, AnnotatedSet
from convmesh.data.loading.cache import Cached
from convmesh.data.record import BadExample, Record, Source, Subset
from convmesh.data.survey import first_examples, survey
from convmesh.errors import DataError


class Files(Source):
    """A source whose images must be decoded; one of 20 x 40 contains one box for each label."""

    split, classes = "train", ("a", "b", "c")

    def __init__(self, labels, task="detect", crowd=(), bad=()):
        self.labels, self.task, self.crowd, self.bad = labels, task, crowd, bad
        self.decoded = []

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        self.decoded.append(index)
        if index in self.bad:
            raise BadExample(f"{index}: not an image")
        n = len(self.labels[index])
        return Record(
            np.zeros((20, 40, 3), np.uint8),
            index,
            str(index),
            boxes=np.tile(np.float32([2, 3, 12, 8]), (n, 1)),
            labels=np.array(self.labels[index], np.int32),
            crowd=np.full(n, index in self.crowd),
        )

    def name(self, index):
        return str(index)


class Stating(Files):
    """A source whose files state the labels."""

    def stated_labels(self, index):
        used = index not in self.bad and index not in self.crowd
        return np.array(self.labels[index] if used else [], np.int64)


class Folder(Files):
    """A classification source whose folders state the classes."""

    def __init__(self, labels):
        super().__init__(labels, task="classify")

    def stated_labels(self, index):
        return np.array([self.labels[index]])


OBJECTS = [[], [0, 0], [1], [], [2], [0]]


def test_the_first_images_with_an_object_without_decoding_one():
    source = Stating(OBJECTS, crowd={2}, bad={1})
    assert first_examples(source, 2) == [4, 5] and not source.decoded
    assert first_examples(Stating(OBJECTS), 2) == [1, 2]
    assert first_examples(Stating(OBJECTS), 99) == [1, 2, 4, 5]


def test_the_first_images_with_an_object_if_they_must_be_decoded():
    source = Files(OBJECTS, crowd={1})
    assert first_examples(source, 2) == [2, 4] and source.decoded == [0, 1, 2, 3, 4]
    assert first_examples(Files(OBJECTS, bad={0}), 2, skip_bad=True) == [1, 2]
    with pytest.raises(BadExample, match="0: not an image"):
        first_examples(Files(OBJECTS, bad={0}), 2)


def test_images_without_any_object_are_refused():
    with pytest.raises(DataError, match="split 'train': none of its 2 images contains an object"):
        first_examples(Stating([[], []]), 1)


def test_classes_alternate():
    assert first_examples(Folder([0, 0, 0, 1, 1, 2]), 4) == [0, 1, 3, 5]
    assert first_examples(Folder([0, 0, 0, 1, 1, 2]), 99) == [0, 1, 2, 3, 4, 5]
    assert first_examples(Files([[]] * 9, task="classify"), 4) == [0, 1, 2, 3]


def test_labels_are_stated_through_cache_and_subset():
    source = Cached(Subset(Stating(OBJECTS, crowd={5}), [1, 2, 5], "val"))
    assert [source.stated_labels(i).tolist() for i in range(3)] == [[0, 0], [1], []]
    assert Cached(Files(OBJECTS)).stated_labels(1) is None


@pytest.mark.parametrize(
    "policy, counted", [("fail", [[1], [], []]), ("drop", [[1], [], []]), ("clip", [[1], [], [2]])]
)
@pytest.mark.parametrize("relative", [False, True])
def test_the_labels_counted_are_those_that_training_sees(tmp_path, policy, counted, relative):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.zeros((20, 40, 3), np.uint8))
    sound, no_area, nowhere, outside, far = (
        (1, 2, 9, 9),
        (5, 5, 5, 9),
        (math.nan,) * 4,
        (30, 2, 50, 9),
        (41, 2, 50, 9),
    )
    images = [
        ([sound, no_area, nowhere], [1, 0, 0]),
        ([sound, sound, no_area], [-1, -1, 2]),
        ([outside, far], [2, 1]),
    ]
    sides = np.array([40, 20, 40, 20]) if relative else 1
    examples = [
        AnnotatedImage(
            path,
            "a.png",
            1,
            boxes=np.array(boxes, np.float64) / sides,
            labels=np.array(labels),
            unknown=["d"] * 3,  # names that `data.classes` leaves out
            size=None if relative else (20, 40),
            relative=relative,
        )
        for boxes, labels in images
    ]
    made = defaults("detect")
    made.data.on_bad_box, made.data.classes = policy, ("a", "b", "c")
    source = AnnotatedSet(made, {"train": examples}, ["a", "b", "c"]).unchecked("train")
    assert [source.stated_labels(i).tolist() for i in range(3)] == counted
    if policy != "fail":
        assert [source[i].labels.tolist() for i in range(3)] == counted
    held = [i for i, labels in enumerate(counted) if labels]
    assert first_examples(source, 3) == held
    if policy != "fail":
        per_class = [sum(k in labels for labels in counted) for k in range(3)]
        assert survey(source).per_class.tolist() == per_class


def test_a_survey_of_files_that_state_their_labels():
    found = survey(Stating(OBJECTS, bad={3}))
    assert found.images == 6 and found.per_class.tolist() == [2, 1, 1]
    assert found.sizes.tolist() == [[20, 40]] * 5
    assert [len(o) for o in found.objects] == [0, 2, 1, 1, 1]
    assert found.objects[2].tolist() == [[5, 10]]


def test_crowd_regions_are_not_objects_of_a_survey():
    found = survey(Files([[0, 0], [1]], crowd={0}))
    assert [len(o) for o in found.objects] == [0, 1]


def test_a_survey_decodes_a_few_images_from_first_to_last():
    source = Files([[0]] * 1000)
    found = survey(source)
    assert found.per_class is None and len(found.sizes) == len(source.decoded) == 16
    assert source.decoded[0] == 0 and source.decoded[-1] == 999


def test_classes_alternate_in_the_order_of_their_ids():
    assert first_examples(Folder([2, 2, 0, 1, 0]), 2) == [2, 3]  # the first of 0 and of 1
