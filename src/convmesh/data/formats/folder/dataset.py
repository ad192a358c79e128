"""Images in folders named after their classes: ROOT/SPLIT/CLASS/* or ROOT/CLASS/*."""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from convmesh.data import images
from convmesh.data.augmentation import augment
from convmesh.data.augmentation.sizes import input_sizes
from convmesh.data.formats import split_names, unread
from convmesh.data.formats.evidence import Evidence
from convmesh.data.formats.files import (
    contents,
    folder_named,
    normal_name,
    root_folder,
    subfolders,
)
from convmesh.data.formats.folder.class_folders import holds_class_folders
from convmesh.data.formats.folder.folder_index import open_listing
from convmesh.data.formats.folder.folder_tree import name_key
from convmesh.data.formats.folder.listing import SplitListing
from convmesh.data.record import DataSet, Record, Shrink, Source, file_size
from convmesh.errors import ConfigError, DataError, nearest


def open_dataset(config: ConfigDict) -> FolderSet:
    """Return the data set in `config.data.root`. Raises as `FolderSet`."""
    return FolderSet(config)


def looks_like(root: Path, task: str, evidence: Evidence) -> bool:
    """Return whether folder `root` has folders of splits with class folders in them.

    For classification, any subfolder makes class folders possible; see `registry.Format`.
    """
    if task != "classify":
        return False
    if evidence is Evidence.LAYOUT:
        return any(
            split_names.parse(split.name) and holds_class_folders(split)
            for split in subfolders(root)
        )
    return evidence is Evidence.POSSIBLE and bool(subfolders(root))


class FolderSet(DataSet):
    """A data set for classification in folders named after their classes."""

    def __init__(self, config: ConfigDict):
        """Read the folders in `config.data.root`.

        The classes are those of all splits, sorted, or `config.data.classes`.
        Raises ConfigError for a root that is not a folder or has no known layout, or a task other
        than classification,
        DataError for a class that is not in the training split or not in `config.data.classes`, and
        for folders of which it is not clear whether they are classes.
        """
        if config.task != "classify":
            raise ConfigError(
                "data.format: folder holds classes without boxes; task must be classify"
            )
        self._root = root_folder(config)
        given = tuple(config.data.classes)
        split_keys = [key for key in (config.data.train_split, config.data.eval_split) if key]
        found = open_listing(self._root, given, split_keys)
        self._listed, self._aliases, self.problems = found.splits, found.aliases, found.problems
        self._train_split = self._aliases.get(config.data.train_split, config.data.train_split)
        self.splits = tuple(self._listed)
        crops = config.data.augment
        self._shrink = augment.Shrink(
            input_sizes(config)[-1], tuple(crops.crop), crops.quarter_turn > 0
        )
        names = {name for listed in self._listed.values() for name in listed.classes}
        self.classes: tuple[str, ...] = given or tuple(sorted(names))
        if not names:
            raise ConfigError(
                f"{self._root}: no class folders with images, expected CLASS/* or SPLIT/CLASS/*;"
                f" {unread.explain(self._root, config.task)}"
            )
        if len(names) == 1 and not given and unread.find(self._root, config.task):
            raise ConfigError(
                f"{self._root}: one folder with images, {names.pop()}, is no class; "
                f"{unread.explain(self._root, config.task)}"
            )
        self._check_classes(bool(given))
        self._check_validation(config.data.eval_split)

    def source(self, split: str, training: bool) -> FolderSource:
        """Return one split; `training`: reject empty classes. Raises ConfigError, DataError."""
        split = split if split in self._listed else self._aliases.get(split, split)
        if split not in self._listed:
            raise ConfigError(
                f"data: no split {split!r} in {self._root}; it has {', '.join(self.splits)}"
                f"{nearest(split, self.splits)}"
            )
        shrink = self._shrink if training else None
        source = FolderSource(self._root, split, self._listed[split], self.classes, shrink)
        if training and source.empty_folders:
            empty = source.empty_folders[0]
            below = f"{empty.relative_to(self._root).as_posix()}/"
            others = [name for name in source.ignored_files if name.startswith(below)]
            what = f" ({len(others)} other files, such as {others[0]})" if others else ""
            raise DataError(
                f"{empty}: no images for this class{what}; add some or remove the folder"
            )
        return source

    def _check_validation(self, wanted: str) -> None:
        """Raise DataError for a folder of validation images that are in no folders of classes.

        A part of the training images would be held out instead, and called `val`.
        """
        names = split_names.VALIDATION
        evaluated = {*names, *(() if wanted else ("test",))}
        if (wanted and wanted not in names) or evaluated & set(self.splits):
            return
        folder = folder_named(self._root, *names)
        known = {normal_name(name) for name in self.classes}
        if folder and normal_name(folder.name) not in known and contents(folder).images:
            raise DataError(
                f"{folder}: its images are in no folders of classes; sort them into folders named "
                "as those of train (ImageNet: tools/imagenet_val_folders.py), or move them away to "
                "hold out a part of train"
            )

    def _check_classes(self, given: bool) -> None:
        """Raise DataError for the folder of an unknown class; given: `data.classes` is set."""
        known = {normal_name(name) for name in self.classes}
        training = self._listed.get(self._train_split)
        trained = {*training.classes} if training else set()
        keys = {name_key(name): name for name in (known if given else trained)}
        for split, listed in self._listed.items():
            for name, folder in zip(listed.classes, listed.folders, strict=True):
                path = self._root / folder
                alike = keys.get(name_key(name), name)
                hint = "" if alike == name else f"; {alike!r} is: rename the folder to it"
                if name not in known:
                    raise DataError(
                        f"{path}: class {name!r} is not in data.classes"
                        f"{hint or nearest(name, self.classes)}"
                    )
                if not given and trained and name not in trained:
                    raise DataError(
                        f"{path}: class {name!r} is in split {split} and not in"
                        f" {self._train_split}{hint or '; add images there or remove the folder'}"
                    )


