"""Flattens feature maps to points, for operations on all points of an example."""

import jax
from jax import lax

from convmesh import mesh
from convmesh.mesh import MODEL, SPATIAL, P


def to_points(x: jax.Array) -> jax.Array:
    """[batch, rows, columns, channels] -> [batch, rows * columns, channels], row by row.

    Rows and channels are gathered, and examples sharded over all mesh axes that divide the batch
    (`mesh.example_spec`), by an all-to-all where possible. Assignment, losses and suppression then
    need no communication.
    """
    if mesh.current() is None:
        return _flat(x)
    used = mesh.example_spec(x.shape)[0] or ()
    spec = mesh.activation_spec(x.shape, rows=SPATIAL in used, channels=MODEL in used)
    x = lax.with_sharding_constraint(x, spec)  # gathers the axes that cannot shard examples

    def local(x: jax.Array) -> jax.Array:
        for axis, dimension in ((SPATIAL, 1), (MODEL, 3)):
            if axis in used and axis in spec:
                x = lax.all_to_all(x, axis, split_axis=0, concat_axis=dimension, tiled=True)
            elif axis in used:
                size = x.shape[0] // lax.axis_size(axis)
                x = lax.dynamic_slice_in_dim(x, lax.axis_index(axis) * size, size)
        return _flat(x)

    return jax.shard_map(local, in_specs=spec, out_specs=P(used or None))(x)


def _flat(x: jax.Array) -> jax.Array:
    batch, rows, columns, channels = x.shape
    return x.reshape(batch, rows * columns, channels)
