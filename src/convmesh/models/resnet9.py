"""ResNet-9 for images of some 32 pixels: few layers, most of them wide, for short training.

Source: David Page, How to Train Your ResNet (myrtle.ai, 2018): 94% on CIFAR-10 in 24 epochs. Its
residual blocks are here ResNet's basic blocks.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from convmesh.models.layers import ConvNorm, Dense, Dropout, at_least_float32, rematerialised
from convmesh.models.resnet import BasicBlock
from convmesh.ops.pool import max_pool

HEAD_SCALE = 0.125  # of the logits


class ResNet9(nn.Module):
    """Stem, three stages that halve the image, a block in the first and third, maximum, dense.

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
        x = conv_norm(self.width, name="stem")(x, train)
        for stage in (1, 2, 3):
            width = self.width * 2**stage
            x = max_pool(conv_norm(width, name=f"stage{stage}_conv")(x, train), 2)
            if stage != 2:
                x = block(width, name=f"stage{stage}_block1", **options)(x, train)
        x = Dropout(self.dropout)(x.max(axis=(1, 2)), train)
        dtype = at_least_float32(self.dtype)
        return Dense(self.classes, dtype=dtype, name="head")(x) * HEAD_SCALE


ResNet9Quarter = partial(ResNet9, width=16)
