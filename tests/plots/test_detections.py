"""Boxes on an image: the right position and colour, legible, and nothing outside the image."""

import numpy as np
import pytest
from pictures import count, plain

from convmesh.plots import detections
from convmesh.plots.chips import DEFAULT_TEXT_SCALE, overlap_area
from convmesh.plots.colors import DARK, WHITE, class_color
from convmesh.plots.detections import draw_detections, draw_on_frame


def test_large_images_keep_their_size_and_the_original_is_not_touched():
    image = plain(600, 800)
    picture = draw_detections(image, [[100, 100, 300, 300]], ["cat"], [0.9], labels=[1])
    assert picture.shape == image.shape and picture.dtype == np.uint8
    assert (image == 128).all() and count(picture, class_color(1)) > 800


@pytest.mark.parametrize(
    ("size", "drawn"),
    [((224, 224), (480, 480)), ((168, 224), (480, 640)), ((10, 100), (160, 1600))],
)
def test_small_images_are_enlarged_until_text_is_legible(size, drawn):
    assert draw_detections(plain(*size), np.zeros((0, 4)), []).shape[:2] == drawn


def test_a_frame_keeps_its_size_and_the_original_is_not_touched():
    frame = plain(120, 160)
    picture = draw_on_frame(frame, [[20, 40, 100, 110]], ["cat"], [0.9], labels=[1])
    assert picture.shape == frame.shape and (frame == 128).all()
    assert (picture[75, 20] == class_color(1)).all() and (picture[75, 60] == 128).all()


def test_the_outline_lies_on_the_box_of_the_enlarged_image():
    picture = draw_detections(plain(240, 240), [[60, 100, 180, 220]], ["cat"], labels=[1])
    line = np.array(class_color(1))
    for x, y in ((120, 300), (359, 300), (240, 200), (240, 439)):
        assert (picture[y, x] == line).all()
    assert (picture[320, 240] == 128).all()  # the inside stays as it was
    assert (picture[320, 100] == 128).all() and (picture[460, 240] == 128).all()


@pytest.mark.parametrize(("label", "ink"), [(6, DARK), (4, WHITE)])
def test_text_stands_out_from_its_chip(label, ink):
    picture = draw_detections(plain(480, 480), [[50, 50, 400, 400]], ["cat"], labels=[label])
    chip = picture[30:48, 50:80]
    assert count(chip, class_color(label)) > 100
    other = DARK if ink is WHITE else WHITE
    assert count(chip, ink, 60) > 5 and count(chip, other, 60) == 0


def test_a_score_makes_the_chip_wider():
    boxes = [[50, 50, 400, 400]]
    with_score = draw_detections(plain(480, 480), boxes, ["cat"], [0.87], labels=[1])
    without = draw_detections(plain(480, 480), boxes, ["cat"], labels=[1])
    assert count(with_score[25:48], class_color(1)) > count(without[25:48], class_color(1))


def test_boxes_at_and_beyond_the_edge_stay_in_the_picture():
    boxes = [[-50, -80, 1000, 900], [700, 700, 900, 900], [470, -20, 600, 20], [9, 9, 9, 9]]
    picture = draw_detections(plain(480, 480), boxes, ["a"] * 4, [0.4] * 4, labels=[0, 1, 2, 3])
    assert picture.shape == (480, 480, 3)
    for label in range(4):
        assert count(picture, class_color(label)) > 20
    assert count(picture[:5], class_color(0)) > 300  # all of the line, not half of it


def random_boxes(height, width, n):
    """(boxes, names, scores) of `n` objects."""
    rng = np.random.default_rng(n)
    size = rng.uniform(0.05, 0.2, (n, 2)) * (width, height)
    corner = rng.uniform(0, 0.8, (n, 2)) * (width, height)
    names = [("potted plant", "car", "teddy bear")[i % 3] for i in range(n)]
    return np.concatenate([corner, corner + size], 1), names, rng.uniform(0.3, 1, n)


@pytest.fixture
def chips(monkeypatch):
    """(rectangle, scale of the font) of each chip that is drawn."""
    drawn = []

    def record(canvas, rectangle, chip, color):
        drawn.append((rectangle, chip.scale))

    monkeypatch.setattr(detections, "draw_chip", record)
    return drawn


@pytest.mark.parametrize("size", [(100, 100), (480, 640), (1500, 2000)], ids=str)
@pytest.mark.parametrize("n", [1, 10, 80])
def test_every_chip_is_legible_and_inside_at_any_size(chips, size, n):
    height, width = draw_detections(plain(*size), *random_boxes(*size, n)).shape[:2]
    rectangles = np.array([rectangle for rectangle, _ in chips])
    assert len(rectangles) == n and min(scale for _, scale in chips) >= DEFAULT_TEXT_SCALE
    assert (
        rectangles.min() >= 0
        and rectangles[:, 2].max() <= width
        and rectangles[:, 3].max() <= height
    )
    area = ((rectangles[:, 2] - rectangles[:, 0]) * (rectangles[:, 3] - rectangles[:, 1])).sum()
    hidden = sum(overlap_area(one, rectangles[:i]) for i, one in enumerate(rectangles))
    assert area < 0.2 * height * width and hidden < 0.03 * area


