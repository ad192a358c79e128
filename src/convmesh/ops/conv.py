"""Convolution over a sharded image: right forward, and right backward, on every mesh.

XLA's partitioner must never see a convolution: where a mesh axis leaves the image whole, it
multiplies the kernel's gradient by that axis' size, and a grouped one's even when only the batch is
sharded. So each convolution is one `shard_map`: gather the input channels, exchange the halo,
convolve locally. Automatic differentiation of exactly that supplies the sums and scatters of the
backward pass, and `check_vma` proves that none is missing.
"""

import jax
from jax import lax

from convmesh import mesh
from convmesh.mesh import DATA, MODEL, SPATIAL, P
from convmesh.ops.halo import exchange, halo_rows
from convmesh.ops.local import local_conv
from convmesh.ops.windows import note


def conv2d(x, kernel, *, stride=1, padding=None, dilation=1, groups=1, dtype=None):
    """2-D convolution (cross-correlation, as in torch), NHWC by HWIO.

    Stride, padding and dilation are one number for both directions or a pair (rows, columns).

    Args:
      x: [batch, rows, columns, c_in], any float type.
      kernel: [kh, kw, c_in / groups, c_out], any float type; its gradient is summed over devices
        in that type, whatever `dtype` is.
      stride: step of the window.
      padding: zeros at each end; torch's by default, dilation * (k - 1) // 2.
      dilation: spacing of the kernel's taps.
      groups: blocks of channels convolved apart; c_in for a depthwise convolution.
      dtype: type of the arithmetic and of the result; `x`'s by default.

    Returns:
      [batch, (rows + 2 p - dilation (kh - 1) - 1) // stride + 1, ..., c_out].

    Raises:
      ValueError: the channels of `x`, `kernel` and `groups` do not match.
    """
    dtype = dtype or x.dtype
    kh, kw, c_in, c_out = kernel.shape
    if x.shape[-1] != c_in * groups or c_out % groups:
        raise ValueError(
            f"conv2d: input channels {x.shape[-1]}, kernel {kernel.shape} and groups={groups} "
            "do not match"
        )
    stride, dilation = pair(stride), pair(dilation)
    if padding is None:
        padding = tuple(d * (k - 1) // 2 for d, k in zip(dilation, (kh, kw), strict=True))
    pad_rows, pad_columns = ((p, p) for p in pair(padding))
    x = x.astype(dtype)

    def local(x, kernel, pad_rows, groups):
        pads = (pad_rows, pad_columns)
        return local_conv(x, kernel.astype(dtype), stride, pads, dilation, groups)

    if mesh.current() is None:
        return local(x, kernel, pad_rows, groups)

    shards = mesh.axis_size(SPATIAL)
    halo = halo_rows(x.shape[1], shards, kh, stride[0], pad_rows[0], dilation[0])
    kernel_spec = mesh.parameter(kernel.shape)
    channels_out = MODEL if MODEL in _axes(kernel_spec[3]) else None
    # Whole groups on each device: its output channels need no input channel but its own.
    own_groups = groups > 1 and channels_out and groups % mesh.axis_size(MODEL) == 0
    if groups > 1 and not own_groups:
        channels_out = None
    x_spec = mesh.activation(x.shape, rows=halo is not None, channels=bool(channels_out))
    y_spec = P(*x_spec[:3], channels_out)
    gathers_channels = bool(x_spec[3]) and not own_groups
    # Parameters sharded over data (fsdp) are gathered here, so that their gradients are scattered;
    # where each device along data does the same work, jit gathers them on the way in.
    kernel_spec = P(
        *(
            tuple(a for a in _axes(axes) if (channels_out if a == MODEL else x_spec[0])) or None
            for axes in kernel_spec
        )
    )

    scattered = [i for i, axes in enumerate(kernel_spec) if DATA in _axes(axes)]
    shared = tuple(a for a in ((SPATIAL,) if scattered else (DATA, SPATIAL)) if a in x_spec)

    def sharded(x, kernel):
        # In this order, so that the gradient is scattered over data before it is summed over
        # spatial, which then moves only each device's own part.
        kernel = _shared_over(kernel, shared)
        for i in scattered:
            kernel = lax.all_gather(kernel, DATA, axis=i, tiled=True)
        if channels_out and not x_spec[3]:
            x = _shared_over(x, (MODEL,))
        if gathers_channels:
            x = lax.all_gather(x, MODEL, axis=3, tiled=True)
        rows = pad_rows
        if x_spec[1]:
            x, rows = exchange(x, *halo, fill=0.0), (0, 0)
        return local(x, kernel, rows, groups // mesh.axis_size(MODEL) if own_groups else groups)

    note(f"convolution {kh}x{kw}", x, x_spec, y_spec, halo, gathers_channels)
    return jax.shard_map(sharded, in_specs=(x_spec, kernel_spec), out_specs=y_spec)(x, kernel)


def pair(value) -> tuple[int, int]:
    """(rows, columns) of a number for both, or of a pair."""
    return (value, value) if isinstance(value, int) else tuple(value)


def _axes(entry) -> tuple[str, ...]:
    """The mesh axes of one entry of a PartitionSpec."""
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def _shared_over(array, axes):
    """`array`, used alike by the devices along `axes`: its gradient is the sum of theirs.

    Said before the cast to a narrow type, so that a kernel's sum is made in its own.
    """
    return lax.pcast(array, axes, to="varying") if axes else array
