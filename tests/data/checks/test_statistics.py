"""Statistics of a data set, computed by hand and compared with letterboxing and assignment."""

import numpy as np
import pytest

from convmesh.data.augmentation import augment
from convmesh.data.checks import statistics
from convmesh.data.checks.scan import ScannedExample, ScannedSplit
from convmesh.data.checks.statistics import (
    InputLimits,
    format_summary,
    letterbox_boxes,
    summarise,
    without_point,
)
from convmesh.geometry import STRIDES, grid_points


def example(size, boxes=(), labels=(), bad=(), crowd=(), difficult=()):
    n = len(boxes)
    marks = [np.isin(np.arange(n), list(which)) for which in (bad, crowd, difficult)]
    return ScannedExample(
        [], size, np.array(boxes, float).reshape(-1, 4), np.array(labels, int), *marks
    )


def scanned(split, *ones, task="detect"):
    class Source:
        pass

    source = Source()
    source.task, source.classes = task, ("cat", "dog")
    return ScannedSplit(split, source, range(len(ones)), list(ones))


@pytest.mark.parametrize("size", [(480, 640), (100, 33), (7, 9), (224, 160)])
def test_boxes_are_letterboxed_as_in_evaluation(size):
    boxes = np.array([[0, 0, size[1], size[0]], [1, 2, 3, 5.5]], float)
    _, scale, offset = augment.letterbox(np.zeros((*size, 3), np.uint8), (224, 160))
    expected = boxes * scale + np.tile(offset, 2)
    np.testing.assert_allclose(letterbox_boxes(boxes, size, (224, 160)), expected, rtol=1e-6)


@pytest.mark.parametrize("size", [(64, 96), (50, 75), (37, 33)])
def test_boxes_without_a_point_are_those_that_assignment_cannot_match(size):
    rng = np.random.default_rng(0)
    start = rng.uniform(-4, 100, (3000, 2))
    boxes = np.concatenate([start, start + rng.uniform(0, 12, (3000, 2))], 1)
    boxes[:200] = np.round(boxes[:200] / 4) * 4  # on the points and on the edges of cells
    half = np.maximum((boxes[:, 2:] - boxes[:, :2]) / 2, STRIDES[0] / 2)
    centre = (boxes[:, 2:] + boxes[:, :2]) / 2
    points = grid_points(size)[0]
    low, high = (centre - half)[:, None], (centre + half)[:, None]
    reached = ((points >= low) & (points < high)).all(2).any(1)
    assert 100 < reached.sum() < 2900
    np.testing.assert_array_equal(without_point(boxes, size), ~reached)


def test_the_statistics_of_a_set():
    train = scanned(
        "train",
        example((20, 30), [[0, 0, 4, 4], [0, 0, 9, 4], [5, 5, 5, 5]], [0, 1, 1], bad=[2]),
        example((40, 60), [[0, 0, 8, 8], [0, 0, 9, 9]], [0, 0], crowd=[1], difficult=[0]),
        ScannedExample([]),
    )
    val = scanned("val", example((10, 10)), example((80, 20), [[0, 0, 20, 20]], [1]))
    summary = summarise([train, val], ("cat", "dog"), "detect", InputLimits((40, 60), 1))
    assert summary["splits"]["train"] == {
        "images": 3,
        "unusable": 1,
        "image_sizes": {
            "smallest": {"height": 20, "width": 30},
            "median": {"height": 40, "width": 60},
            "largest": {"height": 40, "width": 60},
        },
        "without_boxes": 0,
        "boxes": 3,
        "bad_boxes": 1,
        "crowd": 1,
        "difficult": 1,
        "most_boxes": 2,
        "over_max_boxes": 2,
        "boxes_by_class": {"cat": 2, "dog": 1},
        "images_by_class": {"cat": 2, "dog": 1},
    }
    assert summary["splits"]["val"]["without_boxes"] == 1
    sides = summary["box_sides"]
    # The first image is scaled by 2, the second by 1, the last by 1/2.
    assert sides["by_class"]["cat"]["quantiles"] == {str(q): 8.0 for q in statistics.QUANTILES}
    assert sides["by_class"]["dog"]["quantiles"]["50"] == pytest.approx((12 + 10) / 2)
    assert (sides["below_stride"], sides["without_point"]) == (0, 0)
    small = summarise([val], ("cat", "dog"), "detect", InputLimits((20, 20), 1))["box_sides"]
    assert small["by_class"]["dog"]["below_stride"] == small["below_stride"] == 1
    assert small["by_class"]["cat"] == {"quantiles": {}, "below_stride": 0}
    # At the edge of an input that is no multiple of the stride a box may contain no point.
    edge = scanned("train", example((19, 19), [[0, 0, 9, 9], [18, 0, 19, 1]], [0, 0]))
    summary = summarise([edge], ("cat",), "detect", InputLimits((19, 19), 1))
    assert (summary["box_sides"]["without_point"], summary["box_sides"]["below_stride"]) == (1, 1)


