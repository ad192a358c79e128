"""Curves of a detector: the colours of the classes, with any detections and objects."""

import numpy as np
import pictures
import pytest
from coco_oracle import found_on, image, random_case

from convmesh.plots import detection_curves
from convmesh.plots.detection_curves import draw_detection_curves, line_color
from convmesh.plots.figures import new_figure
from convmesh.tasks import detection_report as report
from convmesh.tasks.matching import match

CLASSES = ("cell", "cat", "dog", "costs $5 or $6, and has a long name")


def count(picture, color):
    """Pixels of that colour, given as fractions."""
    return pictures.count(picture, np.round(255 * np.array(color)), 2)


def is_color(picture, color):
    """Bool [height, width]: the pixels that `count` counts."""
    apart = np.abs(picture.astype(int) - np.round(255 * np.array(color)))
    return apart.max(axis=-1) <= 2


def test_curves_have_the_colours_of_their_classes(tmp_path):
    curves = report.curves(match(*random_case(0), CLASSES), CLASSES)
    draw_detection_curves(curves, tmp_path / "new" / "curves.png")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["curves.png"]
    picture = pictures.read(tmp_path / "new" / "curves.png")
    left, right = picture[:, : picture.shape[1] * 2 // 5], picture[:, picture.shape[1] * 2 // 5 :]
    for half in (left, right):
        assert all(count(half, line_color(i)) > 50 for i in range(3))
        assert count(half, (0, 0, 0)) > 300
    assert count(picture, line_color(3)) == 0  # the truth has no such object


def test_with_many_classes_only_the_best_and_worst_are_coloured(tmp_path):
    names = [f"class {i}" for i in range(40)]
    straight = lambda value: [value] * 101  # noqa: E731
    values = {name: straight(0.1 + i / 50) for i, name in enumerate(names)}
    grid = [i / 100 for i in range(101)]
    curves = {
        "iou": 0.5,
        "recall": grid,
        "threshold": grid,
        "precision": {"mean": straight(0.5), "classes": values},
        "F1": {"all": straight(0.5), "classes": values},
        "best_threshold": 0.5,
        "best_F1": 0.5,
    }
    draw_detection_curves(curves, tmp_path / "curves.png")
    picture = pictures.read(tmp_path / "curves.png")
    shown = [i for i in range(12) if count(picture, line_color(i)) > 300]
    assert shown == [0, 1, 2, 3, 4, 5]
    # The best three first: of the curves on the left, each colour is lower than the one before.
    curves_only = picture[:, : picture.shape[1] * 2 // 5]
    rows = [np.median(np.argwhere(is_color(curves_only, line_color(i)))[:, 0]) for i in shown]
    assert rows == sorted(rows) and len(set(rows)) == 6


@pytest.mark.parametrize("found", [[], [found_on(1, [[1, 1, 9, 9]], [0], [0.5])]])
@pytest.mark.parametrize("objects", [[], [[10, 10, 60, 60]]])
def test_curves_without_detections_or_without_objects(tmp_path, found, objects):
    truth = [image(1, objects, [0] * len(objects))]
    curves = report.curves(match(truth, found, CLASSES), CLASSES)
    draw_detection_curves(curves, tmp_path / "curves.png")
    assert pictures.read(tmp_path / "curves.png").std() > 0


@pytest.mark.parametrize(("count", "colored"), [(12, 12), (13, 6)])
def test_up_to_twelve_classes_each_has_a_colour_and_a_label(count, colored):
    curves = {f"c{i}": [i / 20, i / 20] for i in range(count)} | {"none": None}
    classes = detection_curves._Classes.of(curves)
    assert len(classes.colors) == colored
    _, labels = detection_curves._legend(classes, [0.25, 0.75])
    best = [f"c{i}  {i / 20:.3f}" for i in reversed(range(count))]
    if colored < count:
        best = [*best[:3], *best[-3:], "7 more classes between"]
    assert labels == ["mean  0.500", *best, "1 without an object"]


def test_the_best_f1_and_its_threshold_are_in_the_title_and_marked():
    axis = new_figure(3, 3).subplots()
    detection_curves._describe_f1(axis, 0.25, 0.8125)
    assert axis.get_title(loc="left") == "F1 by threshold: best 0.812, at score 0.25"
    line, point = axis.lines
    assert list(line.get_xdata()) == [0.25, 0.25]
    assert (list(point.get_xdata()), list(point.get_ydata())) == ([0.25], [0.8125])
    axis = new_figure(3, 3).subplots()
    detection_curves._describe_f1(axis, None, 0.0)
    assert axis.get_title(loc="left") == "F1 by threshold" and len(axis.lines) == 0


def test_names_in_the_legend_differ(use_fonts):
    use_fonts(opencv=False)
    classes = detection_curves._Classes.of({"猫": [0.5, 0.5], "none": None, "毛": [0.25, 0.25]})
    _, labels = detection_curves._legend(classes, None)
    assert labels == ["Mao #0  0.500", "Mao #2  0.250", "1 without an object"]
