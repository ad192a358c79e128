"""Files of a data set: its root folder, lists of its files, and their names in messages."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from convmesh.data.images import SUFFIXES
from convmesh.errors import ConfigError, DataError

# Files and folders that operating systems and archives add to those of the user, in lower case.
_JUNK = frozenset(("__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "@eadir"))


def root_folder(config: ConfigDict) -> Path:
    """Return the folder `data.root`. Raises ConfigError if it is not set or not a folder."""
    if not config.data.root:
        raise ConfigError("data.root: not set; give the folder of the data set")
    root = Path(os.path.expanduser(config.data.root))
    if not root.is_dir():
        raise ConfigError(f"data.root: {config.data.root} is not a folder")
    return root


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is passed over: hidden, or not the user's."""
    return name.startswith(".") or name.lower() in _JUNK


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself; reading it fails by its name
        return False


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
            if is_hidden(entry.name):
                continue
            if is_folder(entry):
                visit(entry.path, f"{prefix}{entry.name}/", parents | {real})
            else:
                found.append(prefix + entry.name)

    try:
        visit(str(folder), "", frozenset())
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from None
    return sorted(found)


class Contents(NamedTuple):
    """The names in one folder without hidden ones, sorted: folders, images, and other files."""

    folders: list[str]
    images: list[str]
    others: list[str]


def contents(folder: Path) -> Contents:
    """Return the names in `folder`, without those in its folders. Raises DataError."""
    found = Contents([], [], [])
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                image = os.path.splitext(entry.name)[1].lower() in SUFFIXES
                kind = found.images if image else found.others
                (found.folders if is_folder(entry) else kind).append(entry.name)
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from None
    return Contents(*map(sorted, found))


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in `folder` without hidden ones, sorted by name. Raises DataError."""
    return [folder / name for name in contents(folder).folders]


def has_images(folder: Path, depth: int = 4) -> bool:
    """Return whether there is an image in `folder` or up to `depth` folders below."""
    found = contents(folder)
    return bool(found.images) or (
        depth > 0 and any(has_images(folder / name, depth - 1) for name in found.folders)
    )


def folder_named(parent: Path, *names: str) -> Path | None:
    """Return the folder in `parent` with the first of `names` that exists, in any case, or None.

    `Images` is `images`: archives from Windows and macOS do not keep to the case.
    """
    exact = {path.name: path for path in subfolders(parent)}
    any_case = {name.lower(): path for name, path in exact.items()}
    found = (exact.get(name) or any_case.get(name.lower()) for name in names)
    return next((path for path in found if path), None)


def by_normal_name(files: Iterable[str]) -> dict[str, str]:
    """Return `files` by their name in composed Unicode (NFC).

    macOS stores names decomposed (NFD), while the files that state them are mostly composed. Look
    up `normal_name(name)`.
    """
    return {normal_name(name): name for name in files}


def normal_name(name: str) -> str:
    """Return `name` in composed Unicode (NFC)."""
    return unicodedata.normalize("NFC", name)


def name_from(root: Path, path: Path) -> str:
    """Return the name of `path` in messages: relative to `root` if it is inside."""
    try:
        return path.relative_to(root).as_posix() or "."
    except ValueError:
        return str(path)
