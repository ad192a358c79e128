"""What `convmesh check-data` says of a data set: every fault, what smells of one, and numbers.

Errors are what training would refuse under the config's policies. Warnings are what it takes as it
is, though it looks like a mistake: people know better, so nothing is mended here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from convmesh.data import find_format, open_set, overview, used_splits
from convmesh.data.annotated import AnnotatedSet
from convmesh.data.problems import Problem
from convmesh.data.record import DataSet, Source
from convmesh.data.seen import Part, Seen, see
from convmesh.errors import DataError

# Two boxes of one class that overlap by more are probably one object.
TWICE = 0.8
# A label is in doubt if the logarithm of the box's area lies this many deviations from its class's
# median and so few from another's. A deviation is what a few outliers do not move: 1.4826 times the
# median absolute one, or a 1.645th of how far the outer 5 % begin on that side, where tails are
# long; at least LEAST_SPREAD: in a class of like boxes every one would be far off. Of classes with
# fewer boxes than LEAST_BOXES nothing is said.
FAR_OFF, FITTING = 4.0, 2.0
LEAST_SPREAD, LEAST_BOXES = 0.2, 20
_PAIRS_AT_ONCE = 2**18
# Alike faults of more images than this are said once: then the whole set is meant.
MOST_ALIKE = 10

# What a finding is about, and how the last line counts it.
KINDS = {
    "box": "bad boxes",
    "example": "images that cannot be used",
    "file": "files",
    "twice": "boxes drawn twice",
    "label": "labels in doubt",
    "copy": "images that occur twice",
    "units": "units in doubt",
    "turned": "images turned by EXIF",
    "set": "about the whole set",
}
_POLICIES = {"data.on_bad_box": "box", "data.on_bad_example": "example"}
_WAYS_OUT = {"box": "data.on_bad_box to drop or clip", "example": "data.on_bad_example to skip"}


@dataclass(frozen=True)
class Finding:
    """One line of the list. kind: of KINDS. at: part and example. boxes: those that are meant."""

    problem: Problem
    kind: str
    at: tuple[int, int] | None = None
    boxes: tuple[int, ...] = ()

    def __str__(self) -> str:
        if self.problem.error:
            return str(self.problem)
        head = f"{self.problem.file}: " if self.problem.file else ""
        return f"{head}warning: {str(self.problem).removeprefix(head)}"


@dataclass(frozen=True)
class Inspection:
    """What was found. findings: sorted by file. summary: numbers, ready for JSON."""

    findings: list[Finding]
    summary: dict[str, Any]
    classes: tuple[str, ...] = ()
    parts: list[Part] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        """Whether training would refuse this data."""
        return any(finding.problem.error for finding in self.findings)

    def verdict(self) -> str:
        """Return the last line: how many errors and warnings, and what that means."""
        errors = Counter(f.kind for f in self.findings if f.problem.error)
        warnings = Counter(f.kind for f in self.findings if not f.problem.error)
        counted = f"{_count(errors.total(), 'error')}, {_count(warnings.total(), 'warning')}"
        if not errors:
            said = ", ".join(f"{n} {KINDS[kind]}" for kind, n in warnings.items())
            return f"{counted}{f' ({said})' if said else ''}: training takes this data"
        ways = [_WAYS_OUT[kind] for kind in errors if kind in _WAYS_OUT]
        rest = sum(n for kind, n in errors.items() if kind not in _WAYS_OUT)
        way = f"mend them, or set {' and '.join(ways)}" if ways else "mend them"
        only = f" ({rest} can only be mended)" if ways and rest else ""
        return f"{counted}: training would be refused; {way}{only}"

    def lines(self) -> list[str]:
        """Return everything for people, line by line."""
        found = [str(finding) for finding in self.findings]
        numbers = overview.describe(self.summary)
        if numbers:
            about = f"{self.summary['format']} data in {self.summary['data']}"
            numbers = [f"{about}, {_count(len(self.classes), 'class')}", "", *numbers]
        return [*found, *([""] if found and numbers else []), *numbers]

    def to_json(self) -> dict[str, Any]:
        """Return everything for machines."""
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

    def sample(self, count: int) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
        """Yield up to `count` images and what is on them, as `draw.draw_examples` takes it.

        Up to half show findings, of as many kinds as there are; the rest is spread over the splits.
        """
        doubted: dict[tuple[int, int], set[int]] = {}
        by_kind: dict[str, list[tuple[int, int]]] = {}
        for finding in self.findings:
            if finding.at is not None and self._seen(finding.at).size is not None:
                doubted.setdefault(finding.at, set()).update(finding.boxes)
                by_kind.setdefault(finding.kind, []).append(finding.at)
        longest = max(map(len, by_kind.values()), default=0)
        in_turn = [
            places[i] for i in range(longest) for places in by_kind.values() if i < len(places)
        ]
        chosen = list(dict.fromkeys(in_turn))[: count // 2]
        usable = [
            (p, i)
            for p, part in enumerate(self.parts)
            for i, one in enumerate(part.seen)
            if one.size is not None and (p, i) not in chosen
        ]
        room = min(count - len(chosen), len(usable))
        chosen += [usable[int(k)] for k in np.linspace(0, len(usable) - 1, room)] if room else []
        for at in chosen:
            image = self.parts[at[0]].pixels(at[1])
            if image is not None:
                yield image, self._example(at, doubted.get(at, set()))

    def _seen(self, at: tuple[int, int]) -> Seen:
        return self.parts[at[0]].seen[at[1]]

    def _example(self, at: tuple[int, int], doubted: set[int]) -> dict[str, Any]:
        part, seen = self.parts[at[0]], self._seen(at)
        told = {"name": f"{part.split}: {part.name(at[1])}"}
        if part.source.task == "classify":
            return told | {"label": int(seen.labels[0])}
        return told | {
            "boxes": seen.boxes,
            "labels": seen.labels,
            "crowd": seen.crowd,
            "doubted": np.isin(np.arange(len(seen.boxes)), list(doubted)),
        }


def inspect(
    config: ConfigDict, progress: Callable[[int, int], None] = lambda done, total: None
) -> Inspection:
    """Open every example that a run of `config` would use, and say what is wrong with them.

    `data.first` is passed over, and that is said: training judges the files of the whole split
    before it takes the first, and what is asked for here is the state of the data.

    progress: told how many examples of how many are done. Raises ConfigError where the config
    itself is wrong; what is wrong with the data is in what is returned.
    """
    try:
        dataset = open_set(config)
        parts = [
            Part(split, source, indices)
            for split, source, indices in used_splits(
                dataset, config, lambda split: _open(dataset, split, config.task)
            )
        ]
    except DataError as error:
        return Inspection([Finding(Problem("", str(error)), "file")], {"splits": {}})
    see(parts, config.data.on_bad_example == "skip", progress)
    findings = [Finding(problem, "file") for problem in _of_files(dataset, parts)]
    for p, part in enumerate(parts):
        for i, seen in enumerate(part.seen):
            findings += _stated(part, seen, (p, i))
            findings += _twice(part, seen, (p, i))
    classes, size = tuple(parts[0].source.classes), tuple(config.data.image_size)
    findings += _doubtful_labels(parts, classes, size)
    findings += _copies(parts)
    summary = overview.summarise(parts, classes, config.task, size, config.data.max_boxes)
    findings += _about_the_set(parts, summary, config)
    findings = sorted(_alike(findings, parts), key=lambda finding: finding.problem.file)
    about = {"format": find_format(config), "data": config.data.name or config.data.root}
    return Inspection(findings, about | summary, classes, parts)


def _of_files(dataset: DataSet, parts: Sequence[Part]) -> Iterator[Problem]:
    """Yield what is wrong with the files as such, of whatever split they are."""
    used = {"", *(part.source.split for part in parts)}
    for problem in getattr(dataset, "problems", ()):
        if problem.error and problem.split not in used:
            what = f"{problem.what} (split {problem.split!r}, which is not used)"
            problem = replace(problem, what=what, error=False)
        yield problem


def _open(dataset: DataSet, split: str, task: str) -> Source:
    if isinstance(dataset, AnnotatedSet):
        return dataset.unchecked(split)
    # To classify, large images are opened smaller for training, and an empty class is refused.
    return dataset.source(split, training=task == "detect")


# Of one example.


def _stated(part: Part, seen: Seen, at: tuple[int, int]) -> Iterator[Finding]:
    """Yield what opening the example has shown."""
    bad = iter(np.flatnonzero(seen.bad).tolist())
    for problem, policy in seen.problems:
        kind = _POLICIES[policy]
        boxes = tuple(b for b in [next(bad, None)] if kind == "box" and b is not None)
        yield Finding(problem, kind, at, boxes)
    for kind, what in seen.doubts:
        yield Finding(Problem(part.name(at[1]), what, error=False), kind, at)


def _twice(part: Part, seen: Seen, at: tuple[int, int]) -> Iterator[Finding]:
    """Yield the boxes that were probably drawn before."""
    places = np.flatnonzero(seen.sound)
    if part.source.task == "classify" or len(places) < 2:
        return
    boxes, labels = seen.boxes[places], seen.labels[places]
    for later, first, overlap in drawn_twice(boxes, labels):
        other = part.place(at[1], int(places[first]))
        if labels[later] != labels[first]:
            what = f"the same box as {other}, which is a {part.source.classes[labels[first]]}"
        elif overlap == 1:
            what = f"drawn twice: the same box as {other}"
        else:
            what = f"drawn twice? {other} is of the same class and overlaps it (IoU {overlap:.2f})"
        box = int(places[later])
        problem = Problem(part.file(at[1]), what, part.place(at[1], box), error=False)
        yield Finding(problem, "twice", at, (box,))


def drawn_twice(boxes: np.ndarray, labels: np.ndarray) -> list[tuple[int, int, float]]:
    """Return (box, earlier box, their IoU) for each of `boxes` [n, 4] that an earlier one repeats.

    That is one of its class above TWICE, the most like it, or the same box of any class.
    """
    found: list[tuple[int, int, float]] = []
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    rows = max(1, _PAIRS_AT_ONCE // max(1, len(boxes)))
    for start in range(0, len(boxes), rows):
        these = boxes[start : start + rows, None]
        low, high = (
            np.maximum(these[..., :2], boxes[:, :2]),
            np.minimum(these[..., 2:], boxes[:, 2:]),
        )
        common = np.maximum(high - low, 0).prod(2)
        overlap = common / (area[start : start + rows, None] + area - common)
        same = (these == boxes).all(2)
        overlap[(labels[start : start + rows, None] != labels) & ~same] = 0
        overlap = np.tril(overlap, start - 1)  # earlier boxes only
        best = overlap.argmax(1)
        most = overlap[np.arange(len(overlap)), best]
        repeats = np.flatnonzero(most > TWICE).tolist()
        found += [(start + i, int(best[i]), float(most[i])) for i in repeats]
    return found


# Of all examples together.


def _doubtful_labels(
    parts: Sequence[Part], classes: Sequence[str], input_size: tuple[int, int]
) -> Iterator[Finding]:
    """Yield the boxes that by their size belong to another class."""
    seen = [one for part in parts for one in part.seen]
    sides = overview.sides_at_input(seen, input_size)
    labels = overview.sound_labels(seen) if len(sides) else np.zeros(0, np.int64)
    other, typical = likelier_class(sides, labels, len(classes))
    start = 0
    for p, part in enumerate(parts):
        for i, one in enumerate(part.seen):
            places = np.flatnonzero(one.sound) if len(one.boxes) else np.zeros(0, np.int64)
            for k in np.flatnonzero(other[start : start + len(places)] >= 0) + start:
                assert one.size is not None
                scale = overview.scale_of(one.size, input_size)
                own, better = int(labels[k]), int(other[k])
                what = (
                    f"is this a {classes[better]}? {sides[k] / scale:.0f} pixels a side, where"
                    f" {classes[own]} have about {typical[own] / scale:.0f} and {classes[better]}"
                    f" {typical[better] / scale:.0f}"
                )
                box = int(places[k - start])
                problem = Problem(part.file(i), what, part.place(i, box), error=False)
                yield Finding(problem, "label", (p, i), (box,))
            start += len(places)


def likelier_class(
    sides: np.ndarray, labels: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each box the class that its size fits and its own does not, or -1: int64 [n].

    sides: float64 [n], above 0; labels: int64 [n]. Also returns the median side of each class.
    """
    logs = 2 * np.log(sides)
    medians, spreads = np.full(num_classes, np.nan), np.full((num_classes, 2), np.nan)
    for c in range(num_classes):
        own = logs[labels == c]
        if len(own) >= LEAST_BOXES:
            medians[c] = np.median(own)
            around = 1.4826 * np.median(np.abs(own - medians[c]))
            tails = np.abs(np.percentile(own, (5, 95)) - medians[c]) / 1.645
            spreads[c] = np.maximum(max(LEAST_SPREAD, around), tails)
    other = np.full(len(sides), -1, np.int64)
    if not np.isnan(medians).all():
        # One class at a time: boxes x classes may be many.
        nearest, least = other.copy(), np.full(len(sides), np.inf)
        for c in np.flatnonzero(~np.isnan(medians)).tolist():
            away = np.abs(logs - medians[c]) / spreads[c, (logs > medians[c]).astype(int)]
            nearest, least = np.where(away < least, c, nearest), np.minimum(away, least)
        with np.errstate(invalid="ignore"):
            side = (logs > medians[labels]).astype(int)
            own_away = np.abs(logs - medians[labels]) / spreads[labels, side]
            other = np.where((own_away > FAR_OFF) & (least < FITTING), nearest, -1)
    return other, np.exp(medians / 2)


