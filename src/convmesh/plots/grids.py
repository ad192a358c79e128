"""Grids of images with a caption below each: batches, predictions, matches, examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convmesh.distributed.batch import Batch
from convmesh.plots.chips import chip_texts
from convmesh.plots.colors import (
    BACKGROUND,
    CORRECT,
    GREY,
    MISSED,
    TEXT,
    WRONG,
    Color,
    class_colors,
)
from convmesh.plots.detections import (
    class_name,
    draw_boxes,
    draw_dashed_boxes,
    draw_true_boxes,
    finite_boxes,
    hatch_boxes,
    resized,
)
from convmesh.plots.names import shown_names
from convmesh.plots.png import check_image
from convmesh.plots.text import fit_text, put_text, text_size

GAP = 10  # pixels between tiles
CAPTION_HEIGHT = 24
DETECTION_SIDE, CLASSIFICATION_SIDE = 420, 200  # pixels of the longer side of a tile
DETECTION_COLUMNS, CLASSIFICATION_COLUMNS = 4, 8

# Words of the heading of `draw_matched_grid`, each in the colour that it explains.
LEGEND: tuple[tuple[str, Color], ...] = (
    ("green: right", CORRECT),
    ("red: wrong", WRONG),
    ("yellow: missed", (178, 125, 0)),  # darker than MISSED: legible on a light background
    ("dashed: ground truth", TEXT),
    ("grey: ignored", (120, 120, 120)),
)


@dataclass(frozen=True)
class MatchedImage:
    """An image with its detections and true objects, each marked as matched or not.

    image: [height, width, 3] uint8 RGB, of any size; boxes are in its pixels.
    boxes, labels, scores: [n, 4], [n], [n], the detections to draw.
    correct, ignored: bool [n]; an ignored detection lies on a crowd region.
    objects, object_labels: [m, 4], [m], the true boxes.
    crowd, missed: bool [m].
    caption: a line below the image.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    correct: np.ndarray
    ignored: np.ndarray
    objects: np.ndarray
    object_labels: np.ndarray
    crowd: np.ndarray
    missed: np.ndarray
    caption: str


@dataclass(frozen=True)
class _Tile:
    """An image of a grid, and the line below it."""

    canvas: np.ndarray
    caption: str
    color: Color = TEXT  # of the caption


def draw_batch(
    batch: Batch, classes: Sequence[str], rows: int = 4, columns: int | None = None
) -> np.ndarray:
    """Draw the first images of a batch as the network gets them, with boxes or class names.

    Crowd regions are hatched in grey. A caption gives the image's index in the source, its number
    of boxes, how many more are ignored, and how many did not fit in the batch.

    Args:
      batch: as the loader returns it: `image` [batch, height, width, 3] uint8 and, for detection,
        `boxes`, `labels`, `valid`, `crowd`; for classification `label`. Padding images (`present`
        False) are left out.
      classes: names, index = class id.
      rows: maximum number of rows.
      columns: images in a row; 4 for detection or 8 for classification by default.

    Returns:
      [height', width', 3] uint8 RGB.
    """
    classes, detection = shown_names(classes), batch.boxes is not None
    columns = columns or _default_columns(detection)
    present = np.ones(len(batch.image), bool) if batch.present is None else batch.present
    draw_tile = _detection_batch_tile if detection else _classification_batch_tile
    shown = np.flatnonzero(present)[: rows * columns]
    return _grid([draw_tile(batch, i, classes) for i in shown], columns)


def draw_predictions_grid(
    images: Sequence[np.ndarray],
    predictions: Sequence[Mapping[str, np.ndarray]],
    classes: Sequence[str],
    truth: Sequence[Any] | None = None,
    *,
    threshold: float = 0.3,
    columns: int | None = None,
) -> np.ndarray:
    """Draw images with their predictions, and the truth if it is given.

    Args:
      images: each [height, width, 3] uint8 RGB, of any sizes.
      predictions: for each image `labels` [n] and `scores` [n], for detection also `boxes`
        [n, 4] in pixels of the image; for classification best first.
      classes: names, index = class id.
      truth: for each image a class id, or for detection a mapping with `boxes` [m, 4], drawn
        dashed in white, and `crowd` [m], hatched in grey.
      threshold: the lowest score of a detection that is drawn and counted in the caption.
      columns: as for `draw_batch`.

    Returns:
      [height', width', 3] uint8 RGB.
    """
    classes, detection = shown_names(classes), bool(predictions) and "boxes" in predictions[0]
    tiles = []
    for i, (image, predicted) in enumerate(zip(images, predictions, strict=True)):
        true = None if truth is None else truth[i]
        if detection:
            tiles.append(_detections_tile(image, predicted, true, classes, threshold))
        else:
            tiles.append(_class_tile(image, predicted, true, classes))
    return _grid(tiles, columns or _default_columns(detection))


