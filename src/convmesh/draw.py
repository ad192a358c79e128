"""Pictures for people: detections on an image, a batch as the network sees it.

Everything takes and gives uint8 RGB arrays in memory; `save_png` writes them.
"""

from __future__ import annotations

import colorsys
import math
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from convmesh import durable

Color = tuple[int, int, int]

# Told apart also by who cannot see red, green or blue: no two are nearer than 20 in CIELAB, as
# such eyes see them. Found by a search; further classes get colours around the wheel.
PALETTE: tuple[Color, ...] = (
    (205, 0, 0),
    (0, 180, 255),
    (255, 230, 0),
    (0, 150, 90),
    (180, 0, 255),
    (230, 150, 30),
    (60, 255, 255),
    (180, 90, 150),
    (180, 255, 150),
    (60, 90, 180),
)
GREY, WHITE, DARK = (160, 160, 160), (255, 255, 255), (24, 24, 24)
PAPER, INK, RIGHT, WRONG = (248, 248, 248), (40, 40, 40), (16, 124, 52), (200, 30, 40)
MISSED = (255, 190, 0)

FONT = cv2.FONT_HERSHEY_DUPLEX
SMALLEST_TEXT = 0.34  # of the font's size; below this nobody can read it
USUAL_TEXT = 0.42  # in small pictures, and where there are many boxes
LONGEST_SIDE = 1600  # pixels up to which a small image is enlarged
MOST_COVERED = 0.15  # part of a picture that chips may cover before they get smaller


def class_color(label: int) -> Color:
    """The RGB colour of a class id, the same in every picture."""
    if 0 <= label < len(PALETTE):
        return PALETTE[label]
    # Steps of the golden ratio never come back to a hue.
    hue = (label * 0.61803398875) % 1
    return _rgb(colorsys.hsv_to_rgb(hue, (0.85, 0.6, 0.95)[label % 3], (0.95, 1.0, 0.7)[label % 3]))


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    names: Sequence[str],
    scores: Sequence[float] | np.ndarray | None = None,
    *,
    labels: Sequence[int] | None = None,
    truth_boxes: np.ndarray | None = None,
    min_side: int = 480,
) -> np.ndarray:
    """The image with its boxes, each with a chip that holds name and score.

    Args:
      image: [height, width, 3] uint8 RGB; not changed.
      boxes: [n, 4] x0 y0 x1 y1 in pixels of the image; what lies outside is cut at the edge.
      names: [n] class names.
      scores: [n], shown with two digits, or None.
      labels: [n] class ids, which give the colours; taken from the names where left out.
      truth_boxes: [m, 4], drawn as dashed white lines under the others.
      min_side: the shorter side in pixels that a smaller image is enlarged to, so that the
        lettering is legible; further where there are many boxes. The longer side then stays within
        1600.

    Returns:
      [height', width', 3] uint8 RGB, of the image's own size or larger.

    Raises:
      ValueError: the image is not uint8 RGB, a box is not finite, or the lengths differ.
    """
    _check_image(image)
    boxes = _finite_boxes(boxes)
    if not len(names) == len(boxes) == len(boxes if scores is None else scores):
        raise ValueError(f"{len(boxes)} boxes, {len(names)} names, scores: {scores!r}")
    height, width = image.shape[:2]
    texts = _chip_texts(names, scores)
    for_chips = math.sqrt(_chips_area(texts, USUAL_TEXT) / MOST_COVERED / (height * width))
    scale = min(max(min_side / min(height, width), for_chips), LONGEST_SIDE / max(height, width))
    canvas, factors = _resized(image, max(1.0, scale))
    if truth_boxes is not None:
        _draw_dashed(canvas, _finite_boxes(truth_boxes) * factors)
    colors = [_name_color(name) for name in names] if labels is None else _colors(labels)
    _draw_boxes(canvas, boxes * factors, texts, colors, scores)
    return canvas


