"""Files of a data set: its root folder, lists of its files, and their names in messages."""

from __future__ import annotations

import os
from pathlib import Path

from ml_collections import ConfigDict

from convmesh.errors import ConfigError, DataError


def root_folder(config: ConfigDict) -> Path:
    """Return the folder `data.root`. Raises ConfigError if it is not set or not a folder."""
    if not config.data.root:
        raise ConfigError("data.root: not set; give the folder of the data set")
    root = Path(config.data.root).expanduser()
    if not root.is_dir():
        raise ConfigError(f"data.root: {config.data.root} is not a folder")
    return root


def list_files(folder: Path) -> list[str]:
    """Return the relative paths of all files in and below `folder`, sorted, without hidden ones.

    Follows links to folders, but no cycles. Raises DataError if a folder cannot be read.
    """
    found: list[str] = []

    def visit(path: str, prefix: str, parents: frozenset[str]) -> None:
        real = os.path.realpath(path)
        if real in parents:
            return
        for entry in os.scandir(path):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                visit(entry.path, f"{prefix}{entry.name}/", parents | {real})
            else:
                found.append(prefix + entry.name)

    try:
        visit(str(folder), "", frozenset())
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from None
    return sorted(found)


def name_from(root: Path, path: Path) -> str:
    """Return the name of `path` in messages: relative to `root` if it is inside."""
    try:
        return path.relative_to(root).as_posix() or "."
    except ValueError:
        return str(path)
