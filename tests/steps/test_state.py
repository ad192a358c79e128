"""The train state is created sharded, and the same on every mesh."""

import equality
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from runs import TinyNet

from convmesh.steps.state import StateSpec, abstract_state, create_state

CLASSES = 5  # odd: the head does not divide over the model axis


def make(shape=(2, 2, 2), create=create_state, **changes):
    model = TinyNet(CLASSES, dtype=jnp.float32)
    spec = StateSpec(model, optax.adamw(1e-3), (16, 16), **changes)
    return create(spec, equality.make_mesh(shape))


@pytest.fixture(scope="module")
def state():
    return make()


def specs(tree):
    """{path: PartitionSpec without trailing None} of every leaf."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        parts = list(leaf.sharding.spec)
        while parts and parts[-1] is None:
            parts.pop()
        found[jax.tree_util.keystr(path, simple=True, separator="/")] = P(*parts)
    return found


def test_parameters_are_sharded_by_output_channels(state):
    by_channels, found = P(None, None, None, "model"), specs(state.params)
    assert found["stem/conv/kernel"] == by_channels
    assert found["stage2_block1/shortcut/conv/kernel"] == by_channels
    assert found["stem/norm/scale"] == P("model")
    assert specs(state.batch_stats)["stem/norm/mean"] == P("model")
    # 5 classes do not divide over 2 devices: replicated.
    assert found["head/kernel"] == found["head/bias"] == P()
    assert specs(state.step)[""] == P()


def test_a_device_holds_only_its_channels(state):
    kernel = state.params["stem"]["conv"]["kernel"]
    assert kernel.shape == (7, 7, 3, 8)
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(7, 7, 3, 4)}
    values = np.asarray(kernel)
    for shard in kernel.addressable_shards:
        np.testing.assert_array_equal(np.asarray(shard.data), values[shard.index])


def test_optimizer_state_and_average_are_sharded_as_their_parameters(state):
    params = specs(state.params)
    adam = state.opt_state[0]
    assert specs(adam.mu) == specs(adam.nu) == params
    assert specs(state.ema["params"]) == params
    assert specs(state.ema["batch_stats"]) == specs(state.batch_stats)


@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 1, 1), (1, 2, 4)], ids=str)
def test_same_values_on_every_mesh(state, shape):
    other = make(shape)
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def test_another_seed_gives_other_weights(state):
    kernel = lambda state: np.asarray(state.params["stem"]["conv"]["kernel"])  # noqa: E731
    assert not np.array_equal(kernel(state), kernel(make(seed=1)))
    assert kernel(state).std() > 0


@pytest.mark.parametrize("ema", [True, False], ids=["average", "no average"])
def test_abstract_state_is_the_state_without_values(ema):
    real, abstract = make(ema=ema), make(ema=ema, create=abstract_state)
    assert jax.tree.structure(real) == jax.tree.structure(abstract)
    for ours, theirs in zip(jax.tree.leaves(real), jax.tree.leaves(abstract), strict=True):
        assert isinstance(theirs, jax.ShapeDtypeStruct)
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        assert ours.sharding == theirs.sharding


def test_the_average_starts_as_a_copy_in_its_own_memory(state):
    raw = {"params": state.params, "batch_stats": state.batch_stats}
    for ours, theirs in zip(jax.tree.leaves(state.ema), jax.tree.leaves(raw), strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    buffers = [
        shard.data.unsafe_buffer_pointer()
        for leaf in jax.tree.leaves(state)
        for shard in leaf.addressable_shards
        if shard.data.size
    ]
    assert len(set(buffers)) == len(buffers)


def test_variables_are_the_average_where_there_is_one(state):
    assert state.variables(ema=True) is state.ema
    assert state.variables()["params"] is state.params
    without = make(ema=False)
    assert without.ema is None
    assert without.variables(ema=True)["params"] is without.params
