"""bench step: what is counted, beside what the formula predicts. Nothing here is timed."""

import json
import math

import equality
import jax
import pytest
import runs

from convmesh.bench import step
from convmesh.cli import command_line
from convmesh.config import apply_overrides, defaults
from convmesh.errors import ConfigError
from convmesh.steps.noise import noise_setup


def setup_on(mesh, **changes):
    """small_cnn at 16 px, 8 examples, on a mesh of that shape."""
    given = {"model.name": "small_cnn", "data.classes": tuple("abcdefgh"), "train.batch_size": 8}
    config = apply_overrides(defaults("classify"), given | {"data.image_size": (16, 16)} | changes)
    return noise_setup(config, equality.make_mesh(mesh))


def test_the_halo_by_hand_and_as_compiled():
    cost = step.measure_step(setup_on((2, 4, 1)), steps=0)
    # Three 3x3 convolutions: a row above and below, of 4 examples, 4 bytes each. The first has
    # no backward pass; pools of 2 x 2 need no rows of others.
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
    setup = noise_setup(config, equality.make_mesh(mesh))
    state = setup.abstract_state()
    total = held = 0
    for leaf in jax.tree.leaves(state):
        total += leaf.size
        held += math.prod(leaf.sharding.shard_shape(leaf.shape))
    assert held / total <= most


def test_the_command_prints_a_table_or_one_object(capsys, tmp_path):
    recipe = runs.write_recipe(
        tmp_path / "recipe.py", setup_on((1, 1, 1), **{"mesh.spatial": 2}).config
    )
    assert command_line.main(["bench", "step", "--config", recipe]) == 0
    table = capsys.readouterr().out
    assert "8 devices: data 4, spatial 2, model 1" in table
    assert "collective-permute    spatial" in table and "times the formula's" in table
    assert command_line.main(["bench", "step", "--config", recipe, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["devices"] == 8 and numbers["halo_ratio"] <= 1.2
    assert {c["kind"] for c in numbers["collectives"]} >= {"all-reduce", "collective-permute"}


class Baseline:
    """A step in PyTorch of 2 seconds, the first of 100."""

    name, parameters = "torch 0", 7

    def __init__(self):
        self.seconds = iter([100.0, 2.0, 2.0, 3.0])

    def step(self):
        return next(self.seconds)


def test_the_baseline_takes_turns_and_its_first_step_is_not_counted():
    setup = setup_on((1, 1, 1))
    cost = step.measure_step(setup, steps=3, baseline=Baseline())
    assert (cost.torch, cost.torch_seconds) == ("torch 0", 2.0)
    assert f"torch 0{' ' * 15}    2.000 s, in turns" in step.step_table(cost)
    assert step._as_json(cost)["ratio"] == cost.step_seconds / 2


def test_a_baseline_of_another_size_is_refused():
    with pytest.raises(ConfigError, match="small_cnn has 7 parameters, ours .*: not the same"):
        step._check_same_size(setup_on((1, 1, 1)), Baseline())
