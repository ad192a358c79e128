"""Elements of an XML file that VOC does not have: they may be objects in another form.

An element is taken for a box by the names of its numbers (`x1 y1 x2 y2`, `left top width height`),
or by four numbers in one text beside a label. Numbers alone prove nothing: cameras are described
by numbers too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.etree import ElementTree

from convmesh.data.formats.voc.names import (
    BOXES,
    HEADER,
    OUTLINES,
    ROTATED,
    is_number,
    plain,
)
from convmesh.errors import DataError

_BOX_NUMBERS = 4
# Names of the two numbers with which a box begins, and of those with which it ends.
_BEGINS = [
    *(("x", "y"), ("x0", "y0"), ("x1", "y1"), ("xmin", "ymin"), ("minx", "miny"), ("left", "top")),
    *(("cx", "cy"), ("xc", "yc"), ("xcenter", "ycenter"), ("centerx", "centery"), ("xtl", "ytl")),
    *(("startx", "starty"), ("xstart", "ystart"), ("topleftx", "toplefty"), ("l", "t")),
]
_ENDS = [
    *(("w", "h"), ("width", "height"), ("x1", "y1"), ("x2", "y2"), ("xmax", "ymax")),
    *(("maxx", "maxy"), ("right", "bottom"), ("xbr", "ybr"), ("endx", "endy"), ("xend", "yend")),
    *(("bottomrightx", "bottomrighty"), ("r", "b")),
]
_LABELS = frozenset("name label class category cls classname categoryname type tag".split())
_BOX_TAG = re.compile(r"box|rect|coord|corner|^roi$|^position$")
# Numbers about the image as a whole.
_METADATA = re.compile(
    r"camera|calib|intrinsic|extrinsic|distort|focal|^gps|^geo|exif|^imu$|sensor|^lens|matrix"
    r"|rotation|quaternion|translation|^crop|^roi$|^mean|^std|histogram|weather|telemetry"
)


@dataclass
class Foreign:
    """The tags of the foreign elements of a file, each in one of the sets.

    boxes: that hold a box. numbers: that hold numbers enough for one. others: of the rest.
    """

    boxes: set[str] = field(default_factory=set)
    numbers: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return bool(self.boxes or self.numbers or self.others)


def find_foreign(root: ElementTree.Element, file: str) -> Foreign:
    """Return what is outside of the objects of an annotation, whose tags are plain.

    Raises DataError if a box as in VOC is there.
    """
    found = Foreign()
    for element in root:
        if element.tag not in HEADER:
            _refuse_boxes(element, file)
    elements = list(_outside(root))
    flat = {element.tag for element in elements if is_number(element.text or "")}
    if _names_a_box(flat):  # <x>1</x><y>2</y><w>3</w><h>4</h>
        found.boxes.add(next(element.tag for element in elements if element.tag in flat))
    for element in elements:
        metadata = any(_METADATA.search(part.tag) for part in element.iter())
        boxed = _holds_box(element)
        if boxed and not metadata:
            found.boxes.add(element.tag)
        elif boxed or not metadata and _count(element) >= _BOX_NUMBERS:
            found.numbers.add(element.tag)
        else:
            found.others.add(element.tag)
    return found


def is_box(element: ElementTree.Element) -> bool:
    """Return whether an element of an object, that is no <bndbox>, is a box itself."""
    if len(element) <= _BOX_NUMBERS and _names_a_box(_numbers_of(element)):
        return True
    return bool(_BOX_TAG.search(element.tag)) and len(_split(element.text)) == _BOX_NUMBERS


def _refuse_boxes(element: ElementTree.Element, file: str) -> None:
    inside = {part for thing in element.iter("object") for part in thing.iter()}
    for part in element.iter():
        if part not in inside and part.tag in (*BOXES, *ROTATED, "polygon", "xmin"):
            inside_of = f"in <{element.tag}>, " if part is not element else ""
            raise DataError(f"{file}: <{part.tag}> is {inside_of}not in an <object>")


def _outside(root: ElementTree.Element) -> Iterator[ElementTree.Element]:
    """Yield the largest elements below `root` that hold no object and are of no header."""
    for element in root:
        if element.tag in HEADER:
            continue
        if element.find(".//object") is None:
            yield element
        else:
            yield from _outside(element)


def _holds_box(element: ElementTree.Element) -> bool:
    parts = list(element.iter())
    labelled = any(
        part.tag in _LABELS or any(plain(name) in _LABELS for name in part.attrib) for part in parts
    )
    corners = 0
    for part in parts:
        names = _numbers_of(part)
        if "fx" in names or "fy" in names:  # of a camera
            continue
        corners += {"x", "y"} <= names
        texts = {part.tag: part.text or "", **part.attrib}
        for tag, text in texts.items():
            count = len(_split(text))
            outline = plain(tag) in OUTLINES and count >= _BOX_NUMBERS
            four = count == _BOX_NUMBERS and (labelled or _BOX_TAG.search(plain(tag)))
            if outline or four:
                return True
        if _names_a_box(names):
            return True
    return corners > 1


def _numbers_of(element: ElementTree.Element) -> set[str]:
    """Return the names of the children and attributes of an element that are numbers."""
    children = {child.tag for child in element if is_number(child.text or "")}
    return children | {plain(name) for name, text in element.attrib.items() if is_number(text)}


def _names_a_box(names: set[str]) -> bool:
    if len(names) < _BOX_NUMBERS:
        return False
    begins = [pair for pair in _BEGINS if names.issuperset(pair)]
    return any(names.issuperset(end) and begins != [end] for end in _ENDS) and bool(begins)


def _count(element: ElementTree.Element) -> int:
    """Return how many numbers are in an element."""
    texts = [text for part in element.iter() for text in (part.text, *part.attrib.values())]
    return 0 if _is_camera(element) else sum(len(_split(text)) for text in texts)


def _is_camera(element: ElementTree.Element) -> bool:
    return any({"fx", "fy"} & _numbers_of(part) for part in element.iter())


def _split(text: str | None) -> list[str]:
    """Return the numbers that make up a text such as `1, 2, 30, 40`; [] if something else does."""
    parts = [part for part in re.split(r"[\s,;()\[\]]+", text or "") if part]
    return parts if all(map(is_number, parts)) else []
