"""What is wrong with a data set: where it stands, in words, and whether training refuses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convmesh.errors import DataError

NAMED = 3  # of many, how many an error names


@dataclass(frozen=True)
class Problem:
    """One fault.

    file: as people name it. what: the fault. where: line, number of the box, or '' for all of it.
    error: training would be refused; else it is passed by, as the policy says, and counted. split:
    the only one that it is about, so that a run that does not use that is not refused; '' for all.
    """

    file: str
    what: str
    where: str = ""
    error: bool = True
    split: str = ""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.what, self.where) if part)


def refuse(problems: Sequence[Problem]) -> None:
    """Raise DataError that names the first of those that are errors, and counts the others."""
    errors = [problem for problem in problems if problem.error]
    if errors:
        more = f" (and {len(errors) - NAMED} more)" if len(errors) > NAMED else ""
        told = "; ".join(map(str, errors[:NAMED]))
        raise DataError(f"{told}{more}; `convmesh check-data` lists all, with what can be done")
