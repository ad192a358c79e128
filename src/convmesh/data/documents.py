"""Bounded parsing of untrusted JSON, XML and YAML files.

Rejected are files of unusual size or depth, references (XML entities and YAML aliases, by which a
few lines can expand to gigabytes), YAML tags that create objects, and file names outside the data
set.
"""

from __future__ import annotations

import codecs
import contextlib
import itertools
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree
from xml.parsers import expat

from convmesh.errors import DataError

if TYPE_CHECKING:
    import yaml

MAX_JSON, MAX_XML, MAX_YAML = 2**31, 2**24, 2**24  # bytes; the largest JSON of COCO has 0.5 GB
MAX_XML_DEPTH = 100
_FEW_TAGS = 10_000
# UTF-32 first: its mark begins with that of UTF-16.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DECLARED_ENCODING = re.compile(
    rb"""<\?xml\s[^>]{0,200}?\bencoding\s*=\s*["']([\w.:-]{1,40})["']"""
)
# Python's names of the encodings that XML files may have; not those that compute (punycode).
_XML_CODECS = re.compile(
    r"utf-8|ascii|gb2312|gbk|gb18030|big5|big5hkscs|shift_jis(_2004|x0213)?|euc_jp|euc_kr|johab"
    r"|iso8859-\d+|cp\d+|koi8-[rtu]|mac-\w+|tis-620"
)
# Programs declare the standard and write the extension of it that Windows uses.
_WIDER_CODECS = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "big5": "big5hkscs",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
AnyPath = str | os.PathLike[str]


def read_bytes(path: AnyPath, limit: int) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes.

    Reading a pipe or a device could block or never end. Raises OSError, and ValueError for a file
    that is not regular or too large.
    """
    with open(path, "rb", opener=_open_nonblocking) as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("not a regular file")
        if about.st_size > limit:
            raise ValueError(f"{about.st_size} bytes exceed the limit of {limit}")
        # For `limit`, Python would allocate as many bytes. Some file systems state no size.
        return file.read(about.st_size or limit)


def read_beginning(path: AnyPath, count: int) -> bytes:
    """Return the first `count` bytes of a regular file. Raises OSError, ValueError."""
    with open(path, "rb", opener=_open_nonblocking) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("not a regular file")
        return file.read(count)


def _open_nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_json(path: AnyPath, object_hook: Callable[[dict], Any] | None = None) -> Any:
    """Parse a JSON file; `object_hook` converts each object, as in `json.loads`.

    Raises DataError with the file and, if known, the line.
    """
    text = read_text(path, MAX_JSON)
    try:
        return json.loads(text, object_hook=object_hook)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno}: invalid JSON: {error.msg}") from None
    except ValueError as error:  # a number of thousands of digits
        raise DataError(f"{path}: {error}") from None
    except RecursionError:
        raise DataError(f"{path}: nested too deeply") from None


def read_xml(path: AnyPath) -> ElementTree.Element:
    """Return the root element of an XML file without a document type declaration.

    The file may be in UTF-8, UTF-16, or another common encoding that it declares. Raises DataError
    with the file and, if known, the line or the byte.
    """
    data = _xml_as_utf8(_bytes(path, MAX_XML), path)
    # A first pass rejects what the parser of ElementTree would expand. It is slow, and left out for
    # short files that declare nothing.
    harmless = b"<!" not in data and data.count(b"<") < _FEW_TAGS
    try:
        if not harmless:
            _strict_parser(path).Parse(data, True)
        root = ElementTree.fromstring(data, ElementTree.XMLParser(encoding="utf-8"))
        if harmless and _depth(root) > MAX_XML_DEPTH:
            _strict_parser(path).Parse(data, True)  # raises with the line
        return root
    except (expat.ExpatError, ElementTree.ParseError) as error:
        if harmless:
            _check_depth(data, path)
        line = getattr(error, "lineno", None) or error.position[0]  # type: ignore[union-attr]
        raise DataError(f"{path}: line {line}: invalid XML: {error}") from None
    except ValueError as error:
        raise DataError(f"{path}: invalid XML: {error}") from None


def _depth(root: ElementTree.Element) -> int:
    """Return how deeply the elements in `root` are nested."""
    depth, level = 0, [root]
    while level:
        depth, level = depth + 1, [child for element in level for child in element]
    return depth


def _check_depth(data: bytes, path: AnyPath) -> None:
    """Raise DataError if an invalid document is nested too deeply: that comes first."""
    with contextlib.suppress(expat.ExpatError):
        _strict_parser(path).Parse(data, True)


def _xml_as_utf8(data: bytes, path: AnyPath) -> bytes:
    """Return an XML document in UTF-8. Raises DataError for an unknown encoding, or wrong bytes."""
    mark, codec = next(((m, c) for m, c in _BYTE_ORDER_MARKS if data.startswith(m)), (b"", ""))
    declared = _DECLARED_ENCODING.match(data, len(mark))
    name = declared[1].decode("ascii") if declared else "UTF-8"
    if not codec:
        starts = {b"<\0": "utf-16-le", b"\0<": "utf-16-be"}
        codec = starts.get(data[:2]) or _xml_codec(name, path)
    try:
        text = data[len(mark) :].decode(codec)
    except UnicodeDecodeError as error:
        shown = name if declared and not mark else codec.upper()
        what = f"not {shown}" + (", which it declares" if declared and not mark else "")
        at = len(mark) + error.start
        raise DataError(f"{path}: byte {at}: {what}; save it as UTF-8") from None
    return data[len(mark) :] if codec == "utf-8" else text.encode("utf-8")


def _xml_codec(name: str, path: AnyPath) -> str:
    """Return Python's name for an encoding that is declared in readable ASCII."""
    try:
        codec = codecs.lookup(name).name
    except LookupError:
        codec = ""
    if codec.startswith(("utf-16", "utf-32")):
        return "utf-8"  # a declaration that can be read bytewise is not in UTF-16
    if not _XML_CODECS.fullmatch(codec):
        raise DataError(f"{path}: invalid XML: encoding {name!r} is not known; save it as UTF-8")
    return _WIDER_CODECS.get(codec, codec)


