"""The files of a data set in YOLO's layout: class names, and the images of each split."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath
from typing import Any

from ml_collections import ConfigDict

from convmesh.data.documents import read_json, read_text, read_yaml
from convmesh.data.formats import split_names
from convmesh.data.formats.files import list_files
from convmesh.data.images import SUFFIXES
from convmesh.data.problems import Problem
from convmesh.errors import DataError

YAML = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_NAMES = ("classes.txt", "obj.names", "labels/classes.txt", "train/labels/classes.txt")


class Layout:
    """The files of a data set; all paths are relative to `root`, with forward slashes.

    files: all of them. splits: the images of each split. names: of the classes, () if no file
    states them. aliases: alternative name of a split -> its name. yaml: path of data.yaml, or ''.
    problems: of the files as such.
    """

    def __init__(self, root: Path, config: ConfigDict):
        """Read the layout of `root`. Raises DataError for files that contradict each other."""
        self.root, self.problems = root, list[Problem]()
        self.files = dict.fromkeys(list_files(root))
        self.aliases: dict[str, str] = {}
        self._train_split = config.data.train_split
        self._wanted = {self._train_split, *split_names.evaluated_names(config)}
        self._folders = {"", *(folder for path in self.files for folder in _parents(path))}
        self.yaml = next((name for name in YAML if name in self.files), "")
        self._document = self._read_document()
        self.names = self._stated_names() or self._names_elsewhere()
        self.splits = self._stated_splits() or self._splits_from_folders()
        if not any(self.splits.values()):
            raise DataError(
                f"{root}: no images in a YOLO layout; expected data.yaml, images/SPLIT and"
                " labels/SPLIT, or SPLIT/images and SPLIT/labels"
            )

    def label_file(self, image: str) -> str:
        """Return the path that the label file of an image has, if there is one."""
        return replace_folder(os.path.splitext(image)[0], "images", "labels") + ".txt"

    # data.yaml.

    def _read_document(self) -> dict:
        """Return the contents of data.yaml, {} if there is none."""
        if not self.yaml:  # such as coco8.yaml, but not any YAML file
            others = [name for name in self.files if re.fullmatch(r"[^/]+\.ya?ml", name)]
            document = read_yaml(self.root / others[0]) if len(others) == 1 else None
            if not isinstance(document, dict) or "names" not in document:
                return {}
            self.yaml = others[0]
        else:
            document = read_yaml(self.root / self.yaml)
        if not isinstance(document, dict):
            raise DataError(f"{self.yaml}: has no keys and values, such as `train: images/train`")
        if document.get("kpt_shape") is not None:
            raise DataError(f"{self.yaml}: kpt_shape: its labels are keypoints, not boxes")
        return document

    def _stated_names(self) -> tuple[str, ...]:
        """Return the class names in data.yaml, () if it has none."""
        given, count = self._document.get("names"), self._document.get("nc")
        if isinstance(given, dict):
            if sorted(map(repr, given)) != sorted(map(repr, range(len(given)))):
                raise DataError(f"{self.yaml}: names: the ids are not 0..{len(given) - 1}")
            given = [given[i] for i in range(len(given))]
        if given is None:
            return ()
        if not isinstance(given, list) or not given:
            raise DataError(f"{self.yaml}: names: {given!r} is not a list of names")
        names = tuple(self._name(name) for name in given)
        if count is not None and (type(count) is not int or count != len(names)):
            raise DataError(f"{self.yaml}: nc: {count!r}, but there are {len(names)} names")
        return _check_unique(names, f"{self.yaml}: names")

    def _name(self, name: Any) -> str:
        if type(name) not in (str, int) or name == "":
            raise DataError(f"{self.yaml}: names: {name!r} is not text; write it in quotes")
        return str(name)

    def _names_elsewhere(self) -> tuple[str, ...]:
        """Return the class names in files other than data.yaml, () if there are none."""
        for file in _NAMES:
            if file in self.files:
                lines = [line.strip() for line in read_text(self.root / file).splitlines()]
                while lines and not lines[-1]:
                    lines.pop()
                if "" in lines:
                    raise DataError(
                        f"{file}: line {lines.index('') + 1}: empty, and more lines follow"
                    )
                return _check_unique(tuple(lines), file)
        if "notes.json" not in self.files:  # of Label Studio
            return ()
        document = read_json(self.root / "notes.json")
        entries = document.get("categories") if isinstance(document, dict) else None
        try:
            found = {entry["id"]: entry["name"] for entry in entries or ()}
            names = [found[i] for i in range(len(found))]
        except (TypeError, KeyError):
            names = [None]
        if not all(isinstance(name, str) and name for name in names):
            raise DataError("notes.json: categories: no names with the ids 0, 1, ...")
        return _check_unique(tuple(names), "notes.json")

    def _stated_splits(self) -> dict[str, list[str]]:
        """Return the images of the splits in data.yaml."""
        splits = {}
        for split in dict.fromkeys((*split_names.SPLIT_NAMES, self._train_split)):
            given = self._document.get(split)
            if given is None or given == "" or given == []:
                continue
            listed: list[str] = []
            for entry in given if isinstance(given, list) else [given]:
                listed += self._images_of_entry(entry, split)
            if listed or split in self._wanted:
                splits[split] = self._unique(listed, split)
        return splits

    def _images_of_entry(self, entry: Any, split: str) -> list[str]:
        """Return the images of one folder or list in data.yaml."""
        if not isinstance(entry, str):
            raise DataError(f"{self.yaml}: {split}: {entry!r} is not a path; write it as text")
        path = self._resolve(entry)
        if path is not None:
            return self._read_list(path) if path in self.files else self._images_in(path)
        what = f"{split}: {entry} is neither a folder nor a list of images in"
        # Roboflow names a test split whether it exists or not.
        if split in self._wanted:
            raise DataError(f"{self.yaml}: {what} {self.root}")
        self.problems.append(Problem(self.yaml, f"{what} the folder; ignored", error=False))
        return []

    def _base_folders(self) -> list[str]:
        """Return the folders that paths in data.yaml may be relative to."""
        given = self._document.get("path")
        inside = (
            _relative_to_root(self.root, "", given) if isinstance(given, str) and given else None
        )
        return list(dict.fromkeys(base for base in (inside, "") if base in self._folders))

    def _resolve(self, entry: str) -> str | None:
        """Return the folder or the list of images that an entry of data.yaml means, or None."""
        lists = {name for name in self.files if name.endswith(".txt")}
        for candidate in _candidates(entry):
            for base in self._base_folders():
                path = _relative_to_root(self.root, base, candidate)
                if path is not None and (path in self._folders or path in lists):
                    return path
        return None

    def _read_list(self, file: str) -> list[str]:
        """Return the images that a .txt file lists, including missing ones."""
        listed, bases = [], dict.fromkeys((os.path.dirname(file), *self._base_folders()))
        for i, line in enumerate(read_text(self.root / file).splitlines(), start=1):
            if not line.strip():
                continue
            paths = [
                path
                for candidate in _candidates(line.strip())
                for path in (_relative_to_root(self.root, base, candidate) for base in bases)
                if path is not None
            ]
            if not paths:
                raise DataError(f"{file}: line {i}: {line.strip()} leads outside {self.root}")
            listed.append(next((path for path in paths if path in self.files), paths[0]))
        return listed

    def _images_in(self, folder: str) -> list[str]:
        prefix = f"{folder}/" if folder else ""
        return [path for path in self.files if path.startswith(prefix) and is_image(path)]

    def _unique(self, listed: list[str], split: str) -> list[str]:
        for path, count in Counter(listed).items():
            if count > 1:
                what = f"is {count} times in split {split!r}; used once"
                self.problems.append(Problem(path, what, error=False))
        return list(dict.fromkeys(listed))

    # Folders.

    def _splits_from_folders(self) -> dict[str, list[str]]:
        """Return the images of the splits that have folders."""
        images = self._images_in("images")
        if images:
            tops = {path.split("/")[1] if path.count("/") > 1 else "" for path in images}
            if not any(split_names.parse(top) or top == self._train_split for top in tops):
                return {self._train_split: images}
            outside = [path for path in images if path.count("/") == 1]
            if outside:
                what = f"{len(outside)} images are in no folder of a split, such as {outside[0]}"
                self.problems.append(Problem("images", what, error=False))
            return self._name_splits({top: f"images/{top}" for top in sorted(tops - {""})})
        tops = {
            folder.split("/")[0]
            for folder in self._folders
            if folder.count("/") == 1 and folder.endswith("/images")
        }
        return self._name_splits({top: f"{top}/images" for top in sorted(tops)})

    def _name_splits(self, folders: dict[str, str]) -> dict[str, list[str]]:
        """Return the images of each folder; `train2017` is `train` unless there are two years."""
        parsed = {top: split_names.parse(top) for top in folders}
        short = {top: name.split if name else top for top, name in parsed.items()}
        counts = Counter(short.values())
        splits = {}
        for top, folder in folders.items():
            split = short[top] if counts[short[top]] == 1 else top
            splits[split] = self._images_in(folder)
            if split != top:
                self.aliases[top] = split
        return splits


def _parents(path: str) -> Iterable[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def is_image(path: str) -> bool:
    """Return whether a file of this name is an image."""
    return os.path.splitext(path)[1].lower() in SUFFIXES


def replace_folder(path: str, old: str, new: str) -> str:
    """Return `path` with its last folder `old` replaced by `new`."""
    parts = path.split("/")
    found = [i for i, part in enumerate(parts[:-1]) if part == old]
    if found:
        parts[found[-1]] = new
    return "/".join(parts)


def _candidates(given: str) -> list[str]:
    """Return the possible meanings of a path: as given, or relative to the root.

    Roboflow writes ../train/images for train/images; absolute paths are from another machine.
    """
    path = given.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or PureWindowsPath(path).drive:
        return [path, *("/".join(parts[i:]) for i in range(len(parts)))]
    ups = len(list(itertools.takewhile("..".__eq__, parts)))
    return [path, "/".join(parts[ups:])] if 0 < ups < len(parts) else [path]


def _relative_to_root(root: Path, base: str, path: str) -> str | None:
    """Return `path`, absolute or relative to `base`, relative to the root; None if it is outside.

    '' is the root itself.
    """
    path = os.path.join(os.path.abspath(root), base, path.replace("\\", "/"))
    for top in (os.path.abspath(root), os.path.realpath(root)):
        found = os.path.relpath(path, top).replace(os.sep, "/")
        if found != ".." and not found.startswith("../"):
            return "" if found == "." else found
    return None


def _check_unique(names: tuple[str, ...], file: str) -> tuple[str, ...]:
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(f"{file}: {name!r} occurs {count} times")
    return names
