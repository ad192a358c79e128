"""Statistics of a data set: the contents of each split, and the sizes of objects at the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convmesh.data.checks.scan import ScannedExample, ScannedSplit
from convmesh.geometry import FINEST_STRIDE, STRIDES, grid_shape

QUANTILES = (5, 25, 50, 75, 95)  # percent
MAX_ROWS = 60  # of the table of classes; the middle of a longer one is left out


@dataclass(frozen=True)
class InputLimits:
    """The (height, width) of the input, and the number of boxes that a batch can hold."""

    size: tuple[int, int]
    max_boxes: int


def letterbox_boxes(
    boxes: np.ndarray, size: tuple[int, int], input_size: tuple[int, int]
) -> np.ndarray:
    """Map `boxes` float64 [n, 4] of an image of `size` to pixels of the network's input.

    Sizes are (height, width). The result is that of `augment.letterbox`.
    """
    scale = letterbox_scale(size, input_size)
    (h, w), (height, width) = size, input_size
    offset = round((width - w * scale) / 2), round((height - h * scale) / 2)
    return boxes * scale + np.array(offset * 2)


def letterbox_scale(size: tuple[int, int], input_size: tuple[int, int]) -> float:
    """Return the input pixels per pixel of an image of `size` (height, width)."""
    return float(np.float32(min(input_size[0] / size[0], input_size[1] / size[1])))


def without_point(boxes: np.ndarray, input_size: tuple[int, int]) -> np.ndarray:
    """Return bool [n]: the boxes, in pixels of the input, that contain no point of the grid.

    As in assignment, boxes are half-open and enlarged to at least the finest stride per side.
    """
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    half = np.maximum(half, FINEST_STRIDE / 2)
    low, high = centre - half, centre + half
    found = np.zeros(len(boxes), bool)
    for stride in STRIDES:
        rows, columns = grid_shape(input_size, stride)
        cells = np.array([columns, rows])
        first = np.maximum(np.ceil(low / stride - 0.5), 0)
        found |= ((first < cells) & ((first + 0.5) * stride < high)).all(1)
    return ~found


@dataclass(frozen=True)
class Objects:
    """The objects to learn in some examples, in their order, without bad boxes and crowd regions.

    boxes: float64 [n, 4]; [0, 4] for classification. labels: int64 [n]. example: int64 [n], index
    of the example. box: int64 [n], index of the box in it.
    """

    boxes: np.ndarray
    labels: np.ndarray
    example: np.ndarray
    box: np.ndarray


def usable_objects(examples: Sequence[ScannedExample]) -> Objects:
    """Return the objects of `examples`; all at once, since a data set may have a million."""
    counts = np.array([len(e.labels) for e in examples], np.int64)
    example = np.repeat(np.arange(len(examples)), counts)
    box = np.arange(len(example)) - np.repeat(np.cumsum(counts) - counts, counts)
    usable = ~np.concatenate([np.zeros(0, bool), *(e.bad | e.crowd for e in examples)])
    boxes = np.concatenate([np.zeros((0, 4)), *(e.boxes for e in examples)])
    labels = np.concatenate([np.zeros(0, np.int64), *(e.labels for e in examples)])
    boxes = boxes[usable] if len(boxes) else boxes
    return Objects(boxes, labels[usable], example[usable], box[usable])


def sides_at_input(
    objects: Objects, examples: Sequence[ScannedExample], input_size: tuple[int, int]
) -> np.ndarray:
    """Return float64 [n]: the square roots of the areas of `objects`, at the input.

    objects: those of `examples`, whose sizes are known.
    """
    scales = np.array([letterbox_scale(e.size, input_size) for e in examples if e.size])
    boxes = objects.boxes
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return np.sqrt(area) * scales[objects.example]


def count_classes(examples: Sequence[ScannedExample], classes: Sequence[str]) -> dict[str, int]:
    """Return how many objects of each class there are; for classification, how many images."""
    counts = np.bincount(usable_objects(examples).labels, minlength=len(classes))
    return dict(zip(classes, counts.tolist(), strict=True))


def count_over(examples: Sequence[ScannedExample], max_boxes: int) -> int:
    """Return how many examples have more than `max_boxes` boxes, without bad ones."""
    return sum(len(e.boxes) > max_boxes and int((~e.bad).sum()) > max_boxes for e in examples)


def summarise(
    splits: Sequence[ScannedSplit], classes: Sequence[str], task: str, limits: InputLimits
) -> dict[str, Any]:
    """Return the statistics of a data set, which can be written as JSON."""
    detects = task == "detect"
    summary: dict[str, Any] = {
        "task": task,
        "image_size": list(limits.size) if all(limits.size) else None,  # None: a run chooses it
        "classes": list(classes),
        "splits": {
            split.name: _summarise_split(split, classes, detects, limits.max_boxes)
            for split in splits
        },
    }
    if detects:
        summary["box_sides"] = _summarise_sides(splits, classes, limits.size)
    return summary


def _summarise_split(
    split: ScannedSplit, classes: Sequence[str], detects: bool, max_boxes: int
) -> dict[str, Any]:
    examples = split.examples
    sizes = sorted((e.size for e in examples if e.size), key=lambda size: size[0] * size[1])
    shown = [sizes[0], sizes[len(sizes) // 2], sizes[-1]] if sizes else []
    summary: dict[str, Any] = {
        "images": len(examples),
        "unusable": sum(e.size is None for e in examples),
        "image_sizes": {
            name: {"height": size[0], "width": size[1]}
            for name, size in zip(("smallest", "median", "largest"), shown, strict=False)
        },
    }
    counts = count_classes(examples, classes)
    if not detects:
        return summary | {"images_by_class": counts}
    boxes = [int(e.usable.sum()) for e in examples if e.size]
    images = np.zeros(len(classes), np.int64)
    for example in examples:
        images[np.unique(example.labels[example.usable])] += 1
    return summary | {
        "without_boxes": boxes.count(0),
        "boxes": sum(boxes),
        "bad_boxes": sum(int(e.bad.sum()) for e in examples),
        "crowd": sum(int((e.crowd & ~e.bad).sum()) for e in examples),
        "difficult": sum(int((e.difficult & e.usable).sum()) for e in examples),
        "most_boxes": max(boxes, default=0),
        "over_max_boxes": count_over(examples, max_boxes),
        "boxes_by_class": counts,
        "images_by_class": dict(zip(classes, images.tolist(), strict=True)),
    }


def _summarise_sides(
    splits: Sequence[ScannedSplit], classes: Sequence[str], input_size: tuple[int, int]
) -> dict[str, Any]:
    """Return the distribution of box sides at the input, square roots of areas, by class."""
    examples = [example for split in splits for example in split.examples if example.size]
    objects = usable_objects(examples)
    sides, labels = sides_at_input(objects, examples, input_size), objects.labels
    unreachable = 0
    for example in examples:
        if example.size and len(example.boxes):
            boxes = letterbox_boxes(example.boxes[example.usable], example.size, input_size)
            unreachable += int(without_point(boxes, input_size).sum())
    small = sides < FINEST_STRIDE
    by_class = {}
    for i, name in enumerate(classes):
        own = sides[labels == i]
        values = np.percentile(own, QUANTILES).tolist() if len(own) else []
        by_class[name] = {
            "quantiles": dict(zip(map(str, QUANTILES), values, strict=False)),
            "below_stride": int(small[labels == i].sum()),
        }
    return {
        "stride": FINEST_STRIDE,
        "below_stride": int(small.sum()),
        "without_point": unreachable,
        "by_class": by_class,
    }


def format_summary(summary: dict[str, Any]) -> list[str]:
    """Return the statistics of `summarise` as lines of text."""
    if not summary["splits"]:
        return []
    lines = _table(_split_rows(summary))
    lines += ["", *_table(_class_rows(summary))]
    if "box_sides" in summary:
        sides, (height, width) = summary["box_sides"], summary["image_size"]
        small = sides["below_stride"]
        boxes = sum(split["boxes"] for split in summary["splits"].values())
        lines += [
            "",
            f"at the input size of {width} x {height} pixels (data.image_size): {small}"
            f" of {boxes} boxes are smaller than {sides['stride']} pixels a side,"
            f" {sides['without_point']} contain no point of the grid",
        ]
    return lines


def _split_rows(summary: dict[str, Any]) -> list[list[str]]:
    columns = {"images": "images", "unusable": "unusable"}
    if "box_sides" in summary:
        columns |= {"without boxes": "without_boxes", "boxes": "boxes", "bad": "bad_boxes"}
        columns |= {"crowd": "crowd", "difficult": "difficult", "most per image": "most_boxes"}
    rows = [["split", *columns, "smallest image", "median", "largest"]]
    for name, split in summary["splits"].items():
        sizes = [f"{s['width']} x {s['height']}" for s in split["image_sizes"].values()]
        rows.append([name, *(str(split[key]) for key in columns.values()), *sizes])
    return rows


def _class_rows(summary: dict[str, Any]) -> list[list[str]]:
    splits, sides = summary["splits"], summary.get("box_sides")
    head = ["class", *splits]
    if sides:
        head = ["class", *(text for name in splits for text in (f"{name} boxes", "in images"))]
        head += [f"side at input: {QUANTILES[0]} %", *(f"{q} %" for q in QUANTILES[1:])]
        head.append(f"below {sides['stride']}")
    rows = []
    for name in summary["classes"]:
        keys = ("boxes_by_class", "images_by_class") if sides else ("images_by_class",)
        row = [name, *(str(split[key][name]) for split in splits.values() for key in keys)]
        if sides:
            own = sides["by_class"][name]
            row += [f"{value:.0f}" for value in own["quantiles"].values()] or [""] * len(QUANTILES)
            row.append(str(own["below_stride"]))
        rows.append(row)
    if len(rows) > MAX_ROWS:
        # Sorted by frequency, descending.
        step = 2 if sides else 1
        counts = slice(1, 1 + step * len(splits), step)
        rows.sort(key=lambda row: sum(map(int, row[counts])), reverse=True)
        left, half = len(rows) - MAX_ROWS, MAX_ROWS // 2
        middle = [f"({left} more; --json shows all)", *[""] * (len(head) - 1)]
        rows = [*rows[:half], middle, *rows[-half:]]
    return [head, *rows]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines, the first column aligned left and the others right."""
    widths = [max(len(row[i]) if i < len(row) else 0 for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=False))
        ).rstrip()
        for row in rows
    ]
