"""Data: from files on disk to records, and from records to batches.

`open_train` and `open_eval` give the splits of a run as Sources of Records; `loader` makes batches
of them. A data set whose layout is new here needs an opener in `FORMATS`, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from convmesh.data.cache import with_cache
from convmesh.data.loader import permutation
from convmesh.data.record import BadExample, DataSet, Record, Source, Subset, identity
from convmesh.data.survey import first_examples
from convmesh.errors import ConfigError, DataError

__all__ = [
    "FORMATS",
    "BadExample",
    "DataSet",
    "Record",
    "Source",
    "find_format",
    "identity",
    "open_eval",
    "open_set",
    "open_train",
    "used_splits",
]

VALIDATION = ("validation", "val", "valid")
# What the examples held out of training are called.
HELD_OUT = "val"
_HOLD_OUT_KEY = (1914,)  # any number, but always this one


def _open_tfds(config: ConfigDict) -> DataSet:
    from convmesh.data.tfds_source import TfdsSet  # TFDS takes a second to import

    return TfdsSet(config)


def _open_folder(config: ConfigDict) -> DataSet:
    from convmesh.data.folder import FolderSet

    return FolderSet(config)


def _open_coco(config: ConfigDict) -> DataSet:
    from convmesh.data.coco import open_coco

    return open_coco(config)


def _open_voc(config: ConfigDict) -> DataSet:
    from convmesh.data.voc import open_voc

    return open_voc(config)


def _open_yolo(config: ConfigDict) -> DataSet:
    from convmesh.data.yolo import open_yolo

    return open_yolo(config)


# The layouts, by the name that `data.format` gives them.
FORMATS: dict[str, Callable[[ConfigDict], DataSet]] = {
    "tfds": _open_tfds,
    "folder": _open_folder,
    "coco": _open_coco,
    "voc": _open_voc,
    "yolo": _open_yolo,
}


def open_train(config: ConfigDict) -> Source:
    """Return the examples to train on: `data.train_split`, without those held out.

    Raises ConfigError for a config that names what is not there, DataError for unusable data.
    """
    source = _train_part(open_set(config), config, training=True)
    return _cached(source, config, copies=max(1, config.data.workers))


def open_eval(config: ConfigDict, split: str | None = None) -> Source:
    """Return a split to evaluate: `split`, else `data.eval_split`, else what is there.

    That is the validation split under any of its names, else the test split, else `val`: a part of
    the training split, `data.val_fraction` of it, that `open_train` leaves out.
    Raises ConfigError where there is no such split, DataError for unusable data.
    """
    dataset = open_set(config)
    name = _eval_split(dataset, config)
    if split and (name or split not in VALIDATION):
        name = _same_split(split, dataset.splits) or split
    if name is None:
        source = _held_out_part(dataset, config)
    elif name == config.data.train_split:
        source = _train_part(dataset, config, training=False)
    else:
        source = dataset.source(name, training=False)
    return _cached(source, config)


def used_splits(
    dataset: DataSet, config: ConfigDict, open_split: Callable[[str], Source]
) -> list[tuple[str, Source, list[int]]]:
    """Return what a run trains on and what it evaluates: name, source, and which of its examples.

    As `open_train` and `open_eval` choose them, but each opened by `open_split`; one alone where
    both are the same. Raises as those do.
    """
    name, trained = _eval_split(dataset, config), config.data.train_split
    if name is None:
        _check_held_out(dataset, config)
    train = open_split(trained)
    if name is None:
        order, count = _shuffled(len(train)), _held_out_count(len(train), config)
        return [(trained, train, sorted(order[count:])), (HELD_OUT, train, sorted(order[:count]))]
    evaluated = [] if name == trained else [(name, open_split(name))]
    return [(n, s, list(range(len(s)))) for n, s in [(trained, train), *evaluated]]


def find_format(config: ConfigDict) -> str:
    """Return the name of the layout: `data.format`, or for `auto` what the data looks like.

    Raises ConfigError where that cannot be told.
    """
    data = config.data
    if data.format != "auto":
        if data.format not in FORMATS:
            raise ConfigError(
                f"data.format: got {data.format!r}, wanted auto or one of {', '.join(FORMATS)}"
            )
        return data.format
    if data.name:
        return "tfds"
    if not data.root:
        raise ConfigError("data: set data.root to a folder or data.name to a TFDS data set")
    root = Path(data.root).expanduser()
    if not root.is_dir():
        raise ConfigError(f"data.root: {data.root} is not a folder")
    if data.train_annotations or data.eval_annotations:
        return "coco"
    return _look_at(root, data.root, config.task)


def _look_at(root: Path, given: str, task: str) -> str:
    """Return the layout of the folder `root`, by the files that only it has."""
    from convmesh.data.coco import looks_like_coco
    from convmesh.data.yolo import has_yaml, looks_like_yolo

    # YOLO's tools keep COCO's annotations of the same images in ROOT/annotations.
    if has_yaml(root) and not any(root.glob("*/_annotations.coco.json")):
        return "yolo"
    if looks_like_coco(root):
        return "coco"
    if any(any(root.glob(xml)) for xml in ("Annotations", "*/Annotations", "*.xml", "*/*.xml")):
        return "voc"
    if looks_like_yolo(root):
        return "yolo"
    if task == "detect" and looks_like_coco(root, strict=False):
        return "coco"
    if any(path.is_dir() and not path.name.startswith(".") for path in root.iterdir()):
        return "folder"
    raise ConfigError(
        f"data.root: {given} has no layout that is known; expected folders named after the classes"
        " (CLASS/* or SPLIT/CLASS/*), or data.format set"
    )


def open_set(config: ConfigDict) -> DataSet:
    """Return the data set, before any split of it is chosen. Raises ConfigError, DataError."""
    return FORMATS[find_format(config)](config)


def _cached(source: Source, config: ConfigDict, copies: int = 1) -> Source:
    # A config that was not checked may still hold True for `true`.
    return with_cache(source, str(config.data.cache).lower(), copies)


def _same_split(wanted: str, splits: tuple[str, ...]) -> str | None:
    """Return the name that the data set gives to the split `wanted`."""
    names = (wanted, *VALIDATION) if wanted in VALIDATION else (wanted,)
    return next((name for name in names if name in splits), None)


def _eval_split(dataset: DataSet, config: ConfigDict) -> str | None:
    """Return the split that a run evaluates, or None where that is held out of training."""
    wanted = config.data.eval_split
    if wanted:
        return _same_split(wanted, dataset.splits) if wanted in VALIDATION else wanted
    return next((name for name in (*VALIDATION, "test") if name in dataset.splits), None)


def _train_part(dataset: DataSet, config: ConfigDict, training: bool) -> Source:
    """Return the training split, without what is held out of it, and of that `data.first`."""
    source = _without_held_out(dataset, config, training)
    first = config.data.first
    if not first:
        return source
    # The same ones for training and evaluation: with objects that evaluation looks for.
    judged = _without_held_out(dataset, config, training=False) if training else source
    chosen = first_examples(judged, first, config.data.on_bad_example == "skip")
    return Subset(source, chosen, f"{source.split}[:{first}]")


def _without_held_out(dataset: DataSet, config: ConfigDict, training: bool) -> Source:
    source = dataset.source(config.data.train_split, training)
    if _eval_split(dataset, config) or not config.data.val_fraction:
        return source
    kept = _shuffled(len(source))[_held_out_count(len(source), config) :]
    return Subset(source, sorted(kept), source.split)


def _held_out_part(dataset: DataSet, config: ConfigDict) -> Source:
    _check_held_out(dataset, config)
    source = dataset.source(config.data.train_split, training=False)
    held_out = _shuffled(len(source))[: _held_out_count(len(source), config)]
    return Subset(source, sorted(held_out), HELD_OUT)


def _check_held_out(dataset: DataSet, config: ConfigDict) -> None:
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


def _shuffled(size: int) -> list[int]:
    # A function of the number of examples alone: the same on every machine and in every run.
    return permutation(size, _HOLD_OUT_KEY).tolist()
