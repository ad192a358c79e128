"""Prediction: images of any size in, boxes in their own pixels out; files and pictures."""

import json

import cv2
import numpy as np
import pytest
import runs
from PIL import Image

from convmesh import Classifier, Detector
from convmesh.cli import command_line
from convmesh.config import defaults, to_json
from convmesh.data.digit_scenes import scenes
from convmesh.errors import ConfigError, DataError
from convmesh.inference.options import PredictOptions
from convmesh.inference.prediction import predict_files
from convmesh.plots.detections import draw_detections

pytestmark = pytest.mark.usefixtures("tiny_net")
NUMBERS = ("scores", "box_confidence", "class_confidence")


@pytest.fixture(scope="module")
def detector(scene_run):
    return Detector.load(scene_run)


@pytest.fixture(scope="module")
def any_box(scene_run):
    """The detector without a score threshold."""
    return Detector.load(scene_run, score_threshold=0.0)


@pytest.fixture(scope="module")
def classifier(photo_run):
    return Classifier.load(photo_run)


def scene(index):
    """(image, boxes, names) of a scene that the detector was trained on."""
    image, boxes, labels, _ = scenes.compose(0, "train", index)
    return image, np.asarray(boxes, np.float32), [str(label) for label in labels]


CROWDED = 3  # eight digits


def noise(height, width):
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[..., ::-1])
    return path


def same_detections(ours, theirs, atol=1e-3):
    assert ours["classes"] == theirs["classes"]
    np.testing.assert_allclose(ours["boxes"], theirs["boxes"], atol=50 * atol)
    for name in NUMBERS:
        np.testing.assert_allclose(ours[name], theirs[name], atol=atol)


# --- the detector ---------------------------------------------------------------------------------


def assert_finds(found, boxes, names, tolerance):
    """These objects and no others, in any order, each side within `tolerance` pixels."""
    assert sorted(found["classes"]) == sorted(names)
    for box, name in zip(boxes, names, strict=True):
        off = np.abs(found["boxes"] - box).max(1)
        best = int(off.argmin())
        assert off[best] <= tolerance and found["classes"][best] == name


def test_training_objects_are_found_in_pixels_of_the_image(detector):
    image, boxes, names = scene(0)
    [found] = detector([image])
    assert_finds(found, boxes, names, tolerance=4)
    # Three times as large: the same objects, in that image's pixels.
    large = cv2.resize(image, None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST)
    [found] = detector([large])
    assert_finds(found, 3 * boxes, names, tolerance=12)


def test_an_image_that_is_not_square_keeps_its_aspect_ratio(detector):
    # The middle strip of a scene: in the input its pixels are where they were in training, with
    # grey at both sides.
    named = []
    for i in range(8):
        image, boxes, names = scene(i)
        [found] = detector([np.ascontiguousarray(image[:, 32:192])])
        inside = (boxes[:, 0] >= 32) & (boxes[:, 2] <= 192)
        for box, name in zip(boxes[inside] - (32, 0, 32, 0), np.array(names)[inside], strict=True):
            near = np.abs(found["boxes"] - box).max(1) <= 6
            named.append(name in np.array(found["classes"])[near])
    assert len(named) >= 15 and np.mean(named) > 0.6


@pytest.mark.parametrize("size", [(61, 47), (33, 500), (501, 97), (1, 1)], ids=str)
def test_boxes_are_inside_images_of_any_size(any_box, size):
    height, width = size
    [found] = any_box([noise(height, width)])
    n = len(found["classes"])
    assert 0 < n <= 100
    assert found["boxes"].shape == (n, 4) and found["boxes"].dtype == np.float32
    assert all(found[name].shape == (n,) for name in NUMBERS)
    x0, y0, x1, y1 = found["boxes"].T
    assert (0 <= x0).all() and (x0 <= x1).all() and (x1 <= width).all()
    assert (0 <= y0).all() and (y0 <= y1).all() and (y1 <= height).all()
    assert (np.diff(found["scores"]) <= 0).all()
    np.testing.assert_allclose(
        found["scores"] ** 2, found["box_confidence"] * found["class_confidence"], rtol=1e-4
    )
    assert set(found["classes"]) <= set("0123456789")
    assert [any_box.classes[i] for i in found["labels"]] == found["classes"]


