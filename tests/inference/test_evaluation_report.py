"""The files of an evaluation: they agree with each other, and show what was right and wrong."""

import errno
import json
import os
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from coco_oracle import found_on, image, random_case

from convmesh.data.record import BadExample, Record, Source
from convmesh.errors import DataError, RunError
from convmesh.inference import evaluation, evaluation_report
from convmesh.inference.evaluation import evaluate_variables
from convmesh.inference.split_predictions import SplitPredictions
from convmesh.tasks.classify import Classify
from convmesh.tasks.detect import Detect
from convmesh.workdir import layout
from convmesh.workdir.layout import EvaluationFiles
from convmesh.workdir.metrics import json_numbers

CLASSES = ("cell", "cat", "dog", "never seen")
PICTURE = np.zeros((48, 64, 3), np.uint8)
DETECTION_FILES = {
    *("metrics.json", "predictions.json", "predictions.png", "curves.json", "curves.png"),
    *("confusion.json", "confusion.png", "images.json", "worst.png", "best.png"),
}


class Images(Source):
    """A split in memory, of which every third image cannot be read when it is drawn."""

    classes, split = CLASSES, "val"

    def __init__(self, truth):
        self.truth = truth

    def __len__(self):
        return len(self.truth)

    def __getitem__(self, index):
        if index % 3 == 1:
            raise BadExample("gone")
        picture = np.full((48, 64, 3), index, np.uint8)
        return Record(picture, self.truth[index]["image_id"], self.name(index))

    def name(self, index):
        return self.truth[index]["file_name"]


def evaluated(monkeypatch, directory, truth, detections, source=None, logged=None):
    """Metrics and logged text of an evaluation with these results; its files are in `directory`."""
    for index, (one, found) in enumerate(zip(truth, detections, strict=True)):
        assert one["image_id"] == found["image_id"]
        one |= {"index": index, "file_name": f"{one['image_id']}.png"}
        found |= {"file_name": one["file_name"]}
        found |= {name: found["scores"] for name in ("box_confidence", "class_confidence")}
    results = SplitPredictions(truth, detections, unreadable=0)
    monkeypatch.setattr(evaluation, "predict_all", lambda *_: results)
    task = Detect(len(CLASSES), (64, 64))
    setup = SimpleNamespace(task=task, classes=CLASSES, config=SimpleNamespace(task="detect"))
    logged = [] if logged is None else logged
    source = source or Images(truth)
    files = EvaluationFiles(directory)
    metrics = evaluate_variables(setup, {}, source, files, logged.append)
    return metrics, "\n".join(logged)


def test_a_detectors_files_agree_with_each_other(monkeypatch, tmp_path):
    truth, detections = random_case(0, images=12, crowds=0.1)
    metrics, logged = evaluated(monkeypatch, tmp_path, truth, detections)
    assert {path.name for path in tmp_path.iterdir()} == DETECTION_FILES
    read = lambda name: json.loads((tmp_path / name).read_text())  # noqa: E731
    assert read("metrics.json") == json_numbers(metrics)
    assert f"F1 {metrics['F1']:.3f}" in logged and "AP is" not in logged

    curves, confusion, images = (read(f"{n}.json") for n in ("curves", "confusion", "images"))
    assert curves["best_threshold"] == metrics["best_threshold"]
    assert curves["best_F1"] == metrics["F1"]
    assert np.mean(curves["precision"]["mean"]) == pytest.approx(metrics["AP50"], abs=1e-5)
    assert (images["iou"], images["score"]) == (confusion["iou"], confusion["score"]) == (0.5, 0.25)
    assert [one["image_id"] for one in images["images"]] == [one["image_id"] for one in truth]
    table = np.array(confusion["rows_truth_columns_predicted"])
    assert confusion["names"] == [*CLASSES, "background"] and table.shape == (5, 5)
    total = lambda name: sum(one[name] for one in images["images"])  # noqa: E731
    objects = sum(int((~one["crowd"]).sum()) for one in truth)
    assert total("true_positives") + total("misses") == table[:-1].sum() == objects


