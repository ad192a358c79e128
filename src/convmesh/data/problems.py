"""Problems of a data set: the file, the location in it, and whether training rejects the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convmesh.errors import DataError

SHOWN = 3  # of many problems, how many an error message lists


@dataclass(frozen=True)
class Problem:
    """One problem.

    file: name of the file in messages. what: what is wrong. where: line or number of the box, ''
    for the file as such. error: training rejects the data; otherwise the policies of the config
    skip it, and it is counted. split: the only split affected, so that a run that does not use
    this split is not rejected; '' for all splits.
    """

    file: str
    what: str
    where: str = ""
    error: bool = True
    split: str = ""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.what, self.where) if part)


def raise_errors(problems: Sequence[Problem]) -> None:
    """Raise DataError if any problem is an error; it shows the first few and counts the others."""
    errors = [problem for problem in problems if problem.error]
    if errors:
        more = f" (and {len(errors) - SHOWN} more)" if len(errors) > SHOWN else ""
        shown = "; ".join(map(str, errors[:SHOWN]))
        raise DataError(f"{shown}{more}; `convmesh check-data` lists all, and how to fix them")
