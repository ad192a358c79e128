"""Early stopping: a run ends where many evaluations have brought no new best."""

import math
from collections.abc import Mapping
from pathlib import Path

from convmesh import processes
from convmesh.report import read_evaluations


class Patience:
    """Counts the evaluations since the best one; the same on all processes."""

    def __init__(self, limit: int, metric: str, scores: Mapping[int, float | None] | None = None):
        """`limit` evaluations without a new best `metric` are too many; 0: any number will do.

        `scores`: what earlier ones found, by step; None, as NaN, where one found no number.
        """
        self._limit, self._metric = limit, metric
        self._since = 0
        self._best = -math.inf
        for _, score in sorted((scores or {}).items()):
            self.note(score)

    @classmethod
    def of_run(cls, limit: int, metric: str, workdir: Path, step: int) -> "Patience":
        """As the evaluations in the workdir's log have left it, those up to `step`.

        The first process reads, for all. Raises DataError for a log that is damaged.
        """
        scores = {}
        if limit and processes.is_first():
            scores = read_evaluations(workdir, metric)
        scores = processes.broadcast(scores)
        return cls(limit, metric, {at: score for at, score in scores.items() if at <= step})

    def note(self, score: float | None) -> None:
        """Takes what one more evaluation has found. An equal score is no new best."""
        if score is not None and score > self._best:
            self._since, self._best = 0, score
        else:
            self._since += 1

    @property
    def is_out(self) -> bool:
        """Whether there was no new best for too long."""
        return 0 < self._limit <= self._since

    def __str__(self) -> str:
        times = f"{self._since} evaluation{'s' if self._since != 1 else ''}"
        if self._best == -math.inf:
            what = f"{times} that found no number for {self._metric}, see checkpoint.best_metric"
        else:
            what = f"{times} without a better {self._metric}"
        return f"{what} (train.patience={self._limit})"
