"""The confusion matrix of an evaluation."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convmesh.plots.figures import TITLE, name_width, new_figure, save_figure, short_name
from convmesh.plots.names import shown_names
from convmesh.plots.scripts import is_plain

MAX_NUMBERED = 25  # classes up to which the cells hold their counts
NAMED_PAIRS = 12  # confusions that are listed next to a matrix without counts
SUMMARY_SIZE = 9  # of its text, in points
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
    def of(cls, names: Sequence[str], summary: str) -> _Layout:
        """For a matrix with these names of rows and columns, numbered if there is no summary."""
        numbered = not summary
        count = len(names)
        cell = min(1.6, 14 / count, max(0.42 if numbered else 0.13, 3.6 / count))
        smallest = 5.0 if all(map(is_plain, names)) else 7.5  # ideographs have finer lines
        font_size = max(smallest, min(9.0, 72 * cell * 0.62))
        label = 0.1 + max(name_width(name, font_size) for name in names)
        side, left, bottom, top = cell * count, label + 0.35, label + 0.4, 0.75
        width, height = max(left + side + 0.2, 5.4), bottom + side + top
        lines = [1.1 * name_width(line, SUMMARY_SIZE) for line in summary.splitlines()]
        text_width = max([3.6, *lines]) if summary else 0.0
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
    iou: float = 0.0,
    score: float = 0.0,
    pairs: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Draw a confusion matrix as a PNG: rows are the true classes, columns the predicted ones.

    The darker a cell, the larger its fraction of the row: green for right, red for wrong. With up
    to 25 classes the cells hold their counts; with more, the most frequent `pairs` are listed
    next to the matrix.

    Args:
      table: int [classes + 1, classes + 1] of `detection_report.confusion`, or int [classes,
        classes] of `classification_report.confusion`.
      classes: names, index = class id.
      path: of the PNG.
      iou: the minimum overlap of a detection with its object, for the title of a detector's.
      score: the minimum score of a detection, for the title of a detector's.
      pairs: of `detection_report.most_confused`.
    """
    numbered = len(classes) <= MAX_NUMBERED
    shown = dict(zip(classes, shown_names(classes, shorten=short_name), strict=True))
    pairs = [{**p, "truth": shown[p["truth"]], "predicted": shown[p["predicted"]]} for p in pairs]
    background = ["background"] * (len(table) - len(classes))
    names = [*(shown[name] for name in classes), *background]
    summary = "" if numbered else _summary(table, pairs, bool(background))
    layout = _Layout.of(names, summary)
    figure = new_figure(layout.total_width, layout.height, layout=None)
    axis = figure.add_axes(layout.axis_area())
    fraction = table / np.maximum(table.sum(1, keepdims=True), 1)
    _draw_cells(axis, fraction, layout.cell, 0.6 if numbered else 0.25)
    _draw_names(axis, names, layout)
    if background:
        _draw_background(axis, len(names))
    if numbered:
        _draw_counts(axis, table, fraction, layout.cell)

    def write(x: float, y: float, text: str, **style: Any) -> None:
        """Write text at inches from the left and the upper edge."""
        figure.text(x / layout.total_width, 1 - y / layout.height, text, **style)

    at = f": IoU >= {iou:g}, score >= {score:g}" if background else ""
    write(0.12, 0.3, f"Confusion matrix{at}", **TITLE)
    legend = "Green: right. Red: wrong. The darker, the larger a part of the row."
    write(0.12, 0.52, legend, fontsize=9)
    if not numbered:
        write(layout.width + 0.1, layout.top, summary, va="top", fontsize=SUMMARY_SIZE,
              family="monospace", linespacing=1.5)  # fmt: skip
    save_figure(figure, path)


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


def _draw_names(axis: Any, names: Sequence[str], layout: _Layout) -> None:
    """Names of rows and columns; with very many classes, not of all."""
    count, size = len(names), layout.font_size
    every = math.ceil(size * 1.2 / (72 * layout.cell))
    ticks = [*range(0, count - every, every), count - 1]
    axis.set_xticks(ticks, [names[i] for i in ticks], rotation=90, fontsize=size)
    axis.set_yticks(ticks, [names[i] for i in ticks], fontsize=size)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_xlabel("predicted", fontsize=9)
    axis.set_ylabel("truth", fontsize=9)


def _draw_background(axis: Any, count: int) -> None:
    """Sets the last row and column, of objects and detections without the other, apart."""
    axis.axhline(count - 1.5, color="0.3", linewidth=1)
    axis.axvline(count - 1.5, color="0.3", linewidth=1)
    axis.set_xlabel("predicted (background: missed)", fontsize=9)
    axis.set_ylabel("truth (background: nothing there)", fontsize=9)


def _draw_counts(axis: Any, table: np.ndarray, fraction: np.ndarray, cell: float) -> None:
    for i, j in np.argwhere(table):
        text = str(table[i, j])
        points = min(10.0, 72 * cell * 1.35 / max(len(text), 2))
        color = "white" if fraction[i, j] > 0.3 else "0.15"
        axis.text(j, i, text, ha="center", va="center", fontsize=points, color=color)


def _summary(table: np.ndarray, pairs: Sequence[Mapping[str, Any]], background: bool = True) -> str:
    """Totals and the most frequent confusions, for a matrix without counts, with names as shown."""
    right, localised = int(np.trace(table[:-1, :-1])), int(table[:-1, :-1].sum())
    totals = [(int(table.sum()), "images"), (int(np.trace(table)), "right")]
    if background:
        totals = [
            (int(table[:-1].sum()), "objects"),
            (right, "found, with their class"),
            (localised - right, "found, with another class"),
            (int(table[:-1, -1].sum()), "missed"),
            (int(table[-1].sum()), "detections of nothing"),
        ]
    confused = [
        (pair["count"], f"{pair['truth']} called {pair['predicted']}")
        for pair in pairs[:NAMED_PAIRS]
    ]

    def lines(counts: Sequence[tuple[int, str]]) -> list[str]:
        return [f"{number:>6}  {description}" for number, description in counts]

    return "\n".join([*lines(totals), "", "most often confused", *(lines(confused) or ["  none"])])
