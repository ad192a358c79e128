"""The reliability diagram: bars as high as the accuracy, above a diagonal."""

import numpy as np
import pictures

from convmesh.plots.calibration import BAR, draw_calibration


def blue(picture):
    """Where the colour of the bars is, bool [rows, columns]."""
    color = [int(BAR[i : i + 2], 16) for i in (1, 3, 5)]
    return (np.abs(picture.astype(int) - color) <= 8).all(-1)


def test_a_bar_is_as_high_as_its_accuracy(tmp_path):
    bins = [
        {"low": 0.2, "high": 0.4, "images": 30, "confidence": 0.3, "accuracy": 0.5},
        {"low": 0.6, "high": 0.8, "images": 60, "confidence": 0.7, "accuracy": 1.0},
    ]
    draw_calibration({"ECE": 0.25, "bins": bins}, tmp_path / "calibration.png")
    picture = pictures.read(tmp_path / "calibration.png")
    bars = blue(picture)
    split = int(0.72 * len(bars))  # the accuracies are above, the numbers of images below
    heights = [part.sum(0) for part in (bars[:split], bars[split:])]
    for found in heights:
        columns = np.flatnonzero(found)
        (gap,) = np.flatnonzero(np.diff(columns) > 20)
        left, right = np.median(found[columns[: gap + 1]]), np.median(found[columns[gap + 1 :]])
        assert abs(left / right - 0.5) < 0.05
