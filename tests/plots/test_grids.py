"""Grids of images: which images and boxes are drawn, where, in which colour, and the captions."""

import numpy as np
import pytest
from pictures import count, plain, record_texts

from convmesh.distributed.batch import Batch
from convmesh.plots.colors import CORRECT, GREY, MISSED, WRONG, class_color
from convmesh.plots.grids import (
    MatchedImage,
    draw_batch,
    draw_examples,
    draw_matched_grid,
    draw_predictions_grid,
)

CLASSES = ("cell", "cat", "dog")


def batch_arrays(size=6):
    """The arrays of a detection batch with two boxes in each image."""
    boxes = np.zeros((size, 5, 4), np.float32)
    boxes[:, 0] = [20, 40, 80, 100]
    boxes[:, 1] = [60, 110, 130, 130]
    valid = np.zeros((size, 5), bool)
    valid[:, :2] = True
    return dict(
        image=np.full((size, 140, 140, 3), 128, np.uint8),
        index=np.arange(size),
        present=np.ones(size, bool),
        boxes=boxes,
        labels=np.tile(np.array([1, 2, 0, 0, 0], np.int32), (size, 1)),
        valid=valid,
        crowd=np.zeros((size, 5), bool),
        truncated=np.zeros(size, np.int32),
    )


def test_a_batch_shows_the_valid_boxes_of_each_image():
    picture = draw_batch(Batch(**batch_arrays(1)), CLASSES)
    assert count(picture, class_color(1)) > 400 and count(picture, class_color(2)) > 400
    assert count(picture, class_color(0)) == 0  # padding has label 0
    # The tile begins 10 pixels in and is enlarged from 140 to 420.
    assert tuple(picture[10 + 3 * 70, 10 + 3 * 20]) == class_color(1)


def test_ignored_boxes_of_a_batch_are_hatched_in_grey():
    batch = batch_arrays(1)
    batch["crowd"][0, 0] = True
    picture = draw_batch(Batch(**batch), CLASSES)
    assert count(picture, class_color(1)) == 0 and count(picture, class_color(2)) > 400
    inside = picture[10 + 3 * 45 : 10 + 3 * 95, 10 + 3 * 25 : 10 + 3 * 75]
    assert 0.1 < count(inside, GREY) / inside[..., 0].size < 0.6


def test_padding_images_are_left_out_and_rows_limit_the_rest():
    batch = batch_arrays(6)
    tile, line = 430, 454
    assert draw_batch(Batch(**batch), CLASSES).shape == (2 * line + 10, 4 * tile + 10, 3)
    assert draw_batch(Batch(**batch), CLASSES, rows=1).shape == (line + 10, 4 * tile + 10, 3)
    batch["present"][2:] = False
    assert draw_batch(Batch(**batch), CLASSES).shape == (line + 10, 2 * tile + 10, 3)
    batch["present"][:] = False
    assert draw_batch(Batch(**batch), CLASSES).ndim == 3


def test_a_caption_counts_the_boxes_of_its_image(monkeypatch):
    written = record_texts(monkeypatch)
    batch = batch_arrays(2)
    batch["index"][1], batch["crowd"][1, 0], batch["truncated"][1] = 7, True, 3
    draw_batch(Batch(**batch), CLASSES)
    assert {"cat", "dog", "ignored: cat"} <= set(written)
    assert "index 0, 2 boxes" in written
    assert "index 7, 1 box, 1 ignored, 3 did not fit" in written


def test_a_classification_batch_shows_class_names(monkeypatch):
    written = record_texts(monkeypatch)
    batch = Batch(image=np.zeros((3, 28, 28, 3), np.uint8), label=np.array([0, 2, -1]))
    picture = draw_batch(batch, CLASSES)
    assert picture.shape == (234 + 10, 3 * 210 + 10, 3)
    assert written == ["cell", "dog", "class -1?"]


