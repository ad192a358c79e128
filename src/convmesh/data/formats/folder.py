"""Images in folders named after their classes: ROOT/SPLIT/CLASS/* or ROOT/CLASS/*."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from convmesh.data import images
from convmesh.data.augmentation import augment
from convmesh.data.augmentation.sizes import input_sizes
from convmesh.data.formats.evidence import Evidence
from convmesh.data.formats.files import root_folder
from convmesh.data.formats.split_names import SPLIT_NAMES
from convmesh.data.record import DataSet, Record, Source
from convmesh.errors import ConfigError, DataError, nearest


def open_dataset(config: ConfigDict) -> FolderSet:
    """Return the data set in `config.data.root`. Raises as `FolderSet`."""
    return FolderSet(config)


def looks_like(root: Path, task: str, evidence: Evidence) -> bool:
    """Return whether folder `root` has any subfolder; see `registry.Format`."""
    return evidence is Evidence.POSSIBLE and bool(_subfolders(root))


class FolderSet(DataSet):
    """A data set for classification in folders named after their classes."""

    def __init__(self, config: ConfigDict):
        """Read the folders in `config.data.root`.

        The classes are those of all splits, sorted, or `config.data.classes`.
        Raises ConfigError for a root that is not a folder or a task other than classification,
        DataError for a class that is not in the training split or not in `config.data.classes`.
        """
        if config.task != "classify":
            raise ConfigError(
                "data.format: folder holds classes without boxes; task must be classify"
            )
        self._root = root_folder(config)
        self._train_split = config.data.train_split
        self._folders = _split_folders(self._root, self._train_split)
        self.splits = tuple(self._folders)
        crops = config.data.augment
        self._shrink = augment.Shrink(
            input_sizes(config)[-1], tuple(crops.crop), crops.quarter_turn > 0
        )
        given = tuple(config.data.classes)
        self.classes: tuple[str, ...] = given or tuple(
            sorted({path.name for split in self._folders.values() for path in split})
        )
        if not self.classes:
            raise DataError(
                f"{config.data.root}: no class folders with images; expected CLASS/* or"
                " SPLIT/CLASS/*"
            )
        self._check_classes(bool(given))

    def source(self, split: str, training: bool) -> FolderSource:
        """Return one split; `training`: reject empty classes. Raises ConfigError, DataError."""
        if split not in self._folders:
            raise ConfigError(
                f"data: no split {split!r} in {self._root}; it has {', '.join(self.splits)}"
                f"{nearest(split, self.splits)}"
            )
        shrink = self._shrink if training else None
        source = FolderSource(self._root, split, self._folders[split], self.classes, shrink)
        if training and source.empty_folders:
            raise DataError(
                f"{source.empty_folders[0]}: no images for this class; add some or remove the"
                " folder"
            )
        return source

    def _check_classes(self, given: bool) -> None:
        """Raise DataError for the folder of an unknown class; given: `data.classes` is set."""
        trained = {path.name for path in self._folders.get(self._train_split, ())}
        for split, folders in self._folders.items():
            for path in folders:
                if path.name not in self.classes:
                    raise DataError(
                        f"{path}: class {path.name!r} is not in data.classes"
                        f"{nearest(path.name, self.classes)}"
                    )
                if not given and trained and path.name not in trained:
                    raise DataError(
                        f"{path}: class {path.name!r} is in split {split} and not in"
                        f" {self._train_split}; add images there or remove the folder"
                    )


class FolderSource(Source):
    """A split of a FolderSet."""

    task = "classify"

    def __init__(
        self,
        root: Path,
        split: str,
        folders: list[Path],
        classes: tuple[str, ...],
        shrink: images.Shrink | None = None,
    ):
        """List the images of `folders`, one folder per class, sorted.

        shrink: how much smaller large JPEGs may be decoded. Raises DataError if there are no
        images.
        """
        self.split, self.classes, self._shrink = split, classes, shrink
        self._root = str(root)
        self._files: list[str] = []
        self._labels: list[int] = []
        ignored, empty = list[str](), list[Path]()
        for folder in sorted(folders, key=lambda path: classes.index(path.name)):
            found = 0
            for path in _files_below(folder):
                name = path.relative_to(root).as_posix()
                if path.suffix.lower() in images.SUFFIXES:
                    self._files.append(name)
                    self._labels.append(classes.index(folder.name))
                    found += 1
                else:
                    ignored.append(name)
            if not found:
                empty.append(folder)
        self.ignored_files, self.empty_folders = ignored, empty
        if not self._files:
            raise DataError(f"{root}: no images in split {split!r}")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        """Return image `index`; its id is counted from 1. Raises BadExample naming the file."""
        name = self._files[index]
        image = images.read_image(os.path.join(self._root, name), self._shrink)
        return Record(image, index + 1, name, label=self._labels[index])

    def name(self, index: int) -> str:
        """Return the path of image `index`, relative to the root of the data set."""
        return self._files[index]

    def stored_bits(self, index: int) -> int:
        """Return the bits of a channel of image `index`, from its header."""
        return images.read_stored_bits(os.path.join(self._root, self._files[index]))

    def stated_labels(self, index: int) -> np.ndarray:
        """Return the class id of image `index`, int64 [1], without reading it."""
        return np.array([self._labels[index]])


def _subfolders(folder: Path) -> list[Path]:
    """Return the folders in `folder` that are not hidden, sorted by name."""
    return sorted(
        (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")),
        key=lambda path: path.name,
    )


def _split_folders(root: Path, train_split: str) -> dict[str, list[Path]]:
    """Return the class folders of each split; without splits, all are the training split.

    A folder that has the name of a split and contains folders makes the layout ROOT/SPLIT/CLASS.
    """
    nested = {path.name: _subfolders(path) for path in _subfolders(root)}
    if any(nested.get(name) for name in (train_split, *SPLIT_NAMES)):
        return {name: folders for name, folders in nested.items() if folders}
    return {train_split: _subfolders(root)}


def _files_below(folder: Path) -> list[Path]:
    """Return all files in and below `folder`, sorted, without hidden ones and linked folders."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(parent, name) for name in files if not name.startswith(".")]
    return sorted(found)
