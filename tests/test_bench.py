"""bench: what is counted, beside what the formula says. Nothing here is timed."""

import importlib.util
import itertools
import json
import math
import os
import subprocess
from pathlib import Path

import equality
import jax
import pytest
import runs

from convmesh import cli, proof
from convmesh.bench import eval, input, loop, scale, step
from convmesh.config import apply_overrides, defaults
from convmesh.data import open_eval
from convmesh.errors import ConfigError
from convmesh.setup import config_mesh, make_setup


def setup_on(mesh, **changes):
    """small_cnn at 16 px, 8 examples, on a mesh of that shape."""
    given = {"model.name": "small_cnn", "data.classes": tuple("abcdefgh"), "train.batch_size": 8}
    config = apply_overrides(defaults("classify"), given | {"data.image_size": (16, 16)} | changes)
    return proof.noise_setup(config, equality.make_mesh(mesh))


def test_the_halo_by_hand_and_as_compiled():
    cost = step.measure_step(setup_on((2, 4, 1)), steps=0)
    # Three 3x3 convolutions: a row above and below, of 4 examples, 4 bytes a number. The first has
    # no backward pass; pools of 2 x 2 need nobody's rows.
    rows = [16 * 3, 8 * 32, 4 * 64]  # columns x channels
    halo = 2 * 4 * 4 * (rows[0] + 2 * rows[1] + 2 * rows[2])
    assert cost.halo_formula == halo
    assert 0.8 * halo <= cost.halo_bytes <= 1.2 * halo


@pytest.mark.parametrize(
    "mesh", [(8, 1, 1), (2, 4, 1), (2, 2, 2), (8, 1, 1, True), (2, 2, 2, True)], ids=str
)
def test_gradients_are_summed_no_more_than_once_along_each_axis(mesh):
    setup = setup_on(mesh)
    cost = step.measure_step(setup, steps=0)
    assert cost.gradient_formula > 0
    assert 0.8 <= cost.gradient_bytes / cost.gradient_formula <= 1.2


def test_one_device_sends_nothing():
    cost = step.measure_step(setup_on((1, 1, 1)), steps=1)
    assert cost.collectives == [] and cost.halo_bytes == cost.gradient_bytes == 0
    assert cost.step_seconds > 0 and cost.temporary_bytes > 0
    assert "none" in step.step_table(cost)


@pytest.mark.parametrize(
    "mesh, most", [((8, 1, 1, True), 0.15), ((1, 1, 4), 0.35), ((2, 2, 2, True), 0.3)], ids=str
)
@pytest.mark.parametrize("task, name", [("classify", "resnet50"), ("detect", "detector_nano")])
def test_state_on_each_device(mesh, most, task, name):
    config = apply_overrides(defaults(task), {"model.name": name, "train.batch_size": 8})
    setup = proof.noise_setup(config, equality.make_mesh(mesh))
    state = setup.abstract_state()
    whole = held = 0
    for leaf in jax.tree.leaves(state):
        whole += leaf.size
        held += math.prod(leaf.sharding.shard_shape(leaf.shape))
    assert held / whole <= most


