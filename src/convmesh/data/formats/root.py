"""The folder of a data set: `data.root`, or a folder in it.

Archives unpack to one more folder than is expected, or to one folder beside documents. A folder
further down is used only if `data.root` shows no sign of a layout itself, and it is said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from convmesh.data.formats import split_names
from convmesh.data.formats.evidence import Evidence
from convmesh.data.formats.files import contents, has_images, subfolders
from convmesh.data.formats.folder.folder_tree import PARTS
from convmesh.data.problems import Problem
from convmesh.errors import ConfigError, DataError

_DEPTH = 3  # levels below data.root that are searched
_DOCUMENT = re.compile(r"(readme|licen[sc]e|citation|about).*|.*\.(md|pdf|docx?|rst|html?|bib)")
_FOLDERS = 30  # more folders beside each other are classes or images, not data sets
# Returns the format that a folder shows the given evidence of, or ''.
Recognize = Callable[[Path, Evidence], str]


class Found(NamedTuple):
    """A data set: its format, its folder, and what must be said about the choice."""

    format: str
    root: Path
    problems: list[Problem]


def find_data_set(root: Path, task: str, recognize: Recognize) -> Found | None:
    """Return the data set in `root` or below, None if nothing shows a layout.

    Raises ConfigError if there are several.
    """
    name = recognize_surely(root, recognize)
    if name:
        inner = _innermost(root, name, recognize)
        if inner != root:
            return _said(root, Found(name, inner, []))
        if name == "folder":
            return Found(name, root, [])
        _refuse_flat_copies(root)
        return Found(name, root, _about_copies(root))
    below = list(_data_sets_below(root, recognize, _DEPTH))
    if len(below) > 1:  # Darknet's obj.data may lie in a folder of its own: cfg
        with_images = [found for found in below if has_images(found.root)]
        if len(with_images) == 1:
            unused = [found.root for found in below if found is not with_images[0]]
            below = [with_images[0]._replace(problems=_about_without_images(root, unused))]
    if len(below) > 1:
        names = ", ".join(str(found.root.relative_to(root)) for found in below[:5])
        raise ConfigError(
            f"data.root: {root} holds several data sets: {names}; set data.root to one of them"
        )
    # Folders of splits with class folders are sure; other folders beside may be classes.
    if below and below[0].format == "folder":
        _refuse_class_folders_beside(root, below[0].root)
    if below and (
        task != "classify" or below[0].format == "folder" or not _about_others(root, below[0].root)
    ):
        return _said(root, below[0])
    if task == "classify":
        inner = _class_parent(root)
        if inner != root and (name := recognize(inner, Evidence.POSSIBLE)):
            return _said(root, Found(name, inner, []))
    return None


def _about_without_images(root: Path, folders: list[Path]) -> list[Problem]:
    """Return a warning for each folder that describes a data set and has no images."""
    what = "describes a data set, but has no images; not used"
    return [Problem(path.relative_to(root).as_posix(), what, error=False) for path in folders]


def recognize_surely(root: Path, recognize: Recognize) -> str:
    """Return the format of which `root` itself shows more than that it is possible, or ''."""
    return recognize(root, Evidence.DESCRIPTION) or recognize(root, Evidence.LAYOUT)


def _innermost(root: Path, name: str, recognize: Recognize) -> Path:
    """Return `root`, or the folder in it that shows format `name` as well, if it is the only one.

    Some formats are recognized by what is one folder below.
    """
    inner = _only_folder(root)
    while inner and recognize_surely(inner, recognize) == name:
        root, inner = inner, _only_folder(inner)
    return root


def _only_folder(root: Path) -> Path | None:
    """Return the only folder in `root` if it has folders, and only documents are beside it."""
    here = contents(root)
    inner = [name for name in here.folders if not _holds_documents(root / name)]
    if here.images or not _are_documents(here.others) or len(inner) != 1:
        return None
    found = root / inner[0]
    return found if subfolders(found) and not split_names.parse(found.name) else None


def _holds_documents(folder: Path, depth: int = _DEPTH) -> bool:
    """Return whether there are only documents in `folder`, and some levels below."""
    here = contents(folder)
    if here.images or not _are_documents(here.others):
        return False
    return depth == 0 or all(_holds_documents(folder / name, depth - 1) for name in here.folders)


def _are_documents(names: list[str]) -> bool:
    return all(_DOCUMENT.fullmatch(name.lower()) for name in names)


def outer_data_set(root: Path, recognize: Recognize) -> str:
    """Return a hint if `root` is a part of a data set, such as its folder `images`, or ''."""
    path = root.resolve()
    try:
        if contents(path).images and not split_names.parse(path.name):
            beside = [folder for folder in subfolders(path.parent)[:_FOLDERS] if folder != path]
            if path.name.lower() not in PARTS and any(contents(one).images for one in beside):
                return f"; is it one class of several in {path.parent}?"
        while path.name.lower() in PARTS or split_names.parse(path.name):
            path = path.parent
            if name := recognize_surely(path, recognize):
                return f"; {path} looks like a data set in format {name}: set data.root to it"
    except (OSError, ConfigError, DataError):  # outside of what the user named
        pass
    return ""


def _data_sets_below(root: Path, recognize: Recognize, depth: int) -> Iterator[Found]:
    """Yield the data sets in `root`, without those inside of data sets."""
    folders = subfolders(root)
    if len(folders) > _FOLDERS:
        return
    for folder in folders:
        name = recognize_surely(folder, recognize)
        if name:
            yield Found(name, _innermost(folder, name, recognize), [])
        elif depth > 1:
            yield from _data_sets_below(folder, recognize, depth - 1)


def _refuse_class_folders_beside(root: Path, inner: Path) -> None:
    """Raise ConfigError if folders beside the data set `inner` hold class folders as well."""
    for name in _about_others(root, inner):
        if has_class_folders(root / name):
            raise ConfigError(
                f"data.root: {root} holds several data sets: {inner.relative_to(root)}, {name}; set"
                " data.root to one of them"
            )


def has_class_folders(root: Path) -> bool:
    """Return whether `root`, or a folder in it, has images in folders that may be classes."""
    places = [root, _class_parent(root)]
    places += [folder for folder in subfolders(root)[:_FOLDERS] if split_names.parse(folder.name)]
    for place in places:
        inner = [folder for folder in subfolders(place) if _may_be_class(folder.name)]
        if sum(bool(contents(folder).images) for folder in inner[:_FOLDERS]) > 1:
            return True
    return False


def _may_be_class(name: str) -> bool:
    return name.lower() not in PARTS and not split_names.parse(name)


def _class_parent(root: Path) -> Path:
    """Return `root`, or the folder below that holds class folders, if it is the only such one."""
    for _ in range(_DEPTH):
        here = contents(root)
        inner = [folder for folder in subfolders(root)[: _FOLDERS + 1] if has_images(folder)]
        # A folder with images of its own is a class.
        if here.images or len(inner) != 1 or split_names.parse(inner[0].name):
            return root
        if contents(inner[0]).images:
            return root
        root = inner[0]
    return root


def _said(root: Path, found: Found) -> Found:
    """Return `found` with the warning that it is below `root`, and what is left out."""
    name = found.root.relative_to(root).as_posix()
    what = "the data set is in this folder of data.root; used from there"
    problems = [Problem(name, what, error=False)]
    for folder in _about_others(root, found.root):
        problems.append(Problem(folder, "has images, but is no data set; left out", error=False))
    return Found(found.format, found.root, [*problems, *found.problems])


def _about_others(root: Path, inner: Path) -> list[str]:
    """Return the folders beside `inner`, or beside a folder above it, that hold images."""
    found, part = list[str](), root
    for name in inner.relative_to(root).parts:
        others = [folder for folder in subfolders(part) if folder.name != name]
        found += [str(folder.relative_to(root)) for folder in others if has_images(folder)]
        part = part / name
    return found


def _about_copies(root: Path) -> list[Problem]:
    """Return a warning for each folder in `root` that has the same folders as `root`."""
    own = {folder.name for folder in subfolders(root)}
    if len(own) < 2 or len(own) > _FOLDERS:
        return []
    problems = []
    for name in sorted(own):
        inner = set(contents(root / name).folders)
        if len(inner & (own - {name})) > 1 or inner and inner == own - {name}:
            same = ", ".join(sorted(inner & own))
            what = f"looks like a copy of the data set ({same}); left out"
            problems.append(Problem(name, what, error=False))
    return problems


def _refuse_flat_copies(root: Path) -> None:
    """Raise ConfigError if a folder has images and annotations named as those in `root`."""
    here = contents(root)
    images, others = {*here.images}, {*here.others}
    for name in here.folders[:_FOLDERS] if images else ():
        if split_names.parse(name):
            continue
        inner = contents(root / name)
        same = images & {*inner.images}
        stems = {Path(image).stem for image in same}
        paired = {Path(other).stem for other in others & {*inner.others}} & stems
        if paired and 2 * len(same) >= len(inner.images):
            raise ConfigError(
                f"data.root: {root / name} has {len(same)} images with the names of those in {root}"
                f" itself, such as {min(same)}, and their annotations: is it a copy? Remove it, or"
                " set data.root to it"
            )
