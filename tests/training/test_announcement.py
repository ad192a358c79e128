"""What a run logs of itself before its first step."""

import types

import equality
import numpy as np
import pytest
from fake_run import fake_run

from convmesh.config import defaults
from convmesh.distributed import processes
from convmesh.models.depth import Frozen
from convmesh.training import announcement

MODEL = "detector_tiny, 1.50 M parameters, float32, on 8 x cpu (mesh: "
DATA = "3 images to train on (train[:3]), 2 to evaluate (val), 5 classes; 40 steps of 16"


class Split(list):
    def __init__(self, n, split):
        super().__init__(range(n))
        self.split = split


def logged(tmp_path, monkeypatch, notes=(), options=None, start_step=0, cached="", **changes):
    config = defaults("detect")
    config.model.name, config.train.batch_size = "detector_tiny", 16
    config.data.update(changes)
    mesh = equality.make_mesh((4, 2, 1))
    setup = types.SimpleNamespace(
        config=config,
        mesh=mesh,
        classes=tuple("abcde"),
        steps=40,
        eval_every=0,
        model_name=config.model.name,
        precision="float32",
        frozen=Frozen(),
    )
    asked = []
    monkeypatch.setattr(announcement, "layout_notes", lambda of: notes if of is setup else ())
    monkeypatch.setattr(
        announcement.devices,
        "compiler_options",
        lambda platform: asked.append(platform) or options or {},
    )
    run = fake_run(tmp_path, start_step, source=Split(3, "train[:3]"), setup=setup)
    run.data.eval = Split(2, "val")
    run.data.cached = cached
    run.state.params = {"a": np.zeros((1000, 1000)), "b": {"c": np.zeros(500_000)}}
    announcement.Announcement().on_start(run)
    assert asked == ["cpu"]
    return run.logged


def test_model_devices_and_data(tmp_path, monkeypatch):
    model, data, _ = logged(tmp_path, monkeypatch)
    assert model.startswith(MODEL) and model.endswith(")")
    assert data == DATA


def test_what_stays_in_memory(tmp_path, monkeypatch):
    assert logged(tmp_path, monkeypatch, cached="all of it")[2] == "all of it"


def test_the_processes_if_there_are_several(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    assert logged(tmp_path, monkeypatch)[0].endswith(") of 2 processes")


def test_sizes_options_layers_that_are_not_sharded_and_the_step_in_this_order(
    tmp_path, monkeypatch
):
    lines = logged(
        tmp_path,
        monkeypatch,
        notes=("head is not sharded", "neither is stem"),
        options={"xla_a": True, "xla_b": "x"},
        start_step=7,
        image_size=(64, 96),
        sizes=(1.0, 2.0),
    )
    assert lines[2:] == [
        "images of 64 x 96, 128 x 192 (height x width), each compiled at its first step",
        "XLA options: --xla_a=true --xla_b=x (XLA_FLAGS overrides them)",
        "head is not sharded",
        "neither is stem",
        "checkpoints: every 10 minutes, at the end and at a stop",
        "resuming from the checkpoint of step 7",
    ]


@pytest.mark.parametrize(
    "minutes, steps, eval_every, said",
    [
        (10, 0, 0, "every 10 minutes, at the end and at a stop"),
        (0.5, 20, 20, "every 0.5 minutes, every 20 steps, at the end and at a stop"),
        (0, 0, 15, "with each evaluation, every 15 steps, at the end and at a stop"),
        (0, 0, 40, "only at the end and at a stop (checkpoint.every_minutes, checkpoint.every_st"),
        (0, 0, 0, "only at the end and at a stop (checkpoint.every_minutes, checkpoint.every_st"),
    ],
)
def test_when_a_run_saves(minutes, steps, eval_every, said):
    config = defaults("detect")
    config.checkpoint.every_minutes, config.checkpoint.every_steps = minutes, steps
    setup = types.SimpleNamespace(config=config, steps=40, eval_every=eval_every)
    assert announcement.when_saved(setup).startswith(said)


@pytest.mark.parametrize(
    "frozen, norms, said",
    [
        (Frozen(), "auto", ""),
        (Frozen(1), "false", "the stem and the first stage (train.frozen_stages)"),
        (
            Frozen(3, "all"),
            "true",
            "the stem and the first 3 stages (train.frozen_stages); the batch norms "
            "(train.frozen_norms=true)",
        ),
        (
            Frozen(0, "backbone"),
            "auto",
            "the batch norms of the backbone (train.frozen_norms=auto: 8 examples are normalised "
            "together)",
        ),
        (
            Frozen(0, "backbone"),
            "false",
            "the batch norms of the backbone (as detector_tiny is defined)",
        ),
    ],
)
def test_what_is_not_trained(frozen, norms, said):
    config = defaults("detect")
    config.model.name = "detector_tiny"
    config.train.frozen_norms, config.train.batch_size = norms, 8
    setup = types.SimpleNamespace(config=config, frozen=frozen)
    assert announcement.frozen_note(setup) == (said and f"not trained: {said}")
