"""Scanning reads every example once, in order."""

from pathlib import Path

import numpy as np
import pytest
from voc_sets import config_for, write_set

from convmesh.data.checks.inspection import inspect
from convmesh.data.checks.scan import ScannedSplit, _digest, _unit_warnings, scan
from convmesh.data.formats.annotated import AnnotatedImage
from convmesh.data.record import BadExample, Record, Source
from convmesh.errors import DataError


def test_progress_is_reported_and_the_order_kept(tmp_path, monkeypatch):
    write_set(tmp_path)
    monkeypatch.setattr("convmesh.data.checks.scan._CHUNK", 2)
    calls = []
    found = inspect(config_for(tmp_path), lambda *numbers: calls.append(numbers))
    assert calls == [(i + 1, 5) for i in range(5)]
    assert [len(e.boxes) for split in found.splits for e in split.examples] == [2, 1, 1, 2, 0]


def test_images_of_equal_bytes_and_different_shape_differ():
    wide, high = np.zeros((2, 6, 3), np.uint8), np.zeros((4, 3, 3), np.uint8)
    assert _digest(wide) == _digest(wide.copy()) and _digest(wide) != _digest(high)


@pytest.mark.parametrize(
    "boxes, relative, size, warned",
    [
        ([[0.1, 0.2, 0.5, 1.0]], False, (20, 30), True),  # exactly 1 may be a fraction
        ([[0.1, 0.2, 0.5, 1.1]], False, (20, 30), False),
        ([[-3, -3, -1, 0]], False, (20, 30), False),  # left of the image, not fractions
        ([[0, 0, 1, 1]], False, (2, 30), False),  # a pixel of a tiny image
        ([[0, 0, 1, 1]], False, (3, 30), True),
        ([[0.5, 0.5, 2.0, 1.0]], True, (20, 30), False),  # a wrong fraction
        ([[0.5, 0.5, 2.1, 1.0]], True, (20, 30), True),
        ([[np.nan] * 4], False, (20, 30), False),
    ],
)
def test_units_are_doubtful_by_the_largest_coordinate(boxes, relative, size, warned):
    image = AnnotatedImage(Path("a"), "a", 1, boxes=np.array(boxes, float), relative=relative)
    assert [kind for kind, _ in _unit_warnings(image, size)] == ["units"] * warned


class Records(Source):
    classes, split, task = ("dog",), "train", "detect"

    def __len__(self):
        return 1

    def __getitem__(self, index):
        boxes = np.array([[0, 0, 4, 4], [1, 1, 9, 9]], np.float32)
        labels, crowd = np.zeros(2, np.int32), np.array([False, True])
        image = np.zeros((9, 9, 3), np.uint8)
        return Record(image, 1, "a.png", boxes=boxes, labels=labels, crowd=crowd)

    def name(self, index):
        return "a.png"


class Damaged(Records):
    def __init__(self, error):
        self.error = error

    def __getitem__(self, index):
        raise self.error


def scanned(source, skip_bad=False):
    split = ScannedSplit("train", source, [0])
    scan([split], skip_bad, lambda done, total: None)
    return split.examples[0]


def test_regions_to_ignore_of_a_record_are_not_objects():
    assert scanned(Records()).usable.tolist() == [True, False]


def test_only_an_unreadable_image_is_skipped():
    for skip_bad in (False, True):
        [(problem, policy)] = scanned(Damaged(BadExample("a.png: cut")), skip_bad).problems
        assert (problem.what, problem.error) == ("cut", not skip_bad)
        assert policy == "data.on_bad_example"
        [(problem, policy)] = scanned(Damaged(DataError("a.png: box 1")), skip_bad).problems
        assert problem.error and policy == "data.on_bad_box"
