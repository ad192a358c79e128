"""Which folders are classes, and of which split.

Layouts: ROOT/SPLIT/CLASS, ROOT/CLASS without splits, and ROOT/CLASS/SPLIT. The names alone decide,
so everything that could be meant otherwise is an error, or a warning, by name.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from convmesh.data.formats import split_names
from convmesh.data.formats.files import has_images, normal_name, subfolders
from convmesh.data.formats.folder import doubts
from convmesh.data.formats.folder.folder_tree import (
    PARTS,
    Folder,
    Times,
    count_images,
    is_image,
    name_key,
    read_tree,
)
from convmesh.data.problems import Problem
from convmesh.errors import DataError, some

# Parts of archives, or cameras: images_001, HAM10000_images_part_1, fold2.
_NUMBERED_PART = re.compile(
    r"(?:^|[\W_])(?:images?|imgs?|parts?|folds?|batch|chunk|split|subset|folder)[\W_]*\d+$"
    r"|[\W_]part[\W_]+[a-h]$|^part[\W_]*[a-h]$"
)
_NUMBERED_SPLIT = re.compile(r"(train|test|val|valid)(ing)?[\W_]*\d+")  # test1, train_512


@dataclass(frozen=True)
class ClassFolder:
    """A class in a split: its name, its folder, and the paths of folders of masks in that."""

    name: str
    folder: Folder
    masks: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The path of the folder, relative to the root of the data set."""
        return self.folder.path

    @property
    def files(self) -> Iterator[str]:
        """The files in and below it but for masks, sorted as `Folder.files`."""
        return (path for path in self.folder.files() if not self.is_mask(path))

    def folders_with_images(self) -> list[str]:
        """Return the paths of the folders in and below it that hold images, but for masks."""
        holding = (folder.path for folder in self.folder.walk() if folder.loose)
        return [path for path in holding if not self.is_mask(path)]

    def is_mask(self, path: str) -> bool:
        """Return whether a file or folder is, or lies in, a folder of masks."""
        return bool(self.masks) and f"{path}/".startswith(self.masks)


@dataclass
class ClassFolders:
    """splits: their class folders. aliases: a folder's spelling of a split -> name of the split."""

    splits: dict[str, list[ClassFolder]]
    aliases: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def find_class_folders(
    root: Path,
    given: Collection[str] = (),
    split_keys: Sequence[str] = ("train",),
    times: Times | None = None,
) -> ClassFolders:
    """Return the class folders of each split of `root`; none if there are no images in folders.

    given: names that the user states to be classes. split_keys: names of the splits in the config,
    that of the training split first. times: gets the time of each folder. Raises DataError if it is
    not clear which folders are the classes.
    """
    top = read_tree(root, times)
    known = {normal_name(name) for name in given}
    splits = _split_folders(top, split_keys, known)
    if splits:
        found = _read_splits(root, top, splits, known)
    elif all(
        name in _longer_split_names(top) or not _is_class(name, known) for name in top.with_images
    ):
        return ClassFolders({})
    elif any(_split_below(folder) for folder in top.with_images.values()):
        found = _read_splits_in_classes(top)
    else:
        _refuse_other_names(root, top, known)
        classes, problems = _classes_in(root, top, known)
        copies = [folder for folder in classes if _is_copy(top, folder)]
        found = ClassFolders({split_keys[0]: [one for one in classes if one not in copies]})
        found.problems += problems
        found.problems += [_about_copy(top.folders[copy.path]) for copy in copies]
        found.problems += _about_loose(top, known, split_keys[0])
        found.problems += _about_a_class_train(top)
    for split, folders in found.splits.items():
        found.problems += _about_level(folders, split, known)
        found.problems += _about_classes_in_classes(folders, split)
    found.problems += _about_similar_names(found.splits)
    return found


def holds_class_folders(folder: Path) -> bool:
    """Return whether folder `folder`, of a split, has folders in it that may be classes."""
    inner = subfolders(folder)
    if len(inner) == 1 and (inner[0].name == folder.name or inner[0].name.lower() in PARTS):
        return holds_class_folders(inner[0])
    return any(
        _is_class(path.name) and path.name != folder.name and has_images(path) for path in inner
    )


def _is_class(name: str, known: Collection[str] = ()) -> bool:
    """Return whether a folder of images may be a class, by its name."""
    return normal_name(name) in known or not (split_names.parse(name) or name.lower() in PARTS)


# ROOT/SPLIT/CLASS.