def draw_matched_grid(
    images: Sequence[MatchedImage], classes: Sequence[str], title: str, *, columns: int = 3
) -> np.ndarray:
    """Draw images with each detection marked right or wrong, and each missed object.

    Objects that were found are dashed in white, crowd regions are hatched in grey. The title and a
    legend of the colours are above all. Returns [height', width', 3] uint8 RGB.
    """
    classes = shown_names(classes)
    grid = _grid([_matched_tile(image, classes) for image in images], columns)
    return np.concatenate([_heading(title, LEGEND, grid.shape[1]), grid])


def draw_examples(
    images: Sequence[np.ndarray],
    examples: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    columns: int | None = None,
) -> np.ndarray:
    """Draw images of a data set with their annotations.

    Args:
      images: each [height, width, 3] uint8 RGB, of any sizes.
      examples: for each image its `name`, and a class id `label`, or for detection `boxes` [n, 4]
        in pixels of the image, `labels` [n], `crowd` [n], hatched in grey, and `doubted` [n],
        dashed in red with a question mark after the name. Boxes that are not finite are counted
        but not drawn.
      classes: names, index = class id.
      columns: as for `draw_batch`.

    Returns:
      [height', width', 3] uint8 RGB.
    """
    classes, detection = shown_names(classes), bool(examples) and "boxes" in examples[0]
    tiles = []
    for image, example in zip(images, examples, strict=True):
        canvas, factors = _tile_canvas(image, detection)
        caption = str(example["name"])
        if detection:
            finite = np.isfinite(example["boxes"]).all(axis=1)
            boxes = example["boxes"][finite] * factors
            labels, crowd = example["labels"][finite], example["crowd"][finite]
            doubted = example["doubted"][finite]
            draw_true_boxes(canvas, boxes, labels, crowd, classes, doubted)
            draw_dashed_boxes(canvas, boxes[doubted], WRONG)
            doubts = int(np.sum(example["doubted"]))
            caption += f", {_count_boxes(len(finite))}"
            caption += f", {doubts} in doubt" if doubts else ""
        else:
            caption = f"{class_name(classes, example['label'])}, {caption}"
        tiles.append(_Tile(canvas, caption))
    return _grid(tiles, columns or _default_columns(detection))


def _detection_batch_tile(batch: Batch, i: int, classes: Sequence[str]) -> _Tile:
    canvas, factors = _tile_canvas(batch.image[i], detection=True)
    valid = batch.valid[i]
    crowd = valid & np.asarray(batch.crowd[i], bool)
    boxes, labels = batch.boxes[i] * factors, batch.labels[i]
    draw_true_boxes(canvas, boxes[valid], labels[valid], crowd[valid], classes)
    parts = [*_index_caption(batch, i), _count_boxes(int((valid & ~crowd).sum()))]
    if crowd.any():
        parts.append(f"{int(crowd.sum())} ignored")
    truncated = 0 if batch.truncated is None else int(batch.truncated[i])
    if truncated:
        parts.append(f"{truncated} did not fit")
    return _Tile(canvas, ", ".join(parts))


def _classification_batch_tile(batch: Batch, i: int, classes: Sequence[str]) -> _Tile:
    canvas, _ = _tile_canvas(batch.image[i], detection=False)
    name = class_name(classes, batch.label[i])
    return _Tile(canvas, ", ".join([name, *_index_caption(batch, i)]))


def _detections_tile(
    image: np.ndarray,
    predicted: Mapping[str, np.ndarray],
    true: Mapping[str, np.ndarray] | None,
    classes: Sequence[str],
    threshold: float,
) -> _Tile:
    canvas, factors = _tile_canvas(image, detection=True)
    scores = np.asarray(predicted["scores"], float)
    shown = scores >= threshold
    labels, scores = np.asarray(predicted["labels"])[shown], scores[shown]
    caption = f"{int(shown.sum())} found"
    if true is not None:
        objects = finite_boxes(true["boxes"]) * factors
        crowd = np.asarray(true.get("crowd", np.zeros(len(objects))), bool)
        hatch_boxes(canvas, objects[crowd])
        draw_dashed_boxes(canvas, objects[~crowd])
        caption += f", {int((~crowd).sum())} true"
    texts = chip_texts([class_name(classes, label) for label in labels], scores)
    boxes = finite_boxes(predicted["boxes"])[shown] * factors
    draw_boxes(canvas, boxes, texts, class_colors(labels), scores)
    return _Tile(canvas, caption)


