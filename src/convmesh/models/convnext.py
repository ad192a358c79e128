"""ConvNeXt (arXiv 2201.03545), as in torchvision."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from convmesh.models.layers import (
    Conv,
    Dense,
    LayerNorm,
    LayerScale,
    StochasticDepth,
    at_least_float32,
    crop_to_cells,
    depth_rates,
    rematerialised,
)

_init = nn.initializers.normal(0.02)


class ConvNeXtBlock(nn.Module):
    """7x7 depthwise, layer norm, to four times the channels, GELU, back; scaled and added.

    `drop`: the rate of `StochasticDepth`.
    """

    layer_scale: float = 1e-6
    dtype: Any = jnp.float32
    drop: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        width, dtype = x.shape[-1], self.dtype
        depthwise = Conv(
            width, 7, groups=width, bias=True, dtype=dtype, kernel_init=_init, name="depthwise"
        )
        dense = partial(Dense, dtype=dtype, kernel_init=_init)
        y = LayerNorm(dtype, name="norm")(depthwise(x))
        y = nn.gelu(dense(4 * width, name="expand")(y), approximate=False)
        y = dense(width, name="project")(y)
        y = LayerScale(self.layer_scale, dtype, name="layer_scale")(y)
        return x + StochasticDepth(self.drop)(y, train)


class Stem(nn.Module):
    """4x4 convolution of stride 4, and layer norm."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = partial(Conv, bias=True, dtype=self.dtype, kernel_init=_init, name="conv")
        x = conv(self.features, kernel=4, stride=4, padding=0)(x)
        return LayerNorm(self.dtype, name="norm")(x)


class Downsampling(nn.Module):
    """Layer norm, and 2x2 convolution of stride 2."""

    features: int
    padding: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = LayerNorm(self.dtype, name="norm")(x)
        conv = partial(Conv, bias=True, dtype=self.dtype, kernel_init=_init, name="conv")
        return conv(self.features, kernel=2, stride=2, padding=self.padding)(x)


class ConvNeXt(nn.Module):
    """Stem, four stages of blocks, global mean, norm, dense.

    [batch, rows, columns, 3] -> [batch, classes]. As in torchvision, pixels at the end that fill no
    window of the stem (4x4) or of a stage's first convolution (2x2) are ignored.
    `stochastic_depth`: its rate in the last block, see `depth_rates`.
    """

    classes: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    dtype: Any = jnp.float32
    layer_scale: float = 1e-6
    remat: bool = False
    stochastic_depth: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = _stage_features(self, x, train, padding=0)[-1]
        dtype = at_least_float32(self.dtype)
        x = LayerNorm(dtype, name="head_norm")(x.mean(axis=(1, 2), dtype=dtype))
        return Dense(self.classes, dtype=dtype, kernel_init=_init, name="head")(x)

    def torch_names(self) -> dict[str, str]:
        """The torchvision module of each layer."""
        return _torch_names(self) | {"head_norm": "classifier.0", "head": "classifier.2"}


class ConvNeXtBackbone(nn.Module):
    """Images [batch, rows, columns, 3] -> features of strides 8, 16, 32 (C3, C4, C5).

    For detectors. Its variables have the names and shapes of `ConvNeXt`'s. An odd row or column at
    the end gets a zero beside it, where the classifier ignores it: each level has half the size of
    the one before, rounded up. No norm is put on a level.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    dtype: Any = jnp.float32
    layer_scale: float = 1e-6
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
        return _stage_features(self, crop_to_cells(x), train, padding="SAME")[1:]

    def torch_names(self) -> dict[str, str]:
        """The torchvision module of each layer."""
        return _torch_names(self)


Net = ConvNeXt | ConvNeXtBackbone


def _stage_features(net: Net, x: jax.Array, train: bool, padding: Any) -> list[jax.Array]:
    """The features after each stage. The layers become submodules of `net`."""
    block = rematerialised(ConvNeXtBlock) if net.remat else ConvNeXtBlock
    rates = iter(depth_rates(getattr(net, "stochastic_depth", 0.0), sum(net.depths)))
    features = []
    for i, (width, depth) in enumerate(zip(net.widths, net.depths, strict=True), start=1):
        if i == 1:
            x = Stem(width, net.dtype, name="stem")(x)
        else:
            x = Downsampling(width, padding, net.dtype, name=f"down{i}")(x)
        for j in range(depth):
            name = f"stage{i}_block{j + 1}"
            x = block(net.layer_scale, net.dtype, next(rates), name=name)(x, train)
        features.append(x)
    return features


def _torch_names(net: Net) -> dict[str, str]:
    names = {"stem/conv": "features.0.0", "stem/norm": "features.0.1"}
    for i, depth in enumerate(net.depths, start=1):
        if i > 1:
            down = f"features.{2 * i - 2}"
            names |= {f"down{i}/norm": f"{down}.0", f"down{i}/conv": f"{down}.1"}
        for j in range(depth):
            path, prefix = f"stage{i}_block{j + 1}", f"features.{2 * i - 1}.{j}"
            layers = {"depthwise": 0, "norm": 2, "expand": 3, "project": 5}
            names |= {f"{path}/{layer}": f"{prefix}.block.{n}" for layer, n in layers.items()}
            names[f"{path}/layer_scale/scale"] = f"{prefix}.layer_scale"
    return names


ConvNeXtTiny = partial(ConvNeXt, widths=(96, 192, 384, 768), depths=(3, 3, 9, 3))
ConvNeXtSmall = partial(ConvNeXt, widths=(96, 192, 384, 768), depths=(3, 3, 27, 3))
ConvNeXtBase = partial(ConvNeXt, widths=(128, 256, 512, 1024), depths=(3, 3, 27, 3))
ConvNeXtLarge = partial(ConvNeXt, widths=(192, 384, 768, 1536), depths=(3, 3, 27, 3))
