"""One sentence for each common mistake, and none for a run that is as it should be."""

import json
import types

import numpy as np
import pytest
import runs
from fake_run import fake_run

from convmesh.config import defaults
from convmesh.data.survey import Survey
from convmesh.training import advice


def curve(losses, every=20, **other):
    """Logged lines of a loss."""
    return [
        {"step": every * (i + 1), "loss": float(loss), **{k: v[i] for k, v in other.items()}}
        for i, loss in enumerate(losses)
    ]


FALLING = np.linspace(7.5, 2.6, 28)


def test_classes_that_no_example_holds():
    said = advice.absent_classes(("cat", "dog", "hen"), np.array([3, 0, 0]))
    assert said.startswith("2 of the 3 classes have no training example: dog, hen;")
    assert advice.absent_classes(("cat", "dog"), np.array([3, 1])) == ""
    assert advice.absent_classes(("cat", "dog"), None) == ""
    many = advice.absent_classes([str(i) for i in range(20)], np.zeros(20, int))
    assert ", 4, ...;" in many and "5" not in many.split("classes")[1]


def test_more_images_in_a_batch_than_there_are():
    expected = "train.batch_size=16 is larger than the number of images, 15"
    assert expected in advice.large_batch(15, 16)
    assert advice.large_batch(16, 16) == ""


def test_a_run_that_is_too_short():
    assert "99 steps see each image 9.9 times" in advice.short_run(80, 8, 99)
    assert advice.short_run(80, 8, 100) == ""  # ten epochs
    assert advice.short_run(8000, 8, 499) and advice.short_run(8000, 8, 500) == ""


def test_frozen_random_weights():
    assert advice.frozen_random(0) == ""
    said = "train.frozen_stages=3 without init_from freezes random weights"
    assert advice.frozen_random(3).startswith(said)
    config = defaults("classify")
    config.train.frozen_stages = 3
    found = Survey(4000, None, np.zeros((0, 2)), [])
    assert advice.at_start(config, ("a", "b"), 2800, found) == [advice.frozen_random(3)]
    config.init_from = "runs/other"
    assert advice.at_start(config, ("a", "b"), 2800, found) == []


def test_objects_smaller_than_the_finest_stride():
    # Images of 1000 x 2000 are fitted to a scale of 0.1: 70 pixels become 7.
    sizes, objects = np.array([[1000.0, 2000.0]]), np.array([[10.0, 70.0], [70, 20], [300, 90]])
    said = advice.tiny_boxes(sizes, [objects], (200, 200))
    # The median of 7, 7 and 30 pixels is to become 16: 200 x 16 / 7 = 457, next to 448.
    assert said.startswith("67% of the objects are smaller than 8 pixels") and "448,448" in said
    assert advice.tiny_boxes(sizes, [objects[1:]], (200, 200)) == ""  # half of them
    assert advice.tiny_boxes(sizes, [objects], (400, 400)) == ""
    assert advice.tiny_boxes(np.zeros((0, 2)), [], (200, 200)) == ""


def test_an_input_that_is_mostly_padding():
    wide = np.array([[100.0, 400.0]] * 3)
    # A quarter of the rows is used; the square root of 256 x 256 / 4 is 128, times 4 is 512.
    said = advice.padding(wide, (256, 256))
    assert (
        said.startswith("75% of the input of 256 x 256 is padding")
        and "=128,512 it would be 0%" in said
    )
    assert advice.padding(wide, (128, 512)) == ""
    assert advice.padding(np.array([[480.0, 640.0]]), (256, 256)) == ""
    # Upright and lying images: no shape fits both.
    assert advice.padding(np.array([[100.0, 400.0], [400, 100]]), (256, 256)) == ""
    assert advice.padding(np.zeros((0, 2)), (256, 256)) == ""


def test_boxes_without_a_point():
    assert advice.without_point(6, 100).startswith("6% of the boxes had no grid point")
    assert advice.without_point(5, 100) == "" == advice.without_point(0, 0)


