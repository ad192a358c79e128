"""LabelMe: for each image a JSON file of shapes, beside the image or in a folder of its own.

Rectangles, polygons, circles, masks and rotated rectangles are objects: the upright box around each
is used. Shapes of one label and `group_id` are one object, as LabelMe defines it. Points and lines
have no area and are counted. ROOT/SPLIT/* or ROOT/{images,annotations}/SPLIT are splits; without
them all images are the training split.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from convmesh.data.documents import read_beginning, read_json
from convmesh.data.formats.annotated import AnnotatedImage, AnnotatedSet
from convmesh.data.formats.evidence import Evidence
from convmesh.data.formats.files import is_hidden, root_folder, subfolders
from convmesh.data.formats.paired_files import PairedFiles, find_root, holds
from convmesh.data.formats.pixel_boxes import unit_problems
from convmesh.errors import DataError

# The shapes with an area, and how many points each has at least.
_AREAS = {
    "rectangle": 2,
    "polygon": 3,
    "circle": 2,
    "mask": 2,
    "rotation": 4,
    "oriented_rectangle": 4,
}
_LINES = ("point", "points", "line", "linestrip")
_HUGE = 1e12  # no number of pixels; larger whole numbers may not fit a float
_WITHOUT_AREA = "shapes are points or lines, which have no area; left out"
# What is read to recognize the layout: bytes of a file, entries of a folder, and folders.
_FIRST, _ENTRIES, _FOLDERS = 1 << 16, 1000, 20
_KEYS = re.compile(rb'"(?:shapes"\s*:\s*\[|imagePath"\s*:|imageData"\s*:)')


def open_dataset(config: ConfigDict) -> AnnotatedSet:
    """Return the data set in `config.data.root`; the classes are `data.classes`, or all labels.

    Raises ConfigError for a root that is not a folder, DataError if it has no LabelMe files, or
    these have no shape with an area.
    """
    root = root_folder(config)
    files = _list_files(find_root(root, ".json"))
    splits, aliases = files.splits_from_folders(config.data.train_split)
    if not any(splits.values()):
        raise DataError(f"{root}: no LabelMe annotations; expected a JSON file for each image")
    keys = [key for split in splits.values() for key in split]
    read = {key: _read_image(files, key, i) for i, key in enumerate(keys, start=1)}
    names = {key: labels for key, (_, labels) in read.items()}
    if not any(names.values()) and files.tally.has(_WITHOUT_AREA):
        raise DataError(f"{root}: none of its shapes has an area, such as a rectangle has")
    classes = tuple(config.data.classes) or tuple(sorted(set().union(*names.values())))
    ids = {name: i for i, name in enumerate(classes)}
    images = {
        key: replace(
            image,
            labels=np.array([ids.get(name, -1) for name in names[key]], np.int64),
            unknown=names[key],
        )
        for key, (image, _) in read.items()
    }
    by_split = {split: [images[key] for key in keys] for split, keys in splits.items()}
    problems = [
        *files.tally.problems(files.folder),
        *unit_problems(by_split, files.folder),
        *files.unlisted(set(keys)),
        *files.unmatched(set(keys)),
        *files.outside(),
    ]
    return AnnotatedSet(config, by_split, classes, problems=problems, aliases=aliases)


def looks_like(root: Path, task: str, evidence: Evidence) -> bool:
    """Return whether folder `root` has LabelMe's JSON files; see `registry.Format`.

    Their names do not tell them from COCO's, so the beginning of one is read: of the first JSON
    file in the first folder that has any. Beside XML files or YOLO's text files, which tools make
    of them, it is weaker evidence.
    """
    if evidence is Evidence.POSSIBLE:
        return False
    inner = subfolders(root)[:_FOLDERS]
    for top in (root, *inner, *(sub for sub in inner for sub in subfolders(sub)[:_FOLDERS])):
        first, suffixes = _first_json(top)
        if first is not None:
            labels = {root / "labels", top.parent / "labels"}
            others = {".xml", ".txt"} & suffixes or any(_has_texts(folder) for folder in labels)
            return _is_labelme(first) and (evidence is Evidence.LAYOUT or not others)
    return False


def _has_texts(folder: Path) -> bool:
    return folder.is_dir() and holds(folder, (".txt",))


def _first_json(folder: Path) -> tuple[Path | None, set[str]]:
    """Return the first JSON file among some entries of a folder, and the suffixes of these."""
    with os.scandir(folder) as entries:
        names = [e.name for e in itertools.islice(entries, _ENTRIES) if not is_hidden(e.name)]
    found = sorted(name for name in names if name.lower().endswith(".json"))
    suffixes = {os.path.splitext(name)[1].lower() for name in names}
    return folder / found[0] if found else None, suffixes


def _is_labelme(path: Path) -> bool:
    """Return whether a JSON file begins like LabelMe's."""
    try:
        begin = read_beginning(path, _FIRST)
    except (OSError, ValueError):
        return False
    return _KEYS.search(begin) is not None and b'"annotations"' not in begin


# The files.


