"""The line that says how long a run will take."""

import types

import pytest
from fake_run import fake_run

from convmesh.config import defaults
from convmesh.training.duration import TIMED_STEPS, Duration, duration, evaluations_left


def run_of(tmp_path, steps, eval_every=0, start_step=0, step_seconds=0.5):
    config = defaults("classify")
    config.train.batch_size = 30
    setup = types.SimpleNamespace(config=config, steps=steps, eval_every=eval_every)
    clock = types.SimpleNamespace(step_seconds=step_seconds, steps=20)
    run = fake_run(tmp_path, start_step, setup=setup, clock=clock)
    run.data.eval = range(600)
    return run


def test_it_is_said_once_from_the_steps_that_were_timed(tmp_path):
    run, hook = run_of(tmp_path, steps=1000, eval_every=300), Duration()
    for step in range(1, 1001):
        hook.on_metrics(run, step, {})
    # 979 steps, now of 0.5 s, 4 evaluations of 600 images, each a third of 1/30 of a step.
    assert run.logged == ["about 8 minutes left: 979 steps, now of 0.5 s, and 4 evaluations"]


def test_evaluations_count(tmp_path):
    run = run_of(tmp_path, steps=1000, eval_every=100)
    run.data.eval = range(80_000)  # 444 s each
    Duration().on_metrics(run, 1 + TIMED_STEPS, {})
    assert run.logged == ["about 82 minutes left: 979 steps, now of 0.5 s, and 10 evaluations"]


def test_larger_images_take_longer(tmp_path):
    run = run_of(tmp_path, steps=1000)
    data = {"sizes": (0.5, 1.0), "image_size": (64, 64), "size_order": "growing"}
    run.setup.config.data.update(data)
    Duration().on_metrics(run, 1 + TIMED_STEPS, {})
    # 479 steps of 0.5 s and 500 of four times that, and an evaluation of 600 images at a third.
    assert run.logged == ["about 21 minutes left: 979 steps, now of 0.5 s, and 1 evaluation"]


def test_a_resumed_run_counts_from_its_start_and_a_short_rest_is_not_worth_a_line(tmp_path):
    hook = Duration()
    run = run_of(tmp_path, steps=1000, start_step=500)
    hook.on_metrics(run, 1 + TIMED_STEPS, {})
    assert run.logged == []
    hook.on_metrics(run, 501 + TIMED_STEPS, {})
    assert run.logged == ["about 4 minutes left: 479 steps, now of 0.5 s, and 1 evaluation"]
    run = run_of(tmp_path, steps=1000, start_step=800)
    hook.on_metrics(run, 801 + TIMED_STEPS, {})
    assert run.logged == []


def test_pauses_of_the_clock_are_waited_for_and_early_stopping_makes_it_a_bound(tmp_path):
    run, hook = run_of(tmp_path, steps=1000), Duration()
    run.setup.config.train.patience = 2
    for step in range(1, 60):
        run.clock.steps = step % 21  # a save at step 21
        hook.on_metrics(run, step, {})
    wanted = "at most about 8 minutes left: 969 steps, now of 0.5 s, and 1 evaluation"
    assert run.logged == [wanted]
    run, hook = run_of(tmp_path, steps=1000), Duration()
    run.clock.steps = 1  # a save after every step
    for step in range(1, 200):
        hook.on_metrics(run, step, {})
    assert len(run.logged) == 1


@pytest.mark.parametrize(
    ("steps", "every", "step", "left"),
    [(10, 0, 3, 1), (10, 5, 3, 2), (10, 5, 5, 2), (10, 4, 3, 3), (10, 4, 9, 1), (10, 20, 3, 1)],
)
def test_evaluations_left(tmp_path, steps, every, step, left):
    assert evaluations_left(run_of(tmp_path, steps, every), step) == left


def test_seconds_as_text():
    texts = [duration(seconds) for seconds in (1, 130, 5399, 5400, 90_000, 200_000)]
    expected = ["1 minutes", "2 minutes", "90 minutes", "1.5 hours", "25.0 hours", "2.3 days"]
    assert texts == expected
