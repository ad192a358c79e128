"""The confusion matrix of a detector's evaluation."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from convmesh.plots.figures import (
    TITLE,
    fonts_of,
    monospace_fonts,
    new_figure,
    save_figure,
    short_names,
    text_columns,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_NUMBERED = 25  # classes up to which the cells hold their counts
NAMED_PAIRS = 12  # confusions that are listed next to a matrix without counts
CORRECT = np.array((22, 110, 66)) / 255
WRONG = np.array((190, 30, 45)) / 255


@dataclass(frozen=True)
class _Layout:
    """Sizes in inches: computed, since a layout engine takes seconds for so many labels.

    cell: side of a cell. font_size: of class names, in points. left, bottom: of the matrix.
    width, height: of matrix, names and title. text_width: of the text on the right.
    """

    cell: float
    font_size: float
    side: float
    left: float
    bottom: float
    top: float
    width: float
    height: float
    text_width: float

    @classmethod
    def of(cls, names: Sequence[str], numbered: bool) -> _Layout:
        """For a matrix with these names of rows and columns."""
        count = len(names)
        cell = min(1.6, 14 / count, max(0.42 if numbered else 0.13, 3.6 / count))
        font_size = max(5.0, min(9.0, 72 * cell * 0.62))
        label = 0.1 + max(map(text_columns, names)) * font_size * 0.58 / 72
        side, left, bottom, top = cell * count, label + 0.35, label + 0.4, 0.75
        width, height = max(left + side + 0.2, 5.4), bottom + side + top
        text_width = 0.0 if numbered else 3.6
        return cls(cell, font_size, side, left, bottom, top, width, height, text_width)

    @property
    def total_width(self) -> float:
        """Of the figure."""
        return self.width + self.text_width

    def axis_area(self) -> tuple[float, float, float, float]:
        """Left, bottom, width and height of the matrix, as fractions of the figure."""
        total, height = self.total_width, self.height
        return (self.left / total, self.bottom / height, self.side / total, self.side / height)


def draw_confusion(
    table: np.ndarray,
    classes: Sequence[str],
    path: str | os.PathLike[str],
    *,
    iou: float,
    score: float,
    pairs: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Draw a confusion matrix as a PNG: rows are the true classes, columns the predicted ones.

    The darker a cell, the larger its fraction of the row: green for right, red for wrong. With up
    to 25 classes the cells hold their counts; with more, the most frequent `pairs` are listed
    next to the matrix.

    Args:
      table: int [classes + 1, classes + 1] of `detection_report.confusion`.
      classes: names, index = class id.
      path: of the PNG.
      iou: the minimum overlap of a detection with its object, for the title.
      score: the minimum score of a detection, for the title.
      pairs: of `detection_report.most_confused`.
    """
    with fonts_of(classes):
        figure = _confusion_figure(table, classes, (iou, score), pairs)
        save_figure(figure, path)


def _confusion_figure(
    table: np.ndarray,
    classes: Sequence[str],
    thresholds: tuple[float, float],
    pairs: Sequence[Mapping[str, Any]],
) -> Figure:
    """The figure of `draw_confusion`; thresholds: of IoU and score."""
    iou, score = thresholds
    numbered = len(classes) <= MAX_NUMBERED
    names = [*short_names(classes), "background"]
    layout = _Layout.of(names, numbered)
    figure = new_figure(layout.total_width, layout.height, layout=None)
    axis = figure.add_axes(layout.axis_area())
    fraction = table / np.maximum(table.sum(1, keepdims=True), 1)
    _draw_cells(axis, fraction, layout.cell, 0.6 if numbered else 0.25)
    _draw_names(axis, names, layout)
    if numbered:
        _draw_counts(axis, table, fraction, layout.cell)

    def write(x: float, y: float, text: str, **style: Any) -> None:
        """Write text at inches from the left and the upper edge."""
        figure.text(x / layout.total_width, 1 - y / layout.height, text, **style)

    write(0.12, 0.3, f"Confusion matrix: IoU >= {iou:g}, score >= {score:g}", **TITLE)
    legend = "Green: right. Red: wrong. The darker, the larger a part of the row."
    write(0.12, 0.52, legend, fontsize=9)
    if not numbered:
        shown = dict(zip(classes, names, strict=False))
        write(layout.width + 0.1, layout.top, _summary(table, pairs, shown), va="top", fontsize=9,
              family=monospace_fonts(), linespacing=1.5)  # fmt: skip
    return figure


def _draw_cells(axis: Any, fraction: np.ndarray, cell: float, linewidth: float) -> None:
    """`fraction` [n, n] of each row, as colours, and lines between the cells."""
    from matplotlib.collections import LineCollection

    count = len(fraction)
    ink = np.where(np.eye(count, dtype=bool)[:, :, None], CORRECT, WRONG)
    # The square root makes rare confusions visible.
    axis.imshow(1 - np.sqrt(fraction)[:, :, None] * (1 - ink), aspect="auto")
    if cell > 0.1:  # lines between smaller cells would cover them
        edges, end = np.arange(count + 1) - 0.5, count - 0.5
        lines = [[(x, -0.5), (x, end)] for x in edges] + [[(-0.5, y), (end, y)] for y in edges]
        axis.add_collection(LineCollection(lines, color="0.88", linewidth=linewidth))
    axis.axhline(count - 1.5, color="0.3", linewidth=1)
    axis.axvline(count - 1.5, color="0.3", linewidth=1)


def _draw_names(axis: Any, names: Sequence[str], layout: _Layout) -> None:
    """Names of rows and columns; with very many classes, not of all."""
    count, size = len(names), layout.font_size
    every = math.ceil(size * 1.2 / (72 * layout.cell))
    ticks = [*range(0, count - every, every), count - 1]
    axis.set_xticks(ticks, [names[i] for i in ticks], rotation=90, fontsize=size)
    axis.set_yticks(ticks, [names[i] for i in ticks], fontsize=size)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_xlabel("predicted (background: missed)", fontsize=9)
    axis.set_ylabel("truth (background: nothing there)", fontsize=9)


def _draw_counts(axis: Any, table: np.ndarray, fraction: np.ndarray, cell: float) -> None:
    for i, j in np.argwhere(table):
        text = str(table[i, j])
        points = min(10.0, 72 * cell * 1.35 / max(len(text), 2))
        color = "white" if fraction[i, j] > 0.3 else "0.15"
        axis.text(j, i, text, ha="center", va="center", fontsize=points, color=color)


def _summary(
    table: np.ndarray, pairs: Sequence[Mapping[str, Any]], names: Mapping[str, str]
) -> str:
    """Totals and the most frequent confusions, for a matrix without counts.

    names: as drawn, by the name of the class.
    """
    right, localised = int(np.trace(table[:-1, :-1])), int(table[:-1, :-1].sum())
    totals = [
        (int(table[:-1].sum()), "objects"),
        (right, "found, with their class"),
        (localised - right, "found, with another class"),
        (int(table[:-1, -1].sum()), "missed"),
        (int(table[-1].sum()), "detections of nothing"),
    ]
    confused = [
        (
            pair["count"],
            " called ".join(names.get(pair[k], pair[k]) for k in ("truth", "predicted")),
        )
        for pair in pairs[:NAMED_PAIRS]
    ]

    def lines(counts: Sequence[tuple[int, str]]) -> list[str]:
        return [f"{number:>6}  {description}" for number, description in counts]

    return "\n".join([*lines(totals), "", "most often confused", *(lines(confused) or ["  none"])])
