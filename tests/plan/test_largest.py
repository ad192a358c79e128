"""The search for the largest batch, on programs whose memory is known."""

import dataclasses

import pytest
from test_planning import PLAN

from convmesh.config import load_config
from convmesh.errors import ConfigError
from convmesh.plan import largest
from convmesh.plan.largest import CLOSE, MOST, find_largest_batch, search
from convmesh.plan.topology import open_topology


def compiler(fixed, each, available, tried, waste=0):
    """Compiles in memory: `fixed` bytes and `each` of an image; `waste` above a batch of 1,000."""

    def compiled(batch):
        tried.append(batch)
        total = fixed + each * batch + (waste if batch > 1000 else 0)
        memory = dataclasses.replace(PLAN.memory, total=total, available=available)
        return dataclasses.replace(PLAN, batch=batch, memory=memory)

    return compiled


@pytest.mark.parametrize("begin", [16, 512, 9968, 10_000, 64_000])
@pytest.mark.parametrize("waste", [0, 1_000_000])
def test_the_bounds_are_close_and_right(begin, waste):
    tried = []
    fits, refused = search(compiler(3_000_000, 1000, 13_000_000, tried, waste), begin, 16)
    limit = 10_000 - waste // 1000
    assert fits.batch <= limit < refused.batch <= fits.batch * CLOSE
    assert len(tried) <= MOST and all(batch % 16 == 0 for batch in tried)


def test_a_step_that_never_fits():
    tried = []
    fits, refused = search(compiler(14_000_000, 1000, 13_000_000, tried), 64, 16)
    assert fits is None and refused.batch == 16 and tried[-1] == 16


def test_batches_keep_what_divides(monkeypatch):
    tried = []
    config = load_config(
        "imagenet_resnet50", ["train.batch_size=512", "model.norm_group=32", "train.accumulate=2"]
    )
    simple = compiler(3_000_000, 1000, 13_000_000, tried)
    monkeypatch.setattr(largest, "plan_step", lambda given, on: simple(given.train.batch_size))
    find_largest_batch(config, open_topology("cpu:8"))
    assert len(tried) > 2 and all(batch % (8 * 32 * 2) == 0 for batch in tried)
    assert config.train.batch_size == 512


def test_unknown_memory_is_refused(monkeypatch):
    memory = dataclasses.replace(PLAN.memory, available=None)
    unknown = dataclasses.replace(PLAN, memory=memory)
    monkeypatch.setattr(largest, "plan_step", lambda given, on: unknown)
    with pytest.raises(ConfigError, match="--largest: the memory of cpu:8 is not known"):
        find_largest_batch(load_config("demo"), open_topology("cpu:8"))


def test_the_length_of_the_run_is_that_of_each_batch(monkeypatch):
    simple, steps = compiler(3_000_000, 1000, 13_000_000, []), {}

    def compiled(given, on):
        steps[given.train.batch_size] = given.train.steps
        return simple(given.train.batch_size)

    monkeypatch.setattr(largest, "plan_step", compiled)
    config = load_config("small_cnn", ["train.steps=0", "train.epochs=2.0", "train.batch_size=64"])
    fits, _ = find_largest_batch(config, open_topology("cpu:8"), images=64_000)
    assert steps[64] == 2000 and steps[fits.batch] == round(128_000 / fits.batch)


@pytest.mark.parametrize("mesh", ["mesh.spatial=-1", "mesh.model=-1"])
def test_the_size_that_is_left_open_may_be_any(monkeypatch, mesh):
    simple = compiler(3_000_000, 1000, 13_000_000, [])
    monkeypatch.setattr(largest, "plan_step", lambda given, on: simple(given.train.batch_size))
    config = load_config("small_cnn", ["mesh.data=1", mesh, "train.batch_size=64"])
    fits, refused = find_largest_batch(config, open_topology("cpu:8"))
    assert fits.batch <= 10_000 < refused.batch <= fits.batch * CLOSE


def test_a_mesh_that_does_not_fit_the_devices_is_refused():
    config = load_config("small_cnn", ["mesh.data=1", "mesh.spatial=16"])
    with pytest.raises(ConfigError, match=r"mesh.spatial=16.*does not fit the 8 device"):
        find_largest_batch(config, open_topology("cpu:8"))
