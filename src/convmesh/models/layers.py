"""The layers of all models: linen modules over the mesh-aware ops.

A model of these layers is written as for one device and runs on any mesh. `dtype` is the compute
dtype; parameters and statistics are stored in at least float32.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from convmesh.errors import ConfigError
from convmesh.geometry import CELL
from convmesh.ops.conv import conv2d, pair
from convmesh.ops.moments import examples_together, moments
from convmesh.ops.randomness import uniform_of_examples

he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def at_least_float32(dtype: Any) -> jnp.dtype:
    """`dtype`, or float32 if it is narrower: the type of parameters, statistics and outputs."""
    return jnp.promote_types(dtype, jnp.float32)


class Conv(nn.Module):
    """Convolution; `padding` at both ends, torch's dilation * (k - 1) // 2 by default.

    [batch, rows, columns, c] -> [batch, rows / stride, columns / stride, features]. Kernel, stride,
    dilation and padding are one number or a pair (rows, columns); padding may be "SAME", which is
    TensorFlow's (see `conv2d`). Several arrays are taken as one of all their channels.
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
    def __call__(self, x: jax.Array | Sequence[jax.Array]) -> jax.Array:
        param_dtype = at_least_float32(self.dtype)
        parts = x if isinstance(x, list | tuple) else (x,)
        channels = sum(part.shape[-1] for part in parts)
        shape = (*pair(self.kernel), channels // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, param_dtype)
        y = conv2d(
            x,
            kernel,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            dtype=self.dtype,
        )
        if self.bias:
            bias = self.param(
                "bias", self.bias_init, (self.features,), at_least_float32(self.dtype)
            )
            y = y + bias.astype(self.dtype)
        return y


class BatchNorm(nn.Module):
    """Batch norm (arXiv 1502.03167) over the global batch, or over ghost groups of it.

    `group` consecutive examples are normalised together, by their own statistics (arXiv 1705.08741,
    section 4): without communication where each device holds complete groups. 0 is the global
    batch. Running statistics are the mean over all groups. Statistics are at least float32.
    `momentum` is the weight of the old running value.

    Raises ValueError if the batch is not a multiple of `group`, ConfigError if a group has only one
    value of each channel: the result would be a constant, and the running variance 0.
    """

    dtype: Any = jnp.float32
    group: int = 0
    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: Callable = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        batch, channels = x.shape[0], x.shape[-1]
        param_dtype = at_least_float32(self.dtype)
        scale = self.param("scale", self.scale_init, (channels,), param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), param_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), param_dtype)
        if not train:
            factor = scale * lax.rsqrt(running_var.value + self.epsilon)
            return ((x.astype(param_dtype) - running_mean.value) * factor + bias).astype(self.dtype)

        if batch % (self.group or batch):
            raise ValueError(
                f"batch norm: a batch of {batch} is not a multiple of group={self.group}"
            )
        if examples_together(batch, self.group) * x.shape[1] * x.shape[2] == 1:
            raise ConfigError(
                f"batch norm {'/'.join(self.path)} would see one value of each channel (examples x "
                "rows x columns = 1), and learn nothing: increase train.batch_size, decrease "
                "train.accumulate, set model.norm_group to 0, or increase data.image_size"
            )
        mean, square = moments(x.astype(param_dtype), self.group)
        # One pass over x; rounding may make a variance of 0 negative.
        var = jnp.maximum(square - jnp.square(mean), 0.0)
        if not self.is_initializing():
            for running, now in ((running_mean, mean), (running_var, var)):
                running.value += (1 - self.momentum) * (now.mean(0) - running.value)
        factor = scale * lax.rsqrt(var + self.epsilon)
        mean, factor = (v[:, None, None, None] for v in (mean, factor))
        grouped = x.astype(param_dtype).reshape(mean.shape[0], -1, *x.shape[1:])
        return ((grouped - mean) * factor + bias).reshape(x.shape).astype(self.dtype)