def test_predictions_below_the_threshold_are_not_drawn(monkeypatch):
    written = record_texts(monkeypatch)
    boxes = np.array([[10, 20, 60, 60], [70, 20, 120, 80]])
    found = {"boxes": boxes, "scores": np.array([0.8, 0.2]), "labels": np.array([1, 2])}
    truth = {"boxes": boxes, "crowd": np.array([False, True])}
    picture = draw_predictions_grid([plain(100, 140)], [found], CLASSES, [truth])
    assert count(picture, class_color(1)) > 300 and count(picture, class_color(2)) == 0
    assert count(picture, GREY) > 1000
    assert written == ["cat 0.80", "1 found, 1 true"]


def test_predicted_boxes_lie_on_their_objects_in_images_of_two_sizes():
    one = lambda box, label: {  # noqa: E731
        "boxes": np.array([box]), "scores": np.array([0.9]), "labels": np.array([label])
    }  # fmt: skip
    found = [one([20, 30, 60, 80], 1), one([20, 50, 80, 150], 2)]
    picture = draw_predictions_grid([plain(100, 140), plain(210, 105)], found, CLASSES, columns=2)
    # Enlarged to 300 x 420 and to 420 x 210: three times and twice. Tiles begin 10 and 440 pixels
    # from the left and end 430 from the top; the first image is the lower by 120.
    assert picture.shape == (464, 870, 3)
    for label, x0, y0, x1, y1 in (
        (1, 10 + 3 * 20, 130 + 3 * 30, 10 + 3 * 60, 130 + 3 * 80),
        (2, 440 + 2 * 20, 10 + 2 * 50, 440 + 2 * 80, 10 + 2 * 150),
    ):
        x, y = (x0 + x1) // 2, (y0 + y1) // 2
        for at in ((y, x0), (y, x1 - 1), (y0, x1 - 9), (y1 - 1, x)):
            assert tuple(picture[at].tolist()) == class_color(label), (label, at)
        rows, columns = np.nonzero((picture == class_color(label)).all(-1))
        beside = (columns < x0 - 3) | (columns > x1 + 3) | (rows > y1 + 3)
        assert not beside.any()  # above is the chip with its name


def test_captions_of_right_and_wrong_classes_differ_in_colour(monkeypatch):
    written = record_texts(monkeypatch)
    found = {"labels": np.array([1, 0]), "scores": np.array([0.75, 0.25])}
    images = [plain(50, 30), plain(30, 50)]
    picture = draw_predictions_grid(images, [found, found], CLASSES, [1, 2])
    assert written == ["cat 0.75", "cat 0.75 (labelled dog)"]
    left, right = picture[-34:, :210], picture[-34:, 210:]
    assert count(left, CORRECT, 60) > 10 and count(left, WRONG, 60) == 0
    assert count(right, WRONG, 60) > 10 and count(right, CORRECT, 60) == 0


def test_doubted_boxes_of_examples_are_dashed_in_red(monkeypatch):
    written = record_texts(monkeypatch)
    boxes = np.array([[10, 10, 40, 40], [50, 50, 90, 90], [np.nan, 0, 1, 1], [5, 60, 20, 80]])
    example = {
        "name": "train: a.jpg",
        "boxes": boxes,
        "labels": np.array([1, 1, 2, 2]),
        "crowd": np.array([False, False, False, True]),
        "doubted": np.array([False, True, True, False]),
    }
    picture = draw_examples([plain(100, 100)], [example], CLASSES)
    assert sorted(written) == ["cat", "cat ?", "ignored: dog", "train: a.jpg, 4 boxes, 2 in doubt"]
    sure = draw_examples([plain(100, 100)], [example | {"doubted": np.zeros(4, bool)}], CLASSES)
    assert count(picture, WRONG) > 300 and count(sure, WRONG) == 0


def test_examples_of_classification_show_class_names(monkeypatch):
    written = record_texts(monkeypatch)
    examples = [{"name": "train: a.jpg", "label": 2}, {"name": "b.jpg", "label": 0}]
    draw_examples([plain(30, 40), plain(10, 10)], examples, CLASSES)
    assert written == ["dog, train: a.jpg", "cell, b.jpg"]


