"""The self-test of a recipe: passed, or the likely reasons why not."""

import json
import math
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import runs

from convmesh.cli import command_line
from convmesh.config import KEYS, defaults
from convmesh.data.record import Record
from convmesh.errors import RunError
from convmesh.training import overfit
from convmesh.workdir.metrics import read_metrics

pytestmark = pytest.mark.usefixtures("tiny_net")


# --- the whole of it, with a classifier -----------------------------------------------------------


@pytest.fixture(scope="module")
def call(photos, tmp_path_factory):
    """Runs the command on `photos`; returns its status and its workdir."""
    folder = tmp_path_factory.mktemp("by_heart")
    recipe = runs.write_recipe(folder / "recipe.py", runs.photo_config(photos))

    def run(name, *flags):
        workdir = folder / name
        return command_line.main(
            ["overfit", "--config", recipe, "--workdir", str(workdir), *flags]
        ), workdir

    return run


def test_it_passes_on_what_can_be_learnt(call, capsys):
    status, workdir = call("run", "--steps", "60")
    out = capsys.readouterr().out
    assert "passed: top1 1.00 on 8 images: model, labels and loss fit together" in out
    assert status == 0 and "but" not in out
    rows = read_metrics(workdir / "metrics.jsonl")
    assert (rows[-1]["split"], rows[-1]["step"], rows[-1]["images"]) == ("train[:8]", 60, 8)
    found = json.loads((workdir / "eval/train[:8]/predictions.json").read_text())
    # Two of each class, which the folders hold one after another.
    assert [row["file_name"].split("/")[1] for row in found] == np.repeat(runs.CLASSES, 2).tolist()
    # The same call again answers from what it has written.
    assert call("run", "--steps", "60")[0] == 0 and "passed" in capsys.readouterr().out


def test_what_cannot_be_read_is_passed_by_where_the_recipe_says_so(photos, tmp_path, capsys):
    broken = shutil.copytree(photos, tmp_path / "photos")
    (broken / "train" / "blue" / "0.png").write_bytes(b"no image")
    config = runs.photo_config(broken, {"data.on_bad_example": "skip"})
    recipe = runs.write_recipe(tmp_path / "recipe.py", config)
    call = ["overfit", "--config", recipe, "--workdir", str(tmp_path / "run"), "--steps", "60"]
    assert command_line.main(call) == 0
    assert "passed: top1 1.00 on 7 images" in capsys.readouterr().out


def test_images_that_do_not_divide_are_refused_in_the_words_of_the_call(call, capsys):
    assert call("odd", "--images", "3")[0] == 2
    said = "--images 3: this batch size does not divide over the 8 devices of the data axis; use"
    assert said in capsys.readouterr().err
    assert call("odd", "--images", "3", "--config.train.batch_size=4")[0] == 2
    assert "error: train.batch_size=4: does not" in capsys.readouterr().err


def test_it_fails_where_nothing_is_learnt(call, capsys):
    status, _ = call("slow", "--steps", "2", "--config.optimizer.learning_rate=1e-9")
    err = capsys.readouterr().err.splitlines()[-1]
    assert status == 1 and err.startswith("convmesh: error: failed: top1 0.")
    assert "on 8 images, at least 0.95 needed: the loss has not fallen, from " in err
    assert "plots/first_batch.png" in err


