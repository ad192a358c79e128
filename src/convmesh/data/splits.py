"""The training and evaluation splits of a run.

`open_train` and `open_eval` return them as Sources of Records. If a data set has no split to
evaluate, a part of the training split is held out.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from convmesh.data.formats.registry import open_dataset
from convmesh.data.formats.split_names import VALIDATION, find_split
from convmesh.data.order import permutation
from convmesh.data.record import DataSet, Source, Subset
from convmesh.data.survey import first_examples
from convmesh.errors import ConfigError, DataError

# Name of the split that is held out of training.
HELD_OUT = "val"
_HOLD_OUT_KEY = (1914,)  # arbitrary, but must never change


class UsedSplit(NamedTuple):
    """A split as a run uses it: its name, its source, and the indices of the examples used."""

    name: str
    source: Source
    indices: Sequence[int]


@dataclass(frozen=True)
class RunData:
    """The examples of a run: those to train on and those to evaluate.

    dataset: that they are from, for the warnings about it; None if nothing is to be said.
    cached: a line that says which decoded images stay in memory, '' for none.
    """

    train: Source
    eval: Source
    dataset: DataSet | None = None
    cached: str = ""


def open_data(config: ConfigDict) -> RunData:
    """Open both splits of a run, without caches. Raises as `open_train` and `open_eval`."""
    dataset = open_dataset(config)
    return RunData(_open_train(dataset, config), _open_eval(dataset, config), dataset)


def open_train(config: ConfigDict) -> Source:
    """Return the examples to train on: `data.train_split` without held-out examples.

    Raises ConfigError if the config names something that does not exist, DataError for unusable
    data.
    """
    return _open_train(open_dataset(config), config)


def _open_train(dataset: DataSet, config: ConfigDict) -> Source:
    source = _train_part(dataset, config, training=True)
    _check_class_count(source, config)
    return source


def open_eval(config: ConfigDict, split: str | None = None) -> Source:
    """Return a split to evaluate: `split`, else `data.eval_split`, else the one that exists.

    The last is the validation split under any of its names, else the test split, else `val`: the
    part `data.val_fraction` of the training split, which `open_train` leaves out.
    Raises ConfigError if there is no such split, DataError for unusable data.
    """
    return _open_eval(open_dataset(config), config, split)


def _open_eval(dataset: DataSet, config: ConfigDict, split: str | None = None) -> Source:
    name = _eval_split(dataset, config)
    if split and (name or split not in VALIDATION):
        name = find_split(split, dataset.splits) or split
    if name is None:
        source = _held_out_part(dataset, config)
    elif name == config.data.train_split:
        source = _train_part(dataset, config, training=False)
    else:
        source = dataset.source(name, training=False)
    _check_class_count(source, config)
    return source


def used_splits(
    dataset: DataSet, config: ConfigDict, open_split: Callable[[str], Source]
) -> list[UsedSplit]:
    """Return the split that a run trains on, and the one that it evaluates if that is another.

    They are chosen as in `open_train` and `open_eval`, but opened by `open_split`, and
    `data.first` is not applied. Raises the same errors.
    """
    name, train_split = _eval_split(dataset, config), config.data.train_split
    if name is None:
        _check_can_hold_out(dataset, config)
    train = open_split(train_split)
    _check_class_count(train, config)
    if name is None:
        order, count = _shuffled(len(train)), _held_out_count(len(train), config)
        return [
            UsedSplit(train_split, train, _ascending(order[count:])),
            UsedSplit(HELD_OUT, train, _ascending(order[:count])),
        ]
    used = [(train_split, train)]
    if name != train_split:
        used.append((name, open_split(name)))
    return [UsedSplit(split, source, range(len(source))) for split, source in used]


def _ascending(indices: np.ndarray) -> Sequence[int]:
    """Return the indices in order, as ints that take 8 bytes each."""
    return array("q", np.sort(indices).astype(np.int64).tobytes())


def _check_class_count(source: Source, config: ConfigDict) -> None:
    """Raise an error for a classifier that has nothing to tell apart."""
    if source.task != "classify" or len(source.classes) > 1:
        return
    name, advice = source.classes[0], "a classifier needs two or more"
    if config.data.classes:
        raise ConfigError(f"data.classes: only one class, {name!r}; {advice}")
    raise DataError(
        f"{config.data.root or config.data.name}: only one class, {name!r}; {advice}. Is data.root"
        " the folder that holds the folders of the classes, or of the splits?"
    )


def _eval_split(dataset: DataSet, config: ConfigDict) -> str | None:
    """Return the split that a run evaluates, or None if it is held out of the training split."""
    wanted = config.data.eval_split
    if wanted:
        return find_split(wanted, dataset.splits) if wanted in VALIDATION else wanted
    return next((name for name in (*VALIDATION, "test") if name in dataset.splits), None)


def _train_part(dataset: DataSet, config: ConfigDict, training: bool) -> Source:
    """Return the training split without held-out examples, or the `data.first` of these."""
    source = _without_held_out(dataset, config, training)
    first = config.data.first
    if not first:
        return source
    # Training and evaluation get the same examples: those with objects that evaluation counts.
    evaluated = _without_held_out(dataset, config, training=False) if training else source
    chosen = first_examples(evaluated, first, config.data.on_bad_example == "skip")
    return Subset(source, chosen, f"{source.split}[:{first}]")


def _without_held_out(dataset: DataSet, config: ConfigDict, training: bool) -> Source:
    source = dataset.source(config.data.train_split, training)
    if _eval_split(dataset, config) or not config.data.val_fraction:
        return source
    kept = _shuffled(len(source))[_held_out_count(len(source), config) :]
    return Subset(source, np.sort(kept), source.split)


def _held_out_part(dataset: DataSet, config: ConfigDict) -> Source:
    _check_can_hold_out(dataset, config)
    source = dataset.source(config.data.train_split, training=False)
    held_out = _shuffled(len(source))[: _held_out_count(len(source), config)]
    return Subset(source, np.sort(held_out), HELD_OUT)


def _check_can_hold_out(dataset: DataSet, config: ConfigDict) -> None:
    if not config.data.val_fraction:
        raise ConfigError(
            "data.val_fraction: 0, and there is no split to evaluate among"
            f" {', '.join(dataset.splits)}; set it, or data.eval_split"
        )


def _held_out_count(size: int, config: ConfigDict) -> int:
    """Return how many of `size` examples are held out: at least one, never all."""
    if size < 2:
        raise DataError(
            f"split {config.data.train_split!r} has {size} example: too few to hold one out"
        )
    return min(size - 1, max(1, round(size * config.data.val_fraction)))


def _shuffled(size: int) -> np.ndarray:
    # A function of the number of examples alone: the same on every machine and in every run.
    return permutation(size, _HOLD_OUT_KEY)
