"""The layouts of data sets, and the detection of a folder's layout.

To add a layout, write one file `formats/NAME.py` with the two functions of `Format`, and add one
line to `DATA_FORMATS` in `convmesh/config/keys.py`. One with boxes returns an `AnnotatedSet`, which
checks them and gives `check-data` their lines.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Protocol, cast

from ml_collections import ConfigDict

from convmesh.config.keys import DATA_FORMATS
from convmesh.data.formats import unread
from convmesh.data.formats.box_signs import holds_boxes
from convmesh.data.formats.evidence import Evidence
from convmesh.data.formats.files import subfolders
from convmesh.data.formats.folder.folder_tree import is_image
from convmesh.data.formats.root import (
    Found,
    find_data_set,
    has_class_folders,
    outer_data_set,
)
from convmesh.data.problems import Problem
from convmesh.data.record import DataSet
from convmesh.data.stores.mirrored_set import local_set
from convmesh.data.stores.object_store import is_url
from convmesh.errors import ConfigError

# Selected by `data.name` and not recognized by files, so that it has no `looks_like`.
_BY_NAME = "tfds"
# What the formats with boxes consist of, in messages.
_WITH_BOXES = {
    "coco": "COCO annotations",
    "voc": "Pascal VOC XML",
    "yolo": "YOLO labels",
    "labelme": "LabelMe JSON",
}
_IF_CLASSES = "; if its folders are classes, set task to classify (recipe classify)"


class Format(Protocol):
    """A layout: a module with these two functions."""

    def open_dataset(self, config: ConfigDict) -> DataSet:
        """Open the data set of `config.data`. Raises ConfigError, DataError."""
        ...

    def looks_like(self, root: Path, task: str, evidence: Evidence) -> bool:
        """Return whether folder `root` shows `evidence` of this layout; see `Evidence`."""
        ...


def load_format(name: str) -> Format:
    """Return the layout `name`, a key of DATA_FORMATS."""
    return cast(Format, importlib.import_module(DATA_FORMATS[name]))


def open_dataset(config: ConfigDict) -> DataSet:
    """Return the data set of `config.data`, before a split is chosen.

    Raises ConfigError, DataError.
    """
    config = with_local_root(config)
    found = _locate(config)
    layout = load_format(found.format)
    if not found.problems:
        return layout.open_dataset(config)
    inner = config.copy_and_resolve_references()
    inner.data.root = str(found.root)
    dataset = layout.open_dataset(inner)
    dataset.problems = [*found.problems, *(_at_root(one, found) for one in dataset.problems)]
    return dataset


def _at_root(problem: Problem, found: Found) -> Problem:
    """Return a problem of a folder named as the data set's, in it, by its path from data.root."""
    if problem.file.split("/")[0] != found.root.name:
        return problem
    return replace(problem, file=f"{found.problems[0].file}/{problem.file}")


def find_format(config: ConfigDict) -> str:
    """Return the name of the layout: `data.format`, or for `auto` the one that the data has.

    Raises ConfigError if the name is unknown or no layout fits.
    """
    return _locate(with_local_root(config)).format


def with_local_root(config: ConfigDict) -> ConfigDict:
    """Return `config`, with the folder on this host if `data.root` is in an object store.

    Raises as `local_set`.
    """
    if not is_url(config.data.root):
        return config
    config = config.copy_and_resolve_references()
    config.data.root = str(local_set(config.data.root, is_image))
    return config


def _locate(config: ConfigDict) -> Found:
    """Return the format and the folder of the data set. Raises ConfigError."""
    data = config.data
    if data.format not in ("auto", *DATA_FORMATS):  # of a config that was not checked
        names = ", ".join(DATA_FORMATS)
        raise ConfigError(f"data.format: got {data.format!r}, wanted auto or one of {names}")
    if data.format == _BY_NAME or data.format == "auto" and data.name:
        return Found(_BY_NAME, Path(), [])
    if data.format != "auto" and not Path(os.path.expanduser(data.root or "/dev/null")).is_dir():
        return Found(data.format, Path(), [])  # its module says what is wrong
    if not data.root:
        raise ConfigError("data: set data.root to a folder or data.name to a TFDS data set")
    root = Path(os.path.expanduser(data.root))
    if not root.is_dir():
        raise ConfigError(f"data.root: {data.root} is not a folder")
    if data.train_annotations or data.eval_annotations:
        return Found("coco" if data.format == "auto" else data.format, root, [])
    found = _find(root, config)
    what = _WITH_BOXES.get(found.format)
    if what and config.task == "classify":
        raise ConfigError(
            f"task: classify, but {found.root} holds boxes; set task to detect (recipe detect) to"
            f" learn from its {what}; if its folders are the classes, set data.format to folder"
        )
    return found


def _find(root: Path, config: ConfigDict) -> Found:
    """Return the data set in `root` or below. Raises ConfigError if there is none."""
    chosen, task = config.data.format, config.task
    names = [name for name in DATA_FORMATS if name != _BY_NAME and chosen in ("auto", name)]

    def recognize(folder: Path, evidence: Evidence) -> str:
        for name in names:
            if load_format(name).looks_like(folder, task, evidence):
                # A stray file beside class folders makes no data set with boxes.
                weak = task == "classify" and chosen == "auto" and name in _WITH_BOXES
                if not (weak and has_class_folders(folder) and not holds_boxes(folder)):
                    return name
        return ""

    found = find_data_set(root, task, recognize)
    if found:
        return found
    if chosen != "auto":
        return Found(chosen, root, [])
    possible = recognize(root, Evidence.POSSIBLE)
    # A JSON file may be one of many formats.
    if possible and not (task == "detect" and unread.find(root, task, suffix=".json")):
        return Found(possible, root, [])
    if task == "classify":
        raise ConfigError(
            f"data.root: {root} has no known layout of classes, expected CLASS/* or SPLIT/CLASS/*;"
            f" {unread.explain(root, task)}{outer_data_set(root, recognize)}"
        )
    hint = "" if unread.find(root, task) or not subfolders(root) else _IF_CLASSES
    raise ConfigError(
        f"data.root: {root} has no known layout of boxes; {unread.explain(root, task)}{hint}"
        f"{outer_data_set(root, recognize)}"
    )
