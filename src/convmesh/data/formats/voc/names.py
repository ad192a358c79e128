"""The names of the elements that hold a box in XML, and reading of numbers."""

from __future__ import annotations

import math

CORNERS = ("xmin", "ymin", "xmax", "ymax")
# Names of the four numbers of a box that cannot be misread, and whether the last two are a size.
FIELDS = {
    CORNERS: False,
    ("left", "top", "right", "bottom"): False,
    ("x1", "y1", "x2", "y2"): False,
    ("xmin", "ymin", "width", "height"): True,
    ("left", "top", "width", "height"): True,
}
BOXES = ("bndbox", "bbox", "boundingbox", "box")
ROTATED = ("robndbox", "rotatedbox", "rbox")
OUTLINES = ("polygon", "points")
PLAIN = frozenset(
    "annotation folder filename path source database image owner size width height depth segmented"
    " object name pose truncated occluded difficult bndbox xmin ymin xmax ymax part".split()
)
# The elements of an annotation that are not objects.
HEADER = frozenset(
    "folder filename path source owner size imagesize segmented segmentation annotator verified"
    " object id date".split()
)


def is_number(text: str) -> bool:
    """Return whether `text` is a finite number."""
    try:
        return math.isfinite(float(text)) and "_" not in text
    except ValueError:
        return False


def plain(tag: str) -> str:
    """Return a tag in lower case, without namespace, `_` and `-`."""
    return tag if tag in PLAIN else short(tag).lower().replace("_", "").replace("-", "")


def short(tag: str) -> str:
    """Return a tag without namespace."""
    return tag.rpartition("}")[2]