def _split_folders(
    top: Folder, split_keys: Collection[str], known: Collection[str]
) -> dict[str, str]:
    """Return the folders of `top` that are splits, and the split of each.

    They have a split's name, and class folders. Raises DataError if two are the same split.
    """
    holding = [
        name
        for name, folder in top.with_images.items()
        if _holds_classes(_class_parent(folder, known), known)
    ]
    found = [name for name in holding if name in split_keys or split_names.parse(name)]
    if found:
        return split_names.name_splits(found)
    longer = _longer_split_names(top)
    return {name: split for name, split in longer.items() if name in holding}


def _longer_split_names(top: Folder) -> dict[str, str]:
    """Return the splits in names such as `seg_train` and `seg_test`, if there are several."""
    found = {name: split.split for name in top.with_images if (split := split_names.find_in(name))}
    different = len({*found.values()}) == len(found) > 1 and "train" in found.values()
    return found if different else {}


def _class_parent(split: Folder, known: Collection[str]) -> Folder:
    """Return `split`, or the only folder in it if that is no class: train/train, train/images."""
    while not split.loose and len(split.with_images) == 1:
        ((name, inner),) = split.with_images.items()
        if normal_name(name) in known or not _is_loose(inner, _name(split)):
            break
        if not _holds_classes(inner, known):
            break
        split = inner
    return split


def _holds_classes(folder: Folder, known: Collection[str]) -> bool:
    """Return whether the folders in `folder` may be classes."""
    own = _name(folder)
    return any(
        _is_class(name, known) and (name != own or normal_name(name) in known)
        for name in folder.with_images
    )


def _is_loose(folder: Folder, split: str) -> bool:
    """Return whether a folder in folder `split` may be no class: test/test, val/images."""
    return _name(folder) == split or _name(folder).lower() in PARTS


def _is_left_out(folder: Folder, parent: Folder, known: Collection[str]) -> bool:
    """Return whether a folder beside the classes in `parent`, of a split, is none.

    With data.classes, it is none if it is not listed; else if it repeats those beside it.
    """
    if not parent.path or not folder.images or not _is_loose(folder, _name(parent)):
        return False
    if known:
        return normal_name(_name(folder)) not in known
    return not folder.loose and {*folder.with_images} <= {*parent.with_images}


def _name(folder: Folder) -> str:
    return os.path.basename(folder.path)


def _read_splits(
    root: Path, top: Folder, names: dict[str, str], known: Collection[str]
) -> ClassFolders:
    """Return the classes in the folders `names`, and warnings about the other folders."""
    _refuse_one_split_among_classes(top, names)
    found = ClassFolders({})
    found.aliases = {own: name for own, name in names.items() if own != name}
    for own, name in names.items():
        parent = _class_parent(top.folders[own], known)
        found.splits[name], problems = _classes_in(root, parent, known, name)
        found.problems += problems
        if parent.path != own:
            what = "the class folders are in this folder of the split; used from there"
            found.problems.append(Problem(parent.path, what, error=False, split=name))
        found.problems += _about_loose(parent, known, name)
    found.problems += _about_loose(top, known)
    classes = {folder.name for folders in found.splits.values() for folder in folders} | {*known}
    for name, folder in top.with_images.items():
        if name not in names:
            inner = {normal_name(inner) for inner in folder.with_images}
            if inner and inner <= classes and not folder.loose:
                found.splits[name], problems = _classes_in(root, folder, known, name)
                found.problems += problems
            what = _about_other_folder(folder, names, name in found.splits)
            found.problems.append(Problem(name, what, error=False))
    return found


def _refuse_one_split_among_classes(top: Folder, names: Collection[str]) -> None:
    """Raise DataError if the only split may be a class, such as `train` beside `bus` and `car`."""
    others = [name for name, folder in top.with_images.items() if folder.loose]
    others = [name for name in others if name not in names and _is_class(name)]
    if len(names) == 1 and len(others) > 1:
        (own,) = names
        raise DataError(
            f"{own}: the only folder with the name of a split, beside folders of images"
            f" {some(others)}: which folders are the classes is not clear; rename {own} if it is a"
            f" class, or move {some(others)} out of data.root"
        )


def _about_other_folder(folder: Folder, splits: Collection[str], has_classes: bool) -> str:
    """Return the warning about a folder with images beside the folders `splits`."""
    count = count_images(folder.images)
    if has_classes:
        return (
            f"{count} in a folder whose name is not that of a split; used only if data.train_split"
            " or data.eval_split names it"
        )
    if split_names.find_in(folder.path):
        return f"{count} in no class folder, such as {folder.first_image()}; left out"
    for inner in (folder, *folder.with_images.values()):
        if len({*inner.with_images} & {*splits}) >= min(2, len(splits)):
            return _about_copy(folder).what
    return f"{count} in a folder that is no split; left out"


def _about_copy(folder: Folder) -> Problem:
    what = f"looks like a copy of the data set, with {count_images(folder.images)}; left out"
    return Problem(folder.path, what, error=False)


