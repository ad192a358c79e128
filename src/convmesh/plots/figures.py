"""Matplotlib figures without pyplot. Matplotlib is slow to import, so functions import it."""

from __future__ import annotations

import contextlib
import io
import os
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from convmesh.plots.fonts import families_for, legible, legible_names
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


@contextlib.contextmanager
def fonts_of(names: Sequence[str]) -> Iterator[None]:
    """Make the texts that are created inside use fonts that have the letters of `names`."""
    from matplotlib import rc_context

    with rc_context({"font.family": families_for([legible(n, shaped=False) for n in names])}):
        yield


def monospace_fonts() -> list[str]:
    """Return the monospace font, and inside `fonts_of` its fonts for what that does not have."""
    from matplotlib import rcParams

    return ["monospace", *rcParams["font.family"][1:]]


def short_names(names: Sequence[str]) -> list[str]:
    """Return class names as `_short_name` does, all legible, and different if the names are."""
    return [_short_name(name) for name in legible_names(names, shaped=False)]


def text_columns(text: str) -> int:
    """Return the width of `text` in Latin letters; a Chinese character is as wide as two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _short_name(name: str, max_length: int = 22) -> str:
    """Return a class name cut to `max_length`, with $ escaped (it would start a formula)."""
    if len(name) > max_length:
        name = f"{name[: max_length - 8]}...{name[-5:]}"
    return name.replace("$", r"\$")