def test_score_threshold_and_max_detections(scene_run, any_box):
    image, _, names = scene(CROWDED)
    [every] = any_box([image])
    sure = Detector.load(scene_run, score_threshold=0.5, max_detections=2)
    [found] = sure([image])
    assert len(found["classes"]) == 2 < len(names)
    assert (found["scores"] >= 0.5).all()
    np.testing.assert_allclose(found["scores"], every["scores"][:2], atol=1e-5)
    # More than the default number of candidates of suppression.
    many = Detector.load(scene_run, score_threshold=0.0, iou_threshold=1.0, max_detections=400)
    assert len(many([image])[0]["classes"]) == 400


def test_a_partial_batch_gives_the_detections_of_its_images_alone(detector):
    # 11 images, 8 at a time.
    pictures = [scene(i % 8)[0][: 224 - 3 * i, : 200 + i] for i in range(11)]
    found = detector(pictures)
    assert len(found) == 11
    for image, one in zip(pictures, found, strict=True):
        [alone] = detector([image])
        same_detections(one, alone)


def test_no_images(detector):
    assert detector([]) == []


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32)],
    ids=["grey", "alpha", "float"],
)
def test_other_arrays_than_uint8_rgb_are_refused(detector, image):
    with pytest.raises(ValueError, match="wanted uint8"):
        detector([image])
    with pytest.raises(ValueError, match="wanted uint8"):
        detector(noise(8, 8))  # one image that is not in a list


# --- the classifier -------------------------------------------------------------------------------


def test_classes_come_best_first_and_sum_to_one(classifier):
    images = [noise(20, 30), noise(300, 17), noise(16, 16)]
    for found in classifier(images):
        assert sorted(found["classes"]) == sorted(runs.CLASSES)
        assert (np.diff(found["probabilities"]) <= 0).all()
        assert found["probabilities"].sum() == pytest.approx(1, abs=1e-5)


def test_the_classifier_agrees_with_evaluation(classifier, photo_run, photos):
    rows = json.loads((photo_run / "eval/val/predictions.json").read_text())
    images = [cv2.imread(str(photos / row["file_name"]))[..., ::-1] for row in rows]
    for row, found in zip(rows, classifier(images), strict=True):
        assert [c["class"] for c in row["classes"]] == found["classes"]
        wanted = [c["probability"] for c in row["classes"]]
        assert found["probabilities"] == pytest.approx(wanted, abs=1e-5)


# --- loading --------------------------------------------------------------------------------------


def test_a_given_step(photo_run):
    image = noise(16, 16)
    four, newest = (Classifier.load(photo_run, step=step)([image])[0] for step in (4, None))
    assert not np.array_equal(four["probabilities"], newest["probabilities"])
    with pytest.raises(ConfigError, match="--step 5"):
        Classifier.load(photo_run, step=5)


def test_the_other_task_is_refused(photo_run, scene_run):
    with pytest.raises(ConfigError, match="task is classify; load it with Classifier"):
        Detector.load(photo_run)
    with pytest.raises(ConfigError, match="task is detect; load it with Detector"):
        Classifier.load(scene_run)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="config.json"):
        Detector.load(tmp_path)


# --- category ids of the training data ------------------------------------------------------------


class OneBee:
    """A fake detector that finds one bee in every image."""

    classes = ("ant", "bee")

    def __call__(self, images):
        one = {"boxes": np.array([[20, 10, 70, 50.0]]), "labels": np.array([1]), "classes": ["bee"]}
        return [one | {name: np.array([0.5]) for name in NUMBERS} for _ in images]


@pytest.fixture
def one_bee(tmp_path, monkeypatch):
    """The workdir of a detector that is `OneBee`."""
    monkeypatch.setattr(Detector, "load", lambda workdir, **options: OneBee())
    (tmp_path / "config.json").write_text(to_json(defaults("detect")))
    (tmp_path / "classes.json").write_text('["ant", "bee"]')


