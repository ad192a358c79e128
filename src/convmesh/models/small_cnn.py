"""The plain small CNN: convolution, pooling, dense layers. For first runs and tests."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from convmesh.models.layers import Conv, Dense, at_least_float32
from convmesh.ops.pool import max_pool


class SmallCNN(nn.Module):
    """Three convolutions with pooling between, then two dense layers.

    [batch, rows, columns, 3] -> logits [batch, classes].
    """

    classes: int
    dtype: Any = jnp.float32
    widths: tuple[int, ...] = (32, 64, 64)
    hidden: int = 64

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for i, width in enumerate(self.widths):
            x = nn.relu(Conv(width, bias=True, dtype=self.dtype)(x))
            if i + 1 < len(self.widths):
                x = max_pool(x, 2)
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(Dense(self.hidden, dtype=self.dtype)(x))
        return Dense(self.classes, dtype=at_least_float32(self.dtype))(x)
