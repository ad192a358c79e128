"""The files of a data set in YOLO's layout: class names, and the images of each split."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from convmesh.data.formats import split_names
from convmesh.data.formats.tally import counted
from convmesh.data.formats.yolo.description import read_description
from convmesh.data.formats.yolo.files import Files, stated_parts, suffix, suffixes
from convmesh.data.formats.yolo.lists import is_list, read_list
from convmesh.data.formats.yolo.names import is_name_file, names_of_files, read_names
from convmesh.data.problems import Problem
from convmesh.errors import DataError

_CVAT_FOLDER = re.compile(r"obj_(\w+?)_data", re.IGNORECASE)  # of a split
_IN_LABELS = re.compile(r"\blabels(?=/)", re.IGNORECASE)
_NO_IMAGES = ("labels", "masks")  # folders whose images, if any, are no examples


class Layout:
    """The files of a data set; all paths are relative to `root`, with forward slashes.

    files: all of them. splits: the images of each split. names: of the classes, () if no file
    states them. names_file: that states them. aliases: alternative name of a split -> its name.
    description: path of data.yaml or obj.data, or ''. keys: in that file. lists: the files that
    list images. extra: of the splits, those of folders that are called otherwise and are not asked
    for. problems: of the files as such.
    """

    def __init__(self, root: Path, config: ConfigDict):
        """Read the layout of `root`. Raises DataError for files that contradict each other."""
        self.root, self.files = root, Files(root)
        self.problems, self.aliases = list[Problem](), dict[str, str]()
        self.lists: set[str] = set()
        self._train_split = config.data.train_split
        self._wanted = {self._train_split, *split_names.evaluated_names(config)}
        stated = read_description(self.files, self._wanted)
        self.description, self.keys = stated.file, stated.keys
        self.names, self.names_file = stated.names, stated.file
        if self.names:
            self._warn_of_other_names()
        else:
            self.names, self.names_file = names_of_files(self.files)
        self._meant_by: dict[str, str] = {}  # folder or list -> the path that was stated
        self._bases = self._base_folders(stated.path)
        self.splits = self._stated_splits(stated.entries) or self._splits_from_folders()
        if not any(self.splits.values()):
            raise DataError(f"{root}: {self._without_images()}")
        self.extra = [
            split
            for split in self.splits
            if not split_names.parse(split) and split not in self._wanted
        ]

    def _without_images(self) -> str:
        """Return what the folder holds instead of images, and what to do."""
        unread = self.files.unread
        if unread:
            number = "1 image" if len(unread) == 1 else f"{len(unread)} images"
            return (
                f"{number} in a format that is not read ({suffixes(unread)}), such as {unread[0]},"
                " and no others; convert them to JPEG or PNG"
            )
        labels = [
            path
            for path in self.files.paths
            if suffix(path) == ".txt" and "labels" in path.lower().split("/")[:-1]
        ]
        if labels:
            number = "1 label file" if len(labels) == 1 else f"{len(labels)} label files"
            return (
                f"{number}, such as {labels[0]}, but no images; put each image to its label file,"
                f" such as {os.path.splitext(_IN_LABELS.sub('images', labels[0]))[0]}.jpg"
            )
        return (
            "no images in a YOLO layout; expected data.yaml, images/SPLIT and labels/SPLIT, or"
            " SPLIT/images and SPLIT/labels"
        )

    def _warn_of_other_names(self) -> None:
        """Warn if a file states other names than data.yaml: whose ids do the labels have?"""
        for file in filter(is_name_file, self.files.paths):
            try:
                names = read_names(self.files, file)
            except DataError:  # it is not used
                continue
            if names != self.names[: len(names)] and "predefined" not in file:
                what = f"states other names than {self.names_file}, which is used:"
                what += f" {', '.join(names[:5])} instead of {', '.join(self.names[:5])}"
                self.problems.append(Problem(file, what, error=False))

    # What data.yaml or obj.data states.

    def _base_folders(self, path: str) -> list[str]:
        """Return the folders that stated paths may be relative to."""
        inside = self.files.inside("", path) if path else None
        folder = None if inside is None else self.files.find_folder(inside)
        return list(dict.fromkeys(base for base in (folder, "") if base is not None))

    def _stated_splits(self, entries: dict[str, tuple[str, Any]]) -> dict[str, list[str]]:
        """Return the images of the splits that the description states."""
        splits = {}
        for split, (key, given) in entries.items():
            listed: list[str] = []
            wanted = bool({key, split} & self._wanted)
            for entry in given if isinstance(given, list) else [given]:
                listed += self._images_of_entry(entry, key, split, wanted)
            if listed or wanted:
                splits[split] = self._unique(listed, split)
                if key != split:
                    self.aliases[key] = split
        return splits

    def _images_of_entry(self, entry: Any, key: str, split: str, wanted: bool) -> list[str]:
        """Return the images of one folder or list."""
        where = f"{self.description}: {key}"
        if not isinstance(entry, str):
            raise DataError(f"{where}: {entry!r} is not a path; write it as text")
        match = self.files.match_folder_or_list(entry, self._bases)
        if match is None:
            what = f"{entry} is neither a folder nor a list of images in"
            # Roboflow names a test split whether it exists or not.
            if wanted:
                advice = "; correct it"
                if split != self._train_split:
                    advice += f", or remove the key {key} to hold out a part of the training split"
                where_they_are = self._where_images_are()
                raise DataError(f"{where}: {what} {self.root}{where_they_are}{advice}")
            problem = Problem(self.description, f"{key}: {what} the folder; ignored", error=False)
            self.problems.append(problem)
            return []
        if match.dropped:
            parts = "/".join(stated_parts(entry))
            other = self._meant_by.setdefault(match.path, parts)
            if other != parts:
                raise DataError(
                    f"{where}: {parts} and {other} would both be {match.path}, since their folders"
                    f" are not in {self.root}; correct the paths"
                )
        if match.path not in self.files.paths:
            return self.files.images_in(match.path)
        return self._read_list(match.path, split)

    def _where_images_are(self) -> str:
        counts = Counter(os.path.dirname(path) or "the folder itself" for path in self.files.images)
        shown = ", ".join(f"{folder} ({n})" for folder, n in counts.most_common(4))
        return f", whose images are in {shown}" if shown else ""

    def _read_list(self, file: str, split: str) -> list[str]:
        self.lists.add(file)
        images, problems = read_list(self.files, file, self._bases, split)
        self.problems += problems
        return images

    def _unique(self, listed: list[str], split: str) -> list[str]:
        """Return the images of a split, each once."""
        counts = Counter(listed)
        repeated = [path for path, count in counts.items() if count > 1]
        if repeated:
            what = f"images are more than once in split {split!r}, such as {repeated[0]}; used once"
            file = self.description or "."
            self.problems.append(Problem(file, counted(len(repeated), what), error=False))
        return list(counts)

    # Without a description: folders and lists with the names of splits.

    def _splits_from_folders(self) -> dict[str, list[str]]:
        """Return the images of the splits that have folders or lists, else all for training."""
        images = self._one_folder("", "images")
        folders = self._folders_in(images) if images else self._folders_at_the_top()
        if any(self._is_split(top) for top in folders):
            self._warn_of_images_outside(images)
            return self._named({top: self.files.images_in(path) for top, path in folders.items()})
        lists = self._lists()
        if lists:
            named = split_names.name_splits(lists)
            return {
                split: self._unique(self._read_list(lists[name], split), split)
                for name, split in named.items()
            }
        if images:
            return {self._train_split: self.files.images_in(images)}
        inner = [path for path in folders.values() if path.lower().endswith("/images")]
        found = [image for path in inner for image in self.files.images_in(path)]
        return {self._train_split: found or list(self.files.images)}

    def _one_folder(self, parent: str, name: str) -> str:
        """Return the folder `name` of `parent`, in any case, if it has images; else ''."""
        prefix = f"{parent}/" if parent else ""
        tops = self._subfolders(parent)
        found = [prefix + top for top in tops if top.lower() == name]
        found = [path for path in found if self.files.images_in(path)]
        if len(found) > 1:
            raise DataError(f"{self.root}: has the folders {' and '.join(found)}; merge them")
        return found[0] if found else ""

    def _subfolders(self, parent: str) -> list[str]:
        prefix = f"{parent}/" if parent else ""
        return sorted(
            folder[len(prefix) :]
            for folder in self.files.folders
            if folder and os.path.dirname(folder) == parent
        )

    def _folders_in(self, images: str) -> dict[str, str]:
        """Return the folders in the folder `images` by name."""
        folders = {top: f"{images}/{top}" for top in self._subfolders(images)}
        return {top: path for top, path in folders.items() if self.files.images_in(path)}

    def _folders_at_the_top(self) -> dict[str, str]:
        """Return the folders of images in the root by name: SPLIT/images, or SPLIT itself."""
        tops = [top for top in self._subfolders("") if top.lower() not in _NO_IMAGES]
        folders = {top: self._one_folder(top, "images") or top for top in tops}
        return {top: path for top, path in folders.items() if self.files.images_in(path)}

    def _is_split(self, folder: str) -> bool:
        return folder == self._train_split or split_names.parse(_without_frame(folder)) is not None

    def _warn_of_images_outside(self, images: str) -> None:
        outside = [path for path in self.files.images if os.path.dirname(path) == images]
        if outside:
            what = f"images are in no folder of a split, such as {outside[0]}"
            self.problems.append(Problem(images or ".", counted(len(outside), what), error=False))

    def _named(self, folders: dict[str, list[str]]) -> dict[str, list[str]]:
        """Return the images of each folder; `train2017` is `train` unless there are two years."""
        bare = {_without_frame(top): top for top in folders}
        try:
            names = split_names.name_splits(bare)
        except DataError as error:
            raise DataError(f"{self.root}: {error}") from None
        self.aliases.update({bare[name]: split for name, split in names.items()})
        self.aliases = {top: split for top, split in self.aliases.items() if top != split}
        return {split: folders[bare[name]] for name, split in names.items()}

    def _lists(self) -> dict[str, str]:
        """Return the text files in the root that list the images of a split, by name."""
        images = {os.path.splitext(path)[0] for path in self.files.images}
        found = {}
        for path in self.files.top_files:
            stem, suffix = os.path.splitext(path)
            if suffix.lower() != ".txt" or stem in images:
                continue
            if self._is_split(stem) and is_list(self.files, path):
                found[stem] = path
        return found


def _without_frame(folder: str) -> str:
    """Return the name of the split in CVAT's obj_train_data, or the folder's name itself."""
    match = _CVAT_FOLDER.fullmatch(folder)
    return match[1] if match else folder
