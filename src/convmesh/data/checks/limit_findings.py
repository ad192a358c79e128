"""Findings about splits of which too much is bad."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ml_collections import ConfigDict

from convmesh.data.checks.findings import Finding
from convmesh.data.checks.scan import ScannedSplit
from convmesh.data.formats.annotated import AnnotatedSource
from convmesh.data.limits import BOXES, IMAGES
from convmesh.data.problems import Problem
from convmesh.data.record import Source


def limit_findings(splits: Sequence[ScannedSplit], config: ConfigDict) -> Iterator[Finding]:
    """Yield a finding for each split that exceeds `data.max_bad_boxes` or `data.max_bad_examples`.

    Also if no box to train on is left. An error if the files show it, since training then refuses
    the data, and for boxes if most are bad, which a sample of the images shows to training.
    Otherwise a warning, which training says after it has read the images.
    """
    reported = set[Problem]()
    train = splits[0].source
    if isinstance(train, AnnotatedSource) and not train.too_many_bad_boxes():
        yield from (Finding(problem, "limit") for problem in train.nothing_left())
    for split in splits:
        images, boxes = _errors(split.source)
        for problem in {*images, *boxes} - reported:  # a split that is held out shares its source
            reported.add(problem)
            yield Finding(problem, "limit")
        unusable = sum(example.size is None for example in split.examples)
        bad = sum(example.bad_boxes for example in split.examples)
        total = sum(example.all_boxes for example in split.examples)
        for limit, errors, numbers in (
            (IMAGES, images, (unusable, len(split))),
            (BOXES, boxes, (bad, total)),
        ):
            what = limit.exceeded(*numbers, limit.of(config))
            if what and not errors:
                most = limit is BOXES and limit.exceeded(*numbers, max(0.5, limit.of(config)))
                yield Finding(Problem(f"split {split.name}", what, error=bool(most)), "limit")


def _errors(source: Source) -> tuple[list[Problem], list[Problem]]:
    """Return the errors that the files of a source show, about its images and its boxes."""
    if isinstance(source, AnnotatedSource):
        return source.too_many_bad_images(), source.too_many_bad_boxes()
    return [], []
