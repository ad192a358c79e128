"""The files of a COCO data set: one JSON file for each split, and the folders of its images."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ml_collections import ConfigDict

from convmesh.data.documents import read_beginning
from convmesh.data.formats import split_names
from convmesh.data.formats.files import contents, folder_named, is_hidden, subfolders
from convmesh.data.formats.split_names import VALIDATION
from convmesh.errors import ConfigError

# Folders of JSON files, and the names of such files elsewhere, in lower case.
_FOLDERS = ("annotations", "annotation")
_LABELS = "labels"  # of another tool's files as well
_OUTSIDE = ("_annotations.coco.json", "annotations.json", "labels.json", "result.json", "coco.json")
# What the names of such files contain in the folder of a split, where others may lie.
_LIKELY = re.compile(r"annot|label|box|object|detect|train|val|test")
# In the first bytes of a few files, of which each is for many images.
_BEGINNING = re.compile(rb'"(images|annotations|categories|licenses)"\s*:\s*\[')
_FIRST, _FEW = 2**14, 20
# COCO's own files without boxes, or with boxes of persons only.
_OTHERS = ("person_keypoints_", "captions_", "panoptic_", "stuff_", "image_info_")


@dataclass(frozen=True)
class AnnotationFile:
    """A JSON file.

    split: name of its split. alias: the same with the year. wanted: the run needs this file.
    used: the run reads it, because it needs it, or as the test split if there is no validation
    split. images: the folder of its images, if the config names it.
    """

    path: Path
    split: str
    alias: str
    wanted: bool = True
    used: bool = True
    images: Path | None = None


def annotation_files(root: Path, config: ConfigDict) -> list[AnnotationFile]:
    """Return the files of the splits: those named in the config, then those found.

    Raises ConfigError for a file or folder of the config that does not exist.
    """
    data = config.data
    given = []
    for key, split in (("train", data.train_split), ("eval", data.eval_split or "val")):
        name = data[f"{key}_annotations"]
        if name:
            path = root / Path(os.path.expanduser(name))
            if not path.is_file():
                raise ConfigError(f"data.{key}_annotations: {path} is not a file")
            given.append(
                AnnotationFile(path, split, split, images=_given_images(root, config, key))
            )
    if len(given) == 2:
        return given
    taken = {file.path.resolve() for file in given} | {file.split for file in given}
    if data.eval_annotations and not data.eval_split:
        # The named file is the validation split; do not evaluate another one that is found.
        taken |= set(VALIDATION) - {data.train_split}
    found = [
        file
        for file in find_files(root, data.train_split, strict=False)
        if file.path.resolve() not in taken and not {file.split, file.alias} & taken
    ]
    validated = not {file.split for file in [*given, *found]}.isdisjoint(VALIDATION)
    fallback = "" if data.eval_split or validated else "test"
    return given + [_with_use(file, root, config, fallback) for file in found]


def _with_use(
    file: AnnotationFile, root: Path, config: ConfigDict, fallback: str
) -> AnnotationFile:
    """Return a found file with what the run needs it for; fallback: a split it may evaluate."""
    names = {file.split, file.alias}
    trained = config.data.train_split in names
    evaluated = not names.isdisjoint(split_names.evaluated_names(config))
    wanted = trained or evaluated
    images = _given_images(root, config, "train" if trained else "eval") if wanted else None
    return replace(file, wanted=wanted, used=wanted or file.split == fallback, images=images)


def _given_images(root: Path, config: ConfigDict, key: str) -> Path | None:
    name = config.data[f"{key}_images"]
    if not name:
        return None
    path = root / Path(os.path.expanduser(name))
    if not path.is_dir():
        raise ConfigError(f"data.{key}_images: {path} is not a folder")
    return path


def find_files(root: Path, train_split: str, strict: bool) -> list[AnnotationFile]:
    """Return the annotation files in `root`; `strict`: outside of annotations by known names."""
    folder = folder_named(root, *_FOLDERS)
    names = names_with_boxes(folder) if folder else []
    if not names and (labels := folder_named(root, _LABELS)):
        folder, names = labels, _names_beginning_as_coco(labels)
    if folder and names:
        return _files_by_name(folder, names, train_split)
    in_folders = _files_in_folders(root, train_split, strict)
    if in_folders:
        return in_folders
    names = names_with_boxes(root)
    sure = [name for name in names if _is_surely_coco(name)]
    return _files_by_name(root, sure or ([] if strict else names), train_split)


def _files_in_folders(root: Path, train_split: str, strict: bool) -> list[AnnotationFile]:
    """Return the files in the folders of `root`, which are named like the splits."""
    found = dict[str, Path]()
    for top in subfolders(root):
        path = next((top / name for name in _OUTSIDE if (top / name).is_file()), None)
        if path is None and split_names.parse(top.name):
            names = names_with_boxes(top)
            sure = [name for name in names if _is_surely_coco(name)]
            likely = sure or [name for name in names if not strict and _LIKELY.search(name.lower())]
            path = top / likely[0] if len(likely) == 1 else None
        if path is not None:
            found[top.name] = path
    splits = split_names.name_splits(found)
    if len(found) == 1 and not any(map(split_names.find_in, found)):
        splits = dict.fromkeys(found, train_split)
    return [AnnotationFile(path, splits[name], name) for name, path in found.items()]


def files_without_boxes(root: Path) -> list[Path]:
    """Return COCO's own files that are passed over: without boxes, or with those of persons."""
    folder = folder_named(root, *_FOLDERS)
    names = _json_names(folder) if folder else []
    return [folder / name for name in names if folder and name.startswith(_OTHERS)]