class ConvNorm(nn.Module):
    """Convolution, batch norm and an activation (None for none).

    `padding` is that of `Conv`, `momentum` and `epsilon` those of `BatchNorm`.
    """

    features: int
    kernel: Any = 3
    stride: Any = 1
    groups: int = 1
    padding: Any = None
    dtype: Any = jnp.float32
    activation: Callable | None = nn.silu
    norm_group: int = 0
    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: Callable = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array | Sequence[jax.Array], train: bool) -> jax.Array:
        y = Conv(
            self.features,
            self.kernel,
            self.stride,
            self.groups,
            padding=self.padding,
            dtype=self.dtype,
            name="conv",
        )(x)
        y = BatchNorm(
            self.dtype,
            self.norm_group,
            self.momentum,
            self.epsilon,
            self.scale_init,
            name="norm",
        )(y, train)
        return y if self.activation is None else self.activation(y)


class StochasticDepth(nn.Module):
    """In training, zeros for a fraction `rate` of the examples, and the others / (1 - rate).

    For the branch of a residual block (arXiv 1603.09382, by example as in its authors' successors).
    [batch, ...] -> the same. Draws from the stream "dropout", by example.
    """

    rate: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if not train or not self.rate:
            return x
        kept = uniform_of_examples(self.make_rng("dropout"), x.shape[0]) >= self.rate
        return jnp.where(kept.reshape(-1, *[1] * (x.ndim - 1)), x / (1 - self.rate), 0)


class Dropout(nn.Module):
    """In training, zeros for a fraction `rate` of the values, and the others / (1 - rate).

    Dropout (Srivastava et al. 2014). [batch, channels] -> the same. Draws from the stream
    "dropout", by example.
    """

    rate: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if not train or not self.rate:
            return x
        kept = uniform_of_examples(self.make_rng("dropout"), x.shape[0], x.shape[1:]) >= self.rate
        return jnp.where(kept, x / (1 - self.rate), 0)


def depth_rates(last: float, blocks: int) -> tuple[float, ...]:
    """The rate of `StochasticDepth` in each block: linear from 0 to `last`, as in ConvNeXt."""
    return tuple(last * i / max(1, blocks - 1) for i in range(blocks))


class ResidualBlock(nn.Module):
    """ResNet's basic block (arXiv 1512.03385): two 3x3 convolutions and a shortcut.

    The shortcut is the identity, or a 1x1 convolution if shapes change. [batch, rows, columns, c]
    -> [batch, rows / stride, columns / stride, features]. With `last_scale_init` of zeros the block
    starts as the identity (arXiv 1706.02677). `drop`: the rate of `StochasticDepth`.
    """

    features: int
    stride: int = 1
    dtype: Any = jnp.float32
    norm_group: int = 0
    activation: Callable = nn.silu
    last_scale_init: Callable = nn.initializers.ones
    drop: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv_norm = partial(
            ConvNorm, self.features, dtype=self.dtype, norm_group=self.norm_group, activation=None
        )
        y = self.activation(conv_norm(stride=self.stride, name="conv1")(x, train))
        y = conv_norm(scale_init=self.last_scale_init, name="conv2")(y, train)
        y = StochasticDepth(self.drop)(y, train)
        if x.shape != y.shape:
            x = conv_norm(kernel=1, stride=self.stride, name="shortcut")(x, train)
        return self.activation(x + y)


class GroupNorm(nn.Module):
    """Group norm (arXiv 1803.08494): each example by its own statistics, `groups` of channels.

    For batches too small for batch norm. Statistics are at least float32, and are summed over the
    devices that image rows or the channels of a group are sharded over.

    Raises ValueError if the channels are not a multiple of `groups`.
    """

    groups: int = 32
    dtype: Any = jnp.float32
    epsilon: float = 1e-5
    scale_init: Callable = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels, param_dtype = x.shape[-1], at_least_float32(self.dtype)
        if channels % self.groups:
            raise ValueError(f"group norm: {channels} channels are not a multiple of {self.groups}")
        scale = self.param("scale", self.scale_init, (channels,), param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), param_dtype)
        grouped = x.astype(param_dtype).reshape(*x.shape[:3], self.groups, channels // self.groups)
        mean = grouped.mean((1, 2, 4), keepdims=True)
        var = jnp.square(grouped - mean).mean((1, 2, 4), keepdims=True)
        normal = ((grouped - mean) * lax.rsqrt(var + self.epsilon)).reshape(x.shape)
        return (normal * scale + bias).astype(self.dtype)


class LayerNorm(nn.Module):
    """Layer norm (arXiv 1607.06450) over the channels, of each pixel by itself.

    [..., c] -> the same. Statistics are at least float32, and are summed over the devices that the
    channels are sharded over.
    """

    dtype: Any = jnp.float32
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels, param_dtype = x.shape[-1], at_least_float32(self.dtype)
        scale = self.param("scale", nn.initializers.ones, (channels,), param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), param_dtype)
        x = x.astype(param_dtype)
        mean = x.mean(-1, keepdims=True)
        var = jnp.square(x - mean).mean(-1, keepdims=True)
        return ((x - mean) * lax.rsqrt(var + self.epsilon) * scale + bias).astype(self.dtype)


