"""The layers that every model is built of: linen modules over the mesh-aware ops.

A model made of these is written as for one device and gets every mesh axis. `dtype` is the type of
the arithmetic; parameters and statistics are kept in at least float32.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from convmesh.ops.conv import conv2d, pair

he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def stored(dtype) -> Any:
    """The type that parameters of a `dtype` computation are kept in: at least float32."""
    return jnp.promote_types(dtype, jnp.float32)


class Conv(nn.Module):
    """Convolution; `padding` at both ends, torch's dilation * (k - 1) // 2 by default.

    [batch, rows, columns, c] -> [batch, rows / stride, columns / stride, features]. Kernel, stride,
    dilation and padding are one number or a pair (rows, columns).
    """

    features: int
    kernel: Any = 3
    stride: Any = 1
    groups: int = 1
    dilation: Any = 1
    padding: Any = None
    bias: bool = False
    dtype: Any = jnp.float32
    kernel_init: Callable = he_normal
    bias_init: Callable = nn.initializers.zeros

    @nn.compact
    def __call__(self, x):
        shape = (*pair(self.kernel), x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, stored(self.dtype))
        x = conv2d(
            x,
            kernel,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            dtype=self.dtype,
        )
        if self.bias:
            bias = self.param("bias", self.bias_init, (self.features,), stored(self.dtype))
            x = x + bias.astype(self.dtype)
        return x


class BatchNorm(nn.Module):
    """Batch norm (arXiv 1502.03167) over the global batch, or over ghost groups of it.

    `group` examples that follow one another are normalised together, by their own statistics
    (arXiv 1705.08741, section 4): where a device holds whole groups it normalises them without any
    other device. 0 is the whole global batch. Running statistics are the mean over all groups.
    Statistics are at least float32. `momentum` is the weight of the old running value.

    Raises ValueError if the batch is no multiple of `group`.
    """

    dtype: Any = jnp.float32
    group: int = 0
    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: Callable = nn.initializers.ones

    @nn.compact
    def __call__(self, x, train: bool):
        batch, channels = x.shape[0], x.shape[-1]
        kind = stored(self.dtype)
        scale = self.param("scale", self.scale_init, (channels,), kind)
        bias = self.param("bias", nn.initializers.zeros, (channels,), kind)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), kind)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), kind)
        if not train:
            factor = scale * lax.rsqrt(running_var.value + self.epsilon)
            return ((x.astype(kind) - running_mean.value) * factor + bias).astype(self.dtype)

        size = self.group or batch
        if batch % size:
            raise ValueError(f"batch norm: a batch of {batch} is no multiple of group={size}")
        grouped = x.astype(kind).reshape(batch // size, size, *x.shape[1:])
        mean = grouped.mean((1, 2, 3))
        # One pass over x; float32 may round a variance of 0 to less.
        var = jnp.maximum(jnp.square(grouped).mean((1, 2, 3)) - jnp.square(mean), 0.0)
        if not self.is_initializing():
            for running, now in ((running_mean, mean), (running_var, var)):
                running.value += (1 - self.momentum) * (now.mean(0) - running.value)
        factor = scale * lax.rsqrt(var + self.epsilon)
        mean, factor = (v[:, None, None, None] for v in (mean, factor))
        return ((grouped - mean) * factor + bias).reshape(x.shape).astype(self.dtype)


class ConvNorm(nn.Module):
    """Convolution, batch norm and an activation: the brick of most networks."""

    features: int
    kernel: Any = 3
    stride: Any = 1
    groups: int = 1
    padding: Any = None
    dtype: Any = jnp.float32
    activation: Callable | None = nn.silu
    norm_group: int = 0
    momentum: float = 0.9
    scale_init: Callable = nn.initializers.ones

    @nn.compact
    def __call__(self, x, train: bool):
        x = Conv(
            self.features,
            self.kernel,
            self.stride,
            self.groups,
            padding=self.padding,
            dtype=self.dtype,
            name="conv",
        )(x)
        x = BatchNorm(
            self.dtype, self.norm_group, self.momentum, scale_init=self.scale_init, name="norm"
        )(x, train)
        return x if self.activation is None else self.activation(x)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside the identity, or beside a 1x1 where shapes change (ResNet's
    basic block, arXiv 1512.03385).

    [batch, rows, columns, c] -> [batch, rows / stride, columns / stride, features].
    `last_scale_init` of zeros lets the block start as the identity (arXiv 1706.02677).
    """

    features: int
    stride: int = 1
    dtype: Any = jnp.float32
    norm_group: int = 0
    activation: Callable = nn.silu
    last_scale_init: Callable = nn.initializers.ones

    @nn.compact
    def __call__(self, x, train: bool):
        brick = partial(
            ConvNorm, self.features, dtype=self.dtype, norm_group=self.norm_group, activation=None
        )
        y = self.activation(brick(stride=self.stride, name="conv1")(x, train))
        y = brick(scale_init=self.last_scale_init, name="conv2")(y, train)
        if x.shape != y.shape:
            x = brick(kernel=1, stride=self.stride, name="shortcut")(x, train)
        return self.activation(x + y)


class GroupNorm(nn.Module):
    """Group norm (arXiv 1803.08494): each example by its own statistics, `groups` of channels.

    For batches too small for batch norm. Statistics are at least float32. Where image rows or a
    group's channels stand on several devices, these sum over them.
    """

    groups: int = 32
    dtype: Any = jnp.float32
    epsilon: float = 1e-5
    scale_init: Callable = nn.initializers.ones

    @nn.compact
    def __call__(self, x):
        channels, kind = x.shape[-1], stored(self.dtype)
        if channels % self.groups:
            raise ValueError(f"group norm: {channels} channels are no multiple of {self.groups}")
        scale = self.param("scale", self.scale_init, (channels,), kind)
        bias = self.param("bias", nn.initializers.zeros, (channels,), kind)
        grouped = x.astype(kind).reshape(*x.shape[:3], self.groups, channels // self.groups)
        mean = grouped.mean((1, 2, 4), keepdims=True)
        var = jnp.square(grouped - mean).mean((1, 2, 4), keepdims=True)
        normal = ((grouped - mean) * lax.rsqrt(var + self.epsilon)).reshape(x.shape)
        return (normal * scale + bias).astype(self.dtype)


class Dense(nn.Module):
    """A fully connected layer: [batch, c] -> [batch, features]. A 1x1 convolution of one pixel."""

    features: int
    dtype: Any = jnp.float32
    kernel_init: Callable = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x):
        kind = stored(self.dtype)
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), kind)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), kind)
        y = conv2d(x[:, None, None], kernel[None, None], dtype=self.dtype)[:, 0, 0]
        return y + bias.astype(self.dtype)


def whole_cells(x):
    """Images without the rows and columns at the end that fill no cell of 4 x 4 pixels.

    `x`: [batch, rows, columns, channels]. So every backbone of a detector gives the levels that
    `detector.grid_points` counts.
    """
    rows, columns = (side // 4 * 4 for side in x.shape[1:3])
    return x[:, :rows, :columns]


def rematerialised(block: Any) -> Any:
    """`block`, called as block(x, train), whose inside is computed again in the backward pass.

    Only its input is kept in between: less memory for about a third more arithmetic.
    """
    if isinstance(block, partial):
        return partial(rematerialised(block.func), *block.args, **block.keywords)
    return nn.remat(block, static_argnums=(2,))  # train; 0 is the module itself
