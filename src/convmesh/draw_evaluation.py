"""Pictures of an evaluation: curves of precision, recall and F1, and what is taken for what."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from convmesh import durable
from convmesh.draw import class_color

ALL_IN_COLOUR = 12  # with more classes only the best and the worst few
FEW = 3  # best and worst classes that then have a colour
NUMBERS_UP_TO = 25  # classes whose confusions fit as numbers in cells
NAMED_PAIRS = 12  # confusions told beside a table without numbers
TITLE = {"fontsize": 11, "fontweight": "bold"}
RIGHT, WRONG = np.array((22, 110, 66)) / 255, np.array((190, 30, 45)) / 255


def draw_detection_curves(curves: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Draws what `detection_report.curves` holds: precision over recall, F1 over the threshold.

    The mean stands out. Of more than 12 classes only the best and worst three have a colour and a
    name, the others are grey. A class without an object has no curve.
    """
    from matplotlib.collections import LineCollection  # slow to import
    from matplotlib.lines import Line2D

    figure = new_figure(13.5, 4.8)
    left, right = figure.subplots(1, 2)
    by_class = curves["precision"]["classes"]
    score = {name: float(np.mean(values)) for name, values in by_class.items() if values}
    ranked = sorted(score, key=lambda name: -score[name])
    coloured = {name: _on_paper(number) for number, name in enumerate(by_class) if name in score}
    if len(ranked) > ALL_IN_COLOUR:  # colours that are told apart, instead of the classes' own
        coloured = {n: _on_paper(i) for i, n in enumerate(ranked[:FEW] + ranked[-FEW:])}
    lines, labels = [], []
    mean, together = curves["precision"]["mean"], curves["F1"]["all"]
    for axis, grid, by_name in (
        (left, curves["recall"], by_class),
        (right, curves["threshold"], curves["F1"]["classes"]),
    ):
        rest = [list(zip(grid, by_name[n], strict=True)) for n in ranked if n not in coloured]
        axis.add_collection(LineCollection(rest, color="0.82", linewidth=0.7))
        for name, own in coloured.items():
            axis.plot(grid, by_name[name], color=own, linewidth=1.4)
    if mean:
        lines += left.plot(curves["recall"], mean, color="black", linewidth=2.6)
        labels.append(f"mean  {np.mean(mean):.3f}")
        right.plot(curves["threshold"], together, color="black", linewidth=2.6)
    for name in (name for name in ranked if name in coloured):
        lines.append(Line2D([], [], color=coloured[name], linewidth=1.8))
        labels.append(f"{_short(name)}  {score[name]:.3f}")
    for count, color, what in (
        (len(ranked) - len(coloured), "0.75", "more classes between"),
        (len(by_class) - len(ranked), "none", "without an object"),
    ):
        if count:
            lines.append(Line2D([], [], color=color, linewidth=1.2))
            labels.append(f"{count} {what}")

    left.set_title(f"Precision and recall at IoU {curves['iou']:g}", loc="left", **TITLE)
    left.set_xlabel("recall: part of the objects that is found", fontsize=9)
    left.set_ylabel("precision: part of the detections that is right", fontsize=9)
    title, best = "F1 by threshold", curves["best_threshold"]
    if best is not None:
        title += f": best {curves['best_F1']:.3f}, at score {best:.3g}"
    right.set_title(title, loc="left", **TITLE)
    right.set_xlabel("score threshold", fontsize=9)
    right.set_ylabel("F1 (black: of all objects together)", fontsize=9)
    if best is not None:
        right.axvline(best, color="0.35", linewidth=1, linestyle=":")
        right.plot([best], [curves["best_F1"]], "o", color="black", markersize=6)
    for axis in (left, right):
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1.02)
        axis.grid(True, color="0.92")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9)
        if not mean:
            axis.text(0.5, 0.5, "no object to find", ha="center", va="center", color="0.4")
    if lines:
        figure.legend(
            lines, labels, loc="outside right upper", frameon=False, fontsize=9,
            title="AP50", title_fontsize=10, alignment="left",
        )  # fmt: skip
    write_figure(figure, path)


