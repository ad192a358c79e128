"""bench loop: the training loop in turns with its bare step."""

import json
import types

import pytest
import runs

from convmesh.bench import loop
from convmesh.cli import command_line
from convmesh.config import defaults
from convmesh.errors import ConfigError
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


COST = loop.LoopCost(
    loop_seconds=[0.5, 0.25],
    unsaved_seconds=[0.25, 0.25],
    bare_seconds=[0.125, 0.25, 0.1875],
    input_wait_seconds=0.0625,
    saves=2,
)


@pytest.mark.parametrize("steps, rounds", [(300, 2), (400, 2), (500, 2), (600, 3), (10, 1)])
def test_about_as_many_steps_as_asked_for(steps, rounds, monkeypatch):
    asked = []
    monkeypatch.setattr(loop, "measure_loop", lambda config, n: asked.append(n) or COST)
    loop.bench_loop(defaults("classify"), steps)
    assert asked == [rounds]


def test_one_object_or_a_table(monkeypatch, capsys):
    monkeypatch.setattr(loop, "measure_loop", lambda config, rounds: COST)
    loop.bench_loop(defaults("classify"), as_json=True)
    numbers = json.loads(capsys.readouterr().out)
    assert (numbers["ratio"], numbers["saving_ratio"]) == (2.0, 1.5)
    assert numbers["bare_seconds"] == COST.bare_seconds and numbers["saves"] == 2
    loop.bench_loop(defaults("classify"))
    assert capsys.readouterr().out.splitlines()[1:] == [
        "seconds a step               mean   in each turn",
        "loop with saves            0.3750   0.5000  0.2500",
        "without a save             0.2500   0.2500  0.2500",
        "bare step                  0.1875   0.1250  0.2500  0.1875",
        "waiting for input          0.0625",
        "the loop takes 2.000 times as long, a save every 100 steps included; "
        "saving makes it 1.500 times as long",
    ]


def test_the_bare_step_is_timed_after_one_more_and_to_its_end(monkeypatch):
    now, ran = 0.0, 0

    def step(state, batch):
        nonlocal ran
        ran += 1
        return state, {}

    def wait(result):
        nonlocal now
        now += 2.0 * (ran - waited[0])  # 2 seconds a step that was not waited for
        waited[0] = ran

    waited = [0]
    monkeypatch.setattr(loop, "noise_step", lambda setup: (step, None, None))
    monkeypatch.setattr(loop.jax, "block_until_ready", wait)
    monkeypatch.setattr(loop, "time", types.SimpleNamespace(perf_counter=lambda: now))
    bare = loop._bare_step(None)
    assert [bare(), bare()] == [2.0, 2.0]
    assert ran == 1 + 2 * (1 + loop.BARE_STEPS)


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(loop.processes, "count", lambda: 2)
    with pytest.raises(ConfigError, match="bench loop: runs in one process only"):
        loop.measure_loop(defaults("classify"), 1)
