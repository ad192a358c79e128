"""States of random numbers for tests of checkpoints, and what is done to the files."""

import equality
import jax
import numpy as np

from convmesh import mesh as meshes
from convmesh.steps.state import TrainState

META = {"data_position": 8, "config": {"task": "classify"}, "classes": ["ä", "b"]}


def make_state(step, shape=(2, 2, 2), size=16, ema=True):
    """A state of random numbers, in the layout of a mesh of `shape`."""
    rng = np.random.default_rng(step)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    params = {"conv": {"kernel": draw(3, 3, 4, size), "bias": draw(size)}, "odd": draw(5)}
    params["odd"][:2] = np.nan, -0.0  # bits, not values, must come back
    state = TrainState(
        step=np.int32(step),
        params=params,
        batch_stats={"mean": draw(size)},
        opt_state=({"count": np.int32(step), "mu": jax.tree.map(np.ones_like, params)}, ()),
        ema={"params": jax.tree.map(lambda p: 2 * p, params), "batch_stats": {"mean": draw(size)}}
        if ema
        else None,
        nonfinite_steps=np.int32(3),
    )
    return jax.device_put(state, meshes.state_shardings(equality.make_mesh(shape), state))


def abstract(state, shape):
    """The target of a restore onto a mesh of `shape`."""
    at = meshes.state_shardings(equality.make_mesh(shape), state)
    return jax.tree.map(
        lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), state, at
    )


def assert_same_bits(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes()


def damage(workdir, step, name="model/manifest.ocdbt"):
    path = workdir / "checkpoints" / str(step) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def names(workdir):
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())
