"""Names of splits, the same for all layouts.

A split is called `train`, `test`, or by one of the three names of the validation split. Files and
folders may spell these names in other ways (`Training`, `VAL`, `train_images`), and may add a year,
as COCO does: `train2017`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from ml_collections import ConfigDict

from convmesh.errors import DataError

# Names of the validation split, the preferred one first if a data set has several.
VALIDATION = ("validation", "val", "valid")
SPLIT_NAMES = ("train", *VALIDATION, "test")
# Other words that data sets use for them, in lower case.
_SYNONYMS = {
    "training": "train",
    "testing": "test",
    "validate": "val",
    "dev": "val",
    "eval": "val",
    "evaluation": "val",
}
_WORDS = sorted((*SPLIT_NAMES, *_SYNONYMS), key=len, reverse=True)
_NAME = rf"({'|'.join(_WORDS)})(\d{{4}})?"
# Words that add nothing to the name of a split: `train_images`, `TestSet`, `1_train`.
_FILLER = r"(?:images?|imgs?|pictures|photos|jpe?gs?|data|dataset|set|split|folder)"
_WHOLE = re.compile(rf"(?:\d{{1,2}}[\W_]+)?(?:{_FILLER}[\W_]*)?{_NAME}(?:[\W_]*{_FILLER})?")
# Within a longer name: not next to other letters (`restrain`), or before other digits.
_WITHIN = re.compile(rf"(?:^|[^a-z]){_NAME}(?=$|[^a-z0-9])")


class SplitName(NamedTuple):
    """The name of a split, without and with its year: `train` and `train2017`."""

    split: str
    with_year: str


def parse(name: str) -> SplitName | None:
    """Return the split that `name` is: `train2017`, `Training`; None if it names no split."""
    match = _WHOLE.fullmatch(name.lower())
    return _split_name(match) if match else None


def find_in(text: str) -> SplitName | None:
    """Return the first split name within `text`, as in `instances_train2017`, or None."""
    match = _WITHIN.search(text.lower())
    return _split_name(match) if match else None


def _split_name(match: re.Match[str]) -> SplitName:
    split = _SYNONYMS.get(match[1], match[1])
    return SplitName(split, split + (match[2] or ""))


def name_splits(names: Iterable[str]) -> dict[str, str]:
    """Return the split that each of `names` is, by name; a name that is no split's is kept.

    Years are left out unless there are two: `train2014` and `train2017`. Raises DataError if two
    names are one split: `train` and `Training`.
    """
    parsed = {name: parse(name) for name in names}
    counts = Counter(found.split for found in parsed.values() if found)
    result = {
        name: name if not found else found.split if counts[found.split] == 1 else found.with_year
        for name, found in parsed.items()
    }
    for split, count in Counter(result.values()).items():
        if count > 1:
            same = " and ".join(name for name, other in result.items() if other == split)
            raise DataError(f"{same} are both the split {split!r}; rename or merge them")
    return result


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