def _strict_parser(path: AnyPath) -> expat.XMLParserType:
    """Return a parser that raises DataError for a document type, which declares entities, or depth.

    Its handlers build nothing.
    """
    parser, depth = expat.ParserCreate("utf-8"), 0

    def on_doctype(*_: object) -> None:
        raise DataError(f"{path}: line {parser.CurrentLineNumber}: has a DOCTYPE; remove it")

    def on_start(*_: object) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_XML_DEPTH:
            raise DataError(f"{path}: line {parser.CurrentLineNumber}: nested too deeply")

    def on_end(*_: object) -> None:
        nonlocal depth
        depth -= 1

    parser.StartDoctypeDeclHandler = on_doctype
    parser.StartElementHandler, parser.EndElementHandler = on_start, on_end
    return parser


def read_yaml(path: AnyPath, text_keys: Collection[str] = ()) -> Any:
    """Parse a YAML file of plain values.

    text_keys: keys of the document, in lower case, below which every value and key is text as
    written: 010 and 12:30 are numbers otherwise, `no` is False. Raises DataError with the file and,
    if known, the line, also for a key that occurs twice.
    """
    import yaml

    class PlainLoader(yaml.SafeLoader):
        """A safe loader that rejects aliases and repeated keys."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                line = self.peek_event().start_mark.line + 1
                raise DataError(f"{path}: line {line}: an alias (*name); write the value")
            return super().compose_node(parent, index)

        def compose_document(self) -> Any:
            document = super().compose_document()
            if isinstance(document, yaml.MappingNode):
                for key, value in document.value:
                    if str(key.value).lower() in text_keys:
                        _make_text(value)
            return document

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            counts = Counter(key.value for key in keys)
            for key in keys:
                if counts[key.value] > 1:
                    what = f"{key.value} occurs {counts[key.value]} times"
                    raise DataError(f"{path}: line {key.start_mark.line + 1}: {what}")
            return super().construct_mapping(node, deep)

    text = read_text(path, MAX_YAML)
    try:
        return yaml.load(text, Loader=PlainLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        location = f"line {mark.line + 1}: " if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise DataError(f"{path}: {location}invalid YAML: {reason}") from None
    except (ValueError, OverflowError) as error:  # an impossible date or number
        raise DataError(f"{path}: invalid YAML: {error}") from None
    except RecursionError:
        raise DataError(f"{path}: nested too deeply") from None


def _make_text(node: yaml.Node) -> None:
    """Make every scalar in a list or mapping text; a scalar alone stays what it is."""
    parts = node.value if isinstance(node.value, list) else []
    for part in itertools.chain.from_iterable(p if isinstance(p, tuple) else (p,) for p in parts):
        if isinstance(part.value, str):
            part.tag = "tag:yaml.org,2002:str"
        else:
            _make_text(part)


def path_inside(root: Path, name: Any, named_by: AnyPath) -> Path:
    """Return the path of the file `name` in `root`; `named_by` is the data file that names it.

    Forward slashes and backslashes separate folders. Symbolic links are followed: they belong to
    the user, and files are only read. Raises DataError for a name that is no text or leads outside
    `root`.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise DataError(f"{named_by}: {name!r} is not a file name")
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if PureWindowsPath(name).drive or ".." in parts or name.startswith(("/", "\\")):
        raise DataError(f"{named_by}: the file name {name!r} leads outside {root}")
    return root.joinpath(*parts)


def _bytes(path: AnyPath, limit: int) -> bytes:
    try:
        return read_bytes(path, limit)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def read_text(path: AnyPath, limit: int = MAX_XML) -> str:
    """Return the text of a UTF-8 file. Raises DataError with the file and the position."""
    try:
        return _bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start}: not UTF-8; save it as UTF-8") from None
