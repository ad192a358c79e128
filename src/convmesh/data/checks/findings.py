"""The result of checking a data set: findings and statistics, as text, JSON and images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from convmesh.data.checks import statistics
from convmesh.data.checks.scan import ScannedExample, ScannedSplit
from convmesh.data.problems import Problem

# The kinds of findings, and their names in the counts of the last line.
KINDS = {
    "box": "bad boxes",
    "example": "unusable images",
    "file": "files",
    "duplicate_box": "duplicate boxes",
    "label": "doubtful labels",
    "duplicate_image": "duplicate images",
    "units": "doubtful units",
    "exif_orientation": "images turned by EXIF",
    "set": "about the data set",
    "limit": "limits exceeded",
}
# By the config key of the policy, the kind of a finding, and the values that accept it.
POLICY_KINDS = {"data.on_bad_box": "box", "data.on_bad_example": "example"}
_REMEDIES = {"box": "data.on_bad_box to drop or clip", "example": "data.on_bad_example to skip"}
_SHOWN = 3  # findings of each kind at the start of a run


@dataclass(frozen=True)
class Finding:
    """An error or a warning about a data set.

    kind: one of KINDS. position: indices of the split and of the example in it, or None. boxes: the
    boxes of the example that it is about.
    """

    problem: Problem
    kind: str
    position: tuple[int, int] | None = None
    boxes: tuple[int, ...] = ()

    def __str__(self) -> str:
        if self.problem.error:
            return str(self.problem)
        prefix = f"{self.problem.file}: " if self.problem.file else ""
        return f"{prefix}warning: {str(self.problem).removeprefix(prefix)}"


@dataclass(frozen=True)
class Inspection:
    """All findings, sorted by file, and statistics in `summary`, which can be written as JSON."""

    findings: list[Finding]
    summary: dict[str, Any]
    classes: tuple[str, ...] = ()
    splits: list[ScannedSplit] = field(default_factory=list)
    on_bad_box: str = "fail"

    @property
    def refused(self) -> bool:
        """Whether training would refuse this data."""
        return any(finding.problem.error for finding in self.findings)

    def verdict(self) -> str:
        """Return the last line: the numbers of errors and warnings, and whether training works."""
        errors = Counter(f.kind for f in self.findings if f.problem.error)
        warnings = Counter(f.kind for f in self.findings if not f.problem.error)
        totals = f"{count(errors.total(), 'error')}, {count(warnings.total(), 'warning')}"
        if not errors:
            by_kind = ", ".join(f"{n} {KINDS[kind]}" for kind, n in warnings.items())
            return f"{totals}{f' ({by_kind})' if by_kind else ''}: training accepts this data"
        remedies = [_REMEDIES[kind] for kind in errors if kind in _REMEDIES]
        if self.on_bad_box == "clip":  # what it refuses are class ids that do not exist
            remedies = [text.removesuffix(" or clip") for text in remedies]
        others = sum(n for kind, n in errors.items() if kind not in _REMEDIES)
        advice = f"fix them, or set {' and '.join(remedies)}" if remedies else "fix them"
        unavoidable = f" ({others} must be fixed)" if remedies and others else ""
        return f"{totals}: training would be refused; {advice}{unavoidable}"

    def lines(self) -> list[str]:
        """Return the findings and tables of statistics as lines of text."""
        found = [str(finding) for finding in self.findings]
        numbers = statistics.format_summary(self.summary)
        if numbers:
            title = f"{self.summary['format']} data in {self.summary['data']}"
            numbers = [f"{title}, {count(len(self.classes), 'class')}", "", *numbers]
        return [*found, *([""] if found and numbers else []), *numbers]

    def to_json(self) -> dict[str, Any]:
        """Return the findings and statistics as an object for JSON."""
        return {
            "refused": self.refused,
            "errors": sum(f.problem.error for f in self.findings),
            "warnings": sum(not f.problem.error for f in self.findings),
            "problems": [
                {
                    "file": f.problem.file,
                    "what": f.problem.what,
                    "where": f.problem.where,
                    "error": f.problem.error,
                    "kind": f.kind,
                }
                for f in self.findings
            ],
            "summary": self.summary,
        }

    def sample(self, max_count: int) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
        """Yield up to `max_count` images with their labels, as `drawing.draw_examples` takes them.

        Up to half of them show findings, of as many kinds as possible; the others are spread evenly
        over the splits.
        """
        positions = self._sample_positions(max_count)
        doubted: dict[tuple[int, int], set[int]] = {}
        for finding in self.findings:
            if finding.position is not None:
                doubted.setdefault(finding.position, set()).update(finding.boxes)
        for position in positions:
            image = self.splits[position[0]].pixels(position[1])
            if image is not None:
                yield image, self._drawn_labels(position, doubted.get(position, set()))

    def _sample_positions(self, max_count: int) -> list[tuple[int, int]]:
        """Return the positions of the examples to show: those with findings, then others."""
        by_kind: dict[str, list[tuple[int, int]]] = {}
        for finding in self.findings:
            if finding.position is not None and self._example(finding.position).size is not None:
                by_kind.setdefault(finding.kind, []).append(finding.position)
        longest = max(map(len, by_kind.values()), default=0)
        alternating = [
            positions[i]
            for i in range(longest)
            for positions in by_kind.values()
            if i < len(positions)
        ]
        chosen = list(dict.fromkeys(alternating))[: max_count // 2]
        others = [
            (s, i)
            for s, split in enumerate(self.splits)
            for i, example in enumerate(split.examples)
            if example.size is not None and (s, i) not in chosen
        ]
        n = min(max_count - len(chosen), len(others))
        if not n:
            return chosen
        return chosen + [others[int(k)] for k in np.linspace(0, len(others) - 1, n)]

    def _example(self, position: tuple[int, int]) -> ScannedExample:
        return self.splits[position[0]].examples[position[1]]

    def _drawn_labels(self, position: tuple[int, int], doubted: set[int]) -> dict[str, Any]:
        """Return the labels of an example; doubted: the boxes with findings."""
        split, example = self.splits[position[0]], self._example(position)
        name = {"name": f"{split.name}: {split.image_name(position[1])}"}
        if split.source.task == "classify":
            return name | {"label": int(example.labels[0])}
        return name | {
            "boxes": example.boxes,
            "labels": example.labels,
            "crowd": example.crowd,
            "doubted": np.isin(np.arange(len(example.boxes)), list(doubted)),
        }


def brief_lines(findings: Sequence[Finding], sampled: Sequence[Finding], size: int) -> list[str]:
    """Return the warnings that a run prints at its start: counted, the first of each kind.

    sampled: those that opening the first `size` images has shown.
    """
    lines = []
    for found, where in ((findings, ""), (sampled, f" in a sample of {count(size, 'image')}")):
        for kind, name in KINDS.items():
            own = [finding.problem for finding in found if finding.kind == kind]
            if own:
                lines.append(f"  {name}: {len(own)}{where}")
                lines += [f"    {problem}" for problem in own[:_SHOWN]]
                lines += ["    ..."] if len(own) > _SHOWN else []
    total = count(len(findings) + len(sampled), "warning")
    return [f"{total} about the data; `convmesh check-data` lists all", *lines] if lines else []


def merge_unit_warnings(
    findings: Sequence[Finding], splits: Sequence[ScannedSplit], max_count: int
) -> list[Finding]:
    """Replace the unit warnings of a split with more than `max_count` of them by a single one."""

    def is_about_units_in(s: int, finding: Finding) -> bool:
        return finding.kind == "units" and finding.position is not None and finding.position[0] == s

    merged = list(findings)
    for s, split in enumerate(splits):
        units = [finding for finding in findings if is_about_units_in(s, finding)]
        if len(units) > max_count:
            merged = [finding for finding in merged if not is_about_units_in(s, finding)]
            first = units[0]
            what = f"{len(units)} images, first {first.problem.file}: {first.problem.what}"
            problem = Problem(f"split {split.name}", what, error=False)
            merged.append(Finding(problem, "units", first.position))
    return merged


def count(n: int, noun: str) -> str:
    """Return `n` with the noun in the singular or plural."""
    plural = "es" if noun.endswith(("s", "x")) else "s"
    return f"{n} {noun}{'' if n == 1 else plural}"
