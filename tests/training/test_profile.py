"""--profile: the trace, and its table by operation and layer."""

import os
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


def event(name, seconds, **stats):
    return types.SimpleNamespace(name=name, duration_ns=seconds * 1e9, stats=list(stats.items()))


def test_operations_are_read_from_the_complete_line_of_a_device(monkeypatch):
    conv, add = Origin("forward", "conv1", "conv"), Origin("update", "", "add")
    line = lambda name, *events: types.SimpleNamespace(name=name, events=events)  # noqa: E731
    device = [
        line("XLA Ops", event("conv.1", 0.5), event("%add.2 = f32[] add(x)", 0.25)),
        line("Steps", event("conv.1", 9.0)),
    ]
    host = [line("thread 1", event("kernel", 1.0, hlo_op="conv.1"), event("other", 5.0))]
    planes = [types.SimpleNamespace(lines=lines) for lines in (device, host)]
    trace = types.SimpleNamespace(planes=planes)
    monkeypatch.setattr(profile, "instruction_origins", lambda _: {"conv.1": conv, "add.2": add})
    monkeypatch.setattr(jax.profiler.ProfileData, "from_file", lambda path: trace)
    assert profile.time_by_operation("trace", "program") == {conv: 1.5, add: 0.25}


def test_the_newest_trace_is_read(tmp_path):
    for name, at in (("a", 2e9), ("b", 1e9)):
        folder = tmp_path / "plugins" / "profile" / name
        folder.mkdir(parents=True)
        (folder / "host.xplane.pb").write_bytes(b"")
        os.utime(folder / "host.xplane.pb", (at, at))
    assert profile.newest_trace(tmp_path).parent.name == "a"


def test_the_table_ends_after_twelve_of_each():
    spent = profile.Counter({Origin("forward", "", f"op{i}"): 1.0 + i for i in range(20)})
    lines = profile.table(spent, 1).splitlines()
    assert len(lines) == 1 + 2 * (1 + 12)
    assert lines[2].endswith("forward op19") and lines[13].endswith("forward op8")


def test_a_trace_begins_after_the_step_before_has_ended_and_a_failed_run_ends_it(
    tmp_path, monkeypatch
):
    calls = []
    for name in ("start_trace", "stop_trace"):
        monkeypatch.setattr(jax.profiler, name, lambda *_, name=name: calls.append(name))
    clock = types.SimpleNamespace(restart=lambda: calls.append("restart"))
    run = fake_run(tmp_path, clock=clock, flush=lambda: calls.append("flush"))
    hook = Profile(5)
    for step in range(1, 8):
        hook.before_step(run, step)
    assert calls == ["flush", "start_trace", "restart"]
    hook.close(failed=True)
    assert calls[3:] == ["stop_trace"]


def test_the_program_is_the_first_that_was_compiled(tmp_path):
    hook = Profile(5)
    for text in ("first", "second"):
        hook.on_compile(None, 1, types.SimpleNamespace(as_text=lambda text=text: text))
    assert hook._program == "first"
