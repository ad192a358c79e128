"""Names the JSON of other tools that is given as COCO, so that its message says what to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from convmesh.data.formats.coco.values import misspelt

LISTS = ("images", "annotations", "categories")
# What `what_else` returns for a document in which it sees no tool.
BARE = ("it is a list", "it is a single value", *(f"it has no list `{key}`" for key in LISTS))
_FEW = 20  # entries of a list that are looked at


def what_else(document: Any) -> str:
    """Return why a JSON document is not in COCO format, and what it looks like; '' if it is."""
    if isinstance(document, list):
        return f"it is a list{_known_list(document)}"
    if not isinstance(document, dict):
        return "it is a single value"
    missing = [key for key in LISTS if not isinstance(document.get(key), list)]
    if not missing:
        return _without_objects(document["annotations"])
    first = misspelt(document, missing)
    for key, other in first.items():
        return f"its list `{key}` is called `{other}`: rename it"
    what = f"it has no list `{missing[0]}`"
    for key, value in document.items():
        if isinstance(value, dict) and ("images" in value or misspelt(value, ("images",))):
            return f"{what}; `{key}` has one: save what is in `{key}` alone"
    return f"{what}{_known_object(document)}"


def _known_list(entries: list) -> str:
    for entry in _objects(entries):
        keys = set(entry)
        if "data" in keys and keys & {"annotations", "completions", "predictions"}:
            return ", as Label Studio's own JSON; export it from Label Studio as COCO"
        if keys & {"image", "imagefilename"} and "annotations" in keys:
            return ", as CreateML's JSON; convert it to COCO"
        if {"image_id", "score"} <= keys:
            return " of detections (COCO results); the annotations are another file"
        if keys & {"Labeled Data", "External ID", "data_row"}:
            return ", as Labelbox's JSON; convert it to COCO"
    return ""


def _known_object(document: dict) -> str:
    values = _objects(document.values())
    if any(str(key).startswith("_via_") for key in document) or any(
        {"filename", "regions"} <= set(value) for value in values
    ):
        return "; it is the JSON of VGG Image Annotator (VIA): export it from VIA as COCO"
    if {"shapes", "imagePath"} <= set(document):
        return "; it is LabelMe's JSON of one image"
    return ""


def _without_objects(annotations: list) -> str:
    few = _objects(annotations)
    if few and all("segments_info" in entry for entry in few):
        return "its annotations are panoptic masks; use the file of instances"
    if few and all("caption" in entry and "bbox" not in entry for entry in few):
        return "its annotations are captions; use the file of instances"
    return ""


def _objects(values: Iterable) -> list[dict]:
    """Return the objects among the first few values."""
    few = [value for value, _ in zip(values, range(_FEW), strict=False)]
    return [value for value in few if isinstance(value, dict)]
