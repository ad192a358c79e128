"""bench loop: the training loop in turns with its bare step."""

import types

import pytest
import runs

from convmesh.bench import loop
from convmesh.cli import command_line
from convmesh.training.run import Run


def test_loop_saves_and_takes_turns_with_the_bare_step(tmp_path, tiny_net, photos, capsys):
    config = runs.photo_config(photos, {"eval.every_steps": 0})
    cost = loop.bench_loop(config, steps=100)
    assert len(cost.loop_seconds) == len(cost.unsaved_seconds) == cost.saves == 1
    assert len(cost.bare_seconds) == 3
    assert cost.ratio == pytest.approx(3 * cost.loop_seconds[0] / sum(cost.bare_seconds))
    assert cost.saving_ratio == cost.loop_seconds[0] / cost.unsaved_seconds[0]
    assert f"the loop takes {cost.ratio:.3f} times as long" in capsys.readouterr().out


def test_the_turns_with_a_save_are_told_from_those_without(tiny_net, photos, monkeypatch):
    now = 0.0

    def taking(seconds, method):
        def timed(*arguments):
            nonlocal now
            now += seconds
            return method(*arguments)

        return timed

    monkeypatch.setattr(loop, "time", types.SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(loop, "SAVE_EVERY", 10)
    monkeypatch.setattr(loop, "FIRST_TURN", 5)
    monkeypatch.setattr(loop, "_bare_step", lambda setup: lambda: 0.5)
    monkeypatch.setattr(Run, "take_step", taking(1.0, Run.take_step))
    monkeypatch.setattr(Run, "save", taking(100.0, Run.save))
    cost = loop.measure_loop(runs.photo_config(photos), rounds=1)
    # Steps 8 to 15, and steps 18 to 25 with the save of step 20.
    assert cost.unsaved_seconds == [1.0] and cost.loop_seconds == [(8 + 100) / 8]
    assert cost.bare_seconds == [0.5] * 3
    assert cost.saving_ratio == 13.5 and cost.ratio == 27


def test_torch_is_for_two_benches_only(photos, tiny_net, tmp_path, capsys):
    recipe = runs.write_recipe(tmp_path / "recipe.py", runs.photo_config(photos))
    assert command_line.main(["bench", "loop", "--config", recipe, "--compare", "torch"]) == 2
    assert "not loop" in capsys.readouterr().err
