"""Curves of a detector's evaluation: precision over recall, F1 over the score threshold."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from convmesh.plots.colors import class_color
from convmesh.plots.figures import TITLE, fonts_of, new_figure, save_figure, short_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_COLORED = 12  # with more classes, only the best and the worst few have a colour
BEST_AND_WORST = 3  # how many of the best, and of the worst, then have a colour

PlotColor = tuple[float, float, float]


@dataclass(frozen=True)
class _Classes:
    """The classes of the curves.

    score: AP50 of each class that has objects. ranked: their names, best first.
    colors: of the classes that have one, in the order of drawing.
    without_objects: how many classes have none, and so no curve.
    """

    score: Mapping[str, float]
    ranked: list[str]
    colors: Mapping[str, PlotColor]
    without_objects: int

    @classmethod
    def of(cls, precision: Mapping[str, list[float] | None]) -> _Classes:
        """From the precision curve of each class, None for a class without objects."""
        score = {name: float(np.mean(values)) for name, values in precision.items() if values}
        ranked = sorted(score, key=lambda name: -score[name])
        colors = {n: line_color(i) for i, n in enumerate(precision) if n in score}
        if len(ranked) > MAX_COLORED:  # easily distinguished colours instead of the classes' own
            ends = ranked[:BEST_AND_WORST] + ranked[-BEST_AND_WORST:]
            colors = {name: line_color(i) for i, name in enumerate(ends)}
        return cls(score, ranked, colors, len(precision) - len(ranked))


def draw_detection_curves(curves: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw `detection_report.curves` as a PNG: precision over recall, F1 over the threshold.

    The mean is black. With more than 12 classes only the best and the worst three have a colour
    and a name, the others are grey. A class without objects has no curve.
    """
    with fonts_of(list(curves["precision"]["classes"])):
        save_figure(_curves_figure(curves), path)


def _curves_figure(curves: Mapping[str, Any]) -> Figure:
    figure = new_figure(13.5, 4.8)
    left, right = figure.subplots(1, 2)
    classes = _Classes.of(curves["precision"]["classes"])
    mean = curves["precision"]["mean"]
    _plot_classes(left, curves["recall"], curves["precision"]["classes"], classes)
    _plot_classes(right, curves["threshold"], curves["F1"]["classes"], classes)
    if mean:
        left.plot(curves["recall"], mean, color="black", linewidth=2.6)
        right.plot(curves["threshold"], curves["F1"]["all"], color="black", linewidth=2.6)
    _describe_precision(left, curves["iou"])
    _describe_f1(right, curves["best_threshold"], curves["best_F1"])
    for axis in (left, right):
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1.02)
        axis.grid(True, color="0.92")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9)
        if not mean:
            axis.text(0.5, 0.5, "no object to find", ha="center", va="center", color="0.4")
    lines, labels = _legend(classes, mean)
    if lines:
        figure.legend(
            lines, labels, loc="outside right upper", frameon=False, fontsize=9,
            title="AP50", title_fontsize=10, alignment="left",
        )  # fmt: skip
    return figure


def line_color(label: int) -> PlotColor:
    """Return the colour of a class id, darkened where it is too light for a line on white."""
    red, green, blue = (part / 255 for part in class_color(label))
    brightness = 0.299 * red + 0.587 * green + 0.114 * blue
    factor = min(1.0, 0.55 / brightness) if brightness else 1.0
    return red * factor, green * factor, blue * factor


def _plot_classes(
    axis: Any, grid: list[float], by_name: Mapping[str, list[float]], classes: _Classes
) -> None:
    from matplotlib.collections import LineCollection

    rest = [
        list(zip(grid, by_name[name], strict=True))
        for name in classes.ranked
        if name not in classes.colors
    ]
    axis.add_collection(LineCollection(rest, color="0.82", linewidth=0.7))
    for name, color in classes.colors.items():
        axis.plot(grid, by_name[name], color=color, linewidth=1.4)


def _describe_precision(axis: Any, iou: float) -> None:
    axis.set_title(f"Precision and recall at IoU {iou:g}", loc="left", **TITLE)
    axis.set_xlabel("recall: part of the objects that is found", fontsize=9)
    axis.set_ylabel("precision: part of the detections that is right", fontsize=9)


def _describe_f1(axis: Any, threshold: float | None, f1: float) -> None:
    """Title and labels of the F1 curves; the best threshold, if there is one, is marked."""
    title = "F1 by threshold"
    if threshold is not None:
        title += f": best {f1:.3f}, at score {threshold:.3g}"
        axis.axvline(threshold, color="0.35", linewidth=1, linestyle=":")
        axis.plot([threshold], [f1], "o", color="black", markersize=6)
    axis.set_title(title, loc="left", **TITLE)
    axis.set_xlabel("score threshold", fontsize=9)
    axis.set_ylabel("F1 (black: of all objects together)", fontsize=9)


def _legend(classes: _Classes, mean: list[float] | None) -> tuple[list[Any], list[str]]:
    """A line and a label for each entry: the mean, coloured classes, counts of the others."""
    from matplotlib.lines import Line2D

    lines, labels = [], []
    if mean:
        lines.append(Line2D([], [], color="black", linewidth=2.6))
        labels.append(f"mean  {np.mean(mean):.3f}")
    colored = [name for name in classes.ranked if name in classes.colors]
    for name, shown in zip(colored, short_names(colored), strict=True):
        lines.append(Line2D([], [], color=classes.colors[name], linewidth=1.8))
        labels.append(f"{shown}  {classes.score[name]:.3f}")
    for count, color, description in (
        (len(classes.ranked) - len(classes.colors), "0.75", "more classes between"),
        (classes.without_objects, "none", "without an object"),
    ):
        if count:
            lines.append(Line2D([], [], color=color, linewidth=1.2))
            labels.append(f"{count} {description}")
    return lines, labels
