"""Means of activations over the examples that a batch norm sees together."""

import jax
import jax.numpy as jnp

from convmesh import mesh


def examples_together(batch: int, group: int) -> int:
    """Examples that are normalised together: `group`, or for 0 the global batch.

    batch: of the arrays at hand, which may be those of one device.
    """
    return group or batch * mesh.devices_of_batch()


def moments(x: jax.Array, group: int) -> tuple[jax.Array, jax.Array]:
    """The mean and the mean square of each channel, both [groups, channels].

    x: [batch, rows, columns, channels], of which `group` consecutive examples are a group; 0: the
    global batch is one.
    """
    grouped = x.reshape(-1, group or x.shape[0], *x.shape[1:])
    mean, square = grouped.mean((1, 2, 3)), jnp.square(grouped).mean((1, 2, 3))
    if not group:
        mean, square = mesh.mean_over_devices(mean, square)
    return mean, square
