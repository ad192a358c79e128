"""Records how the window operations of a traced program are sharded over the mesh.

Convolution, pooling and up-sampling choose their layout from their shapes (`ops.conv`, `ops.pool`).
To report it, or to count bytes, trace the program inside `record_windows()`.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax

from convmesh import mesh as meshes
from convmesh.mesh import DATA, MODEL, SPATIAL, P


@dataclasses.dataclass(frozen=True)
class Window:
    """One window operation and its layout."""

    layer: str  # path of the module that calls it
    op: str  # "convolution 3x3", "pooling 2x2", ...
    shape: tuple[int, ...]  # of its input: [batch, rows, columns, channels]
    replicated: tuple[str, ...]  # "rows", "channels": not sharded, though the mesh has the axis
    halo_bytes: int  # received by each device from its neighbours, forward
    gathered_bytes: int  # of the input channels gathered along `model`, forward


Halo = tuple[int, int] | None  # rows from (above, below)

_record: contextvars.ContextVar[list[Window] | None] = contextvars.ContextVar(
    "record", default=None
)
_layer: contextvars.ContextVar[str] = contextvars.ContextVar("layer", default="")


@contextlib.contextmanager
def record_windows() -> Iterator[list[Window]]:
    """A context whose list receives the window operations traced inside it, in order."""

    def in_layer(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        token = _layer.set("/".join(context.module.path))
        try:
            return call(*args, **kwargs)
        finally:
            _layer.reset(token)

    found: list[Window] = []
    token = _record.set(found)
    try:
        with nn.intercept_methods(in_layer):
            yield found
    finally:
        _record.reset(token)


def record(
    op: str, x: jax.Array, x_spec: P, y_spec: P, halo: Halo, gathers_channels: bool = False
) -> None:
    """Records a window operation: the specs of its input and result, and its halo."""
    found = _record.get()
    if found is None:
        return
    replicated = []
    if meshes.axis_size(SPATIAL) > 1 and not x_spec[1] and x.shape[1] > 1:
        replicated.append("rows")
    if meshes.axis_size(MODEL) > 1 and not y_spec[3]:
        replicated.append("channels")
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
            replicated=tuple(replicated),
            halo_bytes=sum(halo) * row if x_spec[1] and halo else 0,
            gathered_bytes=rows * row if gathers_channels else 0,
        )
    )


def describe_replicated(windows: list[Window]) -> list[str]:
    """The layers that the mesh cannot shard: one line for rows, one for channels, if any."""
    lines = []
    for dimension, axis in (("rows", SPATIAL), ("channels", MODEL)):
        layers = [w.layer or w.op for w in windows if dimension in w.replicated]
        if layers:
            names = list(dict.fromkeys(layers))
            shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
            lines.append(
                f"mesh.{axis}: {len(layers)} of {len(windows)} layers have {dimension} that do not "
                f"divide and are not sharded: {shown}"
            )
    return lines