def draw_batch(
    batch: Mapping[str, np.ndarray],
    classes: Sequence[str],
    rows: int = 4,
    columns: int | None = None,
) -> np.ndarray:
    """The first images of a batch as the network gets them, with boxes or class names.

    Boxes to ignore are hatched in grey. The line under an image says its index in the source,
    how many boxes it has, how many of them are ignored, and how many did not fit in the batch.

    Args:
      batch: as the loader gives it: `image` [batch, height, width, 3] uint8 and, for detection,
        `boxes`, `labels`, `valid`, `crowd`; for classification `label`. Images that only pad the
        batch (`present` False) are left out.
      classes: names, index = class id.
      rows: at most so many rows.
      columns: images in a row; 4 of a detection batch or 8 of a classification batch.
    """
    detection = "boxes" in batch
    columns = columns or (4 if detection else 8)
    present = np.asarray(batch.get("present", np.ones(len(batch["image"]), bool)))
    tiles = []
    for i in np.flatnonzero(present)[: rows * columns]:
        canvas, factors = _tile(batch["image"][i], detection)
        parts = [f"index {int(batch['index'][i])}"] if "index" in batch else []
        if detection:
            valid = np.asarray(batch["valid"][i], bool)
            crowd = valid & np.asarray(batch["crowd"][i], bool)
            boxes, labels = batch["boxes"][i] * factors, batch["labels"][i]
            _draw_truth(canvas, boxes[valid], labels[valid], crowd[valid], classes)
            count = int((valid & ~crowd).sum())
            parts.append(f"{count} box{'' if count == 1 else 'es'}")
            if crowd.any():
                parts.append(f"{int(crowd.sum())} ignored")
            if int(batch.get("truncated", np.zeros(len(present), int))[i]):
                parts.append(f"{int(batch['truncated'][i])} did not fit")
        else:
            parts.insert(0, _class_name(classes, batch["label"][i]))
        tiles.append((canvas, ", ".join(parts), INK))
    return _grid(tiles, columns)


def draw_predictions_grid(
    images: Sequence[np.ndarray],
    predictions: Sequence[Mapping[str, np.ndarray]],
    classes: Sequence[str],
    truth: Sequence[Any] | None = None,
    *,
    threshold: float = 0.3,
    rows: int = 4,
    columns: int | None = None,
) -> np.ndarray:
    """The first images with what was predicted for them, and the truth where it is given.

    Args:
      images: each [height, width, 3] uint8 RGB, of any sizes.
      predictions: for each image `labels` [n] and `scores` [n], for detection also `boxes`
        [n, 4] in pixels of the image; for classification best first.
      classes: names, index = class id.
      truth: for each image a class id, or for detection a dict with `boxes` [m, 4], drawn dashed
        in white, and `crowd` [m], hatched in grey.
      threshold: detections with a lower score are not drawn; the line under the image counts
        those that are.
      rows, columns: as for `draw_batch`.
    """
    detection = bool(predictions) and "boxes" in predictions[0]
    columns = columns or (4 if detection else 8)
    tiles = []
    for i, (image, found) in enumerate(zip(images, predictions, strict=True)):
        if i == rows * columns:
            break
        canvas, factors = _tile(image, detection)
        labels, scores = np.asarray(found["labels"]), np.asarray(found["scores"], float)
        true = None if truth is None else truth[i]
        ink = INK
        if detection:
            shown = scores >= threshold
            caption = f"{int(shown.sum())} found"
            if true is not None:
                boxes = _finite_boxes(true["boxes"]) * factors
                crowd = np.asarray(true.get("crowd", np.zeros(len(boxes))), bool)
                _hatch(canvas, boxes[crowd])
                _draw_dashed(canvas, boxes[~crowd])
                caption += f", {int((~crowd).sum())} true"
            names = [_class_name(classes, label) for label in labels[shown]]
            boxes = _finite_boxes(found["boxes"])[shown] * factors
            texts = _chip_texts(names, scores[shown])
            _draw_boxes(canvas, boxes, texts, _colors(labels[shown]), scores[shown])
        else:
            caption = f"{_class_name(classes, labels[0])} {scores[0]:.2f}"
            if true is not None:
                ink = RIGHT if int(labels[0]) == int(true) else WRONG
                if ink is WRONG:
                    caption += f" (is {_class_name(classes, true)})"
        tiles.append((canvas, caption, ink))
    return _grid(tiles, columns)


