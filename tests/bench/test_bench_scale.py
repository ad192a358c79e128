"""bench scale: one process on one core against two on two."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import runs

from convmesh.bench import scale
from convmesh.errors import ConfigError


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
