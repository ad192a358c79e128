"""COCO files that no split of a run is read from, so that their images would be missed unseen."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from convmesh.data.formats import split_names
from convmesh.data.formats.coco.layout import AnnotationFile, names_with_boxes
from convmesh.data.formats.files import contents, name_from
from convmesh.data.formats.split_names import VALIDATION
from convmesh.data.problems import Problem

_FOLDERS = 50  # in one folder, that are looked into
_FILES = 50  # more JSON files in one folder are one for each image
_NAMED = 3
_NO_SPLIT = (
    "annotations of no split; not used: merge them into a split's file, or name the file to train"
    " on in data.train_annotations"
)
_SAME_SPLIT = (
    "annotations beside those of the split; not used: merge them into one file, or name the file to"
    " use in data.train_annotations or data.eval_annotations"
)


def unused_files(
    root: Path, files: Sequence[AnnotationFile], read: Iterable[AnnotationFile]
) -> list[Problem]:
    """Return warnings about files with boxes that the run should use, or be given by name.

    files: those of the splits. read: those of them that have boxes. No warning is needed for a
    split that the run does not use, such as a test split.
    """
    splits = {file.split for file in files}
    # Beside train.json, train_extra.json is another split, although its alias is `train`.
    own = {file for file in files if file.alias == file.split or file.alias not in splits}
    used = {_key(file.split) for file in own if file.used and split_names.parse(file.split)}
    found = [(file.path, file.split) for file in read if not file.used or file not in own]
    known = {file.path.resolve() for file in files}
    for folder, path in _other_files(root):
        if path.resolve() not in known and _has_boxes(path):
            inside = split_names.parse(folder) or split_names.find_in(path.stem)
            found.append((path, inside.with_year if inside else ""))
    kinds: dict[str, list[str]] = {_NO_SPLIT: [], _SAME_SPLIT: []}
    for path, split in found:
        key = _key(split)
        if not key or key in used:
            kinds[_SAME_SPLIT if key else _NO_SPLIT].append(name_from(root, path))
    return [Problem(_listed(names), what, error=False) for what, names in kinds.items() if names]


def _key(name: str) -> str:
    """Return the split that `name` contains, with its year: the same for `val` and `valid`."""
    found = split_names.find_in(name)
    if found is None:
        return ""
    return VALIDATION[0] if found.with_year in VALIDATION else found.with_year


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _other_files(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the JSON files in `root` and two levels below, with the name of their folder.

    A folder that is called like one beside its parent is of a copy of the data set.
    """
    tops = contents(root).folders[:_FOLDERS]
    yield from (("", path) for path in _json_files(root))
    for top in tops:
        yield from ((top, path) for path in _json_files(root / top))
        for name in contents(root / top).folders[:_FOLDERS]:
            if name not in tops:
                yield from ((name, path) for path in _json_files(root / top / name))


def _json_files(folder: Path) -> list[Path]:
    names = names_with_boxes(folder)
    return [folder / name for name in names] if len(names) <= _FILES else []


def _has_boxes(path: Path) -> bool:
    """Return whether a JSON file has COCO's lists and boxes, without parsing it."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            keys = (b'"images"', b'"annotations"', b'"categories"', b'"bbox"')
            return all(text.find(key) >= 0 for key in keys) and text.find(b'"segments_info"') < 0
    except (OSError, ValueError):  # unreadable or empty
        return False