def _classes_in(
    root: Path, parent: Folder, known: Collection[str], split: str = ""
) -> tuple[list[ClassFolder], list[Problem]]:
    """Return the folders in `parent` as classes, also those without files, and warnings."""
    names = {*parent.folders, *(path.name for path in subfolders(root / parent.path))}
    found, masks, problems = [], list[str](), list[Problem]()
    for name in sorted(names):
        folder = parent.folders.get(name, Folder(parent.join(name)))
        if _is_left_out(folder, parent, known):
            continue
        if parent.path and folder.images and not known and _is_loose(folder, _name(parent)):
            problems.append(_about_doubtful_name(folder, parent, split))
        one, apart = _class_folder(name, folder)
        found.append(one)
        masks += apart
    if masks:
        what = f"{count_images(len(masks))} in folders of masks or labels in the class folders"
        what += f", such as {masks[0]}; left out"
        problems.append(Problem(parent.path or "data.root", what, error=False, split=split))
    return found, problems


def _class_folder(name: str, folder: Folder) -> tuple[ClassFolder, list[str]]:
    """Return a folder as a class, and its images that are masks: CLASS/masks/*."""
    masks = tuple(f"{path}/" for path in doubts.masks_in(folder))
    found = ClassFolder(normal_name(name), folder, masks)
    files = folder.files() if masks else iter(())
    return found, [path for path in files if found.is_mask(path) and is_image(path)]


def _about_doubtful_name(folder: Folder, parent: Folder, split: str) -> Problem:
    """Return a warning about a class called as a part of another layout, or as its split.

    Raises DataError for a name such as `masks`, which is that of a folder of many.
    """
    name = _name(folder)
    others = [other for other in parent.with_images if other != name]
    if name.lower() in PARTS and name.lower().endswith("s"):
        raise DataError(
            f"{folder.path}: {count_images(folder.images)} in a folder with the name of a part of"
            f" another layout, beside the class folders {some(others)}; list all classes in"
            " data.classes, with it if it is one, or remove it"
        )
    what = "taken for a class; if it is none, list the others in data.classes"
    return Problem(folder.path, what, error=False, split=split)


def _about_loose(parent: Folder, known: Collection[str], split: str = "") -> Iterator[Problem]:
    """Yield a warning for the images beside the class folders."""
    apart = [parent.join(name) for name in parent.loose_names()]
    for folder in parent.with_images.values():
        if _is_left_out(folder, parent, known):
            apart += filter(is_image, folder.files())
    if apart:
        what = f"{count_images(len(apart))} in no class folder, such as {apart[0]}; left out"
        yield Problem(parent.path or "data.root", what, error=False, split=split)


# ROOT/CLASS and ROOT/CLASS/SPLIT.


def _split_below(folder: Folder) -> bool:
    """Return whether a class folder holds splits: cat/train/*.jpg."""
    return any(split_names.parse(name) for name in folder.with_images)


def _read_splits_in_classes(top: Folder) -> ClassFolders:
    """Return the classes of ROOT/CLASS/SPLIT. Raises DataError if only some have splits."""
    classes = top.with_images
    for folder in classes.values():
        others = [name for name in folder.with_images if not split_names.parse(name)]
        if others or folder.loose:
            have = next(folder for folder in classes.values() if _split_below(folder))
            raise DataError(
                f"{have.path} holds folders of splits ({', '.join(have.with_images)}) and"
                f" {folder.path} other {'folders' if others else 'images'}: which folders are the"
                " classes is not clear; arrange them as SPLIT/CLASS/*"
            )
    names = split_names.name_splits(
        dict.fromkeys(own for folder in classes.values() for own in folder.with_images)
    )
    splits: dict[str, list[ClassFolder]] = {split: [] for split in names.values()}
    problems = list(_about_loose(top, ()))
    for name, folder in classes.items():
        for own, part in folder.with_images.items():
            found, masks = _class_folder(name, part)
            splits[names[own]].append(found)
            if masks:
                what = f"{count_images(len(masks))} in folders of masks or labels, such as"
                problems.append(Problem(part.path, f"{what} {masks[0]}; left out", error=False))
    aliases = {own: split for own, split in names.items() if own != split}
    return ClassFolders(splits, aliases, problems)


def _is_copy(top: Folder, folder: ClassFolder) -> bool:
    """Return whether a folder in `top` holds folders of the same names as those beside it."""
    names = {*top.with_images} - {folder.path}
    inner = {*top.folders[folder.path].with_images} if folder.path in top.folders else set()
    return len(inner & names) > 1 and inner <= names