def test_the_command_prints_a_table_or_one_object(capsys, tmp_path):
    recipe = runs.write_recipe(
        tmp_path / "recipe.py", setup_on((1, 1, 1), **{"mesh.spatial": 2}).config
    )
    assert cli.main(["bench", "step", "--config", recipe]) == 0
    table = capsys.readouterr().out
    assert "8 devices: data 4, spatial 2, model 1" in table
    assert "collective-permute    spatial" in table and "times the formula's" in table
    assert cli.main(["bench", "step", "--config", recipe, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["devices"] == 8 and numbers["halo_ratio"] <= 1.2
    assert {c["kind"] for c in numbers["collectives"]} >= {"all-reduce", "collective-permute"}


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
        """A training run that has written these speeds, the first before it was warm."""

        def __init__(self, command, **options):
            started.append(command)
            lone = "--num-processes=2" not in command
            speeds = (900.0, 10.0, 10.0, 8.0, 50.0) if lone else (900.0, 15.0, 14.0, 15.0, 16.0)
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


def test_loop_saves_and_takes_turns_with_the_bare_step(tmp_path, tiny_net, photos, capsys):
    config = runs.photo_config(photos, {"eval.every_steps": 0})
    cost = loop.bench_loop(config, steps=100)
    assert len(cost.loop_seconds) == len(cost.unsaved_seconds) == cost.saves == 1
    assert len(cost.bare_seconds) == 3
    assert cost.ratio == pytest.approx(3 * cost.loop_seconds[0] / sum(cost.bare_seconds))
    assert cost.saving_ratio == cost.loop_seconds[0] / cost.unsaved_seconds[0]
    assert f"the loop takes {cost.ratio:.3f} times as long" in capsys.readouterr().out


def test_input_counts_images_of_every_reader(tmp_path, monkeypatch):
    monkeypatch.setattr(input, "SECONDS", 0.05)
    monkeypatch.setattr(input, "WARM_UP", 0.05)
    monkeypatch.setattr(input, "ROUNDS", 1)
    input.make_pictures(tmp_path, 4)
    files = sorted(tmp_path.rglob("*.jpg"))
    assert len(files) == 4 and {path.parent.name for path in files} == {"a", "b"}
    config = apply_overrides(
        defaults("classify"), {"data.root": str(tmp_path), "train.batch_size": 2}
    )
    cost = input.measure_input(config, files, [0])
    assert cost.ratio == cost.workers[0] / cost.ceiling > 0
    assert cost.torch_ratio is None
    table = input.input_table(cost)
    assert "the ceiling" in table and "data.workers=0 (threads)" in table


def test_images_per_second_is_of_the_images_after_the_warm_up(monkeypatch):
    clock = iter([0.0, 0.5, 2.0, 2.0, 3.0, 5.5])
    monkeypatch.setattr(input.time, "perf_counter", lambda: next(clock))
    # Warm until 2.0; then 7 images by 3.0 and 8 more by 5.5.
    assert input.images_per_second([100, 100, 7, 8, 9]) == 15 / 3.5


def test_eval_of_some_images(tiny_net, photos, capsys, tmp_path):
    recipe = runs.write_recipe(tmp_path / "recipe.py", runs.photo_config(photos))
    assert cli.main(["bench", "eval", "--config", recipe, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["images"] == runs.VAL_PHOTOS
    assert numbers["ratio"] == numbers["whole"] / numbers["bare"] > 0
    assert cli.main(["bench", "eval", "--config", recipe]) == 0
    assert "12 images, fresh weights" in capsys.readouterr().out


def test_the_ceiling_counts_a_step_for_the_last_images_too(tiny_net, photos, monkeypatch):
    now = 0.0

    def taking(*seconds):
        """A function that takes so long at each call, in turn."""
        left = itertools.chain(seconds, itertools.repeat(seconds[-1]))

        def pass_by(*args):
            nonlocal now
            now += next(left)

        return pass_by

    # 12 images in batches of 8 are two steps. The first round, of compiling, does not count.
    monkeypatch.setattr(eval.time, "perf_counter", lambda: now)
    monkeypatch.setattr(eval, "jit_predict_step", lambda *args, **options: taking(2.0))
    monkeypatch.setattr(eval, "predict_all", taking(100.0, 6.0, 3.0, 6.0))
    monkeypatch.setattr(eval, "evaluate_variables", taking(100.0, 8.0, 8.0, 24.0))
    config = runs.photo_config(photos)
    source = open_eval(config)
    setup = make_setup(config, source.classes, config_mesh(config), len(source))
    cost = eval.measure_eval(setup, source)
    assert (cost.images, cost.bare, cost.predicted, cost.whole) == (12, 3.0, 2.0, 1.5)
    assert cost.ratio == 0.5


@pytest.mark.parametrize("part", ["step", "input"])
def test_a_rival_that_is_not_there_is_named(part, monkeypatch, capsys, photos, tiny_net, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    recipe = runs.write_recipe(tmp_path / "recipe.py", runs.photo_config(photos))
    assert cli.main(["bench", part, "--config", recipe, "--compare", "torch"]) == 2
    assert "pip install 'convmesh[torch]'" in capsys.readouterr().err


def test_torch_is_for_two_benches_only(photos, tiny_net, tmp_path, capsys):
    recipe = runs.write_recipe(tmp_path / "recipe.py", runs.photo_config(photos))
    assert cli.main(["bench", "loop", "--config", recipe, "--compare", "torch"]) == 2
    assert "not of loop" in capsys.readouterr().err
