"""What the tests of whole runs share: hooks that send signals, and what a run has left."""

import signal

import jax
import numpy as np
import runs

from convmesh.steps.setup import make_run_mesh, make_setup
from convmesh.training import loop
from convmesh.training.default_hooks import default_hooks
from convmesh.training.hooks import Hook
from convmesh.workdir.checkpoints import Checkpoints
from convmesh.workdir.layout import Workdir
from convmesh.workdir.metrics import read_metrics

TIMES = ("images_per_second", "step_seconds", "input_wait_seconds")


def final_state(workdir):
    """The newest checkpoint: its state on the mesh of the config, and its meta."""
    config, classes = Workdir(workdir).read_run()
    mesh = make_run_mesh(config)
    setup = make_setup(config, classes, mesh, runs.TRAIN_PHOTOS)
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.restore(checkpoints.choose(), setup.abstract_state())


def lines(workdir):
    """metrics.jsonl without the times, which differ from run to run."""
    rows = read_metrics(workdir / "metrics.jsonl")
    return [{name: row[name] for name in row if name not in TIMES} for row in rows]


class SignalAt(Hook):
    """Sends this process a signal once a step was dispatched."""

    def __init__(self, step, number=signal.SIGTERM):
        self.step, self.number = step, number

    def after_step(self, run, step):
        if step == self.step:
            signal.raise_signal(self.number)


def with_hooks(patch, *hooks):
    """Every run has these hooks too, however it is started."""
    patch.setattr(loop, "default_hooks", lambda setup: [*default_hooks(setup), *hooks])


def stop_at(patch, step, number=signal.SIGTERM):
    """Stops a run, however it is started, after `step`."""
    with_hooks(patch, SignalAt(step, number))


def assert_same_bits(ours, theirs):
    flat = zip(
        jax.tree_util.tree_leaves_with_path(ours),
        jax.tree_util.tree_leaves_with_path(theirs),
        strict=True,
    )
    for (path, one), (other_path, other) in flat:
        assert path == other_path
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes(), path
