"""step_plan: what a compiled step needs, and what is said where it does not fit."""

import dataclasses

import jax
import pytest

from convmesh.config import apply_overrides, defaults
from convmesh.errors import ConfigError, DataError
from convmesh.plan import step_plan
from convmesh.plan.step_plan import changes_that_fit, largest_batch, plan_step
from convmesh.plan.topology import Topology, open_topology
from convmesh.programs.accelerators import Chip
from convmesh.steps.noise import noise_setup, noise_step

CHIP = Chip("some", "some", 1e12, 1e11, 1e11, 10e9, link=1e9)


def config(**changes):
    given = {
        "model.name": "small_cnn",
        "data.image_size": (16, 16),
        "data.classes": ("a", "b"),
        "train.batch_size": 16,
        "train.steps": 7,
    }
    return apply_overrides(defaults("classify"), given | changes)


@pytest.fixture(scope="module")
def found():
    return plan_step(config(**{"mesh.spatial": 2}), open_topology("cpu:8"))


def test_its_memory_is_that_of_the_step_that_is_run(found):
    setup = noise_setup(config(**{"mesh.spatial": 2}))
    step, state, batch = noise_step(setup)
    stats = step.lower(state, batch).compile().memory_analysis()
    memory = found.memory
    assert memory.temporaries == stats.temp_size_in_bytes
    on_device = lambda tree: sum(  # noqa: E731
        leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree)
    )
    assert memory.parameters == on_device(state.params)
    assert memory.optimizer == on_device(state.opt_state)
    assert memory.batch == on_device(list(dict(batch.arrays()).values()))
    held = stats.argument_size_in_bytes + stats.temp_size_in_bytes
    assert memory.total == pytest.approx(held, rel=0.02)
    assert memory.fits and memory.available > 2**20


def test_what_it_tells(found):
    assert (found.devices, found.batch, found.steps) == (8, 16, 7)
    assert found.mesh == "data 4, spatial 2, model 1" and found.precision == "float32"
    assert found.flops > 0 and found.traffic > found.memory.temporaries / 2
    kinds = {each.kind for each in found.collectives}
    assert {"all-reduce", "collective-permute"} <= kinds
    assert found.seconds is None and found.images_per_second is None  # of no known device


def with_chip(**changes):
    chip = dataclasses.replace(CHIP, **changes)
    return Topology("some:8", open_topology("cpu:8").devices, chip)


def test_a_known_device_has_a_roofline():
    found = plan_step(config(), with_chip())
    assert found.seconds.arithmetic == pytest.approx(found.flops / 1e11)  # float32
    assert found.seconds.memory == pytest.approx(found.traffic / 1e11)
    assert found.images_per_second == pytest.approx(16 / found.seconds.total)


def test_what_is_too_large_does_not_fit_and_ways_out_are_named(found):
    memory = dataclasses.replace(found.memory, available=found.memory.total * 3 // 4)
    found = dataclasses.replace(found, memory=memory, device="some")
    assert not memory.fits
    batch = largest_batch(found)
    assert 0 < batch < 16 and batch % 4 == 0
    whole_groups = dataclasses.replace(found, batch_unit=8)
    assert largest_batch(whole_groups) == batch // 8 * 8
    changes = changes_that_fit(config(), found, data=4)
    assert changes[0] == f"train.batch_size={batch // 4 * 4} (now 16)"
    assert any(change.startswith("train.accumulate=2") for change in changes)
    assert any(change.startswith("precision=bfloat16") for change in changes)
    assert not any(change.startswith("model.remat") for change in changes)  # it has no blocks
    blocks = changes_that_fit(config(), dataclasses.replace(found, model="resnet18"), data=4)
    assert any(change.startswith("model.remat=true") for change in blocks)
    roomy = dataclasses.replace(memory, available=memory.total + memory.waiting)
    assert changes_that_fit(config(), dataclasses.replace(found, memory=roomy), data=4) == []


REFUSALS = [
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
    "(20.50G) exceeds available HBM (15.75G).",
    "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. "
    "Exceeded hbm capacity by 4.75G.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_a_program_that_its_compiler_refuses_as_too_large_is_planned(monkeypatch, text):
    class Step:
        def lower(self, state, batch):
            raise jax.errors.JaxRuntimeError(text)

    whole = step_plan.abstract_step
    monkeypatch.setattr(step_plan, "abstract_step", lambda setup: (Step(), *whole(setup)[1:]))
    found = plan_step(config(), with_chip())
    assert not found.memory.fits and not found.memory.measured
    assert found.memory.available == int(15.75 * 2**30)
    assert found.memory.total == int(20.5 * 2**30)
    assert found.collectives == [] and found.seconds is None


def test_another_refusal_is_an_error_of_a_line(monkeypatch):
    class Step:
        def lower(self, state, batch):
            raise jax.errors.JaxRuntimeError("INTERNAL: no\nmore")

    whole = step_plan.abstract_step
    monkeypatch.setattr(step_plan, "abstract_step", lambda setup: (Step(), *whole(setup)[1:]))
    with pytest.raises(DataError, match="plan: the compiler refuses the step: INTERNAL: no$"):
        plan_step(config(), with_chip())


def test_a_batch_that_does_not_divide_is_refused_before_it_is_compiled():
    with pytest.raises(ConfigError, match="train.batch_size=12"):
        plan_step(config(**{"train.batch_size": 12}), open_topology("cpu:8"))
