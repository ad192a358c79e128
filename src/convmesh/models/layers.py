"""The layers that every model is built of: linen modules over the mesh-aware ops.

A model made of these is written as for one device and gets every mesh axis. `dtype` is the type of
the arithmetic; parameters and statistics are kept in at least float32.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from convmesh.ops.conv import conv2d

he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def stored(dtype) -> Any:
    """The type that parameters of a `dtype` computation are kept in: at least float32."""
    return jnp.promote_types(dtype, jnp.float32)


class Conv(nn.Module):
    """Convolution; `padding` at both ends, torch's dilation * (k - 1) // 2 by default.

    [batch, rows, columns, c] -> [batch, rows / stride, columns / stride, features].
    """

    features: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1
    dilation: int = 1
    padding: int | None = None
    bias: bool = False
    dtype: Any = jnp.float32
    kernel_init: Callable = he_normal
    bias_init: Callable = nn.initializers.zeros

    @nn.compact
    def __call__(self, x):
        shape = (self.kernel, self.kernel, x.shape[-1] // self.groups, self.features)
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
    """Batch norm (Ioffe and Szegedy, arXiv 1502.03167) over the whole global batch.

    Statistics are at least float32. `momentum` is the weight of the old running value.
    """

    dtype: Any = jnp.float32
    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: Callable = nn.initializers.ones

    @nn.compact
    def __call__(self, x, train: bool):
        return nn.BatchNorm(
            use_running_average=not train,
            momentum=self.momentum,
            epsilon=self.epsilon,
            dtype=self.dtype,
            param_dtype=stored(self.dtype),
            # Else running statistics start as float32 and turn into float64 after one step.
            force_float32_reductions=stored(self.dtype) == jnp.float32,
            scale_init=self.scale_init,
            name="norm",
        )(x)


class ConvNorm(nn.Module):
    """Convolution, batch norm and an activation: the brick of most networks."""

    features: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1
    padding: int | None = None
    dtype: Any = jnp.float32
    activation: Callable | None = nn.silu
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
        )(x)
        x = BatchNorm(self.dtype, self.momentum, scale_init=self.scale_init)(x, train)
        return x if self.activation is None else self.activation(x)


class Dense(nn.Module):
    """A fully connected layer: [batch, c] -> [batch, features]."""

    features: int
    dtype: Any = jnp.float32
    kernel_init: Callable = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x):
        precision = "highest" if self.dtype == jnp.float32 else None
        return nn.Dense(
            self.features,
            dtype=self.dtype,
            param_dtype=stored(self.dtype),
            precision=precision,
            kernel_init=self.kernel_init,
            name="dense",
        )(x)
