"""Matplotlib figures without pyplot, with text in any script.

Matplotlib is slow to import, so functions import it.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any, Literal

from convmesh.plots.png import write_png
from convmesh.plots.scripts import is_plain
from convmesh.plots.typeset import typeset

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE: dict[str, Any] = {"fontsize": 11, "fontweight": "bold"}


def new_figure(
    width: float, height: float, layout: Literal["constrained"] | None = "constrained"
) -> Figure:
    """Return an empty figure; width and height are in inches.

    Not through pyplot: no global state, and a notebook keeps its own backend.
    """
    from matplotlib.figure import Figure

    from convmesh.plots.canvas import Canvas

    figure = Figure(figsize=(width, height), layout=layout, dpi=110)
    Canvas(figure)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG, atomically; creates the folder. Raises OSError."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", facecolor="white")
    write_png(stream.getvalue(), path)


def short_name(name: str, max_length: int = 22) -> str:
    """Return a class name cut to `max_length`, with $ escaped (it would start a formula)."""
    if len(name) > max_length:
        name = f"{name[: max_length - 8]}...{name[-5:]}"
    return name.replace("$", r"\$")


def name_width(name: str, font_size: float) -> float:
    """Return the width of a name in inches, about, at a font size in points."""
    if is_plain(name):
        return len(name) * 0.58 * font_size / 72
    return typeset(name, 100).width / 100 * font_size / 72
