"""Warnings of one kind, counted: one line for all of them, with an example."""

from __future__ import annotations

import re
from collections import Counter

from convmesh.data.problems import Problem

_VERBS = {"are": "is", "have": "has", "name": "names"}


def counted(count: int, what: str) -> str:
    """Return `what`, which begins with a plural and its verb (`files have`), with a number."""
    match = re.match(r"(.*?)s (are|have|name)\b", what) if count == 1 else None
    return f"1 {match[1]} {_VERBS[match[2]]}{what[match.end() :]}" if match else f"{count} {what}"


class Tally:
    """Counts what is worth a warning, by its description."""

    def __init__(self) -> None:
        """Count nothing yet."""
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, what: str, example: str, count: int = 1) -> None:
        """Count `what`: words that follow a number, such as `objects without a name`."""
        self._counts[what] += count
        self._examples.setdefault(what, example)

    def has(self, what: str) -> bool:
        """Return whether `what` was counted."""
        return what in self._counts

    def problems(self, file: str) -> list[Problem]:
        """Return a warning about `file` (or a folder) for each description.

        A description may end in `; REMARK`: the example is put before it.
        """
        found = []
        for what, count in self._counts.items():
            noun, separator, remark = what.partition("; ")
            text = f"{counted(count, noun)}, such as {self._examples[what]}{separator}{remark}"
            found.append(Problem(file, text, error=False))
        return found
