"""The canvas of a figure, which draws text of any script. Imports Matplotlib, which is slow."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.font_manager import findfont

from convmesh.plots.scripts import is_plain
from convmesh.plots.typeset import Typeset, typeset


class Canvas(FigureCanvasAgg):
    """Matplotlib's own canvas, but for texts that are not ASCII."""

    _size: tuple[float, ...] = ()

    def get_renderer(self) -> RendererAgg:
        """Return the renderer for the present size of the figure."""
        size = (*self.get_width_height(physical=True), self.figure.dpi)
        if self._size != size:
            self.renderer, self._size = _Renderer(*size), size
        return self.renderer


class _Renderer(RendererAgg):
    """Draws ASCII and formulas like Matplotlib, other texts with the fonts of `fonts`."""

    def draw_text(self, gc: Any, x: float, y: float, s: str, *style: Any, **more: Any) -> None:
        """Draw a text whose baseline starts at x, y, in pixels from the upper left corner.

        `style`: the font's properties and the angle, 0 or 90 degrees.
        """
        prop, angle, *ismath = style
        if is_plain(s) or any(ismath) or more.get("ismath"):
            super().draw_text(gc, x, y, s, *style, **more)
            return
        drawn = self._typeset(s, prop)
        upward = round(angle) == 90  # the only other angle in our figures
        ink = np.rot90(drawn.ink) if upward else drawn.ink
        image = np.zeros((*ink.shape, 4), np.uint8)
        image[:, :, :3] = np.round(255 * np.array(gc.get_rgb()[:3]))
        image[:, :, 3] = np.round(ink * gc.get_alpha())
        baseline = self.height - y
        if upward:
            left, bottom = x - drawn.ascent, baseline + drawn.left
        else:
            left, bottom = x + drawn.left, baseline - drawn.descent
        if ink.size:
            self.draw_image(gc, round(left), round(bottom), image[::-1])

    def get_text_width_height_descent(
        self, s: str, prop: Any, ismath: Any
    ) -> tuple[float, float, float]:
        """Return the size of a text in pixels; the descent is a part of the height."""
        if is_plain(s) or ismath:
            return super().get_text_width_height_descent(s, prop, ismath)
        drawn = self._typeset(s, prop)
        return drawn.width, drawn.ink.shape[0], drawn.descent

    def _typeset(self, text: str, prop: Any) -> Typeset:
        size = self.points_to_pixels(prop.get_size_in_points())
        return typeset(text, size, str(findfont(prop)))
