"""Convolution over a sharded image, with correct results and gradients on every mesh.

XLA's partitioner must never see a convolution: where a mesh axis leaves the image replicated, it
multiplies the kernel's gradient by the size of that axis, and that of a grouped convolution even
when only the batch is sharded. So each convolution is one `shard_map`: gather the input channels,
exchange the halo, convolve locally. Automatic differentiation of that supplies the sums and
scatters of the backward pass, and `check_vma` verifies that none is missing.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from convmesh import mesh
from convmesh.mesh import DATA, MODEL, SPATIAL, P
from convmesh.ops.halo import exchange, halo_rows
from convmesh.ops.local import local_conv
from convmesh.ops.taps import Padding
from convmesh.ops.windows import Halo, record

Pair = int | tuple[int, int]  # one number for rows and columns, or (rows, columns)
SAME = "SAME"  # TensorFlow's padding


def conv2d(
    x: jax.Array | Sequence[jax.Array],
    kernel: jax.Array,
    *,
    stride: Pair = 1,
    padding: Pair | str | None = None,
    dilation: Pair = 1,
    groups: int = 1,
    dtype: Any = None,
) -> jax.Array:
    """2-D convolution (cross-correlation, as in torch), NHWC by HWIO.

    Args:
      x: [batch, rows, columns, c_in], any float type; or several such arrays, whose channels follow
        one another (see `_parts`).
      kernel: [kh, kw, c_in / groups, c_out], any float type; its gradient is summed over devices
        in that type, independent of `dtype`.
      stride: step of the window; like padding and dilation one number or a pair (rows, columns).
      padding: zeros at each end; torch's by default, dilation * (k - 1) // 2. "SAME" is
        TensorFlow's: as few as give ceil(n / stride) windows, the smaller half first.
      dilation: spacing of the kernel's taps.
      groups: blocks of channels convolved separately; c_in for a depthwise convolution.
      dtype: type of the arithmetic and of the result; `x`'s by default.

    Returns:
      [batch, (rows + 2 p - dilation (kh - 1) - 1) // stride + 1, ..., c_out]; with "SAME"
      [batch, ceil(rows / stride), ..., c_out].

    Raises:
      ValueError: channels or `groups` do not match, or `padding` is another word.
    """
    parts, whole = _parts(x, groups)
    dtype = dtype or whole.dtype
    _check_channels(whole, kernel, groups)
    (kh, kw), stride, dilation = kernel.shape[:2], pair(stride), pair(dilation)
    pad_rows, pad_columns = _ends(padding, whole.shape[1:3], (kh, kw), stride, dilation)
    parts = tuple(part.astype(dtype) for part in parts)

    def local(x: jax.Array, kernel: jax.Array, pad_rows: tuple[int, int], groups: int) -> jax.Array:
        pads = (pad_rows, pad_columns)
        return local_conv(x, kernel.astype(dtype), stride, pads, dilation, groups)

    if mesh.current() is None:
        return local(_concatenated(parts), kernel, pad_rows, groups)

    rows, shards = whole.shape[1], mesh.axis_size(SPATIAL)
    halo = halo_rows(rows, shards, kh, stride[0], pad_rows, dilation[0])
    layout = _layout(parts[0], kernel, groups, halo)
    local_groups = groups // mesh.axis_size(MODEL) if layout.own_groups else groups

    def sharded(kernel: jax.Array, *parts: jax.Array) -> jax.Array:
        kernel = layout.gather_kernel(kernel)
        x = _concatenated([layout.gather(part) for part in parts])
        if halo is None or not layout.x[1]:
            return local(x, kernel, pad_rows, local_groups)
        return local(exchange(x, *halo, fill=0.0), kernel, (0, 0), local_groups)

    record(f"convolution {kh}x{kw}", whole, layout.x, layout.y, halo, layout.gathers_channels)
    specs = (layout.kernel, *[layout.x] * len(parts))
    return jax.shard_map(sharded, in_specs=specs, out_specs=layout.y)(kernel, *parts)


def _parts(x: jax.Array | Sequence[jax.Array], groups: int) -> tuple[tuple[jax.Array, ...], Any]:
    """The arrays of an input, and the shape and type of the whole.

    Several arrays stay apart if they are sharded alike: each device then gathers the channels of
    each, where a concatenation of sharded channels would first move half of them to other devices.
    """
    parts = tuple(x) if isinstance(x, list | tuple) else (x,)
    if groups > 1 or len({mesh.activation_spec(part.shape)[3] for part in parts}) > 1:
        parts = (_concatenated(parts),)
    return parts, jax.eval_shape(lambda *parts: _concatenated(parts), *parts)


def _concatenated(parts: Sequence[jax.Array]) -> jax.Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)


def _ends(
    padding: Pair | str | None,
    size: tuple[int, ...],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> Padding:
    """Zeros (before, after) the rows and the columns of an image of `size`."""
    extents = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    if padding == SAME:
        totals = [
            max((-(-n // s) - 1) * s + extent - n, 0)
            for n, s, extent in zip(size, stride, extents, strict=True)
        ]
        rows, columns = ((total // 2, total - total // 2) for total in totals)
        return rows, columns
    if isinstance(padding, str):
        raise ValueError(f"conv2d: padding={padding!r} is no number, pair, None nor {SAME!r}")
    if padding is None:
        padding = (extents[0] - 1) // 2, (extents[1] - 1) // 2
    rows, columns = ((p, p) for p in pair(padding))
    return rows, columns


def _check_channels(x: Any, kernel: jax.Array, groups: int) -> None:
    c_in, c_out = kernel.shape[2:]
    if x.shape[-1] != c_in * groups or c_out % groups:
        raise ValueError(
            f"conv2d: input channels {x.shape[-1]}, kernel {kernel.shape} and groups={groups} "
            "do not match"
        )


@dataclasses.dataclass(frozen=True)
class _Layout:
    """The shardings of a convolution's arrays, and what each device gathers first."""

    x: P
    kernel: P
    y: P
    own_groups: bool  # complete groups on each device: they need no other input channels

    @property
    def gathers_channels(self) -> bool:
        return bool(self.x[3]) and not self.own_groups

    def gather_kernel(self, kernel: jax.Array) -> jax.Array:
        """Each device's kernel, inside the `shard_map`."""
        gathered = [i for i, axes in enumerate(self.kernel) if DATA in _axes(axes)]
        summed = tuple(a for a in ((SPATIAL,) if gathered else (DATA, SPATIAL)) if a in self.x)
        # In this order the gradient is scattered over data before it is summed over spatial, and
        # the sum moves only each device's own part.
        kernel = _replicated_over(kernel, summed)
        for i in gathered:
            kernel = lax.all_gather(kernel, DATA, axis=i, tiled=True)
        return kernel

    def gather(self, x: jax.Array) -> jax.Array:
        """Each device's input channels, inside the `shard_map`."""
        if self.y[3] and not self.x[3]:
            x = _replicated_over(x, (MODEL,))
        if self.gathers_channels:
            x = lax.all_gather(x, MODEL, axis=3, tiled=True)
        return x


def _layout(x: jax.Array, kernel: jax.Array, groups: int, halo: Halo) -> _Layout:
    kernel_spec = mesh.parameter_spec(kernel.shape)
    channels_out = MODEL if MODEL in _axes(kernel_spec[3]) else None
    own_groups = bool(groups > 1 and channels_out and groups % mesh.axis_size(MODEL) == 0)
    if groups > 1 and not own_groups:
        channels_out = None
    x_spec = mesh.activation_spec(x.shape, rows=halo is not None, channels=bool(channels_out))
    # Parameters sharded over data (fsdp) are gathered inside, so that their gradients are
    # scattered; where all devices along data do the same work, jit gathers them on the way in.
    kernel_spec = P(
        *(
            tuple(a for a in _axes(axes) if (channels_out if a == MODEL else x_spec[0])) or None
            for axes in kernel_spec
        )
    )
    return _Layout(x_spec, kernel_spec, P(*x_spec[:3], channels_out), own_groups)


def pair(value: Pair) -> tuple[int, int]:
    """(rows, columns) of one number for both, or of a pair."""
    if isinstance(value, int):
        return value, value
    rows, columns = value
    return rows, columns


def _axes(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The mesh axes of one entry of a PartitionSpec."""
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def _replicated_over(array: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """`array`, used by all devices along `axes`: its gradient is the sum of theirs.

    Marked before the cast to a narrow type, so that a kernel's gradient is summed in its own type.
    """
    return lax.pcast(array, axes, to="varying") if axes else array