def test_the_first_images_are_drawn_with_predictions_and_truth(monkeypatch, tmp_path):
    drawn = []

    def record(images, predictions, classes, truth):
        for one, predicted, true in zip(images, predictions, truth, strict=True):
            drawn.append((int(one[0, 0, 0]), len(predicted["boxes"]), len(true["boxes"])))
        return np.zeros((9, 9, 3), np.uint8)

    monkeypatch.setattr(evaluation_report, "draw_predictions_grid", record)
    truth = [image(i, [[10, 10, 30, 30]] * (i % 2), [0] * (i % 2)) for i in range(20)]
    boxes = [[10, 10, 30, 30], [11, 10, 30, 30]]  # that overlap
    detections = [found_on(i, boxes, [0, 1], [0.9, 0.8]) for i in range(20)]
    evaluated(monkeypatch, tmp_path, truth, detections)
    assert drawn == [(i, 1, i % 2) for i in range(16) if i % 3 != 1]


def test_a_classifiers_files(tmp_path):
    truth = [{"index": i, "image_id": i, "file_name": f"{i}.png", "label": i} for i in range(3)]
    scores = np.array([0.6, 0.3, 0.1, 0.0])
    order = [np.array([0, 1, 2, 3]), np.array([2, 1, 0, 3]), np.array([2, 1, 0, 3])]
    found = [
        {"labels": labels, "scores": scores, "image_id": i, "file_name": f"{i}.png"}
        for i, labels in enumerate(order)
    ]
    setup = SimpleNamespace(
        task=Classify(len(CLASSES), (64, 64)),
        classes=CLASSES,
        config=SimpleNamespace(task="classify"),
    )
    results = SplitPredictions(truth, found, unreadable=0)
    metrics = setup.task.metrics(truth, found, CLASSES)
    evaluation_report.write_report(
        EvaluationFiles(tmp_path), setup, Images(truth), results, metrics, []
    )
    assert {path.name for path in tmp_path.iterdir()} == {
        *("metrics.json", "predictions.json", "predictions.png", "classes.json", "worst.png"),
        *("confusion.json", "confusion.png", "calibration.json", "calibration.png"),
        *("mislabelled.json", "mislabelled.png"),
    }
    rows = json.loads((tmp_path / "predictions.json").read_text())
    assert [row["classes"][0]["class"] for row in rows] == ["cell", "dog", "dog"]
    assert json.loads((tmp_path / "metrics.json").read_text())["top1"] == pytest.approx(2 / 3)


def test_the_worst_and_the_best_images_are_drawn(monkeypatch, tmp_path):
    boxes = [[10, 10, 30, 30]]
    truth = [image(i, boxes, [0]) for i in range(8)]
    detections = [
        found_on(i, boxes if i < 4 else [], [0] * (i < 4), [0.9] * (i < 4)) for i in range(8)
    ]
    drawn = {}

    def record(images, classes, title):
        drawn[title.split()[1]] = [(int(one.image[0, 0, 0]), one.caption) for one in images]
        assert title.endswith("of 8 images by F1: IoU >= 0.5, score >= 0.25")
        return np.zeros((9, 9, 3), np.uint8)

    monkeypatch.setattr(evaluation_report, "draw_matched_grid", record)
    evaluated(monkeypatch, tmp_path, truth, detections)
    # Images 1, 4 and 7 cannot be read any more.
    missed, right = "F1 0.00: 0 right, 0 wrong, 1 missed", "F1 1.00: 1 right, 0 wrong, 0 missed"
    assert drawn["worst"] == [(5, f"{missed}   5.png"), (6, f"{missed}   6.png")]
    assert drawn["best"] == [(i, f"{right}   {i}.png") for i in (0, 2, 3)]
    assert cv2.imread(str(tmp_path / "worst.png")).shape == (9, 9, 3)


def test_an_ap_of_zero_is_explained(monkeypatch, tmp_path):
    directory = tmp_path / "eval" / "val"
    truth = [image(1, [[0, 0, 10, 10]], [0]), image(2)]
    metrics, logged = evaluated(monkeypatch, directory, truth, [found_on(1), found_on(2)])
    assert metrics["AP"] == 0 and "why_zero" not in metrics
    written = json.loads((directory / "metrics.json").read_text())
    assert "nothing was detected on 2 images" in written.pop("why_zero")[0]
    assert written == json_numbers(metrics)
    assert "nothing was detected on 2 images" in logged
    # A later evaluation with a better AP removes it.
    found = [found_on(1, [[0, 0, 10, 10]], [0], [0.5]), found_on(2)]
    evaluated(monkeypatch, directory, truth, found)
    assert "why_zero" not in json.loads((directory / "metrics.json").read_text())


