"""ResNet-9 for images of some 32 pixels: few layers, most of them wide, for short training.

Source: David Page, How to Train Your ResNet (myrtle.ai, 2018): 94% on CIFAR-10 in 24 epochs. Its
residual blocks are here ResNet's basic blocks, and a mean takes the place of its last maximum.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from convmesh.models.layers import ConvNorm, Dense, Dropout, at_least_float32, rematerialised
from convmesh.models.resnet import BasicBlock
from convmesh.ops.pool import max_pool


class ResNet9(nn.Module):
    """Stem, three stages that halve the image, a block in the first and third, mean, dense.

    [batch, rows, columns, 3] -> [batch, classes]. `width`: channels of the stem, which each stage
    doubles; `dropout` as in `ResNet`.
    """

    classes: int
    dtype: Any = jnp.float32
    width: int = 64
    norm_group: int = 0
    remat: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        options: dict[str, Any] = {"dtype": self.dtype, "norm_group": self.norm_group}
        block = rematerialised(BasicBlock) if self.remat else BasicBlock
        conv_norm = partial(ConvNorm, activation=nn.relu, **options)
        x = conv_norm(features=self.width, name="stem")(x, train)
        for stage in (1, 2, 3):
            width = self.width * 2**stage
            x = max_pool(conv_norm(features=width, name=f"stage{stage}_conv")(x, train), 2)
            if stage != 2:
                x = block(width, name=f"stage{stage}_block1", **options)(x, train)
        dtype = at_least_float32(self.dtype)
        x = Dropout(self.dropout)(x.mean(axis=(1, 2), dtype=dtype), train)
        return Dense(self.classes, dtype=dtype, name="head")(x)


ResNet9Quarter = partial(ResNet9, width=16)