def test_boxes_without_a_point_as_logged_in_some_of_the_steps():
    # 100 steps of 10 boxes; of the 4 that were logged one has none, and three have 1.
    rows = [{"step": 25 * i, "boxes_without_point": float(i > 1)} for i in (1, 2, 3, 4)]
    [said] = advice.at_end(rows, 1000, 100)
    assert said.startswith("8% of the boxes")
    assert advice.at_end(rows, 2000, 100) == [] == advice.at_end([], 0, 100)


@pytest.mark.parametrize(
    "rows, said",
    [
        (curve(np.linspace(2, 10, 28)), "the loss has risen from 2.89 to 9.11 by step 560"),
        (curve(FALLING, nonfinite_steps=[2 * i for i in range(28)]), "54 of the first 560 steps"),
        (
            curve(np.full(28, 5.0), gradient_norm=[11.0] * 28),
            "the loss has not fallen by step 560, and 100% of the gradients were clipped",
        ),
    ],
    ids=["rises", "no number", "clipped"],
)
def test_a_learning_rate_too_high(rows, said):
    told = advice.rate_too_high(rows, 0.1, 10.0)
    assert told.startswith(said) and told.endswith("try a tenth of optimizer.learning_rate=0.1")


@pytest.mark.parametrize(
    "rows",
    [
        curve(FALLING, gradient_norm=[11.0] * 28, nonfinite_steps=[1.0] * 28),
        curve(np.linspace(2, 7, 28)),
        curve(np.full(28, 5.0), gradient_norm=[9.0] * 28),
        curve([2, 9]),
        [],
    ],
    ids=["falls", "rises less", "not clipped", "too few", "none"],
)
def test_a_learning_rate_not_too_high(rows):
    assert advice.rate_too_high(rows, 0.1, 10.0) == ""


def test_a_learning_rate_too_low():
    flat = 2.3 + 0.005 * np.cos(np.arange(28))
    told = advice.rate_too_low(curve(flat), 1e-6)
    assert "by step 560; try ten times optimizer.learning_rate=1e-06" in told
    assert advice.rate_too_low(curve(np.linspace(2.3, 2.2, 28)), 1e-6) == ""
    assert advice.rate_too_low(curve(flat[:7]), 1e-6) == ""


def test_only_the_opening_of_a_run_is_judged_and_one_thing_is_said():
    config = defaults("detect")
    rows = curve([*FALLING, *np.full(112, 40.0)])
    assert advice.of_curve(config, rows, 2800) == []
    [said] = advice.of_curve(config, curve(np.full(28, 5.0), gradient_norm=[11.0] * 28), 2800)
    assert "a tenth" in said
    [said] = advice.of_curve(config, curve(np.full(28, 5.0)), 2800)
    assert "ten times" in said


def test_everything_at_the_start_and_nothing_of_the_demo():
    config = runs.load_config(runs.CONFIGS / "demo.py")
    digits = tuple("0123456789")
    scenes = np.full((16, 2), 224.0)
    objects = [np.full((4, 2), 40.0)] * 16
    assert advice.at_start(config, digits, 2800, Survey(4000, None, scenes, objects)) == []
    counts = np.array([0] + [1] * 9)
    tiny = [np.full((4, 2), 5.0)] * 16
    wide = np.array([[56.0, 224.0]] * 16)
    said = advice.at_start(config, digits, 5, Survey(7, counts, wide, tiny))
    assert len(said) == 5


def test_a_run_from_trained_weights_may_be_short_and_have_little_left_to_learn():
    config = defaults("classify")
    found = Survey(80, np.ones(2, int), np.zeros((0, 2)), ())
    flat = curve(np.full(28, 5.0))
    assert len(advice.at_start(config, ("a", "b"), 5, found)) == 1
    assert len(advice.of_curve(config, flat, 2800)) == 1
    config.init_from = "run"
    assert advice.at_start(config, ("a", "b"), 5, found) == []
    assert advice.of_curve(config, flat, 2800) == []
    # Too high a rate is a mistake there too.
    assert len(advice.of_curve(config, curve(np.linspace(2, 10, 28)), 2800)) == 1


