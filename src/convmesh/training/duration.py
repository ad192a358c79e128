"""Logs how long the run will take, once a few of its steps have been timed."""

from collections.abc import Mapping
from typing import Any

from convmesh.training.hooks import Hook, RunView

TIMED_STEPS = 20  # after the first one, which includes compilation
LEAST_MINUTES = 2.0  # a shorter run ends before anybody asks
FORWARD_PART = 1 / 3  # of a training step's time: what evaluating as many images takes


class Duration(Hook):
    """Logs the minutes that are left, after TIMED_STEPS steps."""

    def on_metrics(self, run: RunView, step: int, metrics: Mapping[str, Any]) -> None:
        """Logs the line when it is due, unless little is left."""
        if step != run.start_step + 1 + TIMED_STEPS:
            return
        seconds = seconds_left(run, step)
        if seconds >= 60 * LEAST_MINUTES:
            run.log(
                f"about {duration(seconds)} left: {run.setup.steps - step} steps of "
                f"{run.clock.step_seconds:.2g} s, and {evaluations_left(run, step)} evaluations"
            )


def seconds_left(run: RunView, step: int) -> float:
    """The time that the steps after `step` and their evaluations will take."""
    per_step = run.clock.step_seconds
    per_image = FORWARD_PART * per_step / run.setup.config.train.batch_size
    evaluated = evaluations_left(run, step) * len(run.data.eval)
    return (run.setup.steps - step) * per_step + evaluated * per_image


def evaluations_left(run: RunView, step: int) -> int:
    """The evaluations after `step`; there is one at the end in any case."""
    steps, every = run.setup.steps, run.setup.eval_every
    if not every:
        return 1
    return steps // every - step // every + bool(steps % every)


def duration(seconds: float) -> str:
    """Seconds as text: '35 minutes', '3.2 hours', '2.4 days'."""
    if seconds < 5400:
        return f"{max(1, round(seconds / 60))} minutes"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 86400:.1f} days"
