"""Images in folders named after their classes: ROOT/SPLIT/CLASS/* or ROOT/CLASS/*."""

from __future__ import annotations

import os
from pathlib import Path

from ml_collections import ConfigDict

from convmesh.data import augment, images
from convmesh.data.record import Record
from convmesh.data.sizes import input_sizes
from convmesh.errors import ConfigError, DataError, nearest

# A folder with one of these names that holds folders makes ROOT/SPLIT/CLASS.
SPLIT_NAMES = ("train", "val", "valid", "validation", "test")


class FolderSet:
    """A data set for classification in folders named after their classes."""

    def __init__(self, config: ConfigDict):
        """Look at `config.data.root`.

        The classes are those of all splits, sorted, or `config.data.classes`.
        Raises ConfigError for a root that is no folder or another task than classification,
        DataError for a class that is not in the training split, or has no images there.
        """
        root = config.data.root
        if config.task != "classify":
            raise ConfigError(
                "data.format: folder holds classes without boxes; task must be classify"
            )
        if not root:
            raise ConfigError("data.root: not set; give the folder of the data set")
        self._root = Path(root).expanduser()
        if not self._root.is_dir():
            raise ConfigError(f"data.root: {root} is not a folder")
        self._train_split = config.data.train_split
        self._folders = _split_folders(self._root, self._train_split)
        self.splits = tuple(self._folders)
        crops = config.data.augment
        self._shrink = augment.Shrink(
            input_sizes(config)[-1], tuple(crops.crop), crops.quarter_turn > 0
        )
        given = tuple(config.data.classes)
        self.classes = given or tuple(
            sorted({path.name for split in self._folders.values() for path in split})
        )
        if not self.classes:
            raise DataError(
                f"{root}: no class folders with images; expected CLASS/* or SPLIT/CLASS/*"
            )
        self._check_classes(bool(given))

    def source(self, split: str, training: bool) -> FolderSource:
        """Return one split; `training`: no class may be empty. Raises ConfigError, DataError."""
        if split not in self._folders:
            raise ConfigError(
                f"data: no split {split!r} in {self._root}; it has {', '.join(self.splits)}"
                f"{nearest(split, self.splits)}"
            )
        shrink = self._shrink if training else None
        source = FolderSource(self._root, split, self._folders[split], self.classes, shrink)
        if training and source.empty:
            raise DataError(
                f"{source.empty[0]}: no images for this class; add some or take the folder away"
            )
        return source

    def _check_classes(self, given: bool) -> None:
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
                        f" {self._train_split}; add images there or take the folder away"
                    )


class FolderSource:
    """A split of a folder data set: a Source.

    ignored: names of files that are no images. empty: class folders without images.
    """

    task = "classify"

    def __init__(
        self,
        root: Path,
        split: str,
        folders: list[Path],
        classes: tuple[str, ...],
        shrink: images.Shrink | None = None,
    ):
        """List the images of `folders`, one folder a class, sorted. Raises DataError if none.

        `shrink`: how much smaller large JPEGs may be decoded.
        """
        self.split, self.classes, self._shrink = split, classes, shrink
        self._root = str(root)
        self._files: list[str] = []
        self._labels: list[int] = []
        self.ignored: list[str] = []
        self.empty: list[Path] = []
        for folder in sorted(folders, key=lambda path: classes.index(path.name)):
            found = 0
            for path in _files_below(folder):
                name = path.relative_to(root).as_posix()
                if path.suffix.lower() in images.SUFFIXES:
                    self._files.append(name)
                    self._labels.append(classes.index(folder.name))
                    found += 1
                else:
                    self.ignored.append(name)
            if not found:
                self.empty.append(folder)
        if not self._files:
            raise DataError(f"{root}: no images in split {split!r}")

    def __len__(self) -> int:
        """Return how many images the split has."""
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        """Return image `index`; its id is counted from 1. Raises BadExample naming the file."""
        name = self._files[index]
        image = images.read_image(os.path.join(self._root, name), self._shrink)
        return Record(image, index + 1, name, label=self._labels[index])

    def name(self, index: int) -> str:
        """Return the path of image `index`, from the root of the data set."""
        return self._files[index]

    def label(self, index: int) -> int:
        """Return the class id of image `index`, without reading it."""
        return self._labels[index]


def class_folders(folder: Path) -> list[Path]:
    """Return the folders in `folder` that are not hidden, sorted by name."""
    return sorted(
        (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")),
        key=lambda path: path.name,
    )


def _split_folders(root: Path, train_split: str) -> dict[str, list[Path]]:
    """Return the class folders of each split; without splits all is for training."""
    below = {path.name: class_folders(path) for path in class_folders(root)}
    if any(below.get(name) for name in (train_split, *SPLIT_NAMES)):
        return {name: folders for name, folders in below.items() if folders}
    return {train_split: class_folders(root)}


def _files_below(folder: Path) -> list[Path]:
    """Return all files in and below `folder`, sorted, without hidden ones."""
    found = []
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(where, name) for name in files if not name.startswith(".")]
    return sorted(found)
