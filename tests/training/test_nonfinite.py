"""Steps without a finite loss or gradient: reported by name, and too many end the run."""

import types

import disk_calls
import numpy as np
import pytest
from fake_run import fake_run

from convmesh.errors import RunError
from convmesh.training.nonfinite import LOGGED, NonFiniteSteps
from convmesh.workdir.json_lines import read_json_lines
from convmesh.workdir.step_folders import saved_steps

SOURCE = types.SimpleNamespace(name=lambda index: f"{index}.jpg")
NAN = float("nan")


class Watched:
    """The hook of a run whose steps hold the examples `index`."""

    def __init__(self, workdir, limit=3, nonfinite_steps=0, start_step=0, index=(0,)):
        shard = types.SimpleNamespace(owned=np.ones(len(index), bool))
        config = types.SimpleNamespace(optimizer=types.SimpleNamespace(learning_rate=0.25))
        setup = types.SimpleNamespace(train_shard=lambda: shard, config=config)
        self.run = fake_run(workdir, start_step, nonfinite_steps, SOURCE, setup)
        self.run.saved_steps = lambda: saved_steps(self.run.workdir.checkpoints_folder)
        self.hook, self._index = NonFiniteSteps(limit), np.array(index)
        self.hook.on_restore(self.run)

    def step(self, step, nonfinite_steps, **terms):
        self.hook.on_batch(self.run, step, types.SimpleNamespace(index=self._index))
        metrics = {"loss": 1.0, "gradient_norm": 1.0, "nonfinite_steps": nonfinite_steps, **terms}
        self.hook.on_metrics(self.run, step, metrics)

    def rows(self):
        return read_json_lines(self.run.workdir.nonfinite_file)


@pytest.mark.parametrize(
    "terms, named",
    [
        ({"loss": NAN, "gradient_norm": NAN, "loss/box": NAN, "loss/class": 1.0}, ["loss/box"]),
        ({"loss": NAN, "gradient_norm": NAN}, ["loss"]),
        ({"gradient_norm": float("inf")}, ["gradient"]),
    ],
)
def test_the_term_and_the_examples_are_named(tmp_path, terms, named):
    watched = Watched(tmp_path, index=[3, 1, 1, 12, 5, 4])
    watched.step(7, 1, **terms)
    watched.hook.close(failed=False)
    examples = ["1.jpg", "3.jpg", "4.jpg", "5.jpg", "12.jpg"]
    assert watched.rows() == [{"step": 7, "terms": named, "examples": examples}]
    assert watched.run.logged == [
        f"{named[0]} not finite at step 7, update skipped; examples 1.jpg, 3.jpg, 4.jpg, "
        "5.jpg and 1 more"
    ]


def test_the_examples_are_those_of_the_step_and_not_of_the_next(tmp_path):
    watched = Watched(tmp_path)
    batch = lambda *index: types.SimpleNamespace(index=np.array(index))  # noqa: E731
    watched.hook.on_batch(watched.run, 1, batch(7))
    watched.hook.on_batch(watched.run, 2, batch(8))  # read before the metrics of step 1 are
    metrics = {"loss": NAN, "gradient_norm": NAN, "nonfinite_steps": 1}
    watched.hook.on_metrics(watched.run, 1, metrics)
    assert watched.rows()[0]["examples"] == ["7.jpg"]


def test_more_than_the_limit_in_a_row_end_the_run(tmp_path):
    watched = Watched(tmp_path, limit=3)
    for step in (1, 2, 3):
        watched.step(step, step, loss=NAN)
    with pytest.raises(
        RunError, match=r"loss not finite at step 4, the last of 4 in a row \(train.max_"
    ):
        watched.step(4, 4, loss=NAN)


def test_a_finite_step_between_starts_the_count_again(tmp_path):
    watched = Watched(tmp_path, limit=1, nonfinite_steps=2)
    for i in range(LOGGED + 2):
        watched.step(2 * i + 1, 3 + i, loss=NAN)
        watched.step(2 * i + 2, 3 + i)
    # The terminal is not filled with them; the file has all.
    logged = watched.run.logged
    assert len(logged) == LOGGED
    assert logged[-1].endswith("further steps are only in nonfinite.jsonl")
    assert len(watched.rows()) == LOGGED + 2


