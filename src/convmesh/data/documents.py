"""Files of other people's making: read within bounds, nothing in them executed or followed.

What a data set's JSON, XML and YAML may not do: be larger or deeper than such files are, name
things by reference (XML entities, YAML anchors, with which a few lines stand for gigabytes), make
objects, or name a file outside of the data set.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from convmesh.errors import DataError

MAX_JSON, MAX_XML, MAX_YAML = 2**31, 2**24, 2**24  # bytes; COCO's largest JSON has 0.5 GB


def read_bytes(path, limit: int) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes.

    A pipe or a device would be waited for, or read, without end. Raises OSError, ValueError.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("not a regular file")
        if about.st_size > limit:
            raise ValueError(f"{about.st_size} bytes are more than the limit of {limit}")
        return file.read(limit)


def _without_waiting(path, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_json(path, object_hook: Callable[[dict], Any] | None = None) -> Any:
    """Return what a JSON file holds, each object as `object_hook` makes it.

    Raises DataError naming the file and the place.
    """
    text = read_text(path, MAX_JSON)
    try:
        return json.loads(text, object_hook=object_hook)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno}: no JSON: {error.msg}") from None
    except ValueError as error:  # a number of thousands of digits
        raise DataError(f"{path}: {error}") from None
    except RecursionError:
        raise DataError(f"{path}: nested too deeply") from None


def read_xml(path) -> ElementTree.Element:
    """Return the root element of an XML file without a document type.

    Raises DataError naming the file and the place.
    """
    data = _bytes(path, MAX_XML)
    try:
        # A first pass, since the tree's own parser would follow what it is not to.
        _refusing(path).Parse(data, True)
        return ElementTree.fromstring(data)
    except (expat.ExpatError, ElementTree.ParseError) as error:
        line = getattr(error, "lineno", None) or error.position[0]  # type: ignore[union-attr]
        raise DataError(f"{path}: line {line}: no XML: {error}") from None
    except (ValueError, LookupError) as error:  # an encoding that is not known
        raise DataError(f"{path}: no XML: {error}") from None


def _refusing(path):
    """A parser that ends at a document type, which is where entities are declared, and at depth."""
    parser, depth = expat.ParserCreate(), 0

    def refuse(*_) -> None:
        raise DataError(f"{path}: line {parser.CurrentLineNumber}: has a DOCTYPE; take it out")

    def deeper(*_) -> None:
        nonlocal depth
        depth += 1
        if depth > 100:
            raise DataError(f"{path}: line {parser.CurrentLineNumber}: nested too deeply")

    def higher(*_) -> None:
        nonlocal depth
        depth -= 1

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler = deeper, higher
    return parser


def read_yaml(path) -> Any:
    """Return what a YAML file of plain values holds. Raises DataError naming file and place."""
    import yaml

    class Plain(yaml.SafeLoader):
        """Without references."""

        def compose_node(self, parent, index):
            if self.check_event(yaml.AliasEvent):
                line = self.peek_event().start_mark.line + 1
                raise DataError(f"{path}: line {line}: a reference (*name); write the value")
            return super().compose_node(parent, index)

    text = read_text(path, MAX_YAML)
    try:
        return yaml.load(text, Loader=Plain)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise DataError(f"{path}: {where}no YAML: {what}") from None
    except (ValueError, OverflowError) as error:  # a date or a number that is none
        raise DataError(f"{path}: no YAML: {error}") from None
    except RecursionError:
        raise DataError(f"{path}: nested too deeply") from None


def path_inside(root: Path, name: Any, named_by) -> Path:
    """Return the path of the file `name` in `root`, as a data file `named_by` names it.

    Forward slashes and backslashes part folders. Links are followed: they are the user's own, and
    files are only read. Raises DataError for a name that leaves `root`, or is no text.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise DataError(f"{named_by}: {name!r} is no file name")
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if PureWindowsPath(name).drive or ".." in parts or name.startswith(("/", "\\")):
        raise DataError(f"{named_by}: the file name {name!r} leads out of {root}")
    return root.joinpath(*parts)


def _bytes(path, limit: int) -> bytes:
    try:
        return read_bytes(path, limit)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def read_text(path, limit: int = MAX_XML) -> str:
    """Return the text of a file in UTF-8. Raises DataError naming the file and the place."""
    try:
        return _bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start}: no UTF-8; save it as UTF-8") from None
