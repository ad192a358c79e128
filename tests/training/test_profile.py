"""--profile: the trace, and its table by operation and layer."""

import types

import jax
import pytest
import runs
from fake_run import fake_run

from convmesh.cli import command_line
from convmesh.programs.origins import Origin
from convmesh.training import loop, profile
from convmesh.training.profile import Profile
from convmesh.workdir.metrics import read_metrics


def test_the_table_adds_up():
    spent = profile.Counter(
        {
            Origin("forward", "conv1", "conv"): 0.03,
            Origin("forward", "conv2", "conv"): 0.01,
            Origin("", "", "all-reduce"): 0.04,
        }
    )
    lines = profile.table(spent, times=4).splitlines()
    assert lines[2].split() == ["10.00", "50.0%", "forward", "conv"] or lines[2].split() == [
        "10.00", "50.0%", "all-reduce",
    ]  # fmt: skip
    assert any(line.split() == ["7.50", "37.5%", "forward", "conv", "conv1"] for line in lines)
    assert "no operation" in profile.table(profile.Counter(), 1)


def test_milliseconds_are_those_of_one_step_on_one_device(tmp_path, monkeypatch):
    spent = profile.Counter({Origin("forward", "conv1", "conv"): 0.8})
    monkeypatch.setattr(profile, "newest_trace", lambda folder: folder)
    monkeypatch.setattr(profile, "time_by_operation", lambda trace, program: spent)
    for name in ("start_trace", "stop_trace"):
        monkeypatch.setattr(jax.profiler, name, lambda *_: None)
    clock = types.SimpleNamespace(restart=lambda: None)
    run = fake_run(tmp_path, start_step=3, clock=clock, flush=lambda: None)
    hook = Profile(5)
    for step in range(4, 4 + 5 + 5 + 1):
        hook.before_step(run, step)
    assert run.logged[0].startswith("traced 5 steps into")
    # 0.8 s in 5 steps on 8 devices.
    assert float(run.logged[1].splitlines()[2].split()[0]) == pytest.approx(20)


def test_a_run_with_a_profile(tmp_path, tiny_net, photos, photo_run, capsys):
    workdir = tmp_path / "run"
    config = runs.photo_config(photos)
    loop.train(config, workdir, [Profile(2)])
    said = capsys.readouterr().err
    assert "traced 2 steps into" in said
    assert "backward" in said and "stage2_block1" in said
    assert list(workdir.glob("profile/plugins/profile/*/*.xplane.pb"))
    # It trains what a run without trains.
    assert [row["loss"] for row in read_metrics(workdir / "metrics.jsonl") if "loss" in row] == [
        row["loss"] for row in read_metrics(photo_run / "metrics.jsonl") if "loss" in row
    ]


def test_only_the_steps_that_were_traced_are_counted(tmp_path, tiny_net, photos, capsys):
    config = runs.photo_config(photos, {"eval.every_steps": 0})
    loop.train(config, tmp_path / "run", [Profile(10)])  # steps 6 to 8 are all there are
    assert "traced 3 steps into" in capsys.readouterr().err


def test_a_run_too_short_to_be_traced_says_so(tmp_path, tiny_net, photos, capsys):
    recipe = runs.write_recipe(
        tmp_path / "recipe.py", runs.photo_config(photos, {"train.steps": 3, "eval.every_steps": 0})
    )
    command = ["train", "--config", recipe, "--workdir", str(tmp_path / "run"), "--profile", "2"]
    assert command_line.main(command) == 0
    assert "nothing traced" in capsys.readouterr().err