@pytest.mark.parametrize("score", [math.nan, None])
def test_a_missing_score_has_not_passed(monkeypatch, tmp_path, capsys, score):
    (tmp_path / "data/images").mkdir(parents=True)
    (tmp_path / "data/labels").mkdir()
    cv2.imwrite(str(tmp_path / "data/images/0.png"), np.zeros((20, 30, 3), np.uint8))
    (tmp_path / "data/labels/0.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    (tmp_path / "data/classes.txt").write_text("cat\n")

    def train(config, workdir):
        """A run that detects nothing, and whose evaluation has no AP50."""
        workdir = Path(workdir)
        (workdir / "eval/train[:1]").mkdir(parents=True)
        (workdir / "eval/train[:1]/predictions.json").write_text("[]")
        (workdir / "metrics.jsonl").write_text("")
        return {"AP50": score, "images": 1.0}

    monkeypatch.setattr(overfit, "train", train)
    config = defaults("detect")
    config.data.root, config.data.val_fraction = str(tmp_path / "data"), 0.0
    failed = "failed: AP50 0.00 on 1 images, at least 0.95 needed: no loss"
    with pytest.raises(RunError, match=failed):
        overfit.overfit(config, tmp_path / "run", images=1)
    assert "passed" not in capsys.readouterr().out


# --- its config -----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["detect", "classify"])
def test_nothing_of_a_long_run_is_left(task):
    config = defaults(task)
    config.data.root, config.model.name = "/data", "m"
    config.train.epochs, config.train.accumulate, config.train.seed = 90.0, 2, 7
    config.optimizer.name, config.schedule.warmup_steps = "sgd", 500
    config.data.image_size, config.mesh.spatial = (96, 128), 2
    config.data.sizes = (0.5, 1.0)
    made = overfit.overfit_config(config, 6, 50, ["train.batch_size=12"])
    train = made.train
    assert (train.steps, train.epochs, train.accumulate, train.seed) == (50, 0, 1, 7)
    assert (train.batch_size, made.data.first, made.data.eval_split) == (12, 6, "train")
    assert (made.optimizer.name, made.schedule.name, made.ema.decay) == ("adamw", "constant", 0)
    assert (made.data.image_size, made.data.sizes, made.mesh.spatial) == ((96, 128), (), 2)
    assert config.train.epochs == 90  # another config


@pytest.mark.parametrize("task", ["detect", "classify"])
def test_every_augmentation_is_off(task):
    made = overfit.overfit_config(defaults(task), 8, 200)
    parts = ("mixup_alpha", "cutmix_alpha", "operations", "magnitude")  # of what is off
    for name in (name for name in KEYS if name.startswith("data.augment.")):
        leaf = name.removeprefix("data.augment.")
        off = made.data.augment[leaf] in (0, False, "", (1.0, 1.0))
        assert off or leaf in parts or KEYS[name].task not in ("", task), name


def test_what_else_makes_a_classifier_learn_more_slowly_is_off():
    config = defaults("classify")
    config.data.augment.policy, config.data.balance = "randaugment", 0.5
    config.data.image_size, config.data.eval_size = (32, 32), (48, 48)
    config.loss.label_smoothing = config.loss.balance = 0.1
    config.model.stochastic_depth = config.model.dropout = 0.2
    made = overfit.overfit_config(config, 8, 200)
    assert made.data.augment.policy == "" and made.data.balance == 0
    assert made.loss.label_smoothing == made.loss.balance == 0
    assert made.model.stochastic_depth == made.model.dropout == 0
    assert tuple(made.data.eval_size) == (0, 0)


# --- the reasons ----------------------------------------------------------------------------------

BOXES = np.float32([[10, 10, 30, 30], [50, 50, 90, 90]])


def truth(crowd=(False, False)):
    labels = np.array([0, 1], np.int32)
    image = np.zeros((100, 100, 3), np.uint8)
    return [Record(image, 7, "7.jpg", boxes=BOXES, labels=labels, crowd=np.array(crowd))]


def found(boxes=BOXES, labels=(0, 1), score=0.9):
    return [
        {
            "image_id": 7,
            "category_id": label + 1,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "score": score,
        }
        for (x0, y0, x1, y1), label in zip(np.asarray(boxes, float).tolist(), labels, strict=True)
    ]


FELL = [{"step": step, "loss": 9.0 / step} for step in (1, 2, 3, 4, 5, 6, 7)]
STAYED = [{"step": step, "loss": 9.0} for step in (1, 2, 3)]


def why(found_boxes, ap50=0.2, rows=FELL):
    return overfit.why_boxes(truth(), found_boxes, {"AP50": ap50}, rows)


def test_no_reason_is_needed_where_all_is_known():
    assert why(found(), ap50=1.0) == []


def test_nothing_detected():
    assert why([]) == ["nothing was detected with a score of 0.3 or more"]
    assert why(found(score=0.29)) == why([])


def test_right_boxes_of_the_wrong_class():
    [said] = why(found(labels=(1, 0)))
    assert said.startswith("the boxes are found but their classes are wrong (AP50 1.00 ignoring")


def test_boxes_that_lie_elsewhere():
    [said] = why(found(boxes=BOXES[:, [1, 0, 3, 2]] + 15))
    assert said.startswith("2 detections for 2 objects, and they do not overlap them (AP50 0.00")


def test_a_loss_that_does_not_fall_is_told_first():
    said = why([], rows=STAYED)
    assert said[0].startswith("the loss has not fallen, from 9 to 9") and len(said) == 2
    slow = overfit.why_loss([{"loss": loss} for loss in (9.0, 6.0, 6.0, 6.0, 6.0, 6.0)])
    assert slow.startswith("the loss has fallen too little, from 9 to 6")
    assert overfit.why_loss(FELL) == ""


def test_a_loss_that_was_no_number():
    rows = [{"step": 2, "loss": None, "nonfinite_steps": 2.0}]
    assert overfit.why_loss(rows).startswith("2 steps had no finite loss or gradient")


def test_boxes_without_a_point_or_beyond_the_most():
    rows = [{"step": 1, "loss": 9.0}, {"step": 2, "loss": 1.0, "boxes_without_point": 1.0}]
    assert why(found(), 1.0, rows)[0].startswith("50% of the boxes had no grid point")
    rows = [{"step": 2, "loss": 1.0, "boxes_truncated": 3.0}]
    assert "data.max_boxes" in why(found(), 1.0, rows)[0]


def test_images_of_one_class_prove_little():
    classes = ("cat", "dog")
    one = overfit.why_classes([1, 1], {"top1": 1.0}, FELL, classes)
    assert one == ["all images are of class dog, which proves little; use more"]
    assert overfit.why_classes([1, 0], {"top1": 1.0}, FELL, classes) == []


def test_a_classifier_that_is_right_in_training_alone():
    rows = [{**row, "top1": 1.0} for row in FELL]
    [said] = overfit.why_classes([1, 0], {"top1": 0.5}, rows, ("cat", "dog"))
    assert said.startswith("top1 was 1.00 in training but is lower in evaluation")
    [said] = overfit.why_classes([1, 0], {"top1": 0.5}, FELL, ("cat", "dog"))
    assert said.startswith("are there similar images with")


def test_the_reading_the_norms_the_saves_and_the_lines_of_a_long_run_are_left_too():
    config = defaults("classify")
    config.data.workers, config.data.cache, config.model.norm_group = 4, "false", 2
    config.checkpoint.every_steps, config.eval.every_steps = 7, 9
    made = overfit.overfit_config(config, 8, 200)
    assert (made.data.workers, made.data.cache, made.model.norm_group) == (0, "true", 0)
    assert made.checkpoint == defaults("classify").checkpoint
    assert made.eval == defaults("classify").eval
    assert made.train.log_every_steps == 5  # 40 lines
    assert overfit.overfit_config(config, 8, 39).train.log_every_steps == 1


def test_regions_to_ignore_are_no_objects():
    detections = found(boxes=BOXES[:, [1, 0, 3, 2]] + 15)
    metrics = {"AP50": 0.2}
    [said] = overfit.why_boxes(truth(crowd=(False, True)), detections, metrics, FELL)
    assert said.startswith("2 detections for 1 objects")
    # Without a detection of the ignored one all objects are found.
    [said] = overfit.why_boxes(truth(crowd=(False, True)), found()[:1], metrics, FELL)
    assert said.startswith("the boxes are found")


def test_detections_count_on_their_own_image():
    other = Record(np.zeros((100, 100, 3), np.uint8), 8, "8.jpg", boxes=BOXES,
                   labels=np.array([0, 1], np.int32), crowd=np.zeros(2, bool))  # fmt: skip
    [said] = overfit.why_boxes([*truth(), other], found(), {"AP50": 0.2}, FELL)
    # All of the one image are found and none of the other: recall 0.5 at precision 1, in 51 of
    # the 101 points.
    assert "do not overlap them (AP50 0.50 ignoring classes)" in said


def test_a_score_at_the_limit_is_shown():
    assert why(found(score=0.3))[0].startswith("the boxes are found")


def test_the_loss_of_the_end_is_the_median_of_five_and_half_is_enough():
    def rows(*losses):
        return [{"loss": loss} for loss in losses]

    assert overfit.why_loss(rows(9.0, 1.0, 1.0, 1.0, 8.0, 8.0)) == ""
    assert overfit.why_loss(rows(9.0, 4.5)) != ""  # the median of both
    assert overfit.why_loss(rows(9.0, *[4.5] * 5)) == ""
    assert overfit.why_loss(rows(9.0, *[4.6] * 5)) != ""


def test_a_single_class_is_all_that_there_is_to_prove():
    assert overfit.why_classes([0, 0], {"top1": 1.0}, FELL, ("cat",)) == []


def test_labels_are_in_doubt_only_where_the_loss_has_fallen():
    [said] = overfit.why_classes([1, 0], {"top1": 0.5}, STAYED, ("cat", "dog"))
    assert said.startswith("the loss has not fallen")


def test_the_least_score_has_passed_and_doubts_are_told(monkeypatch, tmp_path, capsys):
    metrics = {"top1": overfit.PASSING_SCORE, "images": 8}
    monkeypatch.setattr(overfit, "train", lambda config, workdir: metrics)
    monkeypatch.setattr(overfit, "_why", lambda *_: ["it proves little", "it is odd"])
    assert overfit.overfit(defaults("classify"), tmp_path) == metrics
    assert capsys.readouterr().out.splitlines() == [
        "passed: top1 0.95 on 8 images: model, labels and loss fit together",
        "but it proves little",
        "but it is odd",
    ]
