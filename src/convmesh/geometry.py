"""Strides, grid points and box overlaps in numpy, used by data, models and tasks.

Boxes are x0 y0 x1 y1 in pixels unless a docstring says otherwise.
"""

from typing import NamedTuple

import numpy as np

STRIDES = (8, 16, 32)  # of the feature levels that all detectors have, in pixels
FINEST_STRIDE, COARSEST_STRIDE = STRIDES[0], STRIDES[-1]
CELL = 4  # the stride of a backbone's first stage: incomplete cells are cropped


class Grid(NamedTuple):
    """The points that a detector predicts from, level by level, row by row."""

    points: np.ndarray  # float32 [points, 2]: centres x, y in pixels
    strides: np.ndarray  # float32 [points]: in pixels


def grid_shape(image_size: tuple[int, int], stride: int) -> tuple[int, int]:
    """(rows, columns) of the feature level of that stride, for an image (height, width)."""
    # Only full cells count up to stride 4; each later halving rounds up.
    height, width = (-(-(side // CELL) // (stride // CELL)) for side in image_size)
    return height, width


def grid_points(image_size: tuple[int, int], strides: tuple[int, ...] = STRIDES) -> Grid:
    """The points of an image (height, width); `strides` are the model's (`Detector.strides`).

    Their order is that of `DetectorOutput`: level, row, column.
    """
    centres, point_strides = [], []
    for stride in strides:
        rows, columns = grid_shape(image_size, stride)
        y, x = np.mgrid[:rows, :columns].reshape(2, -1)
        centres.append((np.stack([x, y], axis=1) + 0.5) * stride)
        point_strides.append(np.full(rows * columns, stride))
    return Grid(
        points=np.concatenate(centres).astype(np.float32),
        strides=np.concatenate(point_strides).astype(np.float32),
    )


def round_to_stride(side: float) -> int:
    """`side` rounded to the nearest multiple of the coarsest stride, at least one stride."""
    return max(1, round(side / COARSEST_STRIDE)) * COARSEST_STRIDE


def pairwise_intersection_union(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas [n, m] of the intersection and the union of each box of `a` [n, 4] and `b` [m, 4]."""
    both = _intersection(a[:, :2], a[:, 2:], b[:, :2], b[:, 2:])
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b))
    return both, area_a[:, None] + area_b - both


def pairwise_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union [n, m] of boxes [n, 4] and [m, 4]; 0 where they do not overlap."""
    return _ratio(*pairwise_intersection_union(a, b))


def coco_iou(boxes: np.ndarray, objects: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU [n, m] of `boxes` [n, 4] and `objects` [m, 4], both x y width height, as COCO defines it.

    For a crowd region (`crowd`, bool [m]) it is the part of the box inside the region. The
    arithmetic, bit for bit, is that of pycocotools, which adds widths to corners.
    """
    both = _intersection(
        boxes[:, :2], boxes[:, :2] + boxes[:, 2:], objects[:, :2], objects[:, :2] + objects[:, 2:]
    )
    area, object_area = boxes[:, 2:].prod(axis=1)[:, None], objects[:, 2:].prod(axis=1)
    return _ratio(both, np.where(crowd, area, area + object_area - both))


def _intersection(
    low_a: np.ndarray, high_a: np.ndarray, low_b: np.ndarray, high_b: np.ndarray
) -> np.ndarray:
    low = np.maximum(low_a[:, None], low_b)
    high = np.minimum(high_a[:, None], high_b)
    return np.maximum(high - low, 0).prod(axis=-1)


def _ratio(both: np.ndarray, union: np.ndarray) -> np.ndarray:
    return np.where(both > 0, both / np.where(both > 0, union, 1), 0.0)
