"""Reports steps whose loss or gradient is not finite; too many in a row end the run."""

import math
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np

from convmesh.data.loading.batches import TrainBatch
from convmesh.distributed import processes
from convmesh.errors import RunError
from convmesh.training.hooks import Hook, RunView
from convmesh.workdir.json_lines import JsonLines, read_json_lines

LOGGED = 5  # largest number of steps that are logged; the file has all
NAMED = 4  # examples named in a message


class NonFiniteSteps(Hook):
    """Watches the counter of skipped steps in the train state; writes `nonfinite.jsonl`."""

    def __init__(self, limit: int) -> None:
        """`limit`: largest number of such steps in a row; 0: no limit."""
        self._limit = limit
        self._skipped = self._in_a_row = self._logged = 0
        self._file: JsonLines | None = None
        self._index: dict[int, np.ndarray] = {}  # by step, until its metrics arrive

    def on_restore(self, run: RunView) -> None:
        """Counts the skipped steps in a row up to the restored one."""
        self._skipped = int(run.state.nonfinite_steps)
        path, in_a_row = run.workdir.nonfinite_file, 0
        if processes.is_first() and path.exists():
            self._file = JsonLines(path, run.start_step)
            steps = {row["step"] for row in read_json_lines(path)}
            while run.start_step - in_a_row in steps:
                in_a_row += 1
        self._in_a_row = processes.broadcast(in_a_row)

    def on_batch(self, run: RunView, step: int, batch: TrainBatch) -> None:
        """Stores the indices of the step's examples that this process owns."""
        self._index[step] = batch.index[run.setup.train_shard().owned]

    def on_metrics(self, run: RunView, step: int, metrics: Mapping[str, Any]) -> None:
        """Reports the step if it was skipped. Raises RunError after too many in a row."""
        index = self._index.pop(step)
        # Only this counter shows a step whose gradient was not finite.
        if int(metrics["nonfinite_steps"]) > self._skipped:
            self._report(run, step, {name: float(v) for name, v in metrics.items()}, index)
        else:
            self._in_a_row = 0

    def _report(
        self, run: RunView, step: int, metrics: Mapping[str, float], index: np.ndarray
    ) -> None:
        """Reports the terms that are not finite and all examples of the global batch.

        Batch statistics mix the examples, so no single one can be identified as the cause.
        """
        self._skipped = int(metrics["nonfinite_steps"])
        self._in_a_row += 1
        terms = sorted(name for name, value in metrics.items() if not math.isfinite(value))
        parts = [name for name in terms if name.startswith("loss/")]
        terms = parts or [name for name in terms if name == "loss"] or ["gradient"]
        indices = {i for part in processes.gather([int(i) for i in index]) for i in part}
        examples = [run.data.train.name(i) for i in sorted(indices)]
        file = run.workdir.nonfinite_file
        if processes.is_first():
            self._file = self._file or JsonLines(file)
            self._file.add([{"step": step, "terms": terms, "examples": examples}])
        summary = f"{', '.join(terms)} not finite at step {step}"
        more = len(examples) - NAMED
        named = ", ".join(examples[:NAMED]) + (f" and {more} more" if more > 0 else "")
        if self._limit and self._in_a_row > self._limit:
            raise RunError(
                f"{summary}, the last of {self._in_a_row} in a row (train.max_nonfinite_steps="
                f"{self._limit}): examples {named} (all in {file.name}); "
                f"{self._way_out(run, step)}, or check these examples"
            )
        self._logged += 1
        if self._logged <= LOGGED:
            last = f"; further steps are only in {file.name}" if self._logged == LOGGED else ""
            run.log(f"{summary}, update skipped; examples {named}{last}")

    def _way_out(self, run: RunView, step: int) -> str:
        """What is saved, and how to go on; `step` is the last of those in a row."""
        rate = f"a lower optimizer.learning_rate than {run.setup.config.optimizer.learning_rate:g}"
        steps, first = run.saved_steps(), step - self._in_a_row + 1
        # After the weights of an older one, a step was finite.
        useful = [saved for saved in steps if saved + 1 < first]
        newest = f"the newest checkpoint is of step {steps[-1]}" if steps else "no checkpoint yet"
        if steps and steps[-1] not in useful:
            newest += ", after which no step was finite"
        if not useful:
            return f"{newest}; train in a new --workdir with {rate}"
        source = run.workdir.checkpoints_folder / str(useful[-1])
        weights = f"--config.init_from={shlex.quote(str(source))}"
        return f"{newest}; train in a new --workdir with {weights} and {rate}"

    def before_save(self, run: RunView, step: int) -> None:
        """Flushes the file to the disk."""
        if self._file:
            self._file.sync()

    def close(self, failed: bool) -> None:
        """Closes the file."""
        if self._file:
            self._file.close()
