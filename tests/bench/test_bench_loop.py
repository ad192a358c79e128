"""bench loop: the training loop in turns with its bare step."""

import pytest
import runs

from convmesh.bench import loop
from convmesh.cli import command_line


def test_loop_saves_and_takes_turns_with_the_bare_step(tmp_path, tiny_net, photos, capsys):
    config = runs.photo_config(photos, {"eval.every_steps": 0})
    cost = loop.bench_loop(config, steps=100)
    assert len(cost.loop_seconds) == len(cost.unsaved_seconds) == cost.saves == 1
    assert len(cost.bare_seconds) == 3
    assert cost.ratio == pytest.approx(3 * cost.loop_seconds[0] / sum(cost.bare_seconds))
    assert cost.saving_ratio == cost.loop_seconds[0] / cost.unsaved_seconds[0]
    assert f"the loop takes {cost.ratio:.3f} times as long" in capsys.readouterr().out


def test_torch_is_for_two_benches_only(photos, tiny_net, tmp_path, capsys):
    recipe = runs.write_recipe(tmp_path / "recipe.py", runs.photo_config(photos))
    assert command_line.main(["bench", "loop", "--config", recipe, "--compare", "torch"]) == 2
    assert "not loop" in capsys.readouterr().err
