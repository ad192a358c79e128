"""The confusion matrix: colours and positions of the cells, and the text beside it."""

import dataclasses

import numpy as np
import pictures
import pytest
from coco_oracle import found_on, image

from convmesh.plots import confusion_matrix
from convmesh.plots.confusion_matrix import CORRECT, WRONG, _summary, draw_confusion
from convmesh.plots.figures import new_figure
from convmesh.tasks import detection_report as report

CLASSES = ("cell", "cat", "dog", "costs $5 or $6, and has a long name")


def count(picture, color):
    """Pixels of that colour, given as fractions."""
    return pictures.count(picture, np.round(255 * np.array(color)), 2)


@pytest.mark.parametrize("classes", [3, 25, 80])
def test_cells_are_green_on_the_diagonal_and_red_elsewhere(tmp_path, classes):
    table = np.diag(np.full(classes + 1, 9))
    table[-1, -1] = 0
    names = [f"class {i}" for i in range(classes)]
    draw_confusion(table, names, tmp_path / "right.png", iou=0.5, score=0.25)
    right = pictures.read(tmp_path / "right.png")
    assert max(right.shape) < 2200
    assert count(right, CORRECT) > 1000 > count(right, WRONG) == 0
    table = np.roll(table, 1, axis=1)
    pairs = report.most_confused(table, names, 20)
    draw_confusion(table, names, tmp_path / "wrong.png", iou=0.5, score=0.25, pairs=pairs)
    wrong = pictures.read(tmp_path / "wrong.png")
    assert count(wrong, WRONG) > 1000 > count(wrong, CORRECT) == 0


def test_a_cell_is_as_dark_as_its_fraction_of_the_row(tmp_path):
    # Fractions of the rows: 3/4 and 1/4, all, all. The cells show their square roots.
    table = np.array([[12, 4, 0], [0, 5, 0], [7, 0, 0]])
    draw_confusion(table, ("cat", "dog"), tmp_path / "confusion.png", iou=0.5, score=0.25)
    picture = pictures.read(tmp_path / "confusion.png")

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
    np.testing.assert_allclose(cat_dog - cat_cat, (side, 0), atol=5)  # same true class
    np.testing.assert_allclose(nothing_cat - cat_cat, (0, 2 * side), atol=5)
    # No dog was called a cat: an empty cell, without a count.
    (x, y), half = (cat_cat + (0, side)).astype(int), int(0.4 * side)
    assert (picture[y - half : y + half, x - half : x + half] == 255).all()


def test_a_matrix_without_counts_has_a_summary():
    table = np.array([[5, 2, 1], [0, 3, 4], [6, 7, 0]])
    summary = _summary(table, report.most_confused(table, ("cat", "dog"), 9))
    lines = [line.split(maxsplit=1) for line in summary.splitlines()]
    assert lines[:5] == [
        ["15", "objects"],
        ["8", "found, with their class"],
        ["2", "found, with another class"],
        ["5", "missed"],
        ["13", "detections of nothing"],
    ]
    assert lines[-1] == ["2", "cat called dog"]
    assert "none" in _summary(np.zeros((3, 3), int), [])


@pytest.mark.parametrize("found", [[], [found_on(1, [[1, 1, 9, 9]], [0], [0.5])]])
@pytest.mark.parametrize("objects", [[], [[10, 10, 60, 60]]])
def test_a_matrix_without_detections_or_without_objects(tmp_path, found, objects):
    table = report.confusion([image(1, objects, [0] * len(objects))], found, CLASSES)
    draw_confusion(table, CLASSES, tmp_path / "confusion.png", iou=0.5, score=0.25)
    assert pictures.read(tmp_path / "confusion.png").std() > 0


@pytest.mark.parametrize(("classes", "numbered"), [(25, True), (26, False)])
def test_up_to_25_classes_the_cells_are_numbered(monkeypatch, tmp_path, classes, numbered):
    counted = []
    monkeypatch.setattr(confusion_matrix, "_draw_cells", lambda *_: None)
    monkeypatch.setattr(confusion_matrix, "_draw_names", lambda *_: None)
    monkeypatch.setattr(confusion_matrix, "_draw_counts", lambda *_: counted.append(True))
    names = [f"class {i}" for i in range(classes)]
    table = np.eye(classes + 1, dtype=int)
    draw_confusion(table, names, tmp_path / "confusion.png", iou=0.5, score=0.25)
    assert counted == [True] * numbered


