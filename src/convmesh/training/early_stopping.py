"""Early stopping: the run finishes after `train.patience` evaluations without a new best."""

import math
from collections.abc import Mapping

from convmesh.distributed import processes
from convmesh.training.hooks import Hook, RunView


class EarlyStopping(Hook):
    """Counts the evaluations since the best one; the same on all processes."""

    def __init__(self, patience: int, metric: str) -> None:
        """Finishes after `patience` evaluations without a better `metric`; 0: never."""
        self._patience, self._metric = patience, metric
        self._since_best = 0
        self._best = -math.inf

    def on_restore(self, run: RunView) -> None:
        """Counts the logged evaluations up to the restored step.

        Raises DataError if the log is damaged.
        """
        scores: dict[int, float | None] = {}
        if self._patience and processes.is_first():
            scores = run.workdir.evaluations(self._metric)
        for step, score in sorted(processes.broadcast(scores).items()):
            if step <= run.start_step:
                self.count(score)
        if self.is_out:
            run.finish(f"after {self}")

    def after_evaluation(self, run: RunView, step: int, metrics: Mapping[str, float]) -> None:
        """Finishes the run if patience has run out."""
        self.count(metrics.get(self._metric))
        if self.is_out and step < run.setup.steps:
            run.finish(f"after {self}")
            run.log(f"the run ends at step {step} of {run.setup.steps}, after {self}")

    def count(self, score: float | None) -> None:
        """Counts one evaluation. An equal score, None and NaN are not a new best."""
        if score is not None and score > self._best:
            self._since_best, self._best = 0, score
        else:
            self._since_best += 1

    @property
    def is_out(self) -> bool:
        """Whether patience has run out."""
        return 0 < self._patience <= self._since_best

    def __str__(self) -> str:
        times = f"{self._since_best} evaluation{'s' if self._since_best != 1 else ''}"
        reason = f"{times} without a better {self._metric}"
        if self._best == -math.inf:
            reason = f"{times} without a value of {self._metric}, see checkpoint.best_metric"
        return f"{reason} (train.patience={self._patience})"