class FolderSource(Source):
    """A split of a FolderSet."""

    task = "classify"

    def __init__(
        self,
        root: Path,
        split: str,
        listed: SplitListing,
        classes: tuple[str, ...],
        shrink: Shrink | None = None,
    ):
        """Order the images of `listed` by class id.

        shrink: how much smaller large JPEGs may be decoded. Raises DataError if there are no
        images.
        """
        self.split, self.classes, self._shrink = split, classes, shrink
        self._root, self._images = str(root), listed.images
        ids = {normal_name(name): i for i, name in enumerate(classes)}
        order = sorted(range(len(listed.classes)), key=lambda i: ids[listed.classes[i]])
        starts = [0, *itertools.accumulate(listed.counts)]
        self._ids = [ids[listed.classes[i]] for i in order]
        self._starts = [starts[i] for i in order]  # of each class in the listing
        self._counts = [listed.counts[i] for i in order]
        self._ends = list(itertools.accumulate(self._counts))  # of each class in this source
        self.ignored_files = [path for i in order for path in listed.ignored[i]]
        self.empty_folders = [root / listed.folders[i] for i in order if not listed.counts[i]]
        if not self._images:
            raise DataError(f"{root}: no images in split {split!r}")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._images)

    def _at(self, index: int) -> tuple[str, int]:
        """Return path and class id of image `index`. Raises IndexError."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        group = bisect.bisect_right(self._ends, index)
        within = index - self._ends[group] + self._counts[group]
        return self._images[self._starts[group] + within], self._ids[group]

    def __getitem__(self, index: int) -> Record:
        """Return image `index`; its id is counted from 1. Raises BadExample naming the file."""
        return self.read(index, self._shrink)

    def read(self, index: int, shrink: Shrink | None) -> Record:
        """Return image `index`, a JPEG decoded smaller if `shrink` allows it."""
        name, label = self._at(index)
        image = images.read_image(os.path.join(self._root, name), shrink)
        return Record(image, index + 1, name, label=label)

    def name(self, index: int) -> str:
        """Return the path of image `index`, relative to the root of the data set."""
        return self._at(index)[0]

    def all_names(self) -> Iterator[str]:
        """Yield the paths of all images."""
        for start, count in zip(self._starts, self._counts, strict=True):
            yield from self._images.part(start, start + count)

    def single_labels(self) -> np.ndarray:
        """Return the class id of each image, int32 [n]."""
        return np.repeat(np.array(self._ids, np.int32), self._counts)

    def stored_bits(self, index: int) -> int:
        """Return the bits of a channel of image `index`, from its header."""
        return images.read_stored_bits(os.path.join(self._root, self.name(index)))

    def stated_labels(self, index: int) -> np.ndarray:
        """Return the class id of image `index`, int64 [1], without reading it."""
        return np.array([self._at(index)[1]])

    def stated_truth(self, index: int) -> bytes:
        """Return the class id of image `index`."""
        return b"%d " % self._at(index)[1]

    def stated_size(self, index: int) -> bytes:
        """Return the size of the file of image `index`."""
        return file_size(os.path.join(self._root, self.name(index)))
