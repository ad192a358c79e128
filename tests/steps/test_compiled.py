"""The train steps of a run: one program for each size of image."""

import dataclasses

import equality
import jax
import numpy as np
import pytest

from convmesh import mesh as meshes
from convmesh.config import apply_overrides, defaults
from convmesh.steps.compiled import TrainSteps
from convmesh.steps.noise import noise_batch
from convmesh.steps.setup import make_setup


@pytest.fixture
def setup(tiny_net):
    changes = {"model.name": tiny_net, "data.image_size": (16, 16), "train.batch_size": 2}
    changes |= {"train.steps": 2}
    config = apply_overrides(defaults("classify"), changes)
    return make_setup(config, "abc", equality.make_mesh((1, 1, 1)))


def test_each_size_has_a_program_of_its_own(setup):
    steps, state = TrainSteps(setup), setup.create_state()
    programs = []
    for size in ((16, 16), (32, 32), (16, 32)):
        shard = setup.train_shard(size[0])
        batch = shard.take(noise_batch(setup.task, size, 2))
        batch = meshes.make_global_batch(setup.mesh, batch, shard)
        assert steps.get(batch) is None
        program = steps.compile(state, batch)
        assert steps.get(batch) is program
        state, metrics = program(state, batch)
        assert np.isfinite(float(metrics["loss"]))
        programs.append(program)
        another = dataclasses.replace(batch, index=jax.numpy.zeros_like(batch.index))
        assert steps.get(another) is program
    assert len(set(map(id, programs))) == 3