def draw_judged_grid(
    images: Sequence[np.ndarray],
    predictions: Sequence[Mapping[str, np.ndarray]],
    truth: Sequence[Mapping[str, np.ndarray]],
    classes: Sequence[str],
    captions: Sequence[str],
    title: str,
    *,
    columns: int = 3,
) -> np.ndarray:
    """Images with each detection marked right or wrong, and each object that was missed.

    Args:
      images: each [height, width, 3] uint8 RGB, of any sizes.
      predictions: for each image what is to be drawn: `boxes` [n, 4] in pixels of the image,
        `labels` [n], `scores` [n], `right` [n] and `ignored` [n] bool.
      truth: for each image `boxes` [m, 4], `labels` [m], `crowd` [m] and `missed` [m] bool. What
        was found is dashed in white, crowds are hatched in grey.
      classes: names, index = class id.
      captions: a line under each image.
      title: a line over all; one that says what the colours mean follows it.
      columns: images in a row.
    """
    tiles = []
    for image, found, true, caption in zip(images, predictions, truth, captions, strict=True):
        canvas, factors = _tile(image, detection=True)
        objects = _finite_boxes(true["boxes"]) * factors
        crowd, missed = np.asarray(true["crowd"], bool), np.asarray(true["missed"], bool)
        _hatch(canvas, objects[crowd])
        _draw_dashed(canvas, objects[~crowd & ~missed])
        names = [_class_name(classes, label) for label in found["labels"]]
        texts = _chip_texts(names, found["scores"])
        colors = [
            GREY if ignored else RIGHT if right else WRONG
            for right, ignored in zip(found["right"], found["ignored"], strict=True)
        ]
        lost = np.asarray(true["labels"])[missed]
        texts += [f"missed {_class_name(classes, label)}" for label in lost]
        colors += [MISSED] * len(lost)
        boxes = np.concatenate([_finite_boxes(found["boxes"]) * factors, objects[missed]])
        scores = np.concatenate([np.asarray(found["scores"], float), np.full(len(lost), -1.0)])
        _draw_boxes(canvas, boxes, texts, colors, scores)
        tiles.append((canvas, caption, INK))
    key: tuple[tuple[str, Color], ...] = (
        ("green: right", RIGHT),
        ("red: wrong", WRONG),
        ("yellow: missed", (178, 125, 0)),  # darker, to be read on paper
        ("dashed: what was to be found", INK),
        ("grey: to ignore", (120, 120, 120)),
    )
    grid = _grid(tiles, columns)
    return np.concatenate([_heading(title, key, grid.shape[1]), grid])


def draw_examples(
    images: Sequence[np.ndarray],
    examples: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    columns: int | None = None,
) -> np.ndarray:
    """Images of a data set with what its files say is on them.

    Args:
      images: each [height, width, 3] uint8 RGB, of any sizes.
      examples: for each image its `name`, and a class id `label`, or for detection `boxes` [n, 4]
        in pixels of the image, `labels` [n], `crowd` [n], hatched in grey, and `doubted` [n],
        dashed in red with a question mark after the name. Boxes that are not finite are counted
        with the others, but not drawn.
      classes: names, index = class id.
      columns: images in a row; 4 of detection or 8 of classification.
    """
    detection = bool(examples) and "boxes" in examples[0]
    tiles = []
    for image, example in zip(images, examples, strict=True):
        canvas, factors = _tile(image, detection)
        caption = str(example["name"])
        if detection:
            finite = np.isfinite(example["boxes"]).all(axis=1)
            boxes = example["boxes"][finite] * factors
            labels, crowd = example["labels"][finite], example["crowd"][finite]
            doubted = example["doubted"][finite]
            _draw_truth(canvas, boxes, labels, crowd, classes, doubted)
            _draw_dashed(canvas, boxes[doubted], WRONG)
            count, doubts = len(finite), int(np.sum(example["doubted"]))
            caption += f", {count} box{'' if count == 1 else 'es'}"
            caption += f", {doubts} in doubt" if doubts else ""
        else:
            caption = f"{_class_name(classes, example['label'])}, {caption}"
        tiles.append((canvas, caption, INK))
    return _grid(tiles, columns or (4 if detection else 8))


def save_png(image: np.ndarray, path: str | os.PathLike[str]) -> None:
    """Writes [height, width, 3] uint8 RGB as PNG, whole or not at all; makes the folder."""
    _check_image(image)
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"{path}: an image of shape {image.shape} cannot be written as PNG")
    _write(data.tobytes(), path)


# Boxes and chips. Coordinates are pixels of the canvas, which is drawn on in place.


