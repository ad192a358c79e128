"""Steps whose loss or gradient is not finite: told, with what may be to blame, and not for ever."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from convmesh import journal, processes
from convmesh.data import Source
from convmesh.errors import RunError
from convmesh.journal import Journal

FILE = "nonfinite.jsonl"
TOLD = 5  # steps of a run that are told of as they come; the others are in the file
NAMED = 4  # examples in a message


class NonFinite:
    """Watches the counter of skipped steps, which the train state keeps."""

    def __init__(self, workdir, start_step: int, skipped: int, limit: int, source: Source, say):
        """`limit`: most steps in a row, 0 for any number; `skipped`: those of the run so far."""
        self._source, self._limit, self._say = source, limit, say
        self.skipped, self._told = skipped, 0
        self._path = Path(workdir) / FILE
        self._journal: Journal | None = None
        in_a_row = 0
        if self._path.exists() and processes.is_first():
            self._journal = Journal(self._path, start_step)
            steps = {row["step"] for row in journal.read(self._path)}
            while start_step - in_a_row in steps:
                in_a_row += 1
        self._in_a_row = processes.broadcast(in_a_row)

    def take(self, step: int, numbers: Mapping[str, float], index: np.ndarray) -> None:
        """Tells of a step that was skipped; all processes call it alike.

        index: this process's examples of the step. Named are the terms that are not finite and the
        examples of the whole batch: batch statistics mix them, so that no single one can be blamed.
        Raises RunError when too many in a row were skipped.
        """
        self.skipped = int(numbers["nonfinite_steps"])
        self._in_a_row += 1
        terms = sorted(name for name, value in numbers.items() if not math.isfinite(value))
        parts = [name for name in terms if name.startswith("loss/")]
        terms = parts or [name for name in terms if name == "loss"] or ["gradient"]
        everybodys = processes.gather([int(i) for i in index])
        examples = [self._source.name(i) for i in sorted({i for some in everybodys for i in some})]
        if processes.is_first():
            self._journal = self._journal or Journal(self._path)
            self._journal.add([{"step": step, "terms": terms, "examples": examples}])
        what = f"{', '.join(terms)} not finite at step {step}"
        named = ", ".join(examples[:NAMED])
        more = len(examples) - NAMED
        named += f" and {more} more" if more > 0 else ""
        if self._limit and self._in_a_row > self._limit:
            raise RunError(
                f"{what}, the last of {self._in_a_row} in a row (train.max_nonfinite_steps="
                f"{self._limit}): examples {named} ({FILE} has all); saved is what was "
                "before them; lower optimizer.learning_rate, or look at these examples"
            )
        self._told += 1
        if self._told <= TOLD:
            last = f"; further ones are told in {FILE} alone" if self._told == TOLD else ""
            self._say(f"{what}, its update left out; examples {named}{last}")

    def passed(self) -> None:
        """Notes that a step was as it should be."""
        self._in_a_row = 0

    def sync(self) -> None:
        """Brings what was written to the disk."""
        if self._journal:
            self._journal.sync()

    def close(self) -> None:
        """Closes the file."""
        if self._journal:
            self._journal.close()
