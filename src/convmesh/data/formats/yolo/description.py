"""The file that describes a data set in YOLO's layout: data.yaml, or Darknet's obj.data."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from convmesh.data.documents import read_text, read_yaml
from convmesh.data.formats import split_names
from convmesh.data.formats.yolo.files import Files
from convmesh.data.formats.yolo.names import names_of_yaml, read_names
from convmesh.errors import DataError

YAML = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_KEYPOINTS = "its labels are keypoints, not boxes; export the boxes"


@dataclass(frozen=True)
class Description:
    """What the describing file states.

    file: its path, '' if there is none. names: of the classes, () if it states none. entries: for
    each split the key that states its images, and the value. path: the folder that these are
    relative to, ''. keys: all keys in the file.
    """

    file: str = ""
    names: tuple[str, ...] = ()
    entries: dict[str, tuple[str, Any]] = field(default_factory=dict)
    path: str = ""
    keys: tuple[str, ...] = ()


def read_description(files: Files, splits: Iterable[str]) -> Description:
    """Read data.yaml or obj.data, or the only other YAML file that states names of classes.

    splits: names of splits that are not standard, for keys of the file. Raises DataError for a file
    that contradicts itself.
    """
    file = next(iter(files.named(*YAML)), "")
    if file:
        document = _read_yaml(files, file)
        if not isinstance(document, dict):
            raise DataError(f"{file}: has no keys and values, such as `train: images/train`")
        return _of_yaml(document, file, splits)
    others: dict[str, Any] = {}  # such as coco8.yaml, but not any YAML file
    for other in _in_root(files, r".+\.ya?ml"):
        document = _read_yaml(files, other)
        if isinstance(document, dict) and "names" in map(_lower, document):
            others[other] = document
    if len(others) > 1:
        raise DataError(
            f"{', '.join(others)}: each states names of classes; call the one to use data.yaml"
        )
    for other, document in others.items():
        return _of_yaml(document, other, splits)
    for other in _in_root(files, r".+\.data"):
        keys = _darknet_keys(files, other)
        if "train" in keys or "names" in keys:
            return _of_darknet(files, keys, other, splits)
    return Description()


def _in_root(files: Files, pattern: str) -> list[str]:
    return [path for path in files.top_files if re.fullmatch(pattern, path, re.IGNORECASE)]


def _read_yaml(files: Files, file: str) -> Any:
    # The loader makes numbers, truth values and dates of names, unless they are read as text.
    return read_yaml(files.root / file, text_keys=("names",))


def _of_yaml(given: dict, file: str, splits: Iterable[str]) -> Description:
    document = {}
    for key, value in given.items():
        if _lower(key) in document:
            raise DataError(f"{file}: {key}: occurs twice, with other capitals")
        document[_lower(key)] = value
    if document.get("kpt_shape") is not None:
        raise DataError(f"{file}: kpt_shape: {_KEYPOINTS}")
    names = names_of_yaml(document.get("names"), file)
    _check_count(document.get("nc"), names, f"{file}: nc")
    path = document.get("path")
    return Description(
        file,
        names,
        _entries(document, file, splits),
        path if isinstance(path, str) else "",
        tuple(map(str, given)),
    )


def _lower(key: Any) -> str:
    return str(key).lower()


def _check_count(given: Any, names: tuple[str, ...], where: str) -> None:
    """Raise DataError if the number of classes is stated and is not that of the names."""
    if given is not None and names and (isinstance(given, bool) or str(given) != str(len(names))):
        raise DataError(f"{where}: {given!r}, but there are {len(names)} names")


def _entries(
    document: dict[str, Any], file: str, splits: Iterable[str]
) -> dict[str, tuple[str, Any]]:
    """Return the entries for the keys that are names of splits."""
    stated = {
        key: value
        for key, value in document.items()
        if value not in (None, "", []) and (split_names.parse(key) or key in map(_lower, splits))
    }
    try:
        names = split_names.name_splits(stated)
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    return {names[key]: (key, value) for key, value in stated.items()}


def _darknet_keys(files: Files, file: str) -> dict[str, str]:
    """Return the keys and values of a file with lines `key = value`."""
    keys = {}
    for line in read_text(files.root / file).splitlines():
        key, equals, value = line.partition("#")[0].partition("=")
        if equals and value.strip():
            keys[key.strip().lower()] = value.strip()
    return keys


def _of_darknet(
    files: Files, keys: dict[str, str], file: str, splits: Iterable[str]
) -> Description:
    names, match = tuple[str, ...](), None
    if "names" in keys:
        match = files.match_image(keys["names"], [""])
    if match:
        names = read_names(files, match.path)
        _check_count(keys.get("classes"), names, f"{file}: classes")
    return Description(file, names, _entries(dict(keys), file, splits), keys=tuple(keys))
