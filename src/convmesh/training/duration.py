"""Logs how long the run will take, once a few of its steps have been timed."""

from collections.abc import Mapping
from typing import Any

from convmesh.data.augmentation.eval_view import eval_size
from convmesh.data.augmentation.sizes import StepSizes
from convmesh.training.hooks import Hook, RunView

TIMED_STEPS = 20  # after the first one, which includes compilation
LEAST_MINUTES = 2.0  # a shorter run ends before anybody asks
FORWARD_PART = 1 / 3  # of a training step's time: what evaluating as many images takes


class Duration(Hook):
    """Logs the minutes that are left, after TIMED_STEPS steps."""

    def __init__(self) -> None:
        """Takes no arguments."""
        self._said = False

    def on_metrics(self, run: RunView, step: int, metrics: Mapping[str, Any]) -> None:
        """Logs the line when it is due, unless little is left."""
        done = step - run.start_step - 1  # without the first, which includes compilation
        # The clock starts again after a save.
        timed = run.clock.steps >= TIMED_STEPS / 2 or done >= 5 * TIMED_STEPS
        if self._said or done < TIMED_STEPS or not timed:
            return
        self._said, seconds = True, seconds_left(run, step)
        if seconds < 60 * LEAST_MINUTES:
            return
        evaluations = evaluations_left(run, step)
        most = "at most " if run.setup.config.train.patience else ""
        run.log(
            f"{most}about {duration(seconds)} left: {run.setup.steps - step} steps, now of "
            f"{run.clock.step_seconds:.2g} s, and {evaluations} "
            f"evaluation{'' if evaluations == 1 else 's'}"
        )


def seconds_left(run: RunView, step: int) -> float:
    """The time that the steps after `step` and their evaluations will take.

    Time goes with the number of pixels, where images of several sizes are trained on.
    """
    config, steps = run.setup.config, run.setup.steps
    sizes = StepSizes.of(config, steps)
    per_pixel = run.clock.step_seconds / sizes.pixels(step - TIMED_STEPS + 1, step)
    training = (steps - step) * per_pixel * sizes.pixels(step + 1, steps)
    height, width = eval_size(config)
    per_image = FORWARD_PART * per_pixel * height * width / config.train.batch_size
    return training + evaluations_left(run, step) * len(run.data.eval) * per_image


def evaluations_left(run: RunView, step: int) -> int:
    """The evaluations from the one of `step` on; there is one at the end in any case."""
    steps, every = run.setup.steps, run.setup.eval_every
    if not every:
        return 1
    return steps // every - (step - 1) // every + bool(steps % every)


def duration(seconds: float) -> str:
    """Seconds as text: '35 minutes', '3.2 hours', '2.4 days'."""
    if seconds < 5400:
        return f"{max(1, round(seconds / 60))} minutes"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 86400:.1f} days"