def _is_surely_coco(name: str) -> bool:
    name = name.lower()
    return name in _OUTSIDE or "coco" in name or name.startswith("instances_")


def names_with_boxes(folder: Path) -> list[str]:
    """Return the names of the JSON files in `folder` that may contain boxes."""
    return [name for name in _json_names(folder) if not name.startswith(_OTHERS)]


def _names_beginning_as_coco(folder: Path) -> list[str]:
    """Return the names of the JSON files in `folder` if there are a few and nothing else."""
    here, names = contents(folder), names_with_boxes(folder)
    if here.folders or here.images or len(here.others) != len(_json_names(folder)):
        return []
    return names if len(names) <= _FEW and all(_begins(folder / name) for name in names) else []


def _begins(path: Path) -> bool:
    try:
        return _BEGINNING.search(read_beginning(path, _FIRST)) is not None
    except (OSError, ValueError):
        return False


def _json_names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.lower().endswith(".json")]
    return sorted(name for name in names if not is_hidden(name))


def _stem(name: str) -> str:
    return name[: -len(".json")]


def _files_by_name(folder: Path, names: Sequence[str], train_split: str) -> list[AnnotationFile]:
    """Return the files `names` with the splits that their names contain."""
    splits, aliases = [], []
    for name in names:
        stem = _stem(name).removeprefix("instances_")
        found = split_names.find_in(stem)
        splits.append(found.split if found else stem)
        aliases.append(found.with_year if found else stem)
    if len(names) == 1 and not split_names.find_in(_stem(names[0])):
        splits = [train_split]
    if len(set(splits)) < len(splits):  # train2014 and train2017
        splits = aliases
    if len(set(splits)) < len(splits):
        splits = [_stem(name) for name in names]
    return [
        AnnotationFile(folder / name, split, alias)
        for name, split, alias in zip(names, splits, aliases, strict=True)
    ]


def image_folders(root: Path, file: AnnotationFile) -> list[Path]:
    """Return the folders that may hold the images of a split, the most likely first."""
    # Sorted only to keep a fixed order, should several folders hold the same names.
    names = dict.fromkeys((file.alias, file.split, *sorted(split_names.same_split(file.split))))
    parent, images = file.path.parent, folder_named(root, "images")
    if parent == root or parent.parent == root and parent.name.lower() in (*_FOLDERS, _LABELS):
        tops = [_FoldersIn(top) for top in (root, images) if top]
        candidates = [top.named(name) for name in names for top in tops]
        candidates += [folder for top in tops for folder in top.of_split(file.split)]
    else:
        below = _FoldersIn(parent)
        candidates = [parent, below.named("data"), below.named("images")]
    folders = [*candidates, images, folder_named(root, "data"), parent, root]
    return list(dict.fromkeys(folder for folder in folders if folder and folder.is_dir()))


class _FoldersIn:
    """The folders in a folder, by their names in any case."""

    def __init__(self, parent: Path):
        self._folders = subfolders(parent)
        self._by_name = {folder.name.lower(): folder for folder in self._folders}
        self._by_name |= {folder.name: folder for folder in self._folders}

    def named(self, name: str) -> Path | None:
        return self._by_name.get(name) or self._by_name.get(name.lower())

    def of_split(self, split: str) -> list[Path]:
        """Return the folders whose names are other spellings of a split: `Training`."""
        parsed = [(folder, split_names.parse(folder.name)) for folder in self._folders]
        same = split_names.same_split(split)
        return [folder for folder, name in parsed if name and name.split in same]
