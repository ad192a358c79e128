"""Pictures of an evaluation: what they show, and that they can be drawn whatever was found."""

import cv2
import numpy as np
import pytest
from coco_oracle import found_on, image, random_case

from convmesh import draw_evaluation
from convmesh.draw_evaluation import draw_confusion, draw_detection_curves
from convmesh.tasks import detection_report as report

CLASSES = ("cell", "cat", "dog", "costs $5 or $6, and has a long name")


def read(path):
    return cv2.imread(str(path))[:, :, ::-1]


def count(picture, color):
    apart = np.abs(picture.astype(int) - np.round(255 * np.array(color))).max(axis=-1)
    return int((apart <= 2).sum())


def test_curves_have_the_colours_of_their_classes(tmp_path):
    curves = report.curves(report.match(*random_case(0), CLASSES), CLASSES)
    draw_detection_curves(curves, tmp_path / "new" / "curves.png")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["curves.png"]
    picture = read(tmp_path / "new" / "curves.png")
    left, right = picture[:, : picture.shape[1] * 2 // 5], picture[:, picture.shape[1] * 2 // 5 :]
    for half in (left, right):
        assert all(count(half, draw_evaluation._on_paper(i)) > 50 for i in range(3))
        assert count(half, (0, 0, 0)) > 300
    assert count(picture, draw_evaluation._on_paper(3)) == 0  # never in the truth


def test_of_many_classes_only_the_best_and_worst_are_coloured(tmp_path):
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
    picture = read(tmp_path / "curves.png")
    shown = [i for i in range(12) if count(picture, draw_evaluation._on_paper(i)) > 300]
    assert shown == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("classes", [3, 25, 80])
def test_confusions_are_green_on_the_diagonal_and_red_beside_it(tmp_path, classes):
    table = np.diag(np.full(classes + 1, 9))
    table[-1, -1] = 0
    names = [f"class {i}" for i in range(classes)]
    draw_confusion(table, names, tmp_path / "right.png", iou=0.5, score=0.25)
    right = read(tmp_path / "right.png")
    assert max(right.shape) < 2200
    assert count(right, draw_evaluation.RIGHT) > 1000 > count(right, draw_evaluation.WRONG) == 0
    table = np.roll(table, 1, axis=1)
    pairs = report.most_confused(table, names, 20)
    draw_confusion(table, names, tmp_path / "wrong.png", iou=0.5, score=0.25, pairs=pairs)
    wrong = read(tmp_path / "wrong.png")
    assert count(wrong, draw_evaluation.WRONG) > 1000 > count(wrong, draw_evaluation.RIGHT) == 0


def test_a_cell_is_as_dark_as_its_part_of_the_row(tmp_path):
    # Parts of the rows: 3/4 and 1/4, all, all. Their roots say how much of the ink there is.
    table = np.array([[12, 4, 0], [0, 5, 0], [7, 0, 0]])
    draw_confusion(table, ("cat", "dog"), tmp_path / "confusion.png", iou=0.5, score=0.25)
    picture = read(tmp_path / "confusion.png")

    def middle(*color):
        """(x, y) of the cell of that colour."""
        rows, columns = np.nonzero((np.abs(picture.astype(int) - color) <= 2).all(-1))
        assert len(rows) > 1000, color
        return np.array([np.median(columns), np.median(rows)])

    dog_dog, nothing_cat = middle(22, 110, 66), middle(190, 30, 45)
    cat_cat = middle(255 - 0.866 * 233, 255 - 0.866 * 145, 255 - 0.866 * 189)
    cat_dog = middle(255 - 0.5 * 65, 255 - 0.5 * 225, 255 - 0.5 * 210)
    side = dog_dog[0] - cat_cat[0]
    assert side > 50
    np.testing.assert_allclose(dog_dog - cat_cat, (side, side), atol=5)
    np.testing.assert_allclose(cat_dog - cat_cat, (side, 0), atol=5)  # the truth's row
    np.testing.assert_allclose(nothing_cat - cat_cat, (0, 2 * side), atol=5)
    # No dog was called a cat: an empty cell, without a number.
    (x, y), half = (cat_cat + (0, side)).astype(int), int(0.4 * side)
    assert (picture[y - half : y + half, x - half : x + half] == 255).all()


def test_a_table_without_numbers_is_told_in_words():
    table = np.array([[5, 2, 1], [0, 3, 4], [6, 7, 0]])
    told = draw_evaluation._told(table, report.most_confused(table, ("cat", "dog"), 9))
    lines = [line.split(maxsplit=1) for line in told.splitlines()]
    assert lines[:5] == [
        ["15", "objects"],
        ["8", "found, with their class"],
        ["2", "found, with another class"],
        ["5", "missed"],
        ["13", "detections of nothing"],
    ]
    assert lines[-1] == ["2", "cat called dog"]
    assert "none" in draw_evaluation._told(np.zeros((3, 3), int), [])


@pytest.mark.parametrize("found", [[], [found_on(1, [[1, 1, 9, 9]], [0], [0.5])]])
@pytest.mark.parametrize("objects", [[], [[10, 10, 60, 60]]])
def test_nothing_found_or_nothing_to_find(tmp_path, found, objects):
    truth = [image(1, objects, [0] * len(objects))]
    curves = report.curves(report.match(truth, found, CLASSES), CLASSES)
    draw_detection_curves(curves, tmp_path / "curves.png")
    table = report.confusion(truth, found, CLASSES)
    draw_confusion(table, CLASSES, tmp_path / "confusion.png", iou=0.5, score=0.25)
    assert read(tmp_path / "curves.png").std() > 0 < read(tmp_path / "confusion.png").std()
