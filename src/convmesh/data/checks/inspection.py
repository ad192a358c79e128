"""`convmesh check-data`: errors, warnings and statistics of a data set.

`warnings_at_start` are those that a run prints, found without reading all images.

Errors are what training would refuse under the policies of the config. Warnings are about data that
training accepts although it looks like a mistake; nothing is corrected automatically.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from ml_collections import ConfigDict

from convmesh.data.checks import statistics
from convmesh.data.checks.box_findings import (
    duplicate_box_findings,
    examples_with_duplicates,
    label_findings,
)
from convmesh.data.checks.findings import (
    POLICY_KINDS,
    Finding,
    Inspection,
    brief_lines,
    merge_warnings,
)
from convmesh.data.checks.limit_findings import limit_findings
from convmesh.data.checks.scan import ScannedExample, ScannedSplit, scan, scan_files
from convmesh.data.checks.set_findings import (
    duplicate_image_findings,
    left_out_findings,
    run_findings,
    set_findings,
)
from convmesh.data.formats.annotated import AnnotatedSet
from convmesh.data.formats.registry import find_format, open_dataset
from convmesh.data.limits import sample_of
from convmesh.data.problems import Problem
from convmesh.data.record import DataSet, Source
from convmesh.data.splits import used_splits
from convmesh.errors import DataError

# More warnings of a kind than this in one split are merged into one.
MAX_WARNINGS = {"units": 10, "depth": 1}
# Findings of these kinds are looked for in a sample of images at the start of a run.
IMAGE_KINDS = ("exif_orientation", "depth")


def inspect(
    config: ConfigDict, progress: Callable[[int, int], None] = lambda done, total: None
) -> Inspection:
    """Read every example that a run of `config` would use, and return all findings.

    `data.first` is ignored, with a warning: training checks the files of the full split before it
    selects the first examples, and so does this.

    progress: called with the number of examples done and the total. Raises ConfigError for a wrong
    config; errors in the data are findings.
    """
    try:
        dataset = open_dataset(config)
        splits = _used_splits(dataset, config)
    except DataError as error:
        return Inspection([Finding(Problem("", str(error)), "file")], {"splits": {}})
    scan(splits, config.data.on_bad_example == "skip", progress)
    classes, size = tuple(splits[0].source.classes), tuple(config.data.image_size)
    limits = statistics.InputLimits(size, config.data.max_boxes)
    summary = statistics.summarise(splits, classes, config.task, limits)
    findings = [
        *_findings(dataset, splits, config),
        *limit_findings(splits, config),
        *run_findings(splits, config),
    ]
    findings.sort(key=lambda finding: finding.problem.file)
    source = {"format": find_format(config), "data": config.data.name or config.data.root}
    return Inspection(findings, source | summary, classes, splits, config.data.on_bad_box)


def warnings_at_start(dataset: DataSet, config: ConfigDict) -> list[str]:
    """Return the warnings about the data that a run prints at its start, as lines of text.

    They are those of `inspect`, as far as the files state them and a sample of images shows them,
    about the splits that the run uses.
    """
    splits = _used_splits(dataset, config)
    scan_files(splits)
    used = {"", *(split.source.split for split in splits)}
    findings = [
        finding
        for finding in _findings(dataset, splits, config)
        if finding.kind != "file" or finding.problem.split in used
    ]
    findings += left_out_findings(splits)
    if not config.data.first:  # a run on the first few examples is to overfit them
        findings += run_findings(splits, config)
    train = splits[0]
    chosen = [train.indices[i] for i in sample_of(len(train))]
    sample = ScannedSplit(train.name, train.source, chosen)
    scan([sample], config.data.on_bad_example == "skip", lambda done, total: None)
    sampled = [
        finding
        for finding in _example_findings([sample])
        if finding.kind in IMAGE_KINDS and not finding.problem.error
    ]
    return brief_lines(findings, sampled, len(sample))


def _used_splits(dataset: DataSet, config: ConfigDict) -> list[ScannedSplit]:
    def open_split(split: str) -> Source:
        return _open_unchecked(dataset, split, config.task)

    return [ScannedSplit(*used) for used in used_splits(dataset, config, open_split)]


def _findings(
    dataset: DataSet, splits: Sequence[ScannedSplit], config: ConfigDict
) -> list[Finding]:
    """Return the findings about scanned splits, sorted by file."""
    classes, size = splits[0].source.classes, tuple(config.data.image_size)
    findings = [
        *(Finding(problem, "file") for problem in _file_problems(dataset, splits)),
        *_example_findings(splits),
        *label_findings(splits, classes, size),
        *duplicate_image_findings(splits),
        *set_findings(splits, config),
    ]
    findings = merge_warnings(findings, splits, MAX_WARNINGS)
    return sorted(findings, key=lambda finding: finding.problem.file)


def _open_unchecked(dataset: DataSet, split: str, task: str) -> Source:
    """Return a split whose bad examples and boxes do not raise when it is opened."""
    if isinstance(dataset, AnnotatedSet):
        return dataset.unchecked(split)
    # For classification, `training=True` would decode images smaller and refuse empty classes.
    return dataset.source(split, training=task == "detect")


def _file_problems(dataset: DataSet, splits: Sequence[ScannedSplit]) -> Iterator[Problem]:
    """Yield the problems of the files; errors in splits that are not used become warnings."""
    used = {"", *(split.source.split for split in splits)}
    for problem in dataset.problems:
        if problem.error and problem.split not in used:
            what = f"{problem.what} (split {problem.split!r}, which is not used)"
            problem = replace(problem, what=what, error=False)
        yield problem


def _example_findings(splits: Sequence[ScannedSplit]) -> Iterator[Finding]:
    """Yield the findings about single examples."""
    for s, split in enumerate(splits):
        duplicates = set()
        if split.source.task == "detect":
            duplicates = examples_with_duplicates(split.examples)
        for i, example in enumerate(split.examples):
            yield from _scan_findings(split, example, (s, i))
            if i in duplicates:
                yield from duplicate_box_findings(split, example, (s, i))


def _scan_findings(
    split: ScannedSplit, example: ScannedExample, position: tuple[int, int]
) -> Iterator[Finding]:
    """Yield the problems and warnings that reading the example has shown."""
    bad = iter(np.flatnonzero(example.bad).tolist())
    for problem, policy in example.problems:
        kind = POLICY_KINDS[policy]
        boxes = tuple(b for b in [next(bad, None)] if kind == "box" and b is not None)
        yield Finding(problem, kind, position, boxes)
    for kind, what in example.warnings:
        yield Finding(Problem(split.image_name(position[1]), what, error=False), kind, position)
