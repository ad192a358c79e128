"""A data set in numbers: by hand, and against what they foretell of the network's input."""

import numpy as np
import pytest

from convmesh.data import augment, overview
from convmesh.data.overview import describe, letterboxed, summarise, without_point
from convmesh.data.seen import Part, Seen
from convmesh.models.detector import STRIDES, grid_points


def seen(size, boxes=(), labels=(), bad=(), crowd=(), difficult=()):
    n = len(boxes)
    marks = [np.isin(np.arange(n), list(which)) for which in (bad, crowd, difficult)]
    return Seen([], size, np.array(boxes, float).reshape(-1, 4), np.array(labels, int), *marks)


def part(split, *ones, task="detect"):
    class Source:
        pass

    source = Source()
    source.task, source.classes = task, ("cat", "dog")
    return Part(split, source, range(len(ones)), list(ones))


@pytest.mark.parametrize("size", [(480, 640), (100, 33), (7, 9), (224, 160)])
def test_boxes_are_letterboxed_as_evaluation_does_it(size):
    boxes = np.array([[0, 0, size[1], size[0]], [1, 2, 3, 5.5]], float)
    _, scale, offset = augment.letterbox(np.zeros((*size, 3), np.uint8), (224, 160))
    expected = boxes * scale + np.tile(offset, 2)
    np.testing.assert_allclose(letterboxed(boxes, size, (224, 160)), expected, rtol=1e-6)


@pytest.mark.parametrize("size", [(64, 96), (50, 75), (37, 33)])
def test_boxes_without_a_point_are_those_that_assignment_cannot_reach(size):
    assert overview.STRIDES == STRIDES
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


def test_the_numbers_of_a_set():
    train = part(
        "train",
        seen((20, 30), [[0, 0, 4, 4], [0, 0, 9, 4], [5, 5, 5, 5]], [0, 1, 1], bad=[2]),
        seen((40, 60), [[0, 0, 8, 8], [0, 0, 9, 9]], [0, 0], crowd=[1], difficult=[0]),
        Seen([]),
    )
    val = part("val", seen((10, 10)), seen((80, 20), [[0, 0, 20, 20]], [1]))
    told = summarise([train, val], ("cat", "dog"), "detect", (40, 60), most=1)
    assert told["splits"]["train"] == {
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
    assert told["splits"]["val"]["without_boxes"] == 1
    sides = told["box_sides"]
    # The first image is drawn at twice its size, the second as it is, the last at half.
    assert sides["by_class"]["cat"]["quantiles"] == {str(q): 8.0 for q in overview.QUANTILES}
    assert sides["by_class"]["dog"]["quantiles"]["50"] == pytest.approx((12 + 10) / 2)
    assert (sides["below_stride"], sides["without_point"]) == (0, 0)
    small = summarise([val], ("cat", "dog"), "detect", (20, 20), most=1)["box_sides"]
    assert small["by_class"]["dog"]["below_stride"] == small["below_stride"] == 1
    assert small["by_class"]["cat"] == {"quantiles": {}, "below_stride": 0}
    # At the edge of an input that its cells do not fill a box holds no point.
    edge = part("train", seen((19, 19), [[0, 0, 9, 9], [18, 0, 19, 1]], [0, 0]))
    told = summarise([edge], ("cat",), "detect", (19, 19), most=1)
    assert (told["box_sides"]["without_point"], told["box_sides"]["below_stride"]) == (1, 1)


def test_the_tables_of_a_set():
    train = part("train", seen((20, 30), [[0, 0, 4, 4], [0, 0, 9, 4]], [0, 1]))
    told = summarise([train], ("cat", "dog"), "detect", (20, 30), most=9)
    lines = describe(told)
    assert lines[0].split()[:5] == ["split", "images", "unusable", "without", "boxes"]
    assert lines[1].split() == [*"train 1 0 0 2 0 0 0 2".split(), *(3 * "30 x 20 ").split()]
    assert lines[4].split() == "cat 1 1 4 4 4 4 4 1".split()
    assert lines[5].split() == "dog 1 1 6 6 6 6 6 1".split()
    assert lines[-1].startswith("at the input of 30 x 20 pixels") and "2 of 2 boxes" in lines[-1]


def test_of_very_many_classes_the_most_and_the_least_frequent_are_shown():
    names = [f"c{i}" for i in range(overview.MOST_ROWS + 5)]
    ones = [Seen([], (9, 9), labels=np.array([i]), bad=np.zeros(1, bool), crowd=np.zeros(1, bool))
            for i in range(len(names)) for _ in range(i)]  # fmt: skip
    told = summarise([part("train", *ones, task="classify")], names, "classify", (9, 9), most=1)
    lines = describe(told)[3:]
    assert len(lines) == 1 + overview.MOST_ROWS + 1
    assert lines[1].split() == [names[-1], str(len(names) - 1)] and lines[-1].split() == ["c0", "0"]
    assert "(5 more; --json has all)" in lines[1 + overview.MOST_ROWS // 2]
