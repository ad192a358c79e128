"""Hooks: what a run logs, draws, reports and ends by, and the base class for your own.

    class PrintLoss(Hook):
        def on_metrics(self, run, step, metrics):
            run.log(f"{step}: {float(metrics['loss']):.3f}")

    convmesh.train(config, workdir, hooks=[PrintLoss()])

Hooks are called in the order of the list, a user's after those of `default_hooks`. Every process
calls every hook, so a hook may communicate with the other processes; only process 0 prints and
writes (`run.log` and `processes.is_first`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from convmesh.data.loading.batches import DataCounts, TrainBatch
from convmesh.data.splits import RunData
from convmesh.steps.setup import Setup
from convmesh.steps.state import TrainState
from convmesh.training.step_clock import StepClock
from convmesh.workdir.layout import Workdir


class RunView(Protocol):
    """The part of a `convmesh.training.run.Run` that hooks may use.

    Attributes:
      setup, data, workdir: the parts of the run, its splits and its files.
      state: the train state after the last dispatched step.
      start_step: the step of the restored state. step: the last dispatched step.
      clock: the speed of the last steps.
      counts: examples and boxes read and skipped, over all processes, after the last step.
      own_counts: the same of this process, so far in this call.
    """

    setup: Setup
    data: RunData
    workdir: Workdir
    state: TrainState
    start_step: int
    step: int
    clock: StepClock
    counts: DataCounts
    own_counts: DataCounts

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""

    def finish(self, reason: str) -> None:
        """Makes the current step the last one. Every process must call it."""

    def saved_steps(self) -> Sequence[int]:
        """The steps of the checkpoints, ascending, once the save in progress has ended."""

    def flush(self) -> None:
        """Waits for the last dispatched step and passes its metrics to the hooks."""

    def log(self, text: str) -> None:
        """Prints a line, above the progress bar if there is one; on process 0 only."""

    def show_progress(self, step: int, loss: float, images_per_second: float) -> None:
        """Updates the progress bar."""

    def log_metrics(self, step: int, split: str, numbers: Mapping[str, Any]) -> None:
        """Appends numbers to `metrics.jsonl` and TensorBoard, from `on_start` on; process 0 only.

        A row of a training step holds `loss`; a row without it counts as an evaluation.
        """


class Hook:
    """The base class of hooks. Override the methods you need; by default they do nothing."""

    def check(self, setup: Setup, workdir: Workdir) -> None:
        """Called before anything is written; raises ConfigError if the hook cannot work."""

    def on_restore(self, run: RunView) -> None:
        """Called with the state of `run.start_step` restored or created; may call `run.finish`."""

    def on_start(self, run: RunView) -> None:
        """Called before the first step or evaluation; not in a run that was already finished."""

    def before_step(self, run: RunView, step: int) -> None:
        """Called before the batch of step `step`, counted from 1, is read."""

    def on_batch(self, run: RunView, step: int, batch: TrainBatch) -> None:
        """Called with this process's part of the batch of `step`, arrays on the host."""

    def on_compile(self, run: RunView, step: int, compiled: Any) -> None:
        """Called after compiling for `step`: the first step, or the first of an image size."""

    def after_step(self, run: RunView, step: int) -> None:
        """Called after step `step` was dispatched; it may still be running."""

    def on_metrics(self, run: RunView, step: int, metrics: Mapping[str, Any]) -> None:
        """Called with the scalars of `step`, replicated arrays, while the next step runs."""

    def before_save(self, run: RunView, step: int) -> None:
        """Called before the state of `step` is saved; the hook's own files must be synced here."""

    def after_evaluation(self, run: RunView, step: int, metrics: Mapping[str, float]) -> None:
        """Called after the state of `step` was evaluated; may call `run.finish`."""

    def on_end(self, run: RunView) -> None:
        """Called after the last step and its evaluation."""

    def close(self, failed: bool) -> None:
        """Called when the run ends; `failed`: with an exception, which includes a signal."""