def test_the_suggested_size_is_at_most_four_times_the_present_one():
    # Of 1 pixel, where 16 are wanted.
    said = advice.tiny_boxes(np.array([[64.0, 96.0]]), [np.ones((3, 2))], (64, 96))
    assert said.endswith("for example to 256,384")


def test_padding_of_less_than_two_fifths_is_accepted():
    # A side of 5 / 8 of the other leaves 37.5% empty in a square, one of 9 / 16 leaves 43.75%.
    assert advice.padding(np.array([[100.0, 160.0]]), (256, 256)) == ""
    assert advice.padding(np.array([[90.0, 160.0]]), (256, 256)).startswith("44% of the input")


def test_one_step_in_twenty_may_have_no_finite_loss():
    row = {"step": 100, "loss": 1.0, "nonfinite_steps": 5.0}
    assert advice.rate_too_high([row], 0.1, 0.0) == ""
    row["nonfinite_steps"] = 6.0
    assert advice.rate_too_high([row], 0.1, 0.0).startswith("6 of the first 100 steps")


def test_a_loss_that_falls_by_a_hundredth_or_rises_has_moved():
    def with_norms(norms, last):
        return curve(np.linspace(100, last, 28), gradient_norm=norms)

    # The medians of the first and the last quarter lie 7 / 9 of the whole change apart.
    clipped, half = [11.0] * 28, [11.0] * 25 + [9.0] * 3
    assert "has not fallen" in advice.rate_too_high(with_norms(clipped, 99), 0.1, 10.0)
    assert advice.rate_too_high(with_norms(clipped, 98), 0.1, 10.0) == ""
    assert advice.rate_too_high(with_norms(half, 100), 0.1, 10.0) == ""  # 89% are clipped
    assert advice.rate_too_high(with_norms(clipped, 100), 0.1, 0.0) == ""  # nothing is
    assert advice.rate_too_low(curve(np.linspace(100, 98, 28)), 0.1) == ""
    assert advice.rate_too_low(curve(np.linspace(100, 102, 28)), 0.1) == ""
    assert advice.rate_too_low(curve(np.linspace(100, 99, 28)), 0.1) != ""


def test_five_absent_classes_are_all_named():
    said = advice.absent_classes("abcde", np.zeros(5, int))
    assert "no training example: a, b, c, d, e; add" in said


def test_the_opening_holds_at_least_the_first_step():
    rows = [{"step": 1, "loss": None, "nonfinite_steps": 1.0}]
    [said] = advice.of_curve(defaults("classify"), rows, 2)
    assert said.startswith("1 of the first 1 steps had no finite loss")
    assert advice.of_curve(defaults("classify"), [{**rows[0], "step": 2}], 2) == []


def test_the_curve_is_judged_once_at_the_first_evaluation_after_the_opening(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(advice, "of_curve", lambda *of: asked.append(of[2]) or ["odd"])
    run = fake_run(tmp_path, setup=types.SimpleNamespace(config=None, steps=10))
    hook = advice.Advice()
    hook.after_evaluation(run, 1, {})
    assert run.logged == []
    for step in (2, 3):
        hook.after_evaluation(run, step, {})
        assert run.logged == ["advice: odd"] and asked == [10]


def test_the_end_is_judged_by_the_steps_of_this_call(tmp_path):
    # Step 4 was taken before; of the 6 since, with 60 boxes, those logged have 0.5 without a point.
    rows = [
        {"step": step, "split": "train", "loss": 1.0, "boxes_without_point": missed}
        for step, missed in ((4, 9.0), (7, 0.0), (10, 1.0))
    ]
    counts = types.SimpleNamespace(boxes=50)
    run = fake_run(tmp_path, start_step=4, step=10, counts=counts)
    run.workdir.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    advice.Advice().on_end(run)
    assert len(run.logged) == 1 and run.logged[0].startswith("advice: 6% of the boxes")
