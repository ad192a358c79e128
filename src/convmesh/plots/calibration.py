"""The reliability diagram of a classifier: accuracy over confidence."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from convmesh.plots.figures import TITLE, new_figure, save_figure

BAR, LINE = "#3f7fbf", "0.35"


def draw_calibration(calibration: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw `classification_report.calibration` as a PNG.

    A bar for each bin of the confidence is as high as its accuracy; on the dashed diagonal a
    classifier is as often right as it says. Below are the numbers of images.
    """
    figure = new_figure(5.4, 5.6)
    above, below = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    for row in calibration["bins"]:
        low, width = row["low"], row["high"] - row["low"]
        style = {"align": "edge", "width": width, "edgecolor": "white", "color": BAR}
        above.bar(low, row["accuracy"], **style)
        below.bar(low, row["images"], **style)
    above.plot([0, 1], [0, 1], color=LINE, linestyle="--", linewidth=1.2)
    above.set_xlim(0, 1)
    above.set_ylim(0, 1.02)
    above.set_ylabel("accuracy", fontsize=9)
    below.set_ylabel("images", fontsize=9)
    below.set_xlabel("confidence (probability of the predicted class)", fontsize=9)
    title = f"Calibration: expected error (ECE) {calibration['ECE']:.3f}"
    above.set_title(title, loc="left", **TITLE)
    for axis in (above, below):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9)
        axis.grid(True, color="0.92")
        axis.set_axisbelow(True)
    save_figure(figure, path)