def matched(n=3, m=3):
    """An image with the first `n` detections and `m` objects."""
    return MatchedImage(
        image=plain(300, 400),
        boxes=np.array([[20, 150, 100, 250], [150, 150, 250, 250], [300, 20, 380, 80]])[:n],
        labels=np.array([0, 1, 2])[:n],
        scores=np.array([0.9, 0.8, 0.7])[:n],
        correct=np.array([True, False, False])[:n],
        ignored=np.array([False, False, True])[:n],
        objects=np.array([[22, 152, 102, 252], [300, 150, 380, 250], [290, 10, 390, 90]])[:m],
        object_labels=np.array([0, 1, 2])[:m],
        crowd=np.array([False, False, True])[:m],
        missed=np.array([False, True, False])[:m],
        caption="a.png",
    )


def test_right_wrong_and_missed_have_their_colours():
    picture = draw_matched_grid([matched()], CLASSES, "The worst")
    image = picture[-24 - 10 - 315 : -24 - 10]  # without heading and caption
    assert image.shape[0] == 315 and picture.shape[1] == 440
    at = lambda x, y: tuple(image[round(y * 1.05), 10 + round(x * 1.05)].tolist())  # noqa: E731
    for (x, y), color in (
        ((20, 200), CORRECT),
        ((150, 200), WRONG),
        ((300, 200), MISSED),
        ((300, 50), GREY),
    ):
        near = {at(x + i, y) for i in (0, 1, 2, 3)}
        assert color in near, (x, near)
    assert count(image, (255, 255, 255)) > 100  # the dashes
    for color in (CORRECT, WRONG):
        assert count(picture[:-350], color, 12) > 30  # the words of the heading
    empty = draw_matched_grid([matched(0, 0)], CLASSES, "The worst")
    assert empty.shape == picture.shape
    for color in (CORRECT, WRONG, MISSED):
        assert count(empty[-350:], color) == 0


def test_a_grid_of_no_matched_images():
    picture = draw_matched_grid([], CLASSES, "The worst of 0 images")
    assert picture.shape[1] == 420 and picture.dtype == np.uint8


@pytest.mark.parametrize(
    ("threshold", "texts"),
    [(0.25, ["cat 0.50", "dog 0.25", "2 found"]), (0.5, ["cat 0.50", "1 found"])],
)
def test_a_score_that_equals_the_threshold_is_drawn(monkeypatch, threshold, texts):
    written = record_texts(monkeypatch)
    boxes = np.array([[10, 20, 60, 60], [70, 20, 120, 80]])
    found = {"boxes": boxes, "scores": np.array([0.5, 0.25]), "labels": np.array([1, 2])}
    draw_predictions_grid([plain(100, 140)], [found], CLASSES, threshold=threshold)
    assert sorted(written) == sorted(texts)


def test_the_columns_of_a_batch_can_be_given():
    batch = Batch(**batch_arrays(6))
    tile, line = 430, 454
    shape = (2 * line + 10, 2 * tile + 10, 3)  # 2 rows of 2: the first 4 of 6 images
    assert draw_batch(batch, CLASSES, rows=2, columns=2).shape == shape


def test_matched_images_have_names_scores_and_a_caption(monkeypatch):
    written = record_texts(monkeypatch)
    draw_matched_grid([matched()], CLASSES, "The worst")
    texts = ["cell 0.90", "cat 0.80", "dog 0.70", "missed cat"]
    assert sorted(written[:4]) == sorted(texts) and "a.png" in written


def test_class_names_and_file_names_without_a_font_are_in_latin(monkeypatch, use_fonts):
    use_fonts(opencv=False)
    written, classes = record_texts(monkeypatch), ["猫", "毛"]
    found = {"labels": np.array([1]), "scores": np.array([0.5])}
    draw_predictions_grid([plain(30, 30)], [found], classes, [1])
    draw_batch(Batch(image=np.zeros((1, 28, 28, 3), np.uint8), label=np.array([0])), classes)
    draw_examples([plain(30, 30)], [{"name": "猫.jpg", "label": 1}], classes)
    assert written[:2] == ["Mao #1 0.50", "Mao #0"]
    draw_matched_grid([matched()], [*classes, "dog"], "The worst")
    assert {"Mao #0 0.90", "Mao #1 0.80", "dog 0.70", "missed Mao #1"} <= set(written)
