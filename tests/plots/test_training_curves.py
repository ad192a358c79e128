"""Training curves: which rows become which series, and the panels."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from convmesh.plots import training_curves
from convmesh.plots.figures import new_figure


def write_metrics(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_later_row_of_a_step_counts_and_null_is_a_gap():
    rows = [
        {"step": 20, "split": "train", "loss": 3.0, "loss/box": None},
        {"step": 10, "split": "train", "loss": None},
        {"step": 20, "split": "train", "loss": 2.0},
        {"step": 20, "split": "val", "AP": 0.5},
    ]
    series = training_curves._series(rows)
    assert set(series) == {("train", "loss"), ("val", "AP")}
    steps, values = series["train", "loss"]
    assert steps.tolist() == [10, 20]
    np.testing.assert_equal(values, [np.nan, 2.0])


def test_smoothing_keeps_level_and_length_and_skips_gaps():
    values = np.array([2.0, 2.0, np.nan, 2.0, 2.0])
    np.testing.assert_allclose(training_curves._smooth(values, 3), np.full(5, 2.0))
    ramp = np.arange(50.0)
    np.testing.assert_allclose(training_curves._smooth(ramp, 5)[2:-2], ramp[2:-2])


def test_evaluations_of_the_training_split_are_a_series_of_their_own():
    steps = [{"step": s, "split": "train", "loss": 1.0, "top1": 0.5} for s in (4, 8)]
    evaluated = [{"step": s, "split": "train", "top1": 0.9} for s in (4, 8)]
    series = training_curves._series([*steps, *evaluated])
    assert series["train", "top1"][1].tolist() == [0.5, 0.5]
    assert series["train, evaluated", "top1"][1].tolist() == [0.9, 0.9]


def test_each_group_of_metrics_has_a_panel(tmp_path):
    rows = [
        {"step": s, "split": "train", "loss": 9.0 / s, "loss/box": None if s == 30 else 1 / s}
        for s in range(10, 1000, 10)
    ]
    rows[5]["loss"] = None
    path = write_metrics(tmp_path / "metrics.jsonl", rows)
    training_curves.draw_curves(path, tmp_path / "plots" / "one.png")
    one = cv2.imread(str(tmp_path / "plots" / "one.png"))
    rows += [{"step": 500, "split": "val", "AP": 0.25, "AP50": None, "AP/cat": 0.1}]
    rows += [{"step": 500, "split": "train", "learning_rate": 1e-3, "images_per_second": 75.0}]
    training_curves.draw_curves(write_metrics(path, rows), tmp_path / "plots" / "four.png")
    four = cv2.imread(str(tmp_path / "plots" / "four.png"))
    assert four.shape[0] == 2 * one.shape[0] and four.shape[1] == 2 * one.shape[1]
    assert [p.name for p in sorted((tmp_path / "plots").iterdir())] == ["four.png", "one.png"]


@pytest.mark.parametrize(
    "rows",
    [[], [{"step": 1, "split": "train", "loss": None}], [{"step": 0, "split": "v", "top1": 0.0}]],
)
def test_curves_of_a_run_with_hardly_any_metrics(tmp_path, rows):
    training_curves.draw_curves(write_metrics(tmp_path / "m.jsonl", rows), tmp_path / "m.png")
    assert cv2.imread(str(tmp_path / "m.png")) is not None


def test_slow_packages_are_imported_only_when_needed():
    code = (
        "import sys, convmesh.plots.training_curves, convmesh.training.progress;"
        "import convmesh.tasks.average_precision;"
        "print([m for m in ('matplotlib', 'tensorboardX', 'tqdm', 'faster_coco_eval')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def labels(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def test_the_best_score_and_its_step_are_in_the_legend():
    axis = new_figure(3, 3).subplots()
    steps = np.array([10, 20, 30])
    ap, ap50 = np.array([0.25, 0.5, np.nan]), np.array([0.5, 0.75, 0.625])
    training_curves._draw_scores(axis, {("val", "AP"): (steps, ap), ("val", "AP50"): (steps, ap50)})
    assert labels(axis) == ["AP (val), best 0.500 at 20", "AP50 (val)"]


@pytest.mark.parametrize(("highest", "scale"), [(20.0, "linear"), (21.0, "log")])
def test_a_loss_that_falls_far_has_a_logarithmic_axis(highest, scale):
    axis = new_figure(3, 3).subplots()
    loss = np.array([highest, np.nan, np.inf, 1.0])
    training_curves._draw_loss(axis, {("train", "loss"): (np.array([1, 2, 3, 4]), loss)})
    assert axis.get_yscale() == scale
    assert labels(axis) == ["loss (train)", "not finite (2)"]
    assert axis.lines[-1].get_xdata().tolist() == [2, 3]


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("loss", "loss"),
        ("loss/box", "loss"),
        *((name, "accuracy") for name in ("AP", "AP50", "AP75", "top1", "top5")),
        ("learning_rate", "learning rate"),
        ("images_per_second", "images per second"),
        ("AP/cat", None),
        ("lossy", None),
    ],
)
def test_the_panel_of_a_metric(name, title):
    titles = [panel for panel, belongs, _ in training_curves._PANELS if belongs(name)]
    assert titles == ([title] if title else [])
