"""The layouts of data sets, and the detection of a folder's layout.

To add a layout, write one file `formats/NAME.py` with the two functions of `Format`, and add one
line to `DATA_FORMATS` in `convmesh/config/keys.py`. One with boxes returns an `AnnotatedSet`, which
checks them and gives `check-data` their lines.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol, cast

from ml_collections import ConfigDict

from convmesh.config.keys import DATA_FORMATS
from convmesh.data.formats.evidence import Evidence
from convmesh.data.record import DataSet
from convmesh.errors import ConfigError

# Selected by `data.name` and not recognized by files, so that it has no `looks_like`.
_BY_NAME = "tfds"


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
    return load_format(find_format(config)).open_dataset(config)


def find_format(config: ConfigDict) -> str:
    """Return the name of the layout: `data.format`, or for `auto` the one that the data has.

    Raises ConfigError if the name is unknown or no layout fits.
    """
    data = config.data
    if data.format != "auto":
        if data.format not in DATA_FORMATS:  # of a config that was not checked
            names = ", ".join(DATA_FORMATS)
            raise ConfigError(f"data.format: got {data.format!r}, wanted auto or one of {names}")
        return data.format
    if data.name:
        return _BY_NAME
    if not data.root:
        raise ConfigError("data: set data.root to a folder or data.name to a TFDS data set")
    root = Path(data.root).expanduser()
    if not root.is_dir():
        raise ConfigError(f"data.root: {data.root} is not a folder")
    if data.train_annotations or data.eval_annotations:
        return "coco"
    return _recognize(root, data.root, config.task)


def _recognize(root: Path, root_in_config: str, task: str) -> str:
    """Return the layout with the strongest evidence in folder `root`."""
    for evidence in sorted(Evidence, reverse=True):
        for name in DATA_FORMATS:
            if name != _BY_NAME and load_format(name).looks_like(root, task, evidence):
                return name
    raise ConfigError(
        f"data.root: {root_in_config} has no known layout; expected folders named after the classes"
        " (CLASS/* or SPLIT/CLASS/*), or data.format set"
    )