def test_the_count_resumes_with_the_run(tmp_path):
    watched = Watched(tmp_path, limit=3)
    watched.step(5, 1, loss=NAN)
    watched.step(6, 1)
    for step in (7, 8):
        watched.step(step, step - 5, loss=NAN)
    watched.hook.close(failed=True)
    watched = Watched(tmp_path, limit=3, nonfinite_steps=3, start_step=8)
    watched.step(9, 4, loss=NAN)
    with pytest.raises(RunError, match="the last of 4 in a row"):
        watched.step(10, 5, loss=NAN)


def test_without_a_limit_it_goes_on(tmp_path):
    watched = Watched(tmp_path, limit=0)
    for step in range(1, 30):
        watched.step(step, step, loss=NAN)
    assert len(watched.rows()) == 29


def test_a_resumed_run_drops_the_steps_beyond_its_checkpoint(tmp_path):
    watched = Watched(tmp_path)
    for step in (1, 2):
        watched.step(step, step, loss=NAN)
    watched.hook.close(failed=True)
    Watched(tmp_path, start_step=1, nonfinite_steps=1).hook.close(failed=False)
    assert [row["step"] for row in watched.rows()] == [1]


def test_the_steps_are_on_the_disk_before_a_checkpoint_is_begun(tmp_path, monkeypatch):
    watched = Watched(tmp_path)
    watched.hook.before_save(watched.run, 1)  # nothing to report so far
    watched.step(2, 1, loss=NAN)
    calls = disk_calls.record(monkeypatch, tmp_path)
    watched.hook.before_save(watched.run, 2)
    written = watched.run.workdir.nonfinite_file.read_bytes()
    assert disk_calls.synced(calls) == {"nonfinite.jsonl": written} and b'"step": 2' in written


def test_examples_that_an_earlier_process_owns_are_left_to_it(tmp_path):
    watched = Watched(tmp_path, index=[3, 4, 5])
    watched.run.setup.train_shard().owned[:] = [False, True, False]
    watched.step(1, 1, loss=NAN)
    assert watched.rows()[0]["examples"] == ["4.jpg"]


def test_four_examples_are_all_named(tmp_path):
    watched = Watched(tmp_path, index=[3, 4, 5, 6])
    watched.step(1, 1, loss=NAN)
    assert watched.run.logged[0].endswith("examples 3.jpg, 4.jpg, 5.jpg, 6.jpg")


@pytest.mark.parametrize(
    "saved, said",
    [
        ([], "no checkpoint yet; train in a new --workdir with a lower"),
        (
            [4, 6],  # step 7 was finite
            "the newest checkpoint is of step 6; train in a new --workdir with "
            "--config.init_from='{}/checkpoints/6' and a lower",
        ),
        (
            [6, 7],
            "the newest checkpoint is of step 7, after which no step was finite; train in a new "
            "--workdir with --config.init_from='{}/checkpoints/6' and a lower",
        ),
        (
            [7, 8],
            "the newest checkpoint is of step 8, after which no step was finite; train in a new "
            "--workdir with a lower",
        ),
    ],
    ids=str,
)
def test_the_error_says_what_is_saved_and_what_may_help(tmp_path, saved, said):
    workdir = tmp_path / "a run"
    for step in saved:
        (workdir / "checkpoints" / str(step)).mkdir(parents=True)
    workdir.mkdir(exist_ok=True)
    watched = Watched(workdir, limit=1)
    watched.step(7, 0)
    watched.step(8, 1, loss=NAN)
    with pytest.raises(RunError) as raised:
        watched.step(9, 2, loss=NAN)
    assert str(raised.value) == (
        "loss not finite at step 9, the last of 2 in a row (train.max_nonfinite_steps=1): "
        f"examples 0.jpg (all in nonfinite.jsonl); {said.format(workdir)} optimizer.learning_rate "
        "than 0.25, or check these examples"
    )