def _class_tile(
    image: np.ndarray,
    predicted: Mapping[str, np.ndarray],
    true: int | None,
    classes: Sequence[str],
) -> _Tile:
    canvas, _ = _tile_canvas(image, detection=False)
    label, score = int(predicted["labels"][0]), float(predicted["scores"][0])
    caption = f"{class_name(classes, label)} {score:.2f}"
    if true is None:
        return _Tile(canvas, caption)
    if label == int(true):
        return _Tile(canvas, caption, CORRECT)
    return _Tile(canvas, f"{caption} (labelled {class_name(classes, true)})", WRONG)


def _matched_tile(image: MatchedImage, classes: Sequence[str]) -> _Tile:
    canvas, factors = _tile_canvas(image.image, detection=True)
    objects = finite_boxes(image.objects) * factors
    crowd, missed = np.asarray(image.crowd, bool), np.asarray(image.missed, bool)
    hatch_boxes(canvas, objects[crowd])
    draw_dashed_boxes(canvas, objects[~crowd & ~missed])
    texts = chip_texts([class_name(classes, label) for label in image.labels], image.scores)
    colors = [
        GREY if ignored else CORRECT if correct else WRONG
        for correct, ignored in zip(image.correct, image.ignored, strict=True)
    ]
    missed_labels = np.asarray(image.object_labels)[missed]
    texts += [f"missed {class_name(classes, label)}" for label in missed_labels]
    colors += [MISSED] * len(missed_labels)
    boxes = np.concatenate([finite_boxes(image.boxes) * factors, objects[missed]])
    # Below all detections.
    missed_scores = np.full(len(missed_labels), -1.0)
    scores = np.concatenate([np.asarray(image.scores, float), missed_scores])
    draw_boxes(canvas, boxes, texts, colors, scores)
    return _Tile(canvas, image.caption)


def _index_caption(batch: Batch, i: int) -> list[str]:
    return [f"index {int(batch.index[i])}"] if batch.index is not None else []


def _count_boxes(count: int) -> str:
    return f"{count} box{'' if count == 1 else 'es'}"


def _default_columns(detection: bool) -> int:
    return DETECTION_COLUMNS if detection else CLASSIFICATION_COLUMNS


def _tile_canvas(image: np.ndarray, detection: bool) -> tuple[np.ndarray, np.ndarray]:
    """A copy of the image in the size of a tile, and the factors [4] that map boxes to it."""
    check_image(image)
    side = DETECTION_SIDE if detection else CLASSIFICATION_SIDE
    return resized(image, side / max(image.shape[:2]))


def _grid(tiles: Sequence[_Tile], columns: int) -> np.ndarray:
    """Tiles in rows, each with its caption below."""
    if not tiles:
        return np.full((120, 420, 3), BACKGROUND, np.uint8)
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    width = max(tile.canvas.shape[1] for tile in tiles)
    heights = [max(tile.canvas.shape[0] for tile in row) for row in rows]
    total_height = sum(heights) + len(rows) * (CAPTION_HEIGHT + GAP) + GAP
    total_width = len(rows[0]) * (width + GAP) + GAP
    page = np.full((total_height, total_width, 3), BACKGROUND, np.uint8)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for i, tile in enumerate(row):
            h, w = tile.canvas.shape[:2]
            left = GAP + i * (width + GAP)
            page[top + height - h : top + height, left : left + w] = tile.canvas
            text, scale = fit_text(tile.caption, width, 0.46)
            put_text(page, text, (left, top + height + CAPTION_HEIGHT - 7), scale, tile.color)
        top += height + CAPTION_HEIGHT + GAP
    return page


def _heading(title: str, legend: Sequence[tuple[str, Color]], width: int) -> np.ndarray:
    """A title, and below it coloured words in as many lines as fit `width` pixels."""
    line, scale = 22, 0.46
    words, left, top = [], GAP, GAP + 2 * line
    for word, color in legend:
        word_width = text_size(word, scale)[0]
        if left > GAP and left + word_width > width - GAP:
            left, top = GAP, top + line
        words.append((word, color, (left, top - 7)))
        left += word_width + 2 * GAP
    page = np.full((top, width, 3), BACKGROUND, np.uint8)
    text, title_scale = fit_text(title, width - 2 * GAP, 0.56)
    put_text(page, text, (GAP, GAP + line - 7), title_scale, TEXT)
    for word, color, start in words:
        put_text(page, word, start, scale, color)
    return page
