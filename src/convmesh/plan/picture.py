"""Draws a plan: the memory of a device, and the time of a step."""

import os
from typing import Any

from convmesh.plan.step_plan import Plan
from convmesh.plots.figures import TITLE, new_figure, save_figure

_COLORS = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377")


def draw_plan(found: Plan, path: str | os.PathLike[str]) -> None:
    """Writes a PNG: a bar of memory beside what is available, and one of the step's seconds."""
    figure = new_figure(9, 4.2)
    figure.suptitle(f"{found.model} on {found.topology}: {found.mesh}", **TITLE)
    memory = found.memory
    upper, lower = figure.subplots(2, 1)
    parts = {
        "parameters": memory.parameters,
        "optimizer": memory.optimizer,
        "averages": memory.other_state,
        "batch": memory.batch,
        "temporaries": memory.temporaries,
        "code": memory.code,
    }
    _stack(upper, {name: size / 2**30 for name, size in parts.items()})
    if memory.available is not None:
        upper.axvline(memory.available / 2**30, color="black", linestyle="--")
        word = "fits" if memory.fits else "does not fit"
        upper.set_title(f"{memory.available / 2**30:.2f} GiB available: {word}", fontsize=9)
    upper.set_xlabel("GiB on each device")
    if found.seconds is None:
        lower.set_axis_off()
        save_figure(figure, path)
        return
    seconds = found.seconds
    bars = {
        "arithmetic": seconds.arithmetic,
        "memory": seconds.memory,
        "communication": seconds.communication,
        "overlapped": seconds.overlapped,
    }
    lower.barh(list(bars)[::-1], [1e3 * value for value in bars.values()][::-1], color=_COLORS[0])
    lower.axvline(1e3 * seconds.total, color="black", linestyle="--")
    lower.set_title(
        f"a step of {found.batch} images: {1e3 * seconds.total:.1f} ms at best, "
        f"{found.images_per_second:,.0f} images/s",
        fontsize=9,
    )
    lower.set_xlabel("ms")
    save_figure(figure, path)


def _stack(axis: Any, sizes: dict[str, float]) -> None:
    left = 0.0
    for color, (name, size) in zip(_COLORS, sizes.items(), strict=True):
        axis.barh(["memory"], [size], left=left, color=color, label=name)
        left += size
    axis.legend(ncols=3, fontsize=8, loc="upper right")
    axis.set_ylim(-0.6, 1.6)