def draw_confusion(
    table: np.ndarray,
    classes: Sequence[str],
    path: str | os.PathLike[str],
    *,
    iou: float,
    score: float,
    pairs: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Draws what is taken for what: rows are the truth, columns what was predicted.

    A cell is as dark as its part of the row: green where right, red where wrong. Up to 25 classes
    have their counts in the cells; beyond, the commonest `pairs` are told beside the table.

    Args:
      table: int [classes + 1, classes + 1] of `detection_report.confusion`.
      classes: names, index = class id.
      path: of the PNG.
      iou: the least overlap of a detection with its object, for the title.
      score: the least score of a detection, for the title.
      pairs: of `detection_report.most_confused`.
    """
    from matplotlib.collections import LineCollection  # slow to import

    count = len(table)
    numbered = len(classes) <= NUMBERS_UP_TO
    names = [*(_short(name) for name in classes), "background"]
    # All in inches: placed by hand, since a layout engine takes seconds for so many letters.
    cell = min(1.6, 14 / count, max(0.42 if numbered else 0.13, 3.6 / count))
    size = max(5.0, min(9.0, 72 * cell * 0.62))  # of letters, in points
    label = 0.1 + max(map(len, names)) * size * 0.58 / 72
    side, left, bottom, top = cell * count, label + 0.35, label + 0.4, 0.75
    width, height = max(left + side + 0.2, 5.4), bottom + side + top
    beside = 0.0 if numbered else 3.6
    figure = new_figure(width + beside, height, layout=None)
    area = (left / (width + beside), bottom / height, side / (width + beside), side / height)
    axis = figure.add_axes(area)

    part = table / np.maximum(table.sum(1, keepdims=True), 1)
    ink = np.where(np.eye(count, dtype=bool)[:, :, None], RIGHT, WRONG)
    # The root shows the rare confusions too.
    axis.imshow(1 - np.sqrt(part)[:, :, None] * (1 - ink), aspect="auto")
    if cell > 0.1:  # the lines between smaller cells would cover them
        edges, end = np.arange(count + 1) - 0.5, count - 0.5
        rules = [[(x, -0.5), (x, end)] for x in edges] + [[(-0.5, y), (end, y)] for y in edges]
        axis.add_collection(
            LineCollection(rules, color="0.88", linewidth=0.6 if numbered else 0.25)
        )
    axis.axhline(count - 1.5, color="0.3", linewidth=1)
    axis.axvline(count - 1.5, color="0.3", linewidth=1)
    every = math.ceil(size * 1.2 / (72 * cell))  # of very many classes not each can be named
    ticks = [*range(0, count - every, every), count - 1]
    axis.set_xticks(ticks, [names[i] for i in ticks], rotation=90, fontsize=size)
    axis.set_yticks(ticks, [names[i] for i in ticks], fontsize=size)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    if numbered:
        for i, j in np.argwhere(table):
            text = str(table[i, j])
            points = min(10.0, 72 * cell * 1.35 / max(len(text), 2))
            color = "white" if part[i, j] > 0.3 else "0.15"
            axis.text(j, i, text, ha="center", va="center", fontsize=points, color=color)

    def write(x: float, y: float, text: str, **style) -> None:
        """Text at inches from the left and the upper edge."""
        figure.text(x / (width + beside), 1 - y / height, text, **style)

    write(0.12, 0.3, f"Confusion matrix: IoU >= {iou:g}, score >= {score:g}", **TITLE)
    write(
        0.12,
        0.52,
        "Green: right. Red: wrong. The darker, the larger a part of the row.",
        fontsize=9,
    )
    axis.set_xlabel("predicted (background: missed)", fontsize=9)
    axis.set_ylabel("truth (background: nothing there)", fontsize=9)
    if not numbered:
        write(width + 0.1, top, _told(table, pairs), va="top", fontsize=9, family="monospace",
              linespacing=1.5)  # fmt: skip
    write_figure(figure, path)


def _told(table: np.ndarray, pairs: Sequence[Mapping[str, Any]]) -> str:
    """What a table without numbers does not tell."""
    right, met = int(np.trace(table[:-1, :-1])), int(table[:-1, :-1].sum())
    lines = [
        (int(table[:-1].sum()), "objects"),
        (right, "found, with their class"),
        (met - right, "found, with another class"),
        (int(table[:-1, -1].sum()), "missed"),
        (int(table[-1].sum()), "detections of nothing"),
    ]
    confused = [
        (pair["count"], f"{_short(pair['truth'])} called {_short(pair['predicted'])}")
        for pair in pairs[:NAMED_PAIRS]
    ]
    form = lambda told: [f"{number:>6}  {what}" for number, what in told]  # noqa: E731
    return "\n".join([*form(lines), "", "most often confused", *(form(confused) or ["  none"])])


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained"):
    """A figure of that size in inches.

    Without pyplot: no global state, and a notebook keeps its own backend.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout, dpi=110)
    FigureCanvasAgg(figure)
    return figure


def _on_paper(label: int) -> tuple[float, float, float]:
    """The colour of a class, darker where it would be too pale for a line on white."""
    red, green, blue = (part / 255 for part in class_color(label))
    bright = 0.299 * red + 0.587 * green + 0.114 * blue
    dim = min(1.0, 0.55 / bright) if bright else 1.0
    return red * dim, green * dim, blue * dim


def _short(name: str, most: int = 22) -> str:
    """A class name that leaves room for the picture; a $ would begin a formula."""
    name = name if len(name) <= most else f"{name[: most - 8]}...{name[-5:]}"
    return name.replace("$", r"\$")


def write_figure(figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure as PNG, whole or not at all; makes the folder."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", facecolor="white")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    durable.write_whole(path, stream.getvalue())
