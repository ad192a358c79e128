"""Box validation: finds the bad boxes of an image and applies the policy `data.on_bad_box`.

A box is bad if its class id is out of range, if it is not finite or has no area, or if it leaves
the image by more than rounding. After `check_boxes` no invalid label can reach a loss: an integer
cross-entropy takes -1 as the last class and returns NaN for an id that is too large.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convmesh.errors import DataError

# A box side may leave the image by this many pixels: files store corner + length rounded to 0.01,
# or normalized float32.
ROUNDING = 0.02


@dataclass(frozen=True)
class BoxPolicy:
    """The policy for bad boxes.

    num_classes: class ids are 0..num_classes - 1.
    on_bad_box: `fail` raises DataError; `drop` removes bad boxes; `clip` cuts them to the image and
      removes those that have no area left, and raises for a class id that does not exist: it is
      about geometry. A class that `data.classes` leaves out is removed by both.
    """

    num_classes: int
    on_bad_box: str


@dataclass(frozen=True)
class StatedBoxes:
    """The boxes of one image, as its files state them.

    boxes: float64 [n, 4], x0 y0 x1 y1 in pixels. labels: int64 [n]. crowd: bool [n].
    area: [n], square pixels of the outlines, or None. left_out: bool [n], boxes whose class
    `data.classes` leaves out, None: none; their labels are not class ids.
    """

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    area: np.ndarray | None = None
    left_out: np.ndarray | None = None


@dataclass(frozen=True)
class CheckedBoxes:
    """The boxes of one image that are kept, with the fields of a Record.

    boxes: float32 [m, 4]. labels: int32 [m]. crowd: bool [m]. area: float32 [m] or None.
    bad: number of boxes that were dropped or clipped. dropped: of these, those dropped. left_out:
    of these, those whose class `data.classes` leaves out.
    """

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    area: np.ndarray | None
    bad: int
    dropped: int
    left_out: int


def check_boxes(
    stated: StatedBoxes, size: tuple[int, int], policy: BoxPolicy, file_name: str
) -> CheckedBoxes:
    """Return the boxes that `policy` keeps in an image of `size` (height, width).

    Raises DataError, naming `file_name`, for a bad box under `fail`, for a class id that does not
    exist under `clip`, and if the numbers of boxes, labels and crowd flags differ.
    """
    boxes = np.asarray(stated.boxes, np.float64).reshape(-1, 4)
    labels = np.asarray(stated.labels, np.int64).reshape(-1)
    crowd = np.asarray(stated.crowd, bool).reshape(-1)
    if not len(boxes) == len(labels) == len(crowd):
        raise DataError(
            f"{file_name}: {len(boxes)} boxes, {len(labels)} labels and {len(crowd)} crowd flags"
        )
    good = ~invalid_boxes(boxes, labels, size, policy.num_classes)
    unknown = _unknown(labels, policy.num_classes)
    left_out = np.zeros(len(boxes), bool) if stated.left_out is None else stated.left_out
    refused = refused_boxes(~good, unknown & ~left_out, policy)
    if refused.any():
        first = int(np.argmax(refused))
        error = box_errors(boxes, labels, size, policy.num_classes)[first]
        others = "drop" if unknown[first] and not left_out[first] else "drop or clip"
        raise DataError(
            f"{file_name}: box {first}: {error}; fix it, or set data.on_bad_box to {others}"
        )
    clipped, left = _clip(boxes, labels, size, policy.num_classes)
    # Rounding can leave no area of a very thin box at the edge.
    kept = left if policy.on_bad_box == "clip" else good & left
    area = stated.area
    if area is not None:
        area = _visible_area(area, boxes, clipped, kept & ~good)[kept]
    return CheckedBoxes(
        clipped[kept].astype(np.float32),
        labels[kept].astype(np.int32),
        crowd[kept],
        area,
        bad=int((~(good & kept)).sum()),
        dropped=int((~kept).sum()),
        left_out=int(left_out.sum()),
    )


def refused_boxes(bad: np.ndarray, unknown: np.ndarray, policy: BoxPolicy) -> np.ndarray:
    """Return bool [n]: the boxes for which `policy` raises.

    bad: bool [n], from `invalid_boxes`. unknown: bool [n], of these, those with a class id that
    does not exist.
    """
    return {"fail": bad, "clip": unknown}.get(policy.on_bad_box, np.zeros_like(bad))


def _unknown(labels: np.ndarray, num_classes: int) -> np.ndarray:
    return (labels < 0) | (labels >= num_classes)


def kept_in_training(
    boxes: np.ndarray,
    labels: np.ndarray,
    size: tuple[float, float] | np.ndarray,
    policy: BoxPolicy,
    rounding: float | np.ndarray = ROUNDING,
) -> np.ndarray:
    """Return bool [n]: boxes that training uses, as far as `size` shows without opening the image.

    Arguments as in `invalid_boxes`; boxes that `fail` rejects count as not used.
    """
    _, left = _clip(boxes, labels, size, policy.num_classes)
    if policy.on_bad_box == "clip":
        return left
    return left & ~invalid_boxes(boxes, labels, size, policy.num_classes, rounding)


def invalid_boxes(
    boxes: np.ndarray,
    labels: np.ndarray,
    size: tuple[float, float] | np.ndarray,
    num_classes: int,
    rounding: float | np.ndarray = ROUNDING,
) -> np.ndarray:
    """Return bool [n]: which boxes are bad.

    boxes: float64 [n, 4] in pixels. labels: int64 [n]. size: (height, width), or [n, 2] with one
    for each box. rounding: how far a side may leave the image, in pixels, or [n, 1].
    """
    known = ~_unknown(labels, num_classes)
    with np.errstate(over="ignore"):
        stored = boxes.astype(np.float32)  # a very thin box may have no width in float32
    area = np.isfinite(stored).all(1) & (stored[:, 2:] > stored[:, :2]).all(1)
    frame = np.asarray(size, np.float64)[..., [1, 0, 1, 0]]
    with np.errstate(invalid="ignore"):
        outside = np.abs(np.clip(boxes, 0, frame) - boxes)
    return np.asarray(~(known & area & (outside <= rounding).all(1)))


def box_errors(
    boxes: np.ndarray,
    labels: np.ndarray,
    size: tuple[float, float],
    num_classes: int,
    rounding: float = ROUNDING,
    frame: str = "",
) -> list[str]:
    """Return a description of what is wrong with each box, '' for a good box.

    Arguments as in `invalid_boxes`. frame: how messages name the image, instead of by its size.
    """
    height, width = size
    frame = frame or f"the image of {width} x {height}"
    errors = [""] * len(boxes)
    for i in np.flatnonzero(invalid_boxes(boxes, labels, size, num_classes, rounding)):
        box = boxes[i]
        if not 0 <= labels[i] < num_classes:
            errors[i] = f"class id {labels[i]} is not one of 0..{num_classes - 1}"
        else:
            corners = ", ".join(f"{v:g}" for v in box)
            stored = box.astype(np.float32)
            has_area = np.isfinite(stored).all() and (stored[2:] > stored[:2]).all()
            errors[i] = f"({corners}) {'is outside of' if has_area else 'has no area in'} {frame}"
    return errors


def _clip(
    boxes: np.ndarray,
    labels: np.ndarray,
    size: tuple[float, float] | np.ndarray,
    num_classes: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the boxes cut to the image, float64 [n, 4], and bool [n]: which have area left.

    Arguments as in `invalid_boxes`. A box with a wrong class counts as having no area left.
    """
    known = ~_unknown(labels, num_classes)
    finite = np.asarray(np.isfinite(boxes).all(1))
    boxes = np.where(finite[:, None], boxes, 0.0)
    area = finite & (boxes[:, 2:] > boxes[:, :2]).all(1)
    clipped = np.clip(boxes, 0, np.asarray(size, np.float64)[..., [1, 0, 1, 0]])
    with np.errstate(over="ignore"):
        clipped = clipped.astype(np.float32).astype(np.float64)  # as a Record stores it
    return clipped, known & area & (clipped[:, 2:] > clipped[:, :2]).all(1)


def _visible_area(
    area: np.ndarray, boxes: np.ndarray, clipped: np.ndarray, cut: np.ndarray
) -> np.ndarray:
    """Return float32 [n]: the stated areas, scaled for boxes in `cut` (bool [n]) to the part kept.

    boxes, clipped: float64 [n, 4], before and after clipping.
    """
    # COCO separates small from large by the outline, which may fill little of its box. How much of
    # the outline was cut off is unknown, so we assume that it fills its box evenly. If the area is
    # that of the box, the result is the area of the clipped box.
    sides, left = (b[cut, 2:] - b[cut, :2] for b in (boxes, clipped))
    result = area.astype(np.float64)
    result[cut] *= (left / sides).prod(1)
    return result.astype(np.float32)