def _copies(parts: Sequence[Part]) -> Iterator[Finding]:
    """Yield the examples whose file, or whose picture, was there before."""
    files: dict[str, tuple[int, int]] = {}
    pictures: dict[bytes, tuple[int, int]] = {}
    for p, part in enumerate(parts):
        for i, seen in enumerate(part.seen):
            name, path = part.name(i), part.path(i)
            at = files.setdefault(path, (p, i))
            if at != (p, i):
                where = f"in {parts[at[0]].split} and in {part.split}"
                if at[0] == p:
                    where = f"twice in {part.split}"
                yield Finding(Problem(name, f"is {where}", error=False), "copy", (p, i))
                continue
            at = pictures.setdefault(seen.digest, (p, i)) if seen.digest else (p, i)
            if at != (p, i):
                first = parts[at[0]]
                what = f"the same picture as {first.name(at[1])}"
                if at[0] != p:
                    what += f", which is in {first.split} (this one in {part.split})"
                label, before = seen.labels, first.seen[at[1]].labels
                if part.source.task == "classify" and label[0] != before[0]:
                    what += f", there as {part.source.classes[before[0]]}"
                yield Finding(Problem(name, what, error=False), "copy", (p, i))


def _about_the_set(
    parts: Sequence[Part], summary: dict[str, Any], config: ConfigDict
) -> Iterator[Finding]:
    """Yield what is said once of a split or a class."""
    detects = config.task == "detect"
    counted = "boxes_by_class" if detects else "images_by_class"
    counts = {name: split[counted] for name, split in summary["splits"].items()}
    trained = counts[parts[0].split]

    def about(file: str, what: str, error: bool = False) -> Finding:
        return Finding(Problem(file, what, error=error), "set")

    first, held = config.data.first, len(parts[0])
    if first:
        what = (
            f"a run trains on {first} of the {_count(held, 'image')} of {parts[0].split}; here all"
            " are looked at and counted"
        )
        if first < held:
            yield about("data.first", what)
    if len(parts) == 1:
        yield about(
            "data.eval_split",
            f"{parts[0].split} is trained on as well: its score says nothing of new images",
        )
    for part in parts:
        if not len(part):
            yield about(f"split {part.split}", "has no images", error=True)
        ignored = getattr(part.source, "ignored", ())
        if ignored:
            named = ", ".join(ignored[:3]) + (", ..." if len(ignored) > 3 else "")
            yield about(
                f"split {part.split}",
                f"{_count(len(ignored), 'file')} not taken for images: {named}",
            )
    empty = {path.name for path in getattr(parts[0].source, "empty", ())}
    nowhere = [
        name
        for name in summary["classes"]
        if name not in empty and not any(n[name] for n in counts.values())
    ]
    if len(nowhere) > MOST_ALIKE:
        what = f"{len(nowhere)} of {len(summary['classes'])} occur nowhere: {', '.join(nowhere)}"
        yield about("classes", what)
        nowhere = []
    for name in summary["classes"]:
        elsewhere = {split: n[name] for split, n in counts.items() if n[name]}
        if name in empty:
            yield about(f"class {name}", f"its folder in {parts[0].split} has no images", True)
        elif name in nowhere:
            yield about(f"class {name}", "occurs nowhere")
        elif elsewhere and not trained[name]:
            told = " and ".join(f"{_count(n, 'time')} in {split}" for split, n in elsewhere.items())
            yield about(f"class {name}", f"occurs {told}, never in {parts[0].split}")
    numbers = summary["splits"][parts[0].split]
    over = numbers.get("over_max_boxes", 0)
    if over:
        what = (
            f"{over} of {_count(numbers['images'], 'image')} of {parts[0].split} hold more than"
            f" {_count(config.data.max_boxes, 'box')} (most: {numbers['most_boxes']}); training"
            " leaves out the smallest of these"
        )
        yield about("data.max_boxes", what)


def _alike(findings: list[Finding], parts: Sequence[Part]) -> list[Finding]:
    """Return `findings`, with units in doubt said once where they are a split's throughout."""
    found = list(findings)
    for p, part in enumerate(parts):
        units = [f for f in findings if f.kind == "units" and f.at and f.at[0] == p]
        if len(units) > MOST_ALIKE:
            found = [f for f in found if not (f.kind == "units" and f.at and f.at[0] == p)]
            first = units[0]
            what = f"{len(units)} images, {first.problem.file} first: {first.problem.what}"
            problem = Problem(f"split {part.split}", what, error=False)
            found.append(Finding(problem, "units", first.at))
    return found


def _count(n: int, what: str) -> str:
    plural = "es" if what.endswith(("s", "x")) else "s"
    return f"{n} {what}{'' if n == 1 else plural}"
