"""The classes of a COCO data set: the categories of all its files together."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from convmesh.data.formats.coco.file import CocoFile
from convmesh.data.formats.coco.layout import AnnotationFile
from convmesh.data.problems import Problem
from convmesh.errors import ConfigError, nearest


@dataclass(frozen=True)
class _Category:
    """A category, and the file that names it first."""

    name: str
    file_name: str
    file: AnnotationFile


def merge_categories(
    files: Sequence[tuple[AnnotationFile, CocoFile]], problems: list[Problem]
) -> dict[int, str]:
    """Return the name of each category id, sorted by id; appends contradictions to `problems`.

    The files that a run uses define the categories. A contradiction in another file is an error of
    that file's split only.
    """
    found: dict[int, _Category] = {}
    # Ids of the categories with boxes, in files that are used and in the others.
    with_boxes: dict[bool, set[int]] = {True: set(), False: set()}
    for file, content in sorted(files, key=lambda pair: not pair[0].used):
        with_boxes[file.used].update(np.unique(content.category).tolist())
        for number, name in content.categories:
            other = found.setdefault(number, _Category(name, content.name, file))
            if other.name != name:
                what = f"category {number} is {name!r}, but {other.name!r} in {other.file_name}"
                problems.append(Problem(content.name, what, split=_affected_split(file)))
    by_name: dict[str, list[int]] = {}
    for number in sorted(found):
        by_name.setdefault(found[number].name, []).append(number)
    for name, numbers in by_name.items():
        used = [number for number in numbers if found[number].file.used]
        for number in set(numbers) - set(used) if used else ():
            other, unused = found[used[0]], found.pop(number)
            what = f"category {number} is {name!r}, which is category {used[0]} in"
            what += f" {other.file_name}"
            problems.append(Problem(unused.file_name, what, split=unused.file.split))
        problems += _remove_duplicates(used or numbers, found, with_boxes[bool(used)])
    return {number: found[number].name for number in sorted(found)}


def shifted_ids(content: CocoFile, categories: Mapping[int, str]) -> list[Problem]:
    """Return an error if the categories of all boxes would be known if their ids were 1 off."""
    used = np.unique(content.category).tolist()
    if all(number in categories for number in used):
        return []
    for shift in (-1, 1):
        if all(number + shift in categories for number in used):
            what = f"category_id goes from {used[0]} to {used[-1]}, but the ids of categories from"
            what += f" {min(categories)} to {max(categories)}: counted from different numbers?"
            return [Problem(content.name, f"{what} Correct one of them")]
    return []


def _affected_split(file: AnnotationFile) -> str:
    """Return the split to reject for an error in the categories of `file`, '' for all splits."""
    # All files that a run uses share its classes.
    return "" if file.used else file.split


def _remove_duplicates(
    numbers: list[int], found: dict[int, _Category], with_boxes: set[int]
) -> list[Problem]:
    """Return the problems of categories `numbers`, which have the same name.

    Removes those without boxes from `found`.
    """
    if len(numbers) < 2:
        return []
    problems, name = [], found[numbers[0]].name
    # Roboflow puts a category 0 without boxes first, often with the name of a real one.
    without = [number for number in numbers if number not in with_boxes][: len(numbers) - 1]
    for number in without:
        removed = found.pop(number)
        what = f"category {number}, also {name!r}, has no boxes; ignored"
        problems.append(Problem(removed.file_name, what, error=False, split=removed.file.split))
    rest = [number for number in numbers if number not in without]
    if len(rest) > 1:
        last = found[rest[-1]]
        what = f"categories {' and '.join(map(str, rest))} are all {name!r}"
        problems.append(Problem(last.file_name, what, split=_affected_split(last.file)))
        for number in () if last.file.used else rest[1:]:  # a class has one id
            del found[number]
    return problems


def select_classes(
    categories: dict[int, str], wanted: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the classes and their category ids. Raises ConfigError for unknown `wanted`."""
    if not wanted:
        return tuple(categories.values()), tuple(categories)
    numbers = {name: number for number, name in categories.items()}
    for name in wanted:
        if name not in numbers:
            raise ConfigError(
                f"data.classes: {name!r} is not a category of the files, which have"
                f" {', '.join(itertools.islice(numbers, 10))}{nearest(name, numbers)}"
            )
    return wanted, tuple(numbers[name] for name in wanted)
