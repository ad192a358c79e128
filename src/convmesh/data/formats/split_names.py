"""Names of splits, the same for all layouts.

A split is called `train`, `test`, or by one of the three names of the validation split. Files and
folders may add a year, as COCO does: `train2017`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ml_collections import ConfigDict

# Names of the validation split, the preferred one first if a data set has several.
VALIDATION = ("validation", "val", "valid")
SPLIT_NAMES = ("train", *VALIDATION, "test")
_NAME = rf"({'|'.join(SPLIT_NAMES)})(\d{{4}})?"
# Within a longer name: not next to other letters (`training`), or before other digits.
_NAME_WITHIN = re.compile(rf"(?:^|[^a-z]){_NAME}(?=$|[^a-z0-9])")


class SplitName(NamedTuple):
    """The name of a split, without and with its year: `train` and `train2017`."""

    split: str
    with_year: str


def parse(name: str) -> SplitName | None:
    """Return the split that `name` is: `train2017`; None if it is not the name of a split."""
    match = re.fullmatch(_NAME, name)
    return SplitName(match[1], match[0]) if match else None


def find_in(text: str) -> SplitName | None:
    """Return the first split name within `text`, as in `instances_train2017`, or None."""
    match = _NAME_WITHIN.search(text)
    return SplitName(match[1], match[1] + (match[2] or "")) if match else None


def same_split(name: str) -> tuple[str, ...]:
    """Return all names of the split `name`, which comes first: `val` and `valid` are the same."""
    return tuple(dict.fromkeys((name, *VALIDATION))) if name in VALIDATION else (name,)


def find_split(name: str, splits: Iterable[str]) -> str | None:
    """Return the name under which `splits` contains the split `name`, or None."""
    known = set(splits)
    return next((same for same in same_split(name) if same in known), None)


def evaluated_names(config: ConfigDict) -> tuple[str, ...]:
    """Return the names of the split that a run evaluates, as files state them."""
    return (config.data.eval_split,) if config.data.eval_split else VALIDATION
