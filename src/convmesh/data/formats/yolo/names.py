"""The names of YOLO's classes, from data.yaml or from a file with one name a line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from convmesh.data.documents import read_json, read_text
from convmesh.data.formats.yolo.files import Files
from convmesh.errors import DataError

# Files of names, in lower case, the most reliable first. The last is labelImg's list of proposals,
# with other names than those used if nobody changed it.
NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt")
_PROPOSALS = NAME_FILES[-1]
_NUMBERED = re.compile(r"(\d+)\s*[:=,;\s]\s*\S")  # `0: cat`


def is_name_file(path: str) -> bool:
    """Return whether a file of this name holds names of classes."""
    name = path.rpartition("/")[2].lower()
    return name in NAME_FILES or name.endswith(".names")


def names_of_yaml(given: Any, file: str) -> tuple[str, ...]:
    """Return the class names that data.yaml states, () if `given` is None.

    given: list of texts, or dict of texts by id. Raises DataError for anything else.
    """
    if isinstance(given, dict):
        given = _in_order_of_ids(given, file)
    if given is None:
        return ()
    if not isinstance(given, list) or not given:
        hint = ""
        if isinstance(given, str) and given:
            parts = [part.strip() for part in given.split(",")]
            hint = f"; write names: [{', '.join(parts)}]"
        raise DataError(f"{file}: names: {given!r} is not a list of names{hint}")
    for name in given:
        if not isinstance(name, str) or not name:
            raise DataError(f"{file}: names: {name!r} is not text; write it in quotes")
    return _check_unique(tuple(given), f"{file}: names")


def _in_order_of_ids(given: dict, file: str) -> list:
    """Return the values of {id: name}, by id."""
    wanted = f"the ids are not 0..{len(given) - 1}"
    ids = {str(key): name for key, name in given.items()}
    if not all(re.fullmatch("[0-9]{1,9}", key) for key in ids):
        values = (isinstance(name, str) and name.isdecimal() for name in given.values())
        hint = "; write `0: NAME`, not `NAME: 0`" if given and all(values) else ""
        raise DataError(f"{file}: names: {wanted}{hint}")
    by_id = {int(key): name for key, name in ids.items()}
    if sorted(by_id) != list(range(len(ids))):
        raise DataError(f"{file}: names: {wanted}")
    return [by_id[i] for i in range(len(by_id))]


def names_of_files(files: Files) -> tuple[tuple[str, ...], str]:
    """Return the class names that files other than data.yaml state, and the file; (), '' if none.

    Raises DataError if two files state different names, and not one the first of the other's: the
    ids of the labels are those of one of them.
    """
    found: dict[str, tuple[str, ...]] = {}
    for file in sorted(filter(is_name_file, files.paths), key=_reliability):
        if not found or not file.lower().endswith(_PROPOSALS):
            found[file] = read_names(files, file)
    if found:
        file, longest = max(found.items(), key=lambda item: len(item[1]))
        for other, names in found.items():
            if names != longest[: len(names)]:
                raise DataError(
                    f"{other}: states other names than {file}, {', '.join(names[:5])} instead of"
                    f" {', '.join(longest[:5])}; state those of the labels in data.yaml"
                )
        return longest, file
    notes = next(iter(files.named("notes.json")), "")  # of Label Studio
    return (_names_of_notes(files, notes), notes) if notes else ((), "")


def _reliability(file: str) -> tuple[int, int, str]:
    name = file.rpartition("/")[2].lower()
    rank = NAME_FILES.index(name) if name in NAME_FILES else NAME_FILES.index("obj.names")
    return rank, file.count("/"), file


def read_names(files: Files, file: str) -> tuple[str, ...]:
    """Return the names in a file with one a line. Raises DataError, naming file and line."""
    lines = [line.strip() for line in read_text(files.root / file).splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines:
        raise DataError(f"{file}: line {lines.index('') + 1}: empty, and more lines follow")
    if len(lines) == 1 and "," in lines[0]:
        raise DataError(f"{file}: line 1: {lines[0]!r}; write one name a line")
    numbers = [match[1] for line in lines if (match := _NUMBERED.match(line))]
    if len(lines) > 1 and numbers in (_counted(0, len(lines)), _counted(1, len(lines))):
        raise DataError(
            f"{file}: line 1: {lines[0]!r} has a number before the name; write the names alone, in"
            " the order of the ids, which start at 0"
        )
    return _check_unique(tuple(lines), file)


def _counted(first: int, count: int) -> list[str]:
    return [str(i) for i in range(first, first + count)]


def _names_of_notes(files: Files, file: str) -> tuple[str, ...]:
    document = read_json(files.root / file)
    entries = document.get("categories") if isinstance(document, dict) else None
    try:
        found = {entry["id"]: entry["name"] for entry in entries or ()}
        names: list[Any] = [found[i] for i in range(len(found))]
    except (TypeError, KeyError):
        names = [None]
    if not all(isinstance(name, str) and name for name in names):
        raise DataError(f"{file}: categories: no names with the ids 0, 1, ...")
    return _check_unique(tuple(names), file)


def _check_unique(names: Sequence[str], file: str) -> tuple[str, ...]:
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(f"{file}: {name!r} occurs {count} times")
    return tuple(names)
