"""The hooks of every run, in calling order."""

from convmesh.steps.setup import Setup
from convmesh.training.advice import Advice
from convmesh.training.announcement import Announcement
from convmesh.training.data_report import DataReport
from convmesh.training.duration import Duration
from convmesh.training.early_stopping import EarlyStopping
from convmesh.training.hooks import Hook
from convmesh.training.nonfinite import NonFiniteSteps
from convmesh.training.pictures import Curves, FirstBatch
from convmesh.training.step_log import StepLog


def default_hooks(setup: Setup) -> list[Hook]:
    """The default hooks of a run; a user's own are called after them."""
    return [
        EarlyStopping(setup.config.train.patience, setup.best_metric),
        Announcement(),
        FirstBatch(),
        NonFiniteSteps(setup.config.train.max_nonfinite_steps),
        StepLog(setup),
        Duration(),
        DataReport(),
        Advice(),
        Curves(),
    ]
