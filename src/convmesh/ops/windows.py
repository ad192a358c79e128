"""What the window operations of a program do with the mesh, noted while it is traced.

Convolution, pooling and up-sampling lay themselves out (`ops.conv`, `ops.pool`); whoever wants to
know what came of it, to tell the user or to count bytes, traces the program inside `noting()`.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator

import flax.linen as nn

from convmesh import mesh as meshes
from convmesh.mesh import DATA, MODEL, SPATIAL


@dataclasses.dataclass(frozen=True)
class Window:
    """One window operation, and how it was laid out."""

    layer: str  # path of the module that called it
    op: str  # "convolution 3x3", "pooling 2x2", ...
    shape: tuple[int, ...]  # of its input: [batch, rows, columns, channels]
    whole: tuple[str, ...]  # "rows", "channels": whole on each device, though an axis is there
    halo_bytes: int  # that each device gets from its neighbours, forward
    gathered_bytes: int  # input channels of all devices along `model`, forward


_noted: contextvars.ContextVar[list[Window] | None] = contextvars.ContextVar("noted", default=None)
_layer: contextvars.ContextVar[str] = contextvars.ContextVar("layer", default="")


@contextlib.contextmanager
def noting() -> Iterator[list[Window]]:
    """Lists the window operations that are traced inside, in their order."""

    def in_layer(call, args, kwargs, context):
        before = _layer.set("/".join(context.module.path))
        try:
            return call(*args, **kwargs)
        finally:
            _layer.reset(before)

    found: list[Window] = []
    outer = _noted.set(found)
    try:
        with nn.intercept_methods(in_layer):
            yield found
    finally:
        _noted.reset(outer)


def note(op: str, x, x_spec, y_spec, halo, gathers_channels: bool = False) -> None:
    """Called by each window operation with its layout: specs of input and result; the halo used."""
    found = _noted.get()
    if found is None:
        return
    whole = []
    if meshes.axis_size(SPATIAL) > 1 and not x_spec[1] and x.shape[1] > 1:
        whole.append("rows")
    if meshes.axis_size(MODEL) > 1 and not y_spec[3]:
        whole.append("channels")
    batch, rows, columns, channels = x.shape
    batch //= meshes.axis_size(DATA) if x_spec[0] else 1
    channels //= meshes.axis_size(MODEL) if x_spec[3] and not gathers_channels else 1
    row = batch * columns * channels * x.dtype.itemsize
    rows //= meshes.axis_size(SPATIAL) if x_spec[1] else 1
    found.append(
        Window(
            layer=_layer.get(),
            op=op,
            shape=tuple(x.shape),
            whole=tuple(whole),
            halo_bytes=sum(halo) * row if x_spec[1] and halo else 0,
            gathered_bytes=rows * row if gathers_channels else 0,
        )
    )


def describe_whole(windows: list[Window]) -> list[str]:
    """Which layers compute what the mesh could not share, one line for rows, one for channels."""
    lines = []
    for what, axis in (("rows", SPATIAL), ("channels", MODEL)):
        layers = [w.layer or w.op for w in windows if what in w.whole]
        if layers:
            names = list(dict.fromkeys(layers))
            shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
            lines.append(
                f"mesh.{axis}: {len(layers)} of {len(windows)} windows have {what} that do not fit "
                f"it and are whole on each device: {shown}"
            )
    return lines
