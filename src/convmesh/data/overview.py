"""A data set in numbers: what is in each split, and how large it is for the network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from convmesh.data.seen import Part, Seen

# Of the grid of points that a detector predicts from; data cannot import them from the model.
STRIDES = (8, 16, 32)
QUANTILES = (5, 25, 50, 75, 95)  # percent
MOST_ROWS = 60  # of a table of classes, before the middle is left out


def letterboxed(
    boxes: np.ndarray, size: tuple[int, int], input_size: tuple[int, int]
) -> np.ndarray:
    """Return `boxes` float64 [n, 4] of an image of `size` in pixels of the network's input.

    Sizes are (height, width). The numbers are those of `augment.letterbox`.
    """
    scale = scale_of(size, input_size)
    (h, w), (height, width) = size, input_size
    offset = round((width - w * scale) / 2), round((height - h * scale) / 2)
    return boxes * scale + np.array(offset * 2)


def scale_of(size: tuple[int, int], input_size: tuple[int, int]) -> float:
    """Return how many pixels of the network's input a pixel of an image of `size` becomes."""
    return float(np.float32(min(input_size[0] / size[0], input_size[1] / size[1])))


def without_point(boxes: np.ndarray, input_size: tuple[int, int]) -> np.ndarray:
    """Return bool [n]: boxes in pixels of the input that hold the centre of no cell of the grid.

    As assignment tests it: a box is grown to at least one finest stride a side, and half open.
    """
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    half = np.maximum(half, STRIDES[0] / 2)
    low, high = centre - half, centre + half
    found = np.zeros(len(boxes), bool)
    for stride in STRIDES:
        # Cells of 4 x 4 pixels that are filled, then rounded up; (x, y).
        cells = np.array([-(-(side // 4) // (stride // 4)) for side in input_size[::-1]])
        first = np.maximum(np.ceil(low / stride - 0.5), 0)
        found |= ((first < cells) & ((first + 0.5) * stride < high)).all(1)
    return ~found


def sides_at_input(seen: Iterable[Seen], input_size: tuple[int, int]) -> np.ndarray:
    """Return float64 [n]: the square roots of the areas, at the input, of all sound boxes."""
    sides = [np.zeros(0)]
    for one in seen:
        if one.size is not None and len(one.boxes):
            boxes = one.boxes[one.sound]
            area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
            sides.append(np.sqrt(area) * scale_of(one.size, input_size))
    return np.concatenate(sides)


def sound_labels(seen: Iterable[Seen]) -> np.ndarray:
    """Return int64 [n]: the class ids of all sound boxes, or of all images to be classified."""
    return np.concatenate([np.zeros(0, np.int64), *(one.labels[one.sound] for one in seen)])


def summarise(
    parts: Sequence[Part], classes: Sequence[str], task: str, input_size: tuple[int, int], most: int
) -> dict[str, Any]:
    """Return the numbers of a data set, ready for JSON. most: `data.max_boxes`."""
    detects = task == "detect"
    told: dict[str, Any] = {
        "task": task,
        "image_size": list(input_size),
        "classes": list(classes),
        "splits": {part.split: _split(part, classes, detects, most) for part in parts},
    }
    if detects:
        told["box_sides"] = _box_sides(parts, classes, input_size)
    return told


def _split(part: Part, classes: Sequence[str], detects: bool, most: int) -> dict[str, Any]:
    seen = part.seen
    sizes = sorted((one.size for one in seen if one.size), key=lambda size: size[0] * size[1])
    picked = [sizes[0], sizes[len(sizes) // 2], sizes[-1]] if sizes else []
    told: dict[str, Any] = {
        "images": len(seen),
        "unusable": sum(one.size is None for one in seen),
        "image_sizes": {
            name: {"height": size[0], "width": size[1]}
            for name, size in zip(("smallest", "median", "largest"), picked, strict=False)
        },
    }
    counts = np.bincount(sound_labels(seen), minlength=len(classes))
    if not detects:
        return told | {"images_by_class": dict(zip(classes, counts.tolist(), strict=True))}
    boxes = [int(one.sound.sum()) for one in seen if one.size]
    images = np.zeros(len(classes), np.int64)
    for one in seen:
        images[np.unique(one.labels[one.sound])] += 1
    return told | {
        "without_boxes": boxes.count(0),
        "boxes": sum(boxes),
        "bad_boxes": sum(int(one.bad.sum()) for one in seen),
        "crowd": sum(int((one.crowd & ~one.bad).sum()) for one in seen),
        "difficult": sum(int((one.difficult & one.sound).sum()) for one in seen),
        "most_boxes": max(boxes, default=0),
        "over_max_boxes": sum(len(one.boxes) - int(one.bad.sum()) > most for one in seen),
        "boxes_by_class": dict(zip(classes, counts.tolist(), strict=True)),
        "images_by_class": dict(zip(classes, images.tolist(), strict=True)),
    }


def _box_sides(
    parts: Sequence[Part], classes: Sequence[str], input_size: tuple[int, int]
) -> dict[str, Any]:
    """Return how large boxes are at the network's input: the square roots of their areas."""
    seen = [one for part in parts for one in part.seen]
    sides, labels = sides_at_input(seen, input_size), sound_labels(seen)
    missed = 0
    for one in seen:
        if one.size is not None and len(one.boxes):
            boxes = letterboxed(one.boxes[one.sound], one.size, input_size)
            missed += int(without_point(boxes, input_size).sum())
    small = sides < STRIDES[0]
    by_class = {}
    for i, name in enumerate(classes):
        own = sides[labels == i]
        values = np.percentile(own, QUANTILES).tolist() if len(own) else []
        by_class[name] = {
            "quantiles": dict(zip(map(str, QUANTILES), values, strict=False)),
            "below_stride": int(small[labels == i].sum()),
        }
    return {
        "stride": STRIDES[0],
        "below_stride": int(small.sum()),
        "without_point": missed,
        "by_class": by_class,
    }


def describe(summary: dict[str, Any]) -> list[str]:
    """Return the lines that tell people of a summary."""
    if not summary["splits"]:
        return []
    lines = _table(_split_rows(summary))
    lines += ["", *_table(_class_rows(summary))]
    if "box_sides" in summary:
        sides, (height, width) = summary["box_sides"], summary["image_size"]
        boxes = sum(split["boxes"] for split in summary["splits"].values())
        lines += [
            "",
            f"at the input of {width} x {height} pixels (data.image_size): {sides['below_stride']}"
            f" of {boxes} boxes are below {sides['stride']} pixels a side,"
            f" {sides['without_point']} hold no point of the grid",
        ]
    return lines


def _split_rows(summary: dict[str, Any]) -> list[list[str]]:
    columns = {"images": "images", "unusable": "unusable"}
    if "box_sides" in summary:
        columns |= {"without boxes": "without_boxes", "boxes": "boxes", "bad": "bad_boxes"}
        columns |= {"crowd": "crowd", "difficult": "difficult", "most in one": "most_boxes"}
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
    if len(rows) > MOST_ROWS:
        # The most frequent first.
        step = 2 if sides else 1
        counts = slice(1, 1 + step * len(splits), step)
        rows.sort(key=lambda row: sum(map(int, row[counts])), reverse=True)
        left, half = len(rows) - MOST_ROWS, MOST_ROWS // 2
        middle = [f"({left} more; --json has all)", *[""] * (len(head) - 1)]
        rows = [*rows[:half], middle, *rows[-half:]]
    return [head, *rows]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) if i < len(row) else 0 for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=False))
        ).rstrip()
        for row in rows
    ]