class LayerScale(nn.Module):
    """Each channel times a learned number that starts at `start` (arXiv 2103.17239)."""

    start: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.constant(self.start)
        scale = self.param("scale", init, (x.shape[-1],), at_least_float32(self.dtype))
        return x * scale.astype(self.dtype)


class Dense(nn.Module):
    """A fully connected layer, [batch, c] -> [batch, features]: a 1x1 convolution of one pixel.

    Of an image [batch, rows, columns, c], a 1x1 convolution.
    """

    features: int
    dtype: Any = jnp.float32
    kernel_init: Callable = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        param_dtype = at_least_float32(self.dtype)
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), param_dtype)
        pixels = x if x.ndim == 4 else x[:, None, None]
        y = conv2d(pixels, kernel[None, None], dtype=self.dtype)
        y = y if x.ndim == 4 else y[:, 0, 0]
        return y + bias.astype(self.dtype)


class SqueezeExcitation(nn.Module):
    """Each channel multiplied by a gate computed from the means of all (arXiv 1709.01507).

    Mean over rows and columns, 1x1 convolution to `reduced` channels, `activation`, 1x1 convolution
    back, `gate` (a sigmoid by default). [batch, rows, columns, c] -> the same. The mean is taken in
    at least float32, over all devices that image rows are sharded over. Its layers are `fc1` and
    `fc2`, as in torchvision.
    """

    reduced: int
    activation: Callable = nn.relu
    gate: Callable = nn.sigmoid
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = partial(Conv, kernel=1, bias=True, dtype=self.dtype)
        mean = x.mean((1, 2), keepdims=True, dtype=at_least_float32(self.dtype))
        y = self.activation(conv(self.reduced, name="fc1")(mean))
        return x * self.gate(conv(x.shape[-1], name="fc2")(y))


def conv_norm_names(path: str, conv: str, norm: str) -> dict[str, str]:
    """The part of a model's `torch_names` for a ConvNorm: torch has two modules for it."""
    return {f"{path}/conv": conv, f"{path}/norm": norm}


def crop_to_cells(x: jax.Array) -> jax.Array:
    """Images [batch, rows, columns, channels] cropped, at the end, to multiples of 4 pixels.

    Every backbone of a detector then returns levels of the sizes of `geometry.grid_shape`.
    """
    rows, columns = (side // CELL * CELL for side in x.shape[1:3])
    return x[:, :rows, :columns]


def rematerialised(block: Any) -> Any:
    """`block`, called as block(x, train), under `nn.remat`.

    Its activations are recomputed in the backward pass: less memory for about a third more
    arithmetic.
    """
    if isinstance(block, partial):
        return partial(rematerialised(block.func), *block.args, **block.keywords)
    return nn.remat(block, static_argnums=(2,))  # train; 0 is the module itself


def residual_stage(
    block: Any, x: jax.Array, train: bool, *, stage: int, width: int, depth: int, stride: int = 1
) -> jax.Array:
    """`depth` residual blocks of `width` in sequence, the first with `stride`.

    `block`: a module class or partial, or a list of one for each. Called in a module's compact
    method, where the blocks, `block(width, stride, name=...)`, become `stage{stage}_block1`,
    `stage{stage}_block2`, ...
    """
    for i in range(depth):
        name, make = f"stage{stage}_block{i + 1}", block[i] if isinstance(block, list) else block
        x = make(width, 1 if i else stride, name=name)(x, train)
    return x
