"""Matplotlib figures without pyplot. Matplotlib is slow to import, so functions import it."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any, Literal

from convmesh.plots.png import write_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE: dict[str, Any] = {"fontsize": 11, "fontweight": "bold"}


def new_figure(
    width: float, height: float, layout: Literal["constrained"] | None = "constrained"
) -> Figure:
    """Return an empty figure; width and height are in inches.

    Not through pyplot: no global state, and a notebook keeps its own backend.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout, dpi=110)
    FigureCanvasAgg(figure)
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
