"""bench step: what is counted, beside what the formula predicts. Nothing here is timed."""

import contextlib
import dataclasses
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
from convmesh.programs.collectives import Collective, CollectiveTotal
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


def test_the_state_is_counted_as_one_device_holds_it():
    setup = setup_on((2, 2, 2, True))
    cost = step.measure_step(setup, steps=0)
    held = [
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(setup.abstract_state())
    ]
    assert cost.state_bytes == sum(held)


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


def test_our_first_step_is_not_counted_either(monkeypatch):
    now, seconds = 0.0, iter([100.0, 2.0, 3.0, 3.5])

    def take_step():
        nonlocal now
        now += next(seconds)

    monkeypatch.setattr(step.time, "perf_counter", lambda: now)
    assert step._time_in_turns(take_step, 3, None) == (3.0, None)
    assert step._time_in_turns(take_step, 0, None) == (None, None)


COST = step.StepCost(
    mesh="data 2, spatial 1, model 1",
    devices=2,
    collectives=[CollectiveTotal("all-reduce", ("data", "spatial"), 3, 2_500_000)],
    halo_bytes=0,
    halo_formula=0,
    gradient_bytes=3_000_000,
    gradient_formula=2_000_000,
    state_bytes=8_000_000,
    temporary_bytes=1_000_000,
    compile_seconds=1.5,
    step_seconds=0.5,
    flops=4e9,
    mfu=0.25,
    torch="torch 0",
    torch_seconds=0.25,
)


def test_the_table_by_hand():
    assert [" ".join(line.split()) for line in step.step_table(COST).splitlines()] == [
        "2 devices: data 2, spatial 1, model 1",
        "",
        "collective along count MB on each device",
        "all-reduce data, spatial 3 2.50",
        "",
        "gradients, sent 3.00 MB, 1.50 times the formula's 2.00 MB",
        "state 8.00 MB on each device",
        "temporaries 1.00 MB on each device",
        "compilation 1.5 s",
        "step 0.500 s (median of 5): 4.0 GFLOP, 8 GFLOP/s, 25.0% of the peak",
        "torch 0 0.250 s, in turns: ours takes 2.00 times as long",
    ]
    alone = dataclasses.replace(COST, step_seconds=None, torch=None, torch_seconds=None)
    assert step.step_table(alone).splitlines()[-1].startswith("compilation")


def test_ratios_of_the_object():
    numbers = step._as_json(COST)
    assert (numbers["ratio"], numbers["gradient_ratio"], numbers["halo_ratio"]) == (2.0, 1.5, None)


def test_mfu_is_the_time_at_the_peak_over_the_measured_time(monkeypatch):
    monkeypatch.setattr(step, "ideal_seconds", lambda setup: 0.5)
    monkeypatch.setattr(step, "_time_in_turns", lambda *args: (2.0, None))
    monkeypatch.setattr(step, "step_flops", lambda setup: 7.0)
    cost = step.measure_step(setup_on((1, 1, 1)), steps=1)
    assert (cost.mfu, cost.flops, cost.step_seconds) == (0.25, 7.0, 2.0)


def test_each_micro_batch_sends_its_halo_and_sums_its_gradients():
    one, two = (
        step.measure_step(setup_on((2, 2, 1), **{"train.accumulate": n}), steps=0) for n in (1, 2)
    )
    assert two.gradient_formula == 2 * one.gradient_formula > 0
    assert two.halo_formula == one.halo_formula > 0  # twice the rows of half the examples


def test_the_baseline_is_compared_only_if_it_is_the_same_model(monkeypatch):
    monkeypatch.setattr(step, "TorchBaseline", lambda setup: contextlib.nullcontext(Baseline()))
    monkeypatch.setattr(step, "measure_step", None)
    with pytest.raises(ConfigError, match="not the same model"):
        step.bench_step(setup_on((8, 1, 1)).config, as_json=True, compare="torch")


KERNEL_SUM = {
    "kind": "all-reduce",
    "axes": ("data",),
    "bytes": 0,
    "count": 1,
    "in_loop": False,
}


@pytest.mark.parametrize(
    "shapes, name, wanted",
    [
        (("f32[3,3,8,16]",), "jit(f)/transpose(jvp(Net))/conv/shard_map/psum", True),
        # As TPUs call it: by a norm whose sums were merged with it, and of another shape.
        (("f32[1,16]", "f32[72,16]"), "jit(f)/transpose(jvp(Net))/norm/reduce_sum", True),
        (("f32[1,16]", "f32[1,16]"), "jit(f)/transpose(jvp(Net))/norm/reduce_sum", False),
        (("f32[72,16]",), "jit(f)/jvp(Net)/norm/reduce_sum", False),
    ],
)
def test_sums_of_kernels_are_known_by_name_or_size(shapes, name, wanted):
    collective = Collective(shapes=shapes, op_name=name, **KERNEL_SUM)
    assert step._sums_gradients(collective, frozenset({3 * 3 * 8 * 16})) == wanted
