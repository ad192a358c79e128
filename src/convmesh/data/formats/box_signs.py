"""Whether files beside images hold boxes, by their content.

The names of files are weak evidence beside class folders: labels.json may be a list of classes.
"""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

from convmesh.data.formats.files import contents
from convmesh.errors import DataError

_SIGNS = {
    ".xml": re.compile(rb"<(object|bndbox|box|polygon|size)[\s>]"),
    ".json": re.compile(rb'"(bbox|segmentation|shapes|points|keypoints|boxes)"'),
    ".txt": re.compile(rb"(^|\n)\s*\d+([ \t]+-?[\d.]+(e-?\d+)?){4,}[ \t]*(\r?\n|$)"),
}
_FILES = 20  # of one kind in one folder, that are opened
_FOLDERS = 50  # in one folder, that are looked into
_BYTES = {".json": 2**27}  # of a file that are looked at: annotations come after images
_FIRST = 2**16


def holds_boxes(folder: Path, depth: int = 3) -> bool:
    """Return whether a file in `folder`, or up to `depth` folders below, holds boxes."""
    try:
        here = contents(folder)
    except DataError:  # what can be seen is enough
        return False
    for suffix, sign in _SIGNS.items():
        named = (name for name in here.others if os.path.splitext(name)[1].lower() == suffix)
        for name in itertools.islice(named, _FILES):
            if sign.search(_first_part(folder / name, _BYTES.get(suffix, _FIRST))):
                return True
    below = here.folders[:_FOLDERS] if depth else []
    return any(holds_boxes(folder / name, depth - 1) for name in below)


def _first_part(path: Path, size: int) -> bytes:
    try:
        if not path.is_file():  # a pipe would block
            return b""
        with path.open("rb") as file:
            return file.read(size)
    except OSError:
        return b""
