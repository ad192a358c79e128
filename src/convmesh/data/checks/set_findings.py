"""Findings about splits, classes and images that occur more than once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ml_collections import ConfigDict

from convmesh.data.checks import statistics
from convmesh.data.checks.findings import Finding, count
from convmesh.data.checks.scan import ScannedSplit
from convmesh.data.formats.annotated import AnnotatedSource
from convmesh.data.problems import Problem
from convmesh.errors import some

# More classes than this that do not occur are one finding.
MAX_CLASS_FINDINGS = 10


def duplicate_image_findings(splits: Sequence[ScannedSplit]) -> Iterator[Finding]:
    """Yield a warning for each example whose file, or whose pixels, occurred before."""
    files: dict[str, tuple[int, int]] = {}
    digests: dict[bytes, tuple[int, int]] = {}
    for s, split in enumerate(splits):
        for i, example in enumerate(split.examples):
            name = split.image_name(i)
            first = files.setdefault(split.image_path(i), (s, i))
            if first != (s, i):
                where = f"in {splits[first[0]].name} and in {split.name}"
                if first[0] == s:
                    where = f"twice in {split.name}"
                problem = Problem(name, f"is {where}", error=False)
                yield Finding(problem, "duplicate_image", (s, i))
                continue
            first = digests.setdefault(example.digest, (s, i)) if example.digest else (s, i)
            if first != (s, i):
                what = _describe_duplicate(splits, first, (s, i))
                yield Finding(Problem(name, what, error=False), "duplicate_image", (s, i))


def _describe_duplicate(
    splits: Sequence[ScannedSplit], first: tuple[int, int], second: tuple[int, int]
) -> str:
    """Return the message for an example whose pixels are those of an earlier one."""
    first_split, split = splits[first[0]], splits[second[0]]
    what = f"the same image as {first_split.image_name(first[1])}"
    if first[0] != second[0]:
        what += f", which is in {first_split.name} (this one in {split.name})"
    label = split.examples[second[1]].labels
    first_label = first_split.examples[first[1]].labels
    if split.source.task == "classify" and label[0] != first_label[0]:
        what += f", which has the class {split.source.classes[first_label[0]]}"
    return what


def set_findings(splits: Sequence[ScannedSplit], config: ConfigDict) -> Iterator[Finding]:
    """Yield the findings about splits and classes; the first split is that of training."""
    problems = [*_split_problems(splits)]
    if all(_are_known(split) for split in splits):
        problems += [*_class_problems(splits), *_max_boxes_problems(splits[0], config)]
    for problem in problems:
        yield Finding(problem, "set")


def _are_known(split: ScannedSplit) -> bool:
    """Whether the classes of all its examples are known."""
    return split.by_class is not None or len(split.examples) == len(split)


def left_out_findings(splits: Sequence[ScannedSplit]) -> Iterator[Finding]:
    """Yield for each split how many boxes `data.classes` leaves out: one finding for all."""
    for split in splits:
        if isinstance(split.source, AnnotatedSource):
            boxes = sum(int(split.source.left_out(index).sum()) for index in split.indices)
            what = f"leaves out {count(boxes, 'box')} of {split.name}, which are dropped"
            if boxes:
                yield Finding(Problem("data.classes", what, error=False), "set")


def run_findings(splits: Sequence[ScannedSplit], config: ConfigDict) -> Iterator[Finding]:
    """Yield the findings about what a run uses of the data set."""
    for problem in _run_problems(splits, config):
        yield Finding(problem, "set")


def _run_problems(splits: Sequence[ScannedSplit], config: ConfigDict) -> Iterator[Problem]:
    """Yield warnings about the splits that a run uses."""
    first, train = config.data.first, splits[0]
    if first and first < len(train):
        what = (
            f"a run trains on {first} of the {count(len(train), 'image')} of {train.name}; all of"
            " them are checked and counted here"
        )
        yield Problem("data.first", what, error=False)
    if len(splits) == 1:
        what = f"{train.name} is also the training split; its metrics do not show generalization"
        yield Problem("data.eval_split", what, error=False)


def _split_problems(splits: Sequence[ScannedSplit]) -> Iterator[Problem]:
    """Yield errors for empty splits, and warnings about files that are no images."""
    for split in splits:
        if not len(split):
            yield Problem(f"split {split.name}", "has no images")
        ignored = split.source.ignored_files
        if ignored:
            names = ", ".join(ignored[:3]) + (", ..." if len(ignored) > 3 else "")
            what = f"{count(len(ignored), 'file')} ignored, not an image by suffix: {names}"
            yield Problem(f"split {split.name}", what, error=False)


def _count_classes(split: ScannedSplit, classes: Sequence[str]) -> dict[str, int]:
    """How many objects of each class there are; for classification, how many images."""
    if split.by_class is None:
        return statistics.count_classes(split.examples, classes)
    return dict(zip(classes, split.by_class.tolist(), strict=True))


def _class_problems(splits: Sequence[ScannedSplit]) -> Iterator[Problem]:
    """Yield errors for empty class folders, and warnings about classes missing in training."""
    train, classes = splits[0], splits[0].source.classes
    counts = {split.name: _count_classes(split, classes) for split in splits}
    empty = {path.name for path in train.source.empty_folders}
    unused = [
        name
        for name in classes
        if name not in empty and not any(by_class[name] for by_class in counts.values())
    ]
    if len(unused) > MAX_CLASS_FINDINGS:
        what = f"{len(unused)} of {len(classes)} do not occur: {some(unused, 10)}"
        yield Problem("classes", what, error=False)
        unused = []
    for name in classes:
        present = {split: by_class[name] for split, by_class in counts.items() if by_class[name]}
        if name in empty:
            yield Problem(f"class {name}", f"its folder in {train.name} has no images")
        elif name in unused:
            yield Problem(f"class {name}", "does not occur", error=False)
        elif present and train.name not in present:
            where = " and ".join(f"{count(n, 'time')} in {split}" for split, n in present.items())
            what = f"occurs {where}, but not in {train.name}"
            yield Problem(f"class {name}", what, error=False)


def _max_boxes_problems(train: ScannedSplit, config: ConfigDict) -> Iterator[Problem]:
    """Yield a warning if images have more boxes than a batch can hold."""
    over = statistics.count_over(train.examples, config.data.max_boxes)
    if over:
        most = max(int(example.usable.sum()) for example in train.examples)
        what = (
            f"{over} of {count(len(train), 'image')} of {train.name} have more than"
            f" {count(config.data.max_boxes, 'box')} (at most {most}); training drops the smallest"
            " ones"
        )
        yield Problem("data.max_boxes", what, error=False)