def test_a_split_without_objects_is_evaluated(monkeypatch, tmp_path):
    metrics, logged = evaluated(
        monkeypatch, tmp_path, [image(1)], [found_on(1, [[0, 0, 9, 9]], [0], [0.5])]
    )
    assert np.isnan(metrics["AP"]) and "none of the 1 images has a box to find" in logged
    assert {path.name for path in tmp_path.iterdir()} == DETECTION_FILES


def test_category_ids_are_those_of_the_source(monkeypatch, tmp_path):
    truth, detections = random_case(0, images=4)
    source = Images(truth)
    numbers = lambda: {  # noqa: E731
        (row["category_name"], row["category_id"])
        for row in json.loads((tmp_path / "predictions.json").read_text())
    }
    evaluated(monkeypatch, tmp_path, truth, detections, source)
    assert numbers() == {("cell", 1), ("cat", 2), ("dog", 3)}
    source.category_ids = (18, 3, 90, 1)
    evaluated(monkeypatch, tmp_path, truth, detections, source)
    assert numbers() == {("cell", 18), ("cat", 3), ("dog", 90)}


def test_nine_images_are_ranked_and_named_without_their_folder(monkeypatch, tmp_path):
    captions = []

    def record(images, classes, title):
        captions.append([one.caption for one in images])
        return np.zeros((9, 9, 3), np.uint8)

    monkeypatch.setattr(evaluation_report, "draw_matched_grid", record)
    monkeypatch.setattr(Images, "__getitem__", lambda self, i: Record(PICTURE, i, self.name(i)))
    truth = [image(f"deep/{i}", [[10, 10, 30, 30]], [0]) for i in range(12)]
    detections = [found_on(one["image_id"], [[10, 10, 30, 30]], [0], [0.9]) for one in truth]
    evaluated(monkeypatch, tmp_path, truth, detections)
    assert [len(one) for one in captions][1:] == [9]
    assert captions[1][0].endswith("0 missed   0.png")


def test_thirty_pairs_of_confused_classes_are_listed(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        evaluation_report.detection_report,
        "most_confused",
        lambda table, classes, most: asked.append(most) or [],
    )
    evaluated(monkeypatch, tmp_path, *random_case(0, images=2))
    assert asked == [30]


def evaluated_classes(monkeypatch, tmp_path, count, unreadable, each_batch=None):
    """What `evaluate_variables` logs for `count` images of which the report is not written."""
    passed, logged = [], []

    def predict_all(*arguments):
        passed.append(arguments)
        found = {"labels": np.array([0, 1]), "scores": np.array([0.75, 0.25])}
        return SplitPredictions([{"label": 0}] * count, [found] * count, unreadable)

    monkeypatch.setattr(evaluation, "predict_all", predict_all)
    monkeypatch.setattr(evaluation, "write_report", lambda *_: None)
    task = Classify(len(CLASSES), (64, 64))
    setup = SimpleNamespace(task=task, classes=CLASSES, config=SimpleNamespace(task="classify"))
    source, files = Images([]), EvaluationFiles(tmp_path)
    evaluate_variables(setup, "weights", source, files, logged.append, each_batch)
    assert passed == [(setup, "weights", source, each_batch)]
    return logged


def test_images_that_could_not_be_read_are_counted(monkeypatch, tmp_path):
    logged = evaluated_classes(monkeypatch, tmp_path, 2, unreadable=3, each_batch=print)
    assert logged[-2].startswith("3 images could not be read and were not counted")
    assert logged[-1] == f"predictions and pictures: {tmp_path}"
    assert evaluated_classes(monkeypatch, tmp_path, 2, unreadable=0)[-1] == logged[-1]


def test_a_split_of_which_no_image_can_be_read_is_refused(monkeypatch, tmp_path):
    with pytest.raises(DataError, match="split val: no image could be read"):
        evaluated_classes(monkeypatch, tmp_path, 0, unreadable=3)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC])
def test_the_table_is_printed_even_if_the_files_cannot_be_written(monkeypatch, tmp_path, number):
    def refuse(path, data):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(layout.atomic_files, "write_atomically", refuse)
    logged = []
    try:
        evaluated(monkeypatch, tmp_path, *random_case(0, images=4), logged=logged)
    except RunError as error:
        assert number == errno.ENOSPC
        assert str(error) == f"{tmp_path}: cannot be written: No space left on device"
        assert "F1" in logged[-1]
    else:
        assert number != errno.ENOSPC and "F1" in logged[-2]
        file = tmp_path / "curves.json"
        assert logged[-1] == (
            f"predictions and pictures are not kept: {file}: {os.strerror(number)}"
        )