def test_the_summary_has_the_twelve_most_frequent_confusions():
    pairs = [{"truth": "cat", "predicted": f"c{i}", "count": 20 - i} for i in range(14)]
    lines = _summary(np.zeros((3, 3), int), pairs).splitlines()
    assert lines[lines.index("most often confused") + 1 :] == [
        f"{20 - i:>6}  cat called c{i}" for i in range(12)
    ]


def test_counts_are_white_on_dark_cells_and_dark_on_light_ones():
    axis = new_figure(3, 3).subplots()
    table = np.array([[7, 3, 0], [1, 3, 0], [0, 0, 0]])
    confusion_matrix._draw_counts(axis, table, table / [[10], [4], [1]], 0.5)
    found = {one.get_text(): (one.get_position(), one.get_color()) for one in axis.texts[:2]}
    assert found == {"7": ((0, 0), "white"), "3": ((1, 0), "0.15")}
    assert [one.get_position() for one in axis.texts[2:]] == [(0, 1), (1, 1)]
    assert [one.get_color() for one in axis.texts[2:]] == ["0.15", "white"]


def test_the_last_row_and_column_always_have_their_name():
    axis = new_figure(3, 3).subplots()
    names = [f"c{i}" for i in range(9)] + ["background"]
    layout = confusion_matrix._Layout.of(names, "a summary")
    layout = dataclasses.replace(layout, cell=0.05, font_size=6.0)  # 7.2 points for 3.6: every 2nd
    confusion_matrix._draw_names(axis, names, layout)
    for ticks in (axis.get_xticklabels(), axis.get_yticklabels()):
        assert [tick.get_text() for tick in ticks] == ["c0", "c2", "c4", "c6", "background"]


def test_names_of_any_script_are_in_the_matrix_and_in_its_summary(monkeypatch, tmp_path, use_fonts):
    use_fonts(opencv=False)
    names, shown = ["猫", "毛", "Кошка", *(f"c{i}" for i in range(24))], []
    monkeypatch.setattr(confusion_matrix, "_draw_names", lambda axis, these, _: shown.extend(these))
    summary = []
    monkeypatch.setattr(
        confusion_matrix, "_summary", lambda _, these, __: summary.extend(these) or "x"
    )
    pairs = [{"truth": "毛", "predicted": "Кошка", "count": 3}]
    table = np.zeros((28, 28), int)
    draw_confusion(table, names, tmp_path / "a.png", iou=0.5, score=0.25, pairs=pairs)
    assert shown == ["Mao #0", "Mao #1", *names[2:], "background"]
    assert summary == [{"truth": "Mao #1", "predicted": "Кошка", "count": 3}]


def test_names_of_other_scripts_are_large_enough_and_have_room():
    many = [f"c{i}" for i in range(40)]
    small, large = (confusion_matrix._Layout.of(n, "x") for n in (many, [*many, "猫"]))
    assert small.font_size < 6 and large.font_size == 7.5
    one, two = (confusion_matrix._Layout.of(n, "") for n in (["红细胞"], ["红细胞红细胞"]))
    assert two.left - one.left == pytest.approx(3 * one.font_size / 72, rel=0.15)
    wide = confusion_matrix._Layout.of(many, "9" * 80)
    assert wide.text_width > 80 * 0.6 * 9 / 72 > 3.6


def test_a_classifiers_matrix_has_no_background(tmp_path, monkeypatch):
    shown, drawn = [], []
    names = confusion_matrix._draw_names
    monkeypatch.setattr(
        confusion_matrix,
        "_draw_names",
        lambda axis, these, layout: shown.extend(these) or names(axis, these, layout),
    )
    monkeypatch.setattr(confusion_matrix, "_draw_background", lambda *_: drawn.append(True))
    draw_confusion(np.array([[5, 1], [0, 3]]), ("cat", "dog"), tmp_path / "confusion.png")
    assert shown == ["cat", "dog"] and not drawn
    assert count(pictures.read(tmp_path / "confusion.png"), CORRECT) > 1000
    table = np.array([[5, 1], [0, 3]])
    pairs = [{"truth": "cat", "predicted": "dog", "count": 1}]
    lines = [line.split() for line in _summary(table, pairs, background=False).splitlines()]
    assert lines[:2] == [["9", "images"], ["8", "right"]]
    assert lines[-1] == ["1", "cat", "called", "dog"]
