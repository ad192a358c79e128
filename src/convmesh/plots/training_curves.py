"""The training curves of a run, from its `metrics.jsonl`."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from convmesh.plots.figures import TITLE, new_figure, save_figure
from convmesh.workdir.metrics import is_training_row, read_metrics

Series = dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]


def draw_curves(metrics_path: str | os.PathLike[str], output_png: str | os.PathLike[str]) -> None:
    """Draw the curves of a `metrics.jsonl`: loss and its parts, AP or top-1, learning rate, speed.

    Only panels that the file has numbers for are drawn. If a step is logged twice, the later line
    counts. Steps with a non-finite loss are marked.

    Raises:
      DataError: the file is missing or damaged.
    """
    from matplotlib.ticker import MaxNLocator  # slow to import

    series = _series(read_metrics(metrics_path))
    panels = [
        (title, chosen, draw)
        for title, names, draw in _PANELS
        if (chosen := {key: xy for key, xy in series.items() if names(key[1])})
    ]
    last = max([1, *(steps[-1] for steps, _ in series.values())])
    columns = min(len(panels), 2) or 1
    height = -(-len(panels) // columns) or 1
    figure = new_figure(6.0 * columns, 3.6 * height)
    axes = figure.subplots(height, columns, squeeze=False).ravel()
    for axis, (title, chosen, draw) in zip(axes, panels, strict=False):
        axis.set_title(title, loc="left", **TITLE)
        axis.set_xlabel("step", fontsize=9)
        axis.grid(True, color="0.9")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9)
        axis.set_xlim(0, 1.02 * last)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
        draw(axis, chosen)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    if not panels:
        axes[0].text(0.5, 0.5, "no numbers yet", ha="center", va="center", color="0.4")
    save_figure(figure, output_png)


def _series(rows: Iterable[Mapping[str, Any]]) -> Series:
    """(split, name) -> steps [n], ascending, and values [n], NaN where the file has null."""
    points: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        split = str(row.get("split", ""))
        if split == "train" and not is_training_row(row):
            split = "train, evaluated"  # not to be mixed with the metrics of training batches
        for name, value in row.items():
            if name in ("step", "split") or isinstance(value, (str, list, dict)):
                continue
            number = math.nan if value is None else float(value)
            points.setdefault((split, name), {})[row["step"]] = number
    return {
        key: (np.array(sorted(at)), np.array([at[step] for step in sorted(at)], float))
        for key, at in points.items()
        if any(math.isfinite(value) for value in at.values()) or key[1] == "loss"
    }


def _smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Running mean of the finite values; the window shrinks at both ends."""
    finite = np.isfinite(values)
    kernel = np.ones(window)
    count = np.convolve(finite, kernel, mode="same")
    total = np.convolve(np.where(finite, values, 0), kernel, mode="same")
    return np.where(count > 0, total / np.maximum(count, 1), math.nan)


def _line(axis: Any, xy: tuple[np.ndarray, np.ndarray], label: str, **style: Any) -> None:
    marker = "o" if len(xy[0]) < 25 else None
    axis.plot(*xy, label=label, marker=marker, markersize=3, **style)


def _draw_loss(axis: Any, chosen: Series) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    drawn, nonfinite = [], np.zeros(0)
    for (split, name), (steps, values) in sorted(chosen.items(), key=lambda item: item[0][1]):
        label = f"{name} ({split})"
        if name != "loss":
            style: dict[str, Any] = {"linewidth": 1.0, "alpha": 0.9}
            if split != "train":
                style["linestyle"] = "--"
        else:
            nonfinite = np.append(nonfinite, steps[~np.isfinite(values)])
            style = {"linewidth": 2.0, "color": "#1f4e9c" if split == "train" else "#d9480f"}
        window = min(len(values) // 20, 51) | 1
        if window >= 3:
            line = axis.plot(steps, values, linewidth=0.8, alpha=0.25, color=style.get("color"))
            style["color"] = line[0].get_color()
            values = _smooth(values, window)
        _line(axis, (steps, values), label, **style)
        drawn.append(values[np.isfinite(values)])
    finite = np.concatenate(drawn)
    if finite.size and finite.min() > 0 and finite.max() > 20 * finite.min():
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    if nonfinite.size:
        bottom = np.zeros_like(nonfinite)
        axis.plot(
            nonfinite, bottom, "x", color="red", transform=axis.get_xaxis_transform(),
            clip_on=False, label=f"not finite ({nonfinite.size})",
        )  # fmt: skip
    _legend(axis)


def _draw_scores(axis: Any, chosen: Series) -> None:
    main = {"AP": 2.0, "top1": 2.0}
    splits = sorted({split for split, _ in chosen})
    for (split, name), (steps, values) in chosen.items():
        dashes = ("-", "--", ":", "-.")[splits.index(split) % 4]
        if name in main and np.isfinite(values).any():
            best = int(np.nanargmax(values))
            label = f"{name} ({split}), best {values[best]:.3f} at {steps[best]}"
        else:
            label = f"{name} ({split})"
        _line(axis, (steps, values), label, linestyle=dashes, linewidth=main.get(name, 1.1))
    axis.set_ylim(bottom=0)
    _legend(axis)


def _draw_plain(axis: Any, chosen: Series) -> None:
    for (split, name), xy in chosen.items():
        _line(axis, xy, f"{name} ({split})", linewidth=1.4)
    axis.set_ylim(bottom=0)
    if len(chosen) > 1:
        _legend(axis)


def _legend(axis: Any) -> None:
    axis.legend(frameon=False, fontsize=8)


_SCORES = ("AP", "AP50", "AP75", "top1", "top5")
# title, which metrics belong to the panel, how it is drawn
_PANELS = (
    ("loss", lambda name: name == "loss" or name.startswith("loss/"), _draw_loss),
    ("accuracy", lambda name: name in _SCORES, _draw_scores),
    ("learning rate", lambda name: name == "learning_rate", _draw_plain),
    ("images per second", lambda name: name == "images_per_second", _draw_plain),
)
