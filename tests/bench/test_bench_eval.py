"""bench eval: an evaluation beside its bare prediction step."""

import itertools
import json

import pytest
import runs

from convmesh.bench import eval
from convmesh.cli import command_line
from convmesh.config import defaults
from convmesh.data.splits import open_eval
from convmesh.errors import ConfigError
from convmesh.steps.setup import config_mesh, make_setup


def test_eval_of_some_images(tiny_net, photos, capsys, tmp_path):
    recipe = runs.write_recipe(tmp_path / "recipe.py", runs.photo_config(photos))
    assert command_line.main(["bench", "eval", "--config", recipe, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["images"] == runs.VAL_PHOTOS
    assert numbers["ratio"] == numbers["full"] / numbers["bare"] > 0
    assert command_line.main(["bench", "eval", "--config", recipe]) == 0
    assert "12 images, fresh weights" in capsys.readouterr().out


def test_the_ceiling_counts_a_step_for_the_last_images_too(tiny_net, photos, monkeypatch):
    now = 0.0

    def taking(*seconds):
        """A function whose calls take these seconds, the last of them again and again."""
        left = itertools.chain(seconds, itertools.repeat(seconds[-1]))

        def wait(*args):
            nonlocal now
            now += next(left)

        return wait

    # 12 images in batches of 8 are two steps. The first round, of compiling, does not count.
    monkeypatch.setattr(eval.time, "perf_counter", lambda: now)
    monkeypatch.setattr(eval, "jit_predict_step", lambda *args, **options: taking(2.0))
    monkeypatch.setattr(eval, "predict_all", taking(100.0, 6.0, 3.0, 6.0))
    monkeypatch.setattr(eval, "evaluate_variables", taking(100.0, 8.0, 8.0, 24.0))
    config = runs.photo_config(photos)
    source = open_eval(config)
    setup = make_setup(config, source.classes, config_mesh(config), len(source))
    cost = eval.measure_eval(setup, source)
    assert (cost.images, cost.bare, cost.predicted, cost.full) == (12, 3.0, 2.0, 1.5)
    assert cost.ratio == 0.5


def test_the_table_gives_the_part_of_the_ceiling(tiny_net, photos, monkeypatch, capsys):
    lengths = []

    def measure(setup, source):
        lengths.append(len(source))
        return eval.EvalCost(images=5, bare=200.0, predicted=100.0, full=50.0)

    monkeypatch.setattr(eval, "measure_eval", measure)
    monkeypatch.setattr(eval, "IMAGES", 5)
    eval.bench_eval(runs.photo_config(photos))
    assert lengths == [5]  # of 12
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("5 images, fresh weights")
    assert [line.split()[-2:] for line in lines[1:]] == [
        ["200.0", "1.00"], ["100.0", "0.50"], ["50.0", "0.25"],
    ]  # fmt: skip


def test_steps_of_the_ceiling_are_waited_for_one_by_one(tiny_net, photos, monkeypatch):
    order = []
    monkeypatch.setattr(
        eval, "jit_predict_step", lambda *args, **options: lambda *given: order.append("step")
    )
    monkeypatch.setattr(eval.jax, "block_until_ready", lambda result: order.append("wait"))
    config = runs.photo_config(photos)
    eval._bare(make_setup(config, "abcd", config_mesh(config), 12), {}, 12)
    assert order == ["step", "wait"] * 2


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(eval.processes, "count", lambda: 2)
    with pytest.raises(ConfigError, match="bench eval: runs in one process only"):
        eval.bench_eval(defaults("classify"))
