"""ResNets for images of some 32 pixels (arXiv 1512.03385, section 4.2): a 3x3 stem of stride 1.

Where shapes change, the shortcut is a 1x1 convolution, as in the ResNets for large images; the
paper's has no parameters there.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from convmesh.models.layers import (
    ConvNorm,
    Dense,
    Dropout,
    at_least_float32,
    depth_rates,
    rematerialised,
    residual_stage,
)
from convmesh.models.resnet import BasicBlock


class CifarResNet(nn.Module):
    """Stem, three stages of basic blocks, of strides 1, 2, 4, global mean, dense.

    [batch, rows, columns, 3] -> [batch, classes]. `width`: channels of the first stage, which each
    stage doubles; `stochastic_depth`, `dropout` as in `ResNet`.
    """

    classes: int
    depth: int  # blocks of a stage
    dtype: Any = jnp.float32
    width: int = 16
    norm_group: int = 0
    remat: bool = False
    stochastic_depth: float = 0.0
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        options = {"dtype": self.dtype, "norm_group": self.norm_group}
        x = ConvNorm(self.width, activation=nn.relu, name="stem", **options)(x, train)
        block = partial(rematerialised(BasicBlock) if self.remat else BasicBlock, **options)
        rates = iter(depth_rates(self.stochastic_depth, 3 * self.depth))
        for i in range(3):
            blocks = [partial(block, drop=next(rates)) for _ in range(self.depth)]
            shape = {"width": self.width * 2**i, "depth": self.depth, "stride": 2 if i else 1}
            x = residual_stage(blocks, x, train, stage=i + 1, **shape)
        x = x.mean(axis=(1, 2), dtype=at_least_float32(self.dtype))
        x = Dropout(self.dropout)(x, train)
        return Dense(self.classes, dtype=at_least_float32(self.dtype), name="head")(x)


# Named by their layers: two for each block, the stem and the dense layer.
ResNet20, ResNet56 = (partial(CifarResNet, depth=depth) for depth in (3, 9))
