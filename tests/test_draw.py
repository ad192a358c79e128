"""Pictures: the right place, the right colour, legible, and nothing outside the image."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from convmesh import draw
from convmesh.draw import (
    class_color,
    draw_batch,
    draw_detections,
    draw_examples,
    draw_judged_grid,
    draw_predictions_grid,
    save_png,
)

CLASSES = ("cell", "cat", "dog")


def plain(height, width, value=128):
    return np.full((height, width, 3), value, np.uint8)


def count(picture, color, tolerance=0):
    """Pixels of that colour. Letters are soft at their edges, so text needs a tolerance."""
    apart = np.abs(picture.astype(int) - np.array(color)).max(axis=-1)
    return int((apart <= tolerance).sum())


def test_class_colours_are_stable_and_distinct():
    colors = [class_color(i) for i in range(90)]
    assert len(set(colors)) == 90
    assert class_color(3) == colors[3] and class_color(50) == colors[50]


# Linear RGB as eyes without one of the three kinds of cones see it (Machado et al. 2009).
EYES = {
    "all cones": np.eye(3),
    "no red": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no green": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no blue": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.mark.parametrize("eyes", EYES)
def test_the_first_ten_colours_are_told_apart_by_any_eyes(eyes):
    part = np.array([class_color(i) for i in range(10)]) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(EYES[eyes]).T, 0, 1).astype(np.float32)
    srgb = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = cv2.cvtColor(srgb[None].astype(np.float32), cv2.COLOR_RGB2Lab)[0]
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1e9 * np.eye(10)
    assert apart.min() > 20


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


def test_the_outline_lies_on_the_box_of_the_enlarged_image():
    picture = draw_detections(plain(240, 240), [[60, 100, 180, 220]], ["cat"], labels=[1])
    line = np.array(class_color(1))
    for x, y in ((120, 300), (359, 300), (240, 200), (240, 439)):
        assert (picture[y, x] == line).all()
    assert (picture[320, 240] == 128).all()  # the inside stays as it was
    assert (picture[320, 100] == 128).all() and (picture[460, 240] == 128).all()


@pytest.mark.parametrize(("label", "ink"), [(6, draw.DARK), (4, draw.WHITE)])
def test_text_stands_out_from_its_chip(label, ink):
    picture = draw_detections(plain(480, 480), [[50, 50, 400, 400]], ["cat"], labels=[label])
    chip = picture[30:48, 50:80]
    assert count(chip, class_color(label)) > 100
    other = draw.DARK if ink is draw.WHITE else draw.WHITE
    assert count(chip, ink, 60) > 5 and count(chip, other, 60) == 0


def test_scores_are_written_with_two_digits():
    assert draw._chip_texts(["cat"], [0.8666]) == ["cat 0.87"]
    assert draw._chip_texts(["cat"], None) == ["cat"]
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
    assert count(picture[:5], class_color(0)) > 300  # the whole line, not half of it


def test_chips_lie_inside_and_apart_where_there_is_room():
    canvas = plain(480, 640)
    rng = np.random.default_rng(0)
    taken = np.zeros((0, 4))
    for _ in range(12):
        x, y = rng.uniform(-50, 640), rng.uniform(-50, 480)
        corners = draw._inside(canvas, (x, y, x + 80, y + 80), 2)
        text, scale, size = draw._chip(canvas, "cell 0.50")
        place = draw._place(canvas, corners, size, taken, 2)
        assert 0 <= place[0] < place[2] <= 640 and 0 <= place[1] < place[3] <= 480
        assert (place[2] - place[0], place[3] - place[1]) == size
        assert draw._text_size(text, scale)[0] < size[0]
        taken = np.concatenate([taken, [place]])
    corners = draw._inside(canvas, (200, 200, 400, 400), 2)
    first = draw._place(canvas, corners, size, np.zeros((0, 4)), 2)
    second = draw._place(canvas, corners, size, np.array([first]), 2)
    assert draw._overlap(second, np.array([first])) == 0


def crowd(height, width, n):
    """(boxes, names, scores) of `n` objects anywhere."""
    rng = np.random.default_rng(n)
    size = rng.uniform(0.05, 0.2, (n, 2)) * (width, height)
    corner = rng.uniform(0, 0.8, (n, 2)) * (width, height)
    names = [("potted plant", "car", "teddy bear")[i % 3] for i in range(n)]
    return np.concatenate([corner, corner + size], 1), names, rng.uniform(0.3, 1, n)


@pytest.fixture
def chips(monkeypatch):
    """Each chip that is drawn: its place and the scale of its font."""
    drawn = []

    def note(canvas, place, text, scale, color):
        drawn.append((place, scale))

    monkeypatch.setattr(draw, "_draw_chip", note)
    return drawn


@pytest.mark.parametrize("size", [(100, 100), (480, 640), (1500, 2000)], ids=str)
@pytest.mark.parametrize("n", [1, 10, 80])
def test_every_name_is_legible_and_inside_at_any_size(chips, size, n):
    height, width = draw_detections(plain(*size), *crowd(*size, n)).shape[:2]
    places = np.array([place for place, _ in chips])
    assert len(places) == n and min(scale for _, scale in chips) >= draw.USUAL_TEXT
    assert places.min() >= 0 and places[:, 2].max() <= width and places[:, 3].max() <= height
    area = ((places[:, 2] - places[:, 0]) * (places[:, 3] - places[:, 1])).sum()
    hidden = sum(draw._overlap(place, places[:i]) for i, place in enumerate(places))
    assert area < 0.2 * height * width and hidden < 0.03 * area


def test_line_and_lettering_grow_with_the_picture(chips):
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


def test_a_name_too_long_gets_smaller_then_shorter_but_keeps_its_score():
    canvas = plain(480, 480)
    whole, full = "a name", draw._text_scale(canvas)
    while draw._text_size(whole, full)[0] <= 480:
        whole += " of many words"
    text, scale, size = draw._chip(canvas, whole)
    assert text == whole and scale < full and size[0] <= 480
    text, _, size = draw._chip(canvas, "x" * 300 + " 0.87")
    assert text.startswith("xxx") and text.endswith("... 0.87") and size[0] <= 480
    assert draw._chip(plain(6, 480), "cat") is None


def test_truth_is_dashed_white_under_the_detections():
    truth = np.array([[100, 100, 300, 300]])
    picture = draw_detections(plain(480, 480), np.zeros((0, 4)), [], truth_boxes=truth)
    edge = picture[100, 100:300]
    white = count(edge[None], draw.WHITE)
    assert 90 < white < 180 and white + count(edge[None], draw.DARK) == 200
    covered = draw_detections(plain(480, 480), truth, ["cat"], [0.5], labels=[1], truth_boxes=truth)
    assert tuple(covered[200, 100]) == class_color(1)


def test_without_class_ids_the_name_gives_the_colour():
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
def test_what_cannot_be_drawn_is_refused(image, boxes, names, scores, message):
    with pytest.raises(ValueError, match=message):
        draw_detections(image, boxes, names, scores)


def detection_batch(size=6):
    boxes = np.zeros((size, 5, 4), np.float32)
    boxes[:, 0] = [20, 40, 80, 100]
    boxes[:, 1] = [60, 110, 130, 130]
    valid = np.zeros((size, 5), bool)
    valid[:, :2] = True
    return {
        "image": np.full((size, 140, 140, 3), 128, np.uint8),
        "index": np.arange(size),
        "present": np.ones(size, bool),
        "boxes": boxes,
        "labels": np.tile(np.array([1, 2, 0, 0, 0], np.int32), (size, 1)),
        "valid": valid,
        "crowd": np.zeros((size, 5), bool),
        "truncated": np.zeros(size, np.int32),
    }


def test_a_batch_shows_the_valid_boxes_of_each_image():
    picture = draw_batch(detection_batch(1), CLASSES)
    assert count(picture, class_color(1)) > 400 and count(picture, class_color(2)) > 400
    assert count(picture, class_color(0)) == 0  # padding has label 0
    # The tile begins 10 pixels in and is enlarged from 140 to 420.
    assert tuple(picture[10 + 3 * 70, 10 + 3 * 20]) == class_color(1)


def test_ignored_boxes_of_a_batch_are_hatched_in_grey():
    batch = detection_batch(1)
    batch["crowd"][0, 0] = True
    picture = draw_batch(batch, CLASSES)
    assert count(picture, class_color(1)) == 0 and count(picture, class_color(2)) > 400
    inside = picture[10 + 3 * 45 : 10 + 3 * 95, 10 + 3 * 25 : 10 + 3 * 75]
    assert 0.1 < count(inside, draw.GREY) / inside[..., 0].size < 0.6


def test_padding_images_are_left_out_and_rows_limit_the_rest():
    batch = detection_batch(6)
    tile, line = 430, 454
    assert draw_batch(batch, CLASSES).shape == (2 * line + 10, 4 * tile + 10, 3)
    assert draw_batch(batch, CLASSES, rows=1).shape == (line + 10, 4 * tile + 10, 3)
    batch["present"][2:] = False
    assert draw_batch(batch, CLASSES).shape == (line + 10, 2 * tile + 10, 3)
    batch["present"][:] = False
    assert draw_batch(batch, CLASSES).ndim == 3


def captions(monkeypatch):
    """The texts written while drawing."""
    written, put = [], draw._put_text

    def record(canvas, text, *rest):
        written.append(text)
        put(canvas, text, *rest)

    monkeypatch.setattr(draw, "_put_text", record)
    return written


def test_the_line_under_an_image_counts_its_boxes(monkeypatch):
    written = captions(monkeypatch)
    batch = detection_batch(2)
    batch["index"][1], batch["crowd"][1, 0], batch["truncated"][1] = 7, True, 3
    draw_batch(batch, CLASSES)
    assert {"cat", "dog", "ignored: cat"} <= set(written)
    assert "index 0, 2 boxes" in written
    assert "index 7, 1 box, 1 ignored, 3 did not fit" in written


def test_a_classification_batch_shows_the_names(monkeypatch):
    written = captions(monkeypatch)
    batch = {"image": np.zeros((3, 28, 28, 3), np.uint8), "label": np.array([0, 2, -1])}
    picture = draw_batch(batch, CLASSES)
    assert picture.shape == (234 + 10, 3 * 210 + 10, 3)
    assert written == ["cell", "dog", "class -1?"]


def test_predictions_below_the_threshold_are_not_drawn(monkeypatch):
    written = captions(monkeypatch)
    boxes = np.array([[10, 20, 60, 60], [70, 20, 120, 80]])
    found = {"boxes": boxes, "scores": np.array([0.8, 0.2]), "labels": np.array([1, 2])}
    truth = {"boxes": boxes, "crowd": np.array([False, True])}
    picture = draw_predictions_grid([plain(100, 140)], [found], CLASSES, [truth])
    assert count(picture, class_color(1)) > 300 and count(picture, class_color(2)) == 0
    assert count(picture, draw.GREY) > 1000
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


def test_right_and_wrong_classes_are_told_apart(monkeypatch):
    written = captions(monkeypatch)
    found = {"labels": np.array([1, 0]), "scores": np.array([0.75, 0.25])}
    images = [plain(50, 30), plain(30, 50)]
    picture = draw_predictions_grid(images, [found, found], CLASSES, [1, 2])
    assert written == ["cat 0.75", "cat 0.75 (is dog)"]
    left, right = picture[-34:, :210], picture[-34:, 210:]
    assert count(left, draw.RIGHT, 60) > 10 and count(left, draw.WRONG, 60) == 0
    assert count(right, draw.WRONG, 60) > 10 and count(right, draw.RIGHT, 60) == 0


def test_examples_show_what_is_doubted_in_red_dashes(monkeypatch):
    written = captions(monkeypatch)
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
    assert count(picture, draw.WRONG) > 300 and count(sure, draw.WRONG) == 0


def test_examples_of_classes_show_their_names(monkeypatch):
    written = captions(monkeypatch)
    examples = [{"name": "train: a.jpg", "label": 2}, {"name": "b.jpg", "label": 0}]
    draw_examples([plain(30, 40), plain(10, 10)], examples, CLASSES)
    assert written == ["dog, train: a.jpg", "cell, b.jpg"]


def test_right_wrong_and_missed_have_their_colours():
    found = {
        "boxes": np.array([[20, 150, 100, 250], [150, 150, 250, 250], [300, 20, 380, 80]]),
        "labels": np.array([0, 1, 2]),
        "scores": np.array([0.9, 0.8, 0.7]),
        "right": np.array([True, False, False]),
        "ignored": np.array([False, False, True]),
    }
    truth = {
        "boxes": np.array([[22, 152, 102, 252], [300, 150, 380, 250], [290, 10, 390, 90]]),
        "labels": np.array([0, 1, 2]),
        "crowd": np.array([False, False, True]),
        "missed": np.array([False, True, False]),
    }
    draw_one = lambda found, truth: draw_judged_grid(  # noqa: E731
        [plain(300, 400)], [found], [truth], CLASSES, ["a.png"], "The worst"
    )
    picture = draw_one(found, truth)
    image = picture[-24 - 10 - 315 : -24 - 10]  # without heading and caption
    assert image.shape[0] == 315 and picture.shape[1] == 440
    at = lambda x, y: tuple(image[round(y * 1.05), 10 + round(x * 1.05)].tolist())  # noqa: E731
    for (x, y), color in (
        ((20, 200), draw.RIGHT),
        ((150, 200), draw.WRONG),
        ((300, 200), draw.MISSED),
        ((300, 50), draw.GREY),
    ):
        near = {at(x + i, y) for i in (0, 1, 2, 3)}
        assert color in near, (x, near)
    assert count(image, (255, 255, 255)) > 100  # the dashes
    for color in (draw.RIGHT, draw.WRONG):
        assert count(picture[:-350], color, 12) > 30  # the words of the heading
    nothing = {name: value[:0] for name, value in found.items()}
    empty = draw_one(nothing, {name: value[:0] for name, value in truth.items()})
    assert empty.shape == picture.shape
    for color in (draw.RIGHT, draw.WRONG, draw.MISSED):
        assert count(empty[-350:], color) == 0


def test_no_image_to_judge():
    picture = draw_judged_grid([], [], [], CLASSES, [], "The worst of 0 images")
    assert picture.shape[1] == 420 and picture.dtype == np.uint8


def test_png_keeps_the_colours(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    save_png(image, tmp_path / "new" / "a.png")
    back = cv2.imread(str(tmp_path / "new" / "a.png"))[:, :, ::-1]
    np.testing.assert_array_equal(back, image)
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = (
        "import sys, convmesh.draw_curves, convmesh.report, convmesh.tasks.average_precision;"
        "print([m for m in ('matplotlib', 'tensorboardX', 'tqdm', 'faster_coco_eval')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
