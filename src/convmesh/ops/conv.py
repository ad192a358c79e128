"""Convolution over a sharded image: right forward, and right backward, on every mesh.

XLA's partitioner must never see a convolution: where a mesh axis leaves the image whole, it
multiplies the kernel's gradient by that axis' size, and a grouped one's even when only the batch is
sharded. So each convolution is one `shard_map`: gather the input channels, exchange the halo,
convolve locally. Automatic differentiation of exactly that supplies the sums and scatters of the
backward pass, and `check_vma` proves that none is missing.
"""

import jax
import jax.numpy as jnp
from jax import lax

from convmesh import mesh
from convmesh.mesh import DATA, MODEL, SPATIAL, P
from convmesh.ops.halo import exchange, halo_rows


def conv2d(x, kernel, *, stride=1, padding=None, dilation=1, groups=1, dtype=None):
    """2-D convolution (cross-correlation, as in torch), NHWC by HWIO.

    Args:
      x: [batch, rows, columns, c_in], any float type.
      kernel: [kh, kw, c_in / groups, c_out], any float type; its gradient is summed over devices
        in that type, whatever `dtype` is.
      stride: step of the window, in both directions.
      padding: zeros at each end of (rows, columns); torch's by default, dilation * (k - 1) // 2.
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
    if padding is None:
        padding = (dilation * (kh - 1) // 2, dilation * (kw - 1) // 2)
    if isinstance(padding, int):
        padding = (padding, padding)
    pad_rows, pad_columns = ((p, p) for p in padding)
    x = x.astype(dtype)

    def local(x, kernel, pad_rows, groups):
        pads = (pad_rows, pad_columns)
        return _local_conv(x, kernel.astype(dtype), stride, pads, dilation, groups)

    if mesh.current() is None:
        return local(x, kernel, pad_rows, groups)

    halo = halo_rows(x.shape[1], mesh.axis_size(SPATIAL), kh, stride, padding[0], dilation)
    kernel_spec = mesh.parameter(kernel.shape)
    channels_out = kernel_spec[3]
    # Whole groups on each device: its output channels need no input channel but its own.
    own_groups = groups > 1 and channels_out and groups % mesh.axis_size(MODEL) == 0
    if groups > 1 and not own_groups:
        kernel_spec, channels_out = mesh.parameter(()), None
    x_spec = mesh.activation(x.shape, rows=halo is not None, channels=bool(channels_out))
    y_spec = P(*x_spec[:3], channels_out)

    def sharded(x, kernel):
        kernel = _shared_over(kernel, tuple(axis for axis in (DATA, SPATIAL) if axis in x_spec))
        if x_spec[3] and not own_groups:
            x = lax.all_gather(x, MODEL, axis=3, tiled=True)
        rows = pad_rows
        if x_spec[1]:
            x, rows = exchange(x, *halo, fill=0.0), (0, 0)
        return local(x, kernel, rows, groups // mesh.axis_size(MODEL) if own_groups else groups)

    return jax.shard_map(sharded, in_specs=(x_spec, kernel_spec), out_specs=y_spec)(x, kernel)


def _shared_over(kernel, axes):
    """`kernel`, used alike by the devices along `axes`: its gradient is the sum of theirs.

    Said before the cast to a narrow type, so that the sum is made in the kernel's own.
    """
    return lax.pcast(kernel, axes, to="varying") if axes else kernel


def _local_conv(x, kernel, stride, padding, dilation, groups):
    """The convolution of what stands on one device."""
    # float32 means it: no TF32 and no bfloat16 passes.
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    if kernel.shape[:2] == (1, 1) and groups == 1 and padding == ((0, 0), (0, 0)):
        # A matrix product, which XLA's CPU runs a good deal faster.
        x = x[:, ::stride, ::stride]
        return lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())), precision=precision)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=precision,
    )