def _refuse_other_names(root: Path, top: Folder, known: Collection[str]) -> None:
    """Raise DataError if folders of images look like no classes, or some of them do."""
    if {normal_name(name) for name in top.with_images} <= {*known}:
        return
    if len(top.with_images) > 1:
        doubts.refuse_table(root, top)
    for name, folder in top.with_images.items():
        # There are trains in pictures, but no tests.
        like_split = _NUMBERED_SPLIT.fullmatch(name.lower()) and normal_name(name) not in known
        if like_split or not _is_class(name, known) and name.lower() != "train":
            part = name.lower() in PARTS
            what = "a part of another layout" if part else "a split"
            others = [other for other in top.with_images if other != name]
            raise DataError(
                f"{folder.path}: {count_images(folder.images)} in a folder with the name of {what},"
                f" beside the folders {some(others)}; arrange them as SPLIT/CLASS/*, remove"
                " it, or list it in data.classes if it is a class"
            )
    doubts.refuse_outer(root, top)
    classes = [normal_name(name) for name in top.with_images]
    if all(_NUMBERED_PART.search(name.lower()) for name in classes):
        raise DataError(
            f"{some(classes)}: these folders look like parts of one data set, not classes; put the"
            " images of each class into a folder of its name, or list them in data.classes"
        )


def _about_a_class_train(top: Folder) -> Iterator[Problem]:
    """Yield a warning for a class that is called train."""
    for name in top.with_images:
        if name.lower() == "train":
            what = "taken for a class, not for the training split, as it has no class folders"
            yield Problem(name, what, error=False)


def _about_level(
    folders: Sequence[ClassFolder], split: str, known: Collection[str]
) -> Iterator[Problem]:
    """Yield a warning about class folders that hold images only in several folders in them.

    Raises DataError if these look like the classes: all class folders have the same ones (a/cat,
    a/dog, b/cat and b/dog).
    """
    inner = dict[str, set[str]]()
    for folder in folders:
        below = folder.folder
        holding = _holding_images(folder, below)
        while not below.loose and len(holding) == 1 and holding.keys() <= PARTS:
            (below,) = holding.values()  # CLASS/images/*.jpg
            holding = _holding_images(folder, below)
        if below.loose or holding:
            inner[folder.path] = set() if below.loose else {*holding}
    if {folder.name for folder in folders} <= {*known}:
        return
    common = set.intersection(*inner.values()) if len(inner) > 1 else set()
    if len(common) > 1:
        names = some(sorted(common))
        raise DataError(
            f"{some(list(inner))} hold the same folders, {names}: if those are the classes, set"
            " data.root to one of them or merge them; else list the outer ones in data.classes"
        )
    deep = [path for path, names in inner.items() if len(names) > 1]
    if deep:
        names = some(sorted(inner[deep[0]]))
        what = f"the folders in it ({names}) are one class, {os.path.basename(deep[0])}"
        if len(deep) > 1:
            what += f"; the same for {len(deep) - 1} more class folders"
        yield Problem(deep[0], what, error=False, split=split)


def _holding_images(owner: ClassFolder, folder: Folder) -> dict[str, Folder]:
    """Return the folders with images in a folder of a class, by name, without those of masks."""
    found = folder.with_images
    return {name: one for name, one in found.items() if not owner.is_mask(one.path)}


def _about_classes_in_classes(folders: Sequence[ClassFolder], split: str) -> Iterator[Problem]:
    """Yield a warning if folders in class folders have the names of other classes."""
    given = [(one.name, one.path, one.folders_with_images()) for one in folders]
    found = list(doubts.classes_in_classes(given))
    if found:
        what = f"{len(found)} folders" if len(found) > 1 else "1 folder"
        what += " in a class folder with the name of another class, whose images are of the outer"
        what += " class; moved by mistake?"
        yield Problem(found[0], what, error=False, split=split)


# Names.


def _about_similar_names(splits: Mapping[str, Sequence[ClassFolder]]) -> Iterator[Problem]:
    """Yield a warning for each class with two spellings, which differ only in case or space.

    Raises DataError for two folders whose names look the same.
    """
    spellings: dict[str, dict[str, str]] = {}
    for folders in splits.values():
        for folder in folders:
            spellings.setdefault(name_key(folder.name), {}).setdefault(folder.name, folder.path)
        for name, count in Counter(folder.name for folder in folders).items():
            if count > 1:
                same = " and ".join(folder.path for folder in folders if folder.name == name)
                raise DataError(
                    f"{same} have the same name in composed and decomposed Unicode; merge them"
                )
    for paths in spellings.values():
        if len(paths) > 1:
            first, *others = paths.values()
            what = f"differs only in case or space from {' and '.join(others)}; two classes?"
            yield Problem(first, what, error=False)