@pytest.mark.parametrize("ids, number", [("[7, 3]", 3), (None, None)])
def test_detections_have_the_category_ids_of_the_training_data(one_bee, tmp_path, ids, number):
    if ids:
        (tmp_path / "category_ids.json").write_text(ids)
    write(tmp_path / "a.png", noise(60, 80))
    ((entry),) = predict_files(tmp_path, [str(tmp_path / "a.png")], tmp_path / "out")
    (detection,) = entry["detections"]
    assert detection.get("category_id") == number and detection["class"] == "bee"


# --- convmesh predict -----------------------------------------------------------------------------


def entries(output):
    return json.loads((output / "predictions.json").read_text())


@pytest.fixture(scope="module")
def predicted(scene_run, tmp_path_factory):
    """(where the images are, what was returned, the output folder) of one call with text files."""
    root = tmp_path_factory.mktemp("predicted")
    write(root / "in/one/same.png", scene(0)[0])
    write(root / "in/two/same.png", noise(50, 81))
    write(root / "in/two/deep/SAME.bmp", noise(20, 20))
    (root / "in/two/notes.txt").write_text("no image")
    write(root / "more/a.png", noise(31, 31))
    given = [str(root / "in"), str(root / "more/*.png"), str(root / "in/one/same.png")]
    returned = predict_files(scene_run, given, root / "out", PredictOptions(save_txt=True))
    return root, returned, root / "out"


def test_files_folders_and_globs_each_image_once(predicted):
    root, returned, output = predicted
    found = entries(output)
    assert found == returned
    wanted = ("in/one/same.png", "in/two/deep/SAME.bmp", "in/two/same.png", "more/a.png")
    assert [entry["file"] for entry in found] == [str(root / name) for name in wanted]
    sizes = [(entry["width"], entry["height"]) for entry in found]
    assert sizes == [(224, 224), (20, 20), (81, 50), (31, 31)]
    # Three inputs are called `same`: each entry names its own picture.
    pictures = [entry["picture"] for entry in found]
    assert pictures == ["same.png", "SAME_2.png", "same_3.png", "a.png"]
    drawn = [np.asarray(Image.open(output / entry["picture"])).shape[:2] for entry in found]
    assert drawn[2] != drawn[0]


def test_predictions_json_has_the_documented_keys(predicted):
    found = entries(predicted[2])
    for entry in found:
        assert set(entry) == {"file", "picture", "width", "height", "detections"}
    _, boxes, names = scene(0)
    detections = found[0]["detections"]
    assert sorted(d["class"] for d in detections) == sorted(names)
    for detection in detections:
        keys = {"box", "class", "score", "box_confidence", "class_confidence"}
        assert set(detection) == keys
        assert np.abs(boxes - detection["box"]).max(1).min() <= 4


def test_inputs_of_the_same_name_have_separate_pictures(predicted):
    output = predicted[2]
    pictures = sorted(path.name.lower() for path in output.glob("*.png"))
    assert len(pictures) == len(set(pictures)) == 4
    texts = {path.stem.lower() for path in output.glob("*.txt")}
    assert texts == {name.removesuffix(".png") for name in pictures}
    assert len(list(output.iterdir())) == 10  # and predictions.json, predictions.csv
    # The first is the scene, with something drawn on it.
    drawn = cv2.imread(str(output / "same.png"))[..., ::-1]
    plain = draw_detections(scene(0)[0], np.zeros((0, 4)), [])
    assert drawn.shape == plain.shape
    assert 0.01 < (drawn != plain).any(-1).mean() < 0.5


def test_lines_of_a_text_file(predicted):
    _, [entry, *_], output = predicted
    lines = (output / "same.txt").read_text().splitlines()
    assert len(lines) == len(entry["detections"]) > 0
    for line, detection in zip(lines, entry["detections"], strict=True):
        label, x, y, width, height, score = map(float, line.split())
        x0, y0, x1, y1 = detection["box"]
        assert str(int(label)) == detection["class"]
        middle = ((x0 + x1) / 2 / 224, (y0 + y1) / 2 / 224)
        assert (x, y) == pytest.approx(middle, abs=1e-5)
        assert (width, height) == pytest.approx(((x1 - x0) / 224, (y1 - y0) / 224), abs=1e-5)
        assert score == pytest.approx(detection["score"], abs=1e-5)