def _draw_boxes(
    canvas: np.ndarray,
    boxes: np.ndarray,
    texts: Sequence[str],
    colors: Sequence[Color],
    scores: Sequence[float] | np.ndarray | None = None,
) -> None:
    """Outlines, then a chip for each; the best scores lie on top and get the best places."""
    best_first = list(range(len(boxes)))
    if scores is not None:
        best_first = np.argsort(-np.asarray(scores, float), kind="stable").tolist()
    thickness = _thickness(canvas)
    for i in best_first[::-1]:
        corners = _inside(canvas, boxes[i], thickness)
        shade = tuple(c // 3 for c in colors[i])
        cv2.rectangle(canvas, *corners, shade, thickness + 2, cv2.LINE_AA)
        cv2.rectangle(canvas, *corners, colors[i], thickness, cv2.LINE_AA)

    chips = []
    taken = np.zeros((0, 4))
    full = _crowd_scale(canvas, texts)
    for i in best_first:
        chip = _chip(canvas, texts[i], full)
        if chip is None:
            continue
        text, scale, size = chip
        place = _place(canvas, _inside(canvas, boxes[i], thickness), size, taken, thickness)
        taken = np.concatenate([taken, [place]])
        chips.append((place, text, scale, colors[i]))
    for place, text, scale, color in reversed(chips):
        _draw_chip(canvas, place, text, scale, color)


def _draw_chip(canvas, place, text, scale, color) -> None:
    x0, y0, x1, y1 = place
    canvas[y0:y1, x0:x1] = color
    _, _, below = _text_size(text, scale)
    padding = _padding(scale)
    start = (x0 + padding, y1 - padding - below + 1)
    _put_text(canvas, text, start, scale, _ink_on(color))


def _chip(
    canvas: np.ndarray, text: str, scale: float | None = None
) -> tuple[str, float, tuple[int, int]] | None:
    """Text, font scale and size (width, height) of a chip that fits the canvas.

    scale: of the font, if it fits; that of the canvas by default. A text too long gets smaller,
    then loses letters; None where no text fits at all.
    """
    height, width = canvas.shape[:2]
    scale = _text_scale(canvas) if scale is None else scale
    while _chip_size("", scale)[1] > height and scale > SMALLEST_TEXT:
        scale = max(SMALLEST_TEXT, scale * 0.9)
    text, scale = _fitted(text, width - 2 * _padding(scale), scale)
    size = _chip_size(text, scale)
    return (text, scale, size) if size[0] <= width and size[1] <= height else None


def _place(canvas, corners, size, taken, thickness) -> tuple[int, int, int, int]:
    """Where a chip lies: at the box's corners, off the chips already placed if it can be."""
    height, width = canvas.shape[:2]
    w, h = size
    half = thickness // 2 + 1
    (x0, y0), (x1, y1) = corners
    left, right, top, bottom = x0 - half, x1 + half + 1 - w, y0 - half, y1 + half + 1
    middle = (left + right) // 2
    candidates = [
        (left, top - h),
        (left, top),
        (left, bottom),
        (right, top - h),
        (right, bottom),
        (left, bottom - h),
        (right, top),
        (right, bottom - h),
        (middle, top - h),
        (middle, bottom),
        (left - w + thickness, top),  # beside the box
        (x1 + half + 1, top),
        (left - w + thickness, bottom - h),
        (x1 + half + 1, bottom - h),
    ]
    best, least = (0, 0, w, h), math.inf
    for x, y in candidates:
        moved = min(max(x, 0), width - w), min(max(y, 0), height - h)
        place = (*moved, moved[0] + w, moved[1] + h)
        overlap = _overlap(place, taken)
        if moved[1] != y:  # pushed back into the picture: over its own box
            overlap += 0.5
        if overlap < least:
            best, least = place, overlap
        if least == 0:
            break
    return best


def _overlap(place, taken) -> float:
    """Area in square pixels that the rectangle shares with the others."""
    if not len(taken):
        return 0.0
    w = np.minimum(taken[:, 2], place[2]) - np.maximum(taken[:, 0], place[0])
    h = np.minimum(taken[:, 3], place[3]) - np.maximum(taken[:, 1], place[1])
    return float((w.clip(0) * h.clip(0)).sum())


def _draw_truth(canvas, boxes, labels, crowd, classes, doubted=None) -> None:
    """Boxes of the data set: those to ignore hatched in grey, the rest in their class colour."""
    _hatch(canvas, boxes[crowd])
    names = [_class_name(classes, label) for label in labels]
    texts = [f"ignored: {n}" if c else n for n, c in zip(names, crowd, strict=True)]
    if doubted is not None:
        texts = [f"{text} ?" if d else text for text, d in zip(texts, doubted, strict=True)]
    colors = [GREY if c else color for color, c in zip(_colors(labels), crowd, strict=True)]
    _draw_boxes(canvas, boxes, texts, colors)


def _draw_dashed(canvas: np.ndarray, boxes: np.ndarray, ink: Color = WHITE) -> None:
    """Dashes with dark gaps, seen on any ground."""
    thickness = max(2, _thickness(canvas) // 2)
    dash, gap = 6 * thickness + 4, 3 * thickness + 2
    for box in boxes:
        (x0, y0), (x1, y1) = _inside(canvas, box, thickness)
        cv2.rectangle(canvas, (x0, y0), (x1, y1), DARK, thickness)
        for x in range(x0, x1 + 1, dash + gap):
            for y in (y0, y1):
                cv2.line(canvas, (x, y), (min(x + dash, x1), y), ink, thickness)
        for y in range(y0, y1 + 1, dash + gap):
            for x in (x0, x1):
                cv2.line(canvas, (x, y), (x, min(y + dash, y1)), ink, thickness)


def _hatch(canvas: np.ndarray, boxes: np.ndarray) -> None:
    """Diagonal grey lines over each box, through which the picture is still seen."""
    thickness = _thickness(canvas)
    for box in boxes:
        (x0, y0), (x1, y1) = _inside(canvas, box, thickness)
        part = canvas[y0 : y1 + 1, x0 : x1 + 1]
        y, x = np.mgrid[y0 : y1 + 1, x0 : x1 + 1]  # counted from the canvas: stripes meet
        stripes = (x + y) % (8 * thickness) < 2 * thickness
        mixed = part * 0.6 + np.array(GREY) * 0.4
        part[:] = np.where(stripes[:, :, None], GREY, mixed).astype(np.uint8)


def _inside(canvas, box, thickness) -> tuple[tuple[int, int], tuple[int, int]]:
    """Corner pixels of a box such that its whole line is within the canvas."""
    height, width = canvas.shape[:2]
    half = thickness // 2 + 1
    # A box ends at pixel edges; its line runs over the last pixels inside.
    x0, y0, x1, y1 = np.round(np.asarray(box) - (0, 0, 1, 1))
    x0, x1 = np.clip([x0, max(x0, x1)], min(half, width // 2), max(width - 1 - half, width // 2))
    y0, y1 = np.clip([y0, max(y0, y1)], min(half, height // 2), max(height - 1 - half, height // 2))
    return (int(x0), int(y0)), (int(x1), int(y1))


# Text.


def _text_scale(canvas: np.ndarray) -> float:
    return max(USUAL_TEXT, min(canvas.shape[:2]) / 1300)


def _crowd_scale(canvas: np.ndarray, texts: Sequence[str]) -> float:
    """The font's scale at which chips with these texts do not cover the picture, if legible."""
    full = _text_scale(canvas)
    most = MOST_COVERED * canvas.shape[0] * canvas.shape[1]
    shrunk = full * math.sqrt(min(1.0, most / max(1.0, _chips_area(texts, full))))
    return max(shrunk, min(USUAL_TEXT, full))


def _chips_area(texts: Sequence[str], scale: float) -> float:
    """Square pixels of the chips with these texts, together."""
    return float(sum(math.prod(_chip_size(text, scale)) for text in texts))


def _thickness(canvas: np.ndarray) -> int:
    return max(2, round(min(canvas.shape[:2]) / 300))


def _padding(scale: float) -> int:
    return max(2, round(7 * scale))


def _text_size(text: str, scale: float) -> tuple[int, int, int]:
    """Width, height above the base line and depth below it, the latter alike for every text."""
    (width, _), _ = cv2.getTextSize(text, FONT, scale, 1)
    (_, height), below = cv2.getTextSize("Ag", FONT, scale, 1)
    return width, height, below


def _chip_size(text: str, scale: float) -> tuple[int, int]:
    width, height, below = _text_size(text, scale)
    return width + 2 * _padding(scale), height + below + 2 * _padding(scale) - 2


def _fitted(text: str, width: int, scale: float) -> tuple[str, float]:
    """The text and a font scale that fit the width: smaller first, then the middle left out.

    The end stays, since it holds the score.
    """
    while _text_size(text, scale)[0] > width and scale > SMALLEST_TEXT:
        scale = max(SMALLEST_TEXT, scale * 0.95)
    whole, keep = text, len(text)
    while _text_size(text, scale)[0] > width and keep > 2:
        keep -= 1
        end = min(5, keep // 2)
        text = whole[: keep - end] + "..." + whole[len(whole) - end :]
    return text, scale


def _put_text(canvas, text, start, scale, color) -> None:
    cv2.putText(canvas, text, start, FONT, scale, color, 1, cv2.LINE_AA)


def _chip_texts(names: Sequence[str], scores: Sequence[float] | np.ndarray | None) -> list[str]:
    if scores is None:
        return [str(name) for name in names]
    return [f"{name} {score:.2f}" for name, score in zip(names, scores, strict=True)]


def _class_name(classes: Sequence[str], label: Any) -> str:
    label = int(label)
    return str(classes[label]) if 0 <= label < len(classes) else f"class {label}?"


# Colours.


def _colors(labels: Iterable[Any]) -> list[Color]:
    return [class_color(int(label)) for label in labels]


def _ink_on(color: Color) -> Color:
    """Dark or white, whichever has the greater contrast with the colour (WCAG 2's luminance)."""

    def luminance(of: Color) -> float:
        parts = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in of]
        return float(np.dot(parts, (0.2126, 0.7152, 0.0722)))

    contrast_with_dark = (luminance(color) + 0.05) / (luminance(DARK) + 0.05)
    return DARK if contrast_with_dark > 1.05 / (luminance(color) + 0.05) else WHITE


def _name_color(name: str) -> Color:
    """A colour for a name whose class id is not known: the same on every machine."""
    number = zlib.crc32(name.encode("utf-8", "replace"))
    return _rgb(colorsys.hsv_to_rgb(number % 360 / 360, 0.85, 0.95))


def _rgb(fractions: tuple[float, float, float]) -> Color:
    red, green, blue = (round(255 * f) for f in fractions)
    return red, green, blue


# Sizes and grids.


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"not an RGB image: {image.dtype} {image.shape}; wanted uint8 [h, w, 3]")


def _finite_boxes(boxes: Any) -> np.ndarray:
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    if not np.isfinite(boxes).all():
        raise ValueError("a box is not finite and cannot be drawn")
    return boxes


def _resized(image: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """A copy at another size, and the four factors that take box corners there."""
    height, width = image.shape[:2]
    new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
    factors = np.array([new_width / width, new_height / height] * 2)
    if (new_width, new_height) == (width, height):
        return np.ascontiguousarray(image).copy(), factors
    # Strong enlargement shows the pixels that there are, instead of inventing smooth ones.
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC if scale < 5 else cv2.INTER_NEAREST
    return cv2.resize(image, (new_width, new_height), interpolation=method), factors


def _tile(image: np.ndarray, detection: bool) -> tuple[np.ndarray, np.ndarray]:
    _check_image(image)
    side = 420 if detection else 200
    return _resized(image, side / max(image.shape[:2]))


def _grid(tiles: Sequence[tuple[np.ndarray, str, Color]], columns: int) -> np.ndarray:
    """Pictures in rows, each with a line of text under it."""
    if not tiles:
        return np.full((120, 420, 3), PAPER, np.uint8)
    gap, line = 10, 24
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    width = max(canvas.shape[1] for canvas, _, _ in tiles)
    heights = [max(canvas.shape[0] for canvas, _, _ in row) for row in rows]
    size = (sum(heights) + len(rows) * (line + gap) + gap, len(rows[0]) * (width + gap) + gap, 3)
    paper = np.full(size, PAPER, np.uint8)
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for i, (canvas, caption, ink) in enumerate(row):
            h, w = canvas.shape[:2]
            left = gap + i * (width + gap)
            paper[top + height - h : top + height, left : left + w] = canvas
            text, scale = _fitted(caption, width, 0.46)
            _put_text(paper, text, (left, top + height + line - 7), scale, ink)
        top += height + line + gap
    return paper


def _heading(text: str, key: Sequence[tuple[str, Color]], width: int) -> np.ndarray:
    """A line of text and coloured words under it, in as many lines as the width in pixels asks."""
    gap, line, scale = 10, 22, 0.46
    places, left, top = [], gap, gap + 2 * line
    for word, color in key:
        long = _text_size(word, scale)[0]
        if left > gap and left + long > width - gap:
            left, top = gap, top + line
        places.append((word, color, (left, top - 7)))
        left += long + 2 * gap
    paper = np.full((top, width, 3), PAPER, np.uint8)
    title, title_scale = _fitted(text, width - 2 * gap, 0.56)
    _put_text(paper, title, (gap, gap + line - 7), title_scale, INK)
    for word, color, start in places:
        _put_text(paper, word, start, scale, color)
    return paper


def _write(data: bytes, path: str | os.PathLike[str]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    durable.write_whole(path, data)
