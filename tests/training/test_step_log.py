"""Which steps are logged, and the numbers that are added to their metrics."""

import types

import pytest
from fake_run import fake_run

from convmesh.config import defaults
from convmesh.training import step_log


@pytest.fixture
def started(tmp_path, monkeypatch):
    """`started(**run)`: the hook of a run of 7 steps of 12 images, and the run."""

    def start(start_step=0, nonfinite_steps=0, frozen_stages=0, sizes=(), devices=()):
        monkeypatch.setattr(step_log, "ideal_seconds", lambda setup: 0.5)
        config = defaults("classify")
        config.train.batch_size, config.train.log_every_steps = 12, 3
        config.train.frozen_stages, config.data.sizes = frozen_stages, sizes
        config.data.image_size = (64, 64)
        setup = types.SimpleNamespace(config=config, steps=7, schedule=lambda step: 100.0 + step)
        setup.mesh = types.SimpleNamespace(local_devices=devices)
        clock = types.SimpleNamespace(step_seconds=2.0, input_wait_seconds=0.25)
        run = fake_run(tmp_path, start_step, nonfinite_steps, setup=setup, clock=clock)
        run.shown, run.rows = [], []
        run.show_progress = lambda *shown: run.shown.append(shown)
        run.log_metrics = lambda step, split, row: run.rows.append((step, split, row))
        hook = step_log.StepLog(setup)
        hook.on_restore(run)
        return hook, run

    return start


def test_every_third_step_and_the_last_are_logged_and_all_are_shown(started):
    hook, run = started()
    for step in range(1, 8):
        hook.on_metrics(run, step, {"loss": 0.5 * step, "nonfinite_steps": 0})
    assert [row[:2] for row in run.rows] == [(3, "train"), (6, "train"), (7, "train")]
    assert run.rows[0][2] == {
        "loss": 1.5,
        "nonfinite_steps": 0.0,
        "learning_rate": 102.0,  # of the third update
        "images_per_second": 6.0,
        "step_seconds": 2.0,
        "mfu": 0.25,
        "input_wait_seconds": 0.25,
    }
    assert run.shown == [(step, 0.5 * step, 6.0) for step in range(1, 8)]
    assert run.logged == ["compiled and ran the first step in 2 s"]
    hook.on_end(run)
    assert len(run.logged) == 1


def test_the_learning_rate_is_that_of_the_updates_so_far(started):
    # Of the first 4 steps 2 were skipped, and step 5 is: the third update is tried twice.
    hook, run = started(start_step=4, nonfinite_steps=2)
    for step, skipped in ((5, 3), (6, 3), (7, 3)):
        hook.on_metrics(run, step, {"loss": 1.0, "nonfinite_steps": skipped})
    assert [row["learning_rate"] for _, _, row in run.rows] == [102.0, 103.0]
    assert run.logged == ["compiled and ran the first step in 2 s"]
    hook.on_end(run)
    assert run.logged[1:] == ["3 steps were skipped: their loss or gradient was not finite"]


@pytest.mark.parametrize("changes", [{"frozen_stages": 1}, {"sizes": (0.5, 1.0)}], ids=str)
def test_no_utilisation_where_steps_differ_or_have_no_whole_backward_pass(started, changes):
    hook, run = started(**changes)
    hook.on_metrics(run, 3, {"loss": 1.0, "nonfinite_steps": 0})
    assert run.rows and "mfu" not in run.rows[0][2]


def device(**stats):
    return types.SimpleNamespace(memory_stats=lambda: stats or None)


def test_the_peak_memory_is_logged_where_it_is_known(started):
    hook, run = started(devices=[device(peak_bytes_in_use=2**30), device(peak_bytes_in_use=2**31)])
    hook.on_metrics(run, 3, {"loss": 1.0, "nonfinite_steps": 0})
    assert run.rows[0][2]["peak_memory_gib"] == 2.0
    hook, run = started(devices=[device(), device(bytes_in_use=5)])
    hook.on_metrics(run, 3, {"loss": 1.0, "nonfinite_steps": 0})
    assert "peak_memory_gib" not in run.rows[0][2]