def test_a_line_holds_fractions_of_width_and_height(one_bee, tmp_path):
    write(tmp_path / "a.png", noise(100, 200))
    predict_files(
        tmp_path, [str(tmp_path / "a.png")], tmp_path / "out", PredictOptions(save_txt=True)
    )
    # From 20 to 70 of 200 columns and from 10 to 50 of 100 rows.
    line = "1 0.225000 0.300000 0.250000 0.400000 0.500000\n"
    assert (tmp_path / "out/a.txt").read_text() == line


@pytest.fixture
def call(scene_run, predicted, tmp_path):
    """The detections of the command with these flags on the scene of `predicted`, best first."""

    def run(*flags):
        paths = [str(predicted[0] / "in/one/same.png"), "--output", str(tmp_path / "out")]
        assert command_line.main(["predict", "--workdir", str(scene_run), *paths, *flags]) == 0
        [entry] = entries(tmp_path / "out")
        return entry["detections"]

    return run


def boxes_of(detections):
    return np.array([detection["box"] for detection in detections])


def most_overlap(boxes):
    """The largest IoU of two of these boxes [n, 4]."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    both = np.prod(np.maximum(high - low, 0), axis=-1)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1)
    either = area[:, None] + area[None, :] - both
    return np.triu(both / np.maximum(either, 1e-9), 1).max()


def test_the_threshold_flag_drops_lower_scores(call, predicted):
    usual = predicted[1][0]["detections"]  # at 0.3
    scores = [detection["score"] for detection in usual]
    between = (scores[0] + scores[-1]) / 2
    sure = sum(score > between for score in scores)
    assert 0 < sure < len(usual)
    found = call("--threshold", str(between))
    np.testing.assert_allclose(boxes_of(found), boxes_of(usual[:sure]), atol=0.05)


def test_the_max_detections_flag_keeps_the_best(call, predicted):
    usual = predicted[1][0]["detections"]
    assert len(usual) == 7
    found = call("--max-detections", "3")
    np.testing.assert_allclose(boxes_of(found), boxes_of(usual[:3]), atol=0.05)


def test_the_iou_flag_sets_the_overlap_of_suppression(call, predicted):
    # Two of the digits overlap: both are found at the model's 0.65, and not at 0.
    usual = boxes_of(predicted[1][0]["detections"])
    assert most_overlap(scene(0)[1]) > 0.1 and 0.1 < most_overlap(usual) <= 0.65
    found = boxes_of(call("--iou", "0"))
    assert 2 <= len(found) < len(usual) and most_overlap(found) == 0
    # At 1 nothing is suppressed: one object is found many times.
    assert most_overlap(boxes_of(call("--iou", "1", "--threshold", "0"))) > 0.8


def test_text_files_of_an_earlier_call_are_replaced_but_none_beside_the_images(scene_run, tmp_path):
    write(tmp_path / "a.jpg", noise(20, 20))
    for output in (tmp_path / "out", tmp_path):
        predict_files(scene_run, [str(tmp_path / "a.jpg")], output, PredictOptions(save_txt=True))
    (tmp_path / "out/a.txt").write_text("old")
    predict_files(
        scene_run, [str(tmp_path / "a.jpg")], tmp_path / "out", PredictOptions(save_txt=True)
    )
    assert (tmp_path / "out/a.txt").read_text() != "old"
    with pytest.raises(ConfigError, match="--save-txt would overwrite a.txt"):
        predict_files(scene_run, [str(tmp_path / "a.jpg")], tmp_path, PredictOptions(save_txt=True))


def test_a_classifiers_files(photo_run, photos, tmp_path):
    predict_files(photo_run, [str(photos / "val/red")], tmp_path / "out", PredictOptions(top_k=2))
    found = entries(tmp_path / "out")
    assert [entry["width"] for entry in found] == [24, 25, 26]
    for entry in found:
        assert set(entry) == {"file", "picture", "width", "height", "classes"}
        assert (tmp_path / "out" / entry["picture"]).stat().st_size > 0
        first, second = entry["classes"]
        assert set(first) == {"class", "probability"}
        assert first["probability"] >= second["probability"]
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"0.png", "1.png", "2.png", "predictions.json", "predictions.csv"}


def test_an_unreadable_file_is_named_and_the_others_are_written(
    photo_run, photos, tmp_path, capsys
):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    good = photos / "val/red/0.png"
    call = ["predict", "--workdir", str(photo_run), str(bad), str(good)]
    assert command_line.main([*call, "--output", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert f"1 of 2 files could not be read and were passed by:\n{bad}: not an image" in out
    assert [entry["file"] for entry in entries(tmp_path / "out")] == [str(good)]
    assert (tmp_path / "out/0.png").exists()


def test_a_folder_is_read_as_in_training(photo_run, photos, tmp_path, capsys):
    good = (photos / "val/red/0.png").read_bytes()
    names = ("in/a.png", "in/._a.png", "in/.hidden/b.png", "in/burst.png/c.png", "in/IMG.HEIC")
    for name in (*names, "there/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(good)
    (tmp_path / "in/link").symlink_to(tmp_path / "there")
    predict_files(photo_run, [str(tmp_path / "in")], tmp_path / "out")
    wanted = ["in/a.png", "in/burst.png/c.png", "in/link/d.png"]
    assert [e["file"] for e in entries(tmp_path / "out")] == [str(tmp_path / n) for n in wanted]
    out = capsys.readouterr().out
    assert "1 files passed by" in out and ".heic (1), such as " in out and "IMG.HEIC" in out


def test_an_error_if_no_file_can_be_read(photo_run, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match="none of the 1 files could be read: .*bad.jpg"):
        predict_files(photo_run, [str(tmp_path / "bad.jpg")], tmp_path / "out")


def test_every_unreadable_file_is_named_and_batches_keep_their_order(
    photo_run, photos, tmp_path, capsys
):
    for i in range(9):
        (tmp_path / f"in/{i}.png").parent.mkdir(exist_ok=True)
        good = (photos / f"val/red/{i % 3}.png").read_bytes()
        (tmp_path / f"in/{i}.png").write_bytes(b"no picture" if i % 2 else good)
    predict_files(photo_run, [str(tmp_path / "in")], tmp_path / "out", PredictOptions(batch_size=2))
    out = capsys.readouterr().out
    assert "4 of 9 files could not be read" in out
    assert all(f"{tmp_path / f'in/{i}.png'}: not an image" in out for i in (1, 3, 5, 7))
    found = entries(tmp_path / "out")
    assert [entry["file"][-5:] for entry in found] == [f"{i}.png" for i in (0, 2, 4, 6, 8)]
    # The photos differ in width: each entry is of its own picture.
    assert [entry["width"] for entry in found] == [24, 26, 25, 24, 26]


def test_photos_are_turned_upright(photo_run, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(noise(20, 40)).save(tmp_path / "photo.jpg", exif=exif)
    [entry] = predict_files(photo_run, [str(tmp_path / "photo.jpg")], tmp_path / "out")
    assert (entry["width"], entry["height"]) == (20, 40)


@pytest.mark.parametrize("path", ["not_there.png", "*.jpg", "empty"])
def test_a_path_without_images(photo_run, tmp_path, capsys, path):
    (tmp_path / "empty").mkdir()
    call = ["predict", "--workdir", str(photo_run), str(tmp_path / path)]
    assert command_line.main([*call, "--output", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert f"{tmp_path / path}: no image found" in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_workdir_without_checkpoint(photo_run, photos, tmp_path):
    for name in ("config.json", "classes.json"):
        (tmp_path / name).write_bytes((photo_run / name).read_bytes())
    with pytest.raises(DataError, match="no checkpoint yet"):
        predict_files(tmp_path, [str(photos)], tmp_path / "out")
    assert not (tmp_path / "out").exists()
