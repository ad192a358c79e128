"""bench scale: one process on one core against two on two."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import runs

from convmesh.bench import scale
from convmesh.errors import ConfigError, DataError


def test_scale_needs_two_cores(monkeypatch):
    monkeypatch.setattr(scale.os, "sched_getaffinity", lambda pid: {3})
    with pytest.raises(ConfigError, match="needs two cores"):
        scale.bench_scale("recipe.py", (), steps=1)


def test_scale_trains_both_ways(capsys, tmp_path, photos):
    config = runs.photo_config(photos, {"model.name": "small_cnn", "eval.every_steps": 0})
    recipe = runs.write_recipe(tmp_path / "recipe.py", config)
    result = scale.bench_scale(recipe, ("--config.train.seed=3",), steps=3)
    assert result["steps"] == 3 and result["ratio"] > 0
    # Equal steps on equal data: the same result.
    assert result["top1"]["1 process"] == result["top1"]["2 processes"]
    assert "speed-up" in capsys.readouterr().out


def test_the_speed_up_is_the_second_speed_over_the_first(capsys, monkeypatch, tmp_path):
    bound, started = [], []

    class Run:
        """A training run that has written these speeds, the first of them not typical."""

        def __init__(self, command, **options):
            started.append(command)
            single = "--num-processes=2" not in command
            speeds = (900.0, 10.0, 10.0, 8.0, 50.0) if single else (900.0, 15.0, 14.0, 15.0, 16.0)
            rows = [{"split": "train", "images_per_second": speed} for speed in speeds]
            rows = [{"step": 1} | row for row in (*rows, {"split": "val", "top1": 0.5})]
            workdir = Path(command[command.index("--workdir") + 1])
            workdir.mkdir(exist_ok=True)
            (workdir / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))

        def wait(self):
            return 0

    monkeypatch.setattr(subprocess, "Popen", Run)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {4, 6, 7}, raising=False)
    keep = lambda pid, cores: bound.append(set(cores))  # noqa: E731
    monkeypatch.setattr(os, "sched_setaffinity", keep, raising=False)
    result = scale.bench_scale("recipe.py", (), steps=5)
    assert len(started) == 3
    assert bound == [{4}, {4, 6, 7}, {4, 6}, {4, 6, 7}]
    assert result["images_per_second"] == {"1 process": 10.0, "2 processes": 15.0}
    assert result["ratio"] == 1.5
    assert capsys.readouterr().out.splitlines()[-1].split() == ["speed-up", "1.50"]


class Finished:
    """A run that ends with `code`; it has trained one step and was evaluated twice."""

    started: list = []

    def __init__(self, command, code=0, **options):
        self.command, self.options, self.code, self.waited = command, options, code, False
        self.started.append(self)
        rows = [
            {"step": 1, "split": "train", "images_per_second": 8.0},
            {"step": 1, "split": "val", "AP": 0.25, "top1": 0.125},
            {"step": 2, "split": "val", "AP": 0.5, "top1": 0.125},
        ]
        workdir = Path(command[command.index("--workdir") + 1])
        workdir.mkdir(exist_ok=True)
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def wait(self):
        self.waited = True
        return self.code


@pytest.fixture
def two_cores(monkeypatch):
    """The processes that are started, none of them real; two cores are available."""
    monkeypatch.setattr(Finished, "started", [])
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: None, raising=False)
    monkeypatch.setattr(subprocess, "Popen", Finished)
    return Finished.started


def test_each_process_has_one_device_of_one_thread_and_the_overrides(two_cores, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    monkeypatch.setenv("KEPT", "1")
    scale.bench_scale("recipe.py", ("--config.train.seed=3",), steps=7)
    for run in two_cores:
        assert run.command[3] == "train"
        assert run.command[run.command.index("--config") + 1] == "recipe.py"
        assert run.command[run.command.index("--cpu-devices") + 1] == "1"
        assert {"--config.train.seed=3", "--config.train.steps=7"} < set(run.command)
        flags = run.options["env"]["XLA_FLAGS"].split()
        assert flags == ["--xla_dump_to=x", "--xla_cpu_multi_thread_eigen=false"]
        assert run.options["env"]["KEPT"] == "1"
    single, *both = (run.command for run in two_cores)
    assert not any(part.startswith(("--coordinator", "--num", "--process")) for part in single)
    assert [f"--process-id={i}" in both[i] for i in (0, 1)] == [True, True]
    assert len({part for c in both for part in c if part.startswith("--coordinator=")}) == 1


def test_the_result_is_of_the_last_evaluation_and_in_ap_where_there_is_one(two_cores, capsys):
    result = scale.bench_scale("recipe.py", (), steps=2, as_json=True)
    assert result["AP"] == {"1 process": 0.5, "2 processes": 0.5} and "top1" not in result
    assert json.loads(capsys.readouterr().out) == result


def test_a_run_that_fails_is_reported_after_all_its_processes_have_ended(two_cores, monkeypatch):
    run = lambda command, **options: Finished(  # noqa: E731
        command, code=int("--process-id=0" in command), **options
    )
    monkeypatch.setattr(subprocess, "Popen", run)
    with pytest.raises(DataError, match=r"the run of 2 process\(es\) failed"):
        scale.bench_scale("recipe.py", (), steps=1)
    assert [each.waited for each in two_cores] == [True] * 3


def test_the_cores_are_given_back_after_an_error(two_cores, monkeypatch):
    bound = []
    keep = lambda pid, cores: bound.append(set(cores))  # noqa: E731
    monkeypatch.setattr(os, "sched_setaffinity", keep, raising=False)
    with pytest.raises(ValueError), scale._bound_to([1]):
        raise ValueError
    assert bound == [{1}, {0, 1}]