def _list_files(root: Path) -> PairedFiles:
    """Return the images and JSON files in `root`, without other programs' JSON files."""
    files = PairedFiles(root, ".json")
    for key in [key for key in files.annotations if key not in files.images]:
        for path in files.annotations[key]:
            if not _is_labelme(root / path):
                files.tally.add("JSON files are not LabelMe's; ignored", path)
                files.annotations.pop(key, None)
    files.pair(lambda path: _stated_image(root / path))
    return files


def _stated_image(path: Path) -> str:
    try:
        document = read_json(path)
    except DataError:  # reported when the shapes are read
        return ""
    name = document.get("imagePath") if isinstance(document, dict) else ""
    return name if isinstance(name, str) else ""


def _read_image(
    files: PairedFiles, key: str, number: int
) -> tuple[AnnotatedImage, tuple[str, ...]]:
    """Return an image, with image id `number`, and the label of each of its boxes."""
    root, note = files.root, files.annotations[key][0]
    path = files.images.get(key, [note])[0]
    image = AnnotatedImage(root / path, path, number, note)
    broken = files.why_unusable(key)
    try:
        document = {} if broken and key in files.images else read_json(root / note)
        if broken and isinstance(document, dict) and document.get("imageData"):
            broken += "; imageData holds it: save it as a file, named like the JSON file"
        objects = _Objects() if broken else _read_shapes(document, note)
    except DataError as error:
        broken = str(error).removeprefix(f"{root / note}: ").removeprefix(f"{note}: ")
    if broken:
        return replace(image, broken=broken), ()
    for what, where in objects.remarks:
        files.tally.add(what, f"{note}: {where}")
    stated = document.get("imagePath")
    files.note_stated(key, stated if isinstance(stated, str) else "")
    image = replace(
        image,
        boxes=np.array(objects.boxes, np.float64).reshape(-1, 4),
        difficult=np.array(objects.difficult, bool),
        locations=tuple(objects.locations),
        size=_size(document),
    )
    return image, tuple(objects.names)


def _size(document: dict) -> tuple[int, int] | None:
    """Return the stated (height, width) of the image, or None."""
    sides: list[Any] = [document.get(key) for key in ("imageHeight", "imageWidth")]
    height, width = (int(side) if _is_finite(side) else 0 for side in sides)
    return (height, width) if height > 0 and width > 0 else None


# Shapes.


@dataclass
class _Objects:
    """The objects of a file, as in `voc.xml.Objects`."""

    boxes: list[list[float]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    difficult: list[bool] = field(default_factory=list)
    locations: list[str] = field(default_factory=list)
    remarks: list[tuple[str, str]] = field(default_factory=list)


def _read_shapes(document: Any, file: str) -> _Objects:
    """Return the objects of a document. Raises DataError for what is not LabelMe's."""
    shapes = document.get("shapes") if isinstance(document, dict) else None
    if not isinstance(shapes, list):
        raise DataError(f"{file}: has no list `shapes`: this is not LabelMe's JSON")
    found, groups = _Objects(), dict[tuple[str, str], int]()
    for i, shape in enumerate(shapes, start=1):
        where = f"shape {i}"
        if not isinstance(shape, dict):
            raise DataError(f"{file}: {where} is {shape!r}, wanted an object")
        label = shape.get("label")
        label = str(label).strip() if type(label) in (str, int) else ""
        if not label:
            raise DataError(f"{file}: {where} has no label")
        box = _box(shape, where, file)
        if box is None:
            found.remarks.append((_WITHOUT_AREA, where))
            continue
        group = shape.get("group_id")
        if group is not None and (label, repr(group)) in groups:
            at = groups[label, repr(group)]
            x0, y0, x1, y1 = found.boxes[at]
            found.boxes[at] = [min(x0, box[0]), min(y0, box[1]), max(x1, box[2]), max(y1, box[3])]
            what = "shapes have the label and group_id of another; joined to one object"
            found.remarks.append((what, where))
            continue
        if group is not None:
            groups[label, repr(group)] = len(found.boxes)
        found.boxes.append(box)
        found.names.append(label)
        found.difficult.append(shape.get("difficult") in (True, 1, "1", "true"))
        found.locations.append(where)
    return found


def _box(shape: dict, where: str, file: str) -> list[float] | None:
    """Return the box around a shape, None if it has no area by its type."""
    kind = shape.get("shape_type") or "polygon"  # of old versions
    if kind in _LINES:
        return None
    if kind not in _AREAS:
        known = ", ".join(_AREAS)
        raise DataError(f"{file}: {where}: shape_type {kind!r} is not one of {known}")
    points = _points(shape.get("points"))
    if len(points) < _AREAS[kind]:
        raise DataError(f"{file}: {where}: a {kind} needs {_AREAS[kind]} points [x, y] or more")
    if kind == "circle":  # the centre, and a point on the rim
        (x, y), rim = points[:2]
        radius = math.dist((x, y), rim)
        return [x - radius, y - radius, x + radius, y + radius]
    xs, ys = zip(*points, strict=True)
    return [float(value) for value in (min(xs), min(ys), max(xs), max(ys))]


def _points(given: Any) -> list[list[float]]:
    """Return the points [x, y] of a shape, [] if they are no such points."""
    points = given if isinstance(given, list) else []
    good = all(isinstance(p, list) and len(p) == 2 and all(map(_is_finite, p)) for p in points)
    return points if good else []


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and -_HUGE < value < _HUGE
