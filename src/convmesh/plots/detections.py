"""Detections and other boxes on an image: outlines, chips with names, dashes, hatching.

Images are uint8 RGB arrays. A canvas is an image that is drawn on in place; boxes are x0 y0 x1 y1
in its pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from convmesh.plots.chips import (
    DEFAULT_TEXT_SCALE,
    MAX_COVERED,
    Corners,
    chip_text_scale,
    chip_texts,
    chips_area,
    draw_chip,
    fit_chip,
    place_chip,
)
from convmesh.plots.colors import DARK, GREY, WHITE, Color, class_colors, name_color
from convmesh.plots.names import shown_names
from convmesh.plots.png import check_image

MIN_SIDE = 480  # pixels; smaller images are enlarged, so that text is legible
MAX_SIDE = 1600  # pixels up to which a small image is enlarged


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    names: Sequence[str],
    scores: Sequence[float] | np.ndarray | None = None,
    *,
    labels: Sequence[int] | np.ndarray | None = None,
    truth_boxes: np.ndarray | None = None,
) -> np.ndarray:
    """Return the image with its boxes, each with a chip that holds name and score.

    An image whose shorter side is below 480 pixels is enlarged, further if there are many boxes,
    to at most 1600 pixels on the longer side.

    Args:
      image: [height, width, 3] uint8 RGB; not changed.
      boxes: [n, 4] x0 y0 x1 y1 in pixels of the image, clipped to it.
      names: [n] class names.
      scores: [n], shown with two digits, or None.
      labels: [n] class ids, which choose the colours, by default the names do, and are added to
        names that look the same or are written in Latin letters for want of a font.
      truth_boxes: [m, 4], drawn as dashed white lines below the others.

    Returns:
      [height', width', 3] uint8 RGB, of the image's own size or larger.

    Raises:
      ValueError: the image is not uint8 RGB, a box is not finite, or the lengths differ.
    """
    check_image(image)
    boxes = finite_boxes(boxes)
    if not len(names) == len(boxes) == len(boxes if scores is None else scores):
        raise ValueError(f"{len(boxes)} boxes, {len(names)} names, scores: {scores!r}")
    height, width = image.shape[:2]
    texts = chip_texts(_shown(names, labels), scores)
    for_chips = math.sqrt(chips_area(texts, DEFAULT_TEXT_SCALE) / MAX_COVERED / (height * width))
    scale = min(max(MIN_SIDE / min(height, width), for_chips), MAX_SIDE / max(height, width))
    canvas, factors = resized(image, max(1.0, scale))
    if truth_boxes is not None:
        draw_dashed_boxes(canvas, finite_boxes(truth_boxes) * factors)
    colors = [name_color(name) for name in names] if labels is None else class_colors(labels)
    draw_boxes(canvas, boxes * factors, texts, colors, scores)
    return canvas


def draw_on_frame(
    image: np.ndarray,
    boxes: np.ndarray,
    names: Sequence[str],
    scores: Sequence[float] | np.ndarray,
    labels: Sequence[int] | np.ndarray,
) -> np.ndarray:
    """Return the image with its boxes as `draw_detections` does, but always of the same size."""
    check_image(image)
    canvas = np.ascontiguousarray(image).copy()
    texts = chip_texts(_shown(names, labels), scores)
    draw_boxes(canvas, finite_boxes(boxes), texts, class_colors(labels), scores)
    return canvas


def draw_boxes(
    canvas: np.ndarray,
    boxes: np.ndarray,
    texts: Sequence[str],
    colors: Sequence[Color],
    scores: Sequence[float] | np.ndarray | None = None,
) -> None:
    """Draw outlines, then a chip for each; the best scores are on top and positioned first."""
    best_first = list(range(len(boxes)))
    if scores is not None:
        best_first = np.argsort(-np.asarray(scores, float), kind="stable").tolist()
    thickness = line_thickness(canvas)
    for i in best_first[::-1]:
        corners = outline_corners(canvas, boxes[i], thickness)
        shade = tuple(c // 3 for c in colors[i])
        cv2.rectangle(canvas, *corners, shade, thickness + 2, cv2.LINE_AA)
        cv2.rectangle(canvas, *corners, colors[i], thickness, cv2.LINE_AA)

    placed = []
    occupied = np.zeros((0, 4))
    scale = chip_text_scale(canvas, texts)
    for i in best_first:
        chip = fit_chip(canvas, texts[i], scale)
        if chip is None:
            continue
        corners = outline_corners(canvas, boxes[i], thickness)
        rectangle = place_chip(canvas, corners, chip, occupied, thickness)
        occupied = np.concatenate([occupied, [rectangle]])
        placed.append((rectangle, chip, colors[i]))
    for rectangle, chip, color in reversed(placed):
        draw_chip(canvas, rectangle, chip, color)


def draw_true_boxes(
    canvas: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    crowd: np.ndarray,
    classes: Sequence[str],
    doubted: np.ndarray | None = None,
) -> None:
    """Draw boxes of a data set: crowd regions hatched in grey, the rest in their class colour.

    Boxes where `doubted` bool [n] is true get a question mark after the name.
    """
    hatch_boxes(canvas, boxes[crowd])
    names = [class_name(classes, label) for label in labels]
    texts = [f"ignored: {n}" if c else n for n, c in zip(names, crowd, strict=True)]
    if doubted is not None:
        texts = [f"{text} ?" if d else text for text, d in zip(texts, doubted, strict=True)]
    colors = [GREY if c else color for color, c in zip(class_colors(labels), crowd, strict=True)]
    draw_boxes(canvas, boxes, texts, colors)


def draw_dashed_boxes(canvas: np.ndarray, boxes: np.ndarray, color: Color = WHITE) -> None:
    """Draw outlines of dashes with dark gaps, visible on any background."""
    thickness = max(2, line_thickness(canvas) // 2)
    dash, gap = 6 * thickness + 4, 3 * thickness + 2
    for box in boxes:
        (x0, y0), (x1, y1) = outline_corners(canvas, box, thickness)
        cv2.rectangle(canvas, (x0, y0), (x1, y1), DARK, thickness)
        for x in range(x0, x1 + 1, dash + gap):
            for y in (y0, y1):
                cv2.line(canvas, (x, y), (min(x + dash, x1), y), color, thickness)
        for y in range(y0, y1 + 1, dash + gap):
            for x in (x0, x1):
                cv2.line(canvas, (x, y), (x, min(y + dash, y1)), color, thickness)


def hatch_boxes(canvas: np.ndarray, boxes: np.ndarray) -> None:
    """Draw diagonal grey stripes over each box; the image remains visible between them."""
    thickness = line_thickness(canvas)
    for box in boxes:
        (x0, y0), (x1, y1) = outline_corners(canvas, box, thickness)
        part = canvas[y0 : y1 + 1, x0 : x1 + 1]
        # Canvas coordinates, so that the stripes of overlapping boxes coincide.
        y, x = np.mgrid[y0 : y1 + 1, x0 : x1 + 1]
        stripes = (x + y) % (8 * thickness) < 2 * thickness
        mixed = part * 0.6 + np.array(GREY) * 0.4
        part[:] = np.where(stripes[:, :, None], GREY, mixed).astype(np.uint8)


def outline_corners(canvas: np.ndarray, box: np.ndarray, thickness: int) -> Corners:
    """Return the corner pixels of a box such that its outline is completely within the canvas."""
    height, width = canvas.shape[:2]
    half = thickness // 2 + 1
    # A box ends at pixel edges; its outline covers the last pixels inside.
    x0, y0, x1, y1 = np.round(np.asarray(box) - (0, 0, 1, 1))
    x0, x1 = np.clip([x0, max(x0, x1)], min(half, width // 2), max(width - 1 - half, width // 2))
    y0, y1 = np.clip([y0, max(y0, y1)], min(half, height // 2), max(height - 1 - half, height // 2))
    return (int(x0), int(y0)), (int(x1), int(y1))


def line_thickness(canvas: np.ndarray) -> int:
    """Return the thickness of an outline in pixels, at least 2, growing with the canvas."""
    return max(2, round(min(canvas.shape[:2]) / 300))


def resized(image: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a resized copy, and the factors [4] that map boxes of the image to it."""
    height, width = image.shape[:2]
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    factors = np.array([new_width / width, new_height / height] * 2)
    if (new_width, new_height) == (width, height):
        return np.ascontiguousarray(image).copy(), factors
    # A strong enlargement shows the pixels themselves instead of a smooth interpolation.
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC if scale < 5 else cv2.INTER_NEAREST
    return cv2.resize(image, (new_width, new_height), interpolation=method), factors


def finite_boxes(boxes: Any) -> np.ndarray:
    """Return boxes as float64 [n, 4]. Raises ValueError if one is not finite."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    if not np.isfinite(boxes).all():
        raise ValueError("a box is not finite and cannot be drawn")
    return boxes


def _shown(names: Sequence[str], labels: Sequence[int] | np.ndarray | None) -> list[str]:
    """The names as they are shown; without class ids they are numbered where that is needed."""
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return shown_names(names, [numbers[name] for name in names] if labels is None else labels)


def class_name(classes: Sequence[str], label: Any) -> str:
    """Return the name of a class id, or `class ID?` if there is no such class."""
    label = int(label)
    return str(classes[label]) if 0 <= label < len(classes) else f"class {label}?"