def test_the_tables_of_a_set():
    train = scanned("train", example((20, 30), [[0, 0, 4, 4], [0, 0, 9, 4]], [0, 1]))
    summary = summarise([train], ("cat", "dog"), "detect", InputLimits((20, 30), 9))
    lines = format_summary(summary)
    assert lines[0].split()[:5] == ["split", "images", "unusable", "without", "boxes"]
    assert lines[1].split() == [*"train 1 0 0 2 0 0 0 2".split(), *(3 * "30 x 20 ").split()]
    assert lines[4].split() == "cat 1 1 4 4 4 4 4 1".split()
    assert lines[5].split() == "dog 1 1 6 6 6 6 6 1".split()
    assert (
        lines[-1].startswith("at the input size of 30 x 20 pixels") and "2 of 2 boxes" in lines[-1]
    )


def test_of_many_classes_the_most_and_the_least_frequent_are_shown():
    names = [f"c{i}" for i in range(statistics.MAX_ROWS + 5)]
    no = np.zeros(1, bool)
    examples = [
        ScannedExample([], (9, 9), labels=np.array([i]), bad=no, crowd=no)
        for i in range(len(names))
        for _ in range(i)
    ]
    split = scanned("train", *examples, task="classify")
    summary = summarise([split], names, "classify", InputLimits((9, 9), 1))
    lines = format_summary(summary)[3:]
    assert len(lines) == 1 + statistics.MAX_ROWS + 1
    assert lines[1].split() == [names[-1], str(len(names) - 1)] and lines[-1].split() == ["c0", "0"]
    assert "(5 more; --json shows all)" in lines[1 + statistics.MAX_ROWS // 2]


def test_classes_are_ranked_by_their_boxes_in_all_splits(monkeypatch):
    monkeypatch.setattr(statistics, "MAX_ROWS", 2)
    box = [0, 0, 4, 4]
    train = scanned("train", example((9, 9), [box] * 6, [0, 1, 1, 1, 2, 2]))
    val = scanned("val", example((9, 9), [box] * 4, [0] * 4))
    limits = InputLimits((9, 9), 9)
    summary = summarise([train, val], ("cat", "dog", "bird"), "detect", limits)
    classes = [line.split()[0] for line in format_summary(summary)[5:8]]
    assert classes == ["cat", "(1", "bird"]  # 5, 3 and 2 boxes


def test_sizes_are_ordered_by_area_and_boxes_counted_once():
    box = [0, 0, 4, 4]
    train = scanned(
        "train",
        example((10, 90), [box, box], [0, 0], bad=[0], crowd=[0], difficult=[0]),  # 900 pixels
        example((30, 40), [box, box], [0, 1], crowd=[1], difficult=[1]),  # 1200
        example((40, 20), [box], [0]),  # 800
    )
    summary = summarise([train], ("cat", "dog"), "detect", InputLimits((40, 60), 2))
    found = summary["splits"]["train"]
    assert found["image_sizes"] == {
        "smallest": {"height": 40, "width": 20},
        "median": {"height": 10, "width": 90},
        "largest": {"height": 30, "width": 40},
    }
    # A bad box is counted as bad only; a difficult region to ignore as a region only.
    counts = {key: found[key] for key in ("boxes", "bad_boxes", "crowd", "difficult")}
    assert counts == {"boxes": 3, "bad_boxes": 1, "crowd": 1, "difficult": 0}
    assert found["over_max_boxes"] == 0  # the second image has as many as a batch holds


def test_a_box_of_the_finest_stride_is_not_below_it():
    train = scanned("train", example((40, 60), [[0, 0, 8, 8], [0, 0, 8, 7.9]], [0, 0]))
    sides = summarise([train], ("cat",), "detect", InputLimits((40, 60), 9))["box_sides"]
    assert (sides["stride"], sides["below_stride"]) == (8, 1)


def test_all_classes_are_shown_if_the_table_has_room(monkeypatch):
    monkeypatch.setattr(statistics, "MAX_ROWS", 2)
    train = scanned("train", example((9, 9), [[0, 0, 4, 4]], [1]))
    summary = summarise([train], ("cat", "dog"), "detect", InputLimits((9, 9), 9))
    rows = format_summary(summary)[4:6]
    assert [row.split()[0] for row in rows] == ["cat", "dog"]  # in the order of their ids
