"""The objects of one XML file in the form of Pascal VOC, and of tools that write a similar one.

Tags may have any case, underscores and a namespace. The box of an object is <bndbox> with the
corners, or with its left upper corner and its size; instead of it roLabelImg writes a rotated box
(<robndbox>) and LabelMe an outline (<polygon>): the upright box around them is used. What is not
understood is refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.etree import ElementTree

from convmesh.data.formats.voc.foreign import Foreign, find_foreign, is_box
from convmesh.data.formats.voc.names import (
    BOXES,
    CORNERS,
    FIELDS,
    OUTLINES,
    PLAIN,
    ROTATED,
    is_number,
    plain,
    short,
)
from convmesh.errors import DataError

_YES = ("1", "true", "yes", "y", "t", "1.0")
_NO = ("", "0", "false", "no", "n", "f", "0.0", "none", "unspecified")


@dataclass
class Objects:
    """The objects of an XML file.

    boxes: x0, y0, x1, y1 of each, in pixels. names: of their classes. difficult: of each.
    locations: where each is, `object 2`. size: the stated (height, width) of the image, or None.
    image: the image file that it names, or ''. remarks: what is worth a warning, with the location.
    foreign: elements that are neither of an object nor of VOC. found: number of elements <object>.
    """

    boxes: list[list[float]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    difficult: list[bool] = field(default_factory=list)
    locations: list[str] = field(default_factory=list)
    size: tuple[int, int] | None = None
    image: str = ""
    remarks: list[tuple[str, str]] = field(default_factory=list)
    foreign: Foreign = field(default_factory=Foreign)
    found: int = 0


def read_objects(root: ElementTree.Element, file: str) -> Objects:
    """Return the objects of an annotation. Raises DataError for what is not understood."""
    check_root(root, file)
    _use_plain_tags(root)
    found = Objects(image=stated_image(root))
    for i, element in enumerate(root.iter("object"), start=1):
        found.found = i
        _add_object(found, element, i, file)
    found.foreign = find_foreign(root, file)
    stated = [root.findtext(f"size/{side}") for side in ("height", "width")]
    sides = [int(float(text)) for text in stated if text and is_number(text)]
    found.size = (sides[0], sides[1]) if len(sides) == 2 and min(sides) > 0 else None
    return found


def check_root(root: ElementTree.Element, file: str) -> None:
    """Raise DataError if `root` is not that of an annotation."""
    tag = plain(root.tag)
    if tag == "annotation":
        return
    hint = "this is not Pascal VOC's XML"
    if tag == "annotations":
        hint += " (CVAT's for images? export it as Pascal VOC, COCO or YOLO)"
    raise DataError(f"{file}: its root is <{short(root.tag)}>, wanted <annotation>: {hint}")


def stated_image(root: ElementTree.Element) -> str:
    """Return the name of the image file in <filename>, else in <path>, else ''."""
    for element in root:
        if plain(element.tag) in ("filename", "path") and (element.text or "").strip():
            return (element.text or "").strip()
    return ""


def _use_plain_tags(root: ElementTree.Element) -> None:
    for element in root.iter():
        if element.tag not in PLAIN:
            element.tag = plain(element.tag)


def _add_object(found: Objects, element: ElementTree.Element, i: int, file: str) -> None:
    """Add the boxes of object `i` to `found`. Raises DataError for one without name or box."""
    where = f"object {i}"
    names, boxes, texts = [], [], {}
    for child in element:
        if child.tag == "bndbox":
            boxes.append(_corners(child, where, file))
        elif child.tag == "name":
            names.append((child.text or "").strip())
        else:
            texts[child.tag] = child.text
    name = names[0] if names else element.get("name", "").strip()
    if not name or len(names) > 1:
        raise DataError(f"{file}: {where} has {'several <name>' if name else 'no <name>'}")
    if (texts.get("deleted") or "").strip() == "1":
        found.remarks.append(("objects are marked as deleted; left out", where))
        return
    if not boxes:
        boxes = list(_other_boxes(found, element, where, file))
    _note_further_boxes(found, element, boxes, where)
    if len(boxes) > 1:
        found.remarks.append(("objects have several boxes; each is used, with its class", where))
    difficult = (texts.get("difficult") or "").strip().lower()
    if difficult not in _YES and difficult not in _NO:
        what = f"objects have a <difficult> that is neither 0 nor 1 but {difficult!r}; taken as 0"
        found.remarks.append((what, where))
    for k, box in enumerate(boxes, start=1):
        found.boxes.append(box)
        found.names.append(name)
        found.difficult.append(difficult in _YES)
        found.locations.append(where if len(boxes) == 1 else f"{where}, box {k}")


def _other_boxes(
    found: Objects, element: ElementTree.Element, where: str, file: str
) -> Iterator[list[float]]:
    """Yield the boxes of an object without <bndbox>.

    Raises DataError if it has none, or boxes of two kinds.
    """
    taken = list[str]()
    for child in element:
        if child.tag in BOXES:
            yield _corners(child, where, file)
        elif child.tag in ROTATED:
            found.remarks.append(("objects are rotated boxes; the upright box is used", where))
            yield _around_rotated(child, where, file)
        elif child.tag in OUTLINES:
            found.remarks.append(("objects are outlines; the box around is used", where))
            yield _around_points(_points(child, where, file), child.tag, where, file)
        else:
            continue
        taken.append(child.tag)
    if not taken:
        others = ", ".join(f"<{child.tag}>" for child in element if child.tag not in PLAIN)
        raise DataError(f"{file}: {where} has no <bndbox>{f', but {others}' if others else ''}")
    if len(set(taken)) > 1:
        raise DataError(f"{file}: {where} has <{taken[0]}> and <{taken[1]}>; which is its box?")


def _note_further_boxes(
    found: Objects, element: ElementTree.Element, boxes: list[list[float]], where: str
) -> None:
    """Count boxes of an object that are not used, but for another form of one that is."""
    for child in element:
        if child.tag in PLAIN or child.tag in ROTATED or child.tag in OUTLINES:
            continue
        if child.tag in BOXES:
            try:
                more = _corners(child, where, "") not in boxes
            except DataError:
                more = True
        else:
            apart = any(child.find(f".//{tag}") is not None for tag in ("object", "part"))
            more = is_box(child) or not apart and child.find(".//bndbox") is not None
        if more:
            what = "objects have a further box in another element; left out"
            found.remarks.append((what, f"{where}: <{child.tag}>"))


def _corners(box: ElementTree.Element, where: str, file: str) -> list[float]:
    """Return x0, y0, x1, y1 of a box."""
    fields = _fields(box, where, file)
    if tuple(fields) == CORNERS:  # nearly always
        return [_number(text, name, where, file) for name, text in fields.items()]
    for names, is_size in FIELDS.items():
        if len(fields) == 4 and all(name in fields for name in names):
            x0, y0, x1, y1 = (_number(fields[name], name, where, file) for name in names)
            return [x0, y0, x0 + x1, y0 + y1] if is_size else [x0, y0, x1, y1]
    if len(fields) >= 6 and _numbered_points(fields):
        return _around_points(_points(box, where, file), box.tag, where, file)
    for name in CORNERS:
        if name in fields:  # one that is no number, before what is missing
            _number(fields[name], name, where, file)
    given = ", ".join(fields) or "nothing"
    raise DataError(f"{file}: {where}: <{box.tag}> has {given}; wanted xmin, ymin, xmax, ymax")


def _fields(box: ElementTree.Element, where: str, file: str) -> dict[str, str]:
    """Return the fields of a box by name, from its elements or else its attributes."""
    fields: dict[str, str] = {}
    for child in box:
        if child.tag in fields:
            raise DataError(f"{file}: {where}: <{box.tag}> has several <{child.tag}>")
        fields[child.tag] = child.text or ""
    return fields or {plain(name): value for name, value in box.attrib.items()}


def _around_rotated(box: ElementTree.Element, where: str, file: str) -> list[float]:
    """Return the upright box around a rotated one: centre, size, and angle in radians."""
    fields = _fields(box, where, file)
    if _numbered_points(fields):
        return _around_points(_points(box, where, file), box.tag, where, file)
    names = ("cx", "cy", "w", "h", "angle")
    if not all(name in fields for name in names):
        given = ", ".join(fields) or "nothing"
        raise DataError(f"{file}: {where}: <{box.tag}> has {given}; wanted {', '.join(names)}")
    x, y, width, height, angle = (_number(fields[name], name, where, file) for name in names)
    if abs(angle) > 2 * math.pi + 0.01:
        raise DataError(f"{file}: {where}: <angle> is {angle:g}, wanted radians")
    cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
    x_side, y_side = (width * cos + height * sin) / 2, (width * sin + height * cos) / 2
    return [x - x_side, y - y_side, x + x_side, y + y_side]


def _numbered_points(fields: dict[str, str]) -> bool:
    """Return whether the fields are x1, y1, x2, y2, ... of at least three points."""
    numbers = [name[1:] for name in fields if name[0] == "x"]
    wanted = {f"{axis}{number}" for number in numbers for axis in "xy"}
    return len(numbers) >= 3 and all(map(str.isdecimal, numbers)) and fields.keys() == wanted


def _points(outline: ElementTree.Element, where: str, file: str) -> list[list[float]]:
    """Return the points x, y of an outline: <pt>s, x1, y1, x2, ..., or text `x,y;x,y`."""
    points = []
    for child in outline:
        if child.tag in ("pt", "point") and len(child) + len(child.attrib):
            fields = _fields(child, where, file)
            texts = [fields.get(axis, "") for axis in "xy"]
        elif child.tag in ("pt", "point"):
            texts = re.split(r"[\s,;]+", (child.text or "").strip())
        else:
            continue
        points.append([_number(text, "x, y", where, file) for text in texts])
    fields = {} if points else _fields(outline, where, file)
    if _numbered_points(fields):
        numbers = sorted(int(name[1:]) for name in fields if name[0] == "x")
        names = [(f"x{n}", f"y{n}") for n in numbers]
        points = [[_number(fields[n], n, where, file) for n in pair] for pair in names]
    elif not points:
        texts = [text for text in re.split(r"[\s,;]+", (outline.text or "").strip()) if text]
        values = [_number(text, outline.tag, where, file) for text in texts]
        points = [values[i : i + 2] for i in range(0, len(values), 2)]
    return points


def _around_points(points: list[list[float]], tag: str, where: str, file: str) -> list[float]:
    """Return the box around points x, y. Raises DataError if they are not at least two."""
    if len(points) < 2 or any(len(point) != 2 for point in points):
        raise DataError(f"{file}: {where}: <{tag}> has no points x, y that are understood")
    xs, ys = zip(*points, strict=True)
    return [min(xs), min(ys), max(xs), max(ys)]


def _number(text: str, name: str, where: str, file: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in text:
        raise DataError(f"{file}: {where}: <{name}> is {text!r}, wanted a number")
    return value