def test_lines_and_text_grow_with_the_picture(chips):
    scales, lines = [], []
    for side in (600, 3000):
        picture = draw_detections(
            plain(side, side), [[side // 4, 9, side, side]], ["a"], labels=[1]
        )
        scales.append(chips[-1][1])
        lines.append(count(picture[side // 2 : side // 2 + 1], class_color(1)))
    assert scales[1] > 4 * scales[0] and lines[1] > 3 * lines[0] > 0


def test_the_best_score_is_on_top():
    boxes = [[100, 100, 400, 400]] * 2
    for scores, top in (([0.9, 0.2], 1), ([0.2, 0.9], 2)):
        picture = draw_detections(plain(500, 500), boxes, ["a", "b"], scores, labels=[1, 2])
        assert tuple(picture[250, 100]) == class_color(top)


def test_truth_is_dashed_white_under_the_detections():
    truth = np.array([[100, 100, 300, 300]])
    picture = draw_detections(plain(480, 480), np.zeros((0, 4)), [], truth_boxes=truth)
    edge = picture[100, 100:300]
    white = count(edge[None], WHITE)
    assert 90 < white < 180 and white + count(edge[None], DARK) == 200
    covered = draw_detections(plain(480, 480), truth, ["cat"], [0.5], labels=[1], truth_boxes=truth)
    assert tuple(covered[200, 100]) == class_color(1)


def test_truth_is_enlarged_with_the_image():
    # 120 pixels become 480: the upper edge is in row 25 * 4, from 25 * 4 to 75 * 4.
    truth = np.array([[25, 25, 75, 75]])
    picture = draw_detections(plain(120, 120), np.zeros((0, 4)), [], truth_boxes=truth)
    assert picture.shape == (480, 480, 3)
    edge = picture[100:101, 100:300]
    white = count(edge, WHITE)
    assert 90 < white < 180 and white + count(edge, DARK) == 200


def test_without_class_ids_the_name_chooses_the_colour():
    def colors_of(names):
        boxes = [[50, 60 + 150 * i, 400, 160 + 150 * i] for i in range(len(names))]
        picture = draw_detections(plain(600, 600), boxes, names)
        return [tuple(picture[110 + 150 * i, 50]) for i in range(len(names))]

    one, two, three = colors_of(["cat", "dog", "cat"])
    assert one == three != two
    assert colors_of(["dog"]) == [two]


@pytest.mark.parametrize(
    ("image", "boxes", "names", "scores", "message"),
    [
        (np.zeros((9, 9, 3), np.float32), [], [], None, "not an RGB image"),
        (np.zeros((9, 9), np.uint8), [], [], None, "not an RGB image"),
        (plain(9, 9), [[0, 0, np.nan, 5]], ["a"], None, "not finite"),
        (plain(9, 9), [[0, 0, 5, 5]], [], None, "1 boxes, 0 names"),
        (plain(9, 9), [[0, 0, 5, 5]], ["a"], [], "1 boxes, 1 names"),
    ],
)
def test_wrong_images_boxes_and_lengths_are_refused(image, boxes, names, scores, message):
    with pytest.raises(ValueError, match=message):
        draw_detections(image, boxes, names, scores)


def test_a_class_id_without_a_name_is_shown_as_such():
    names = [detections.class_name(("cat", "dog"), label) for label in (0, 1, 2, -1)]
    assert names == ["cat", "dog", "class 2?", "class -1?"]


def drawn_texts(monkeypatch, names, labels):
    texts = []
    monkeypatch.setattr(
        detections, "draw_boxes", lambda canvas, boxes, these, *_: texts.extend(these)
    )
    draw_detections(plain(90, 90), [[9, 9, 50, 50]] * len(names), names, labels=labels)
    return texts


def test_names_without_a_font_carry_their_class_id(monkeypatch, use_fonts):
    use_fonts(opencv=False)
    names = ["猫", "cat", "毛", "猫"]
    assert drawn_texts(monkeypatch, names, [5, 0, 9, 5]) == ["Mao #5", "cat", "Mao #9", "Mao #5"]
    assert drawn_texts(monkeypatch, names, None) == ["Mao #0", "cat", "Mao #2", "Mao #0"]
    use_fonts()
    assert drawn_texts(monkeypatch, names, [5, 0, 9, 5]) == names
