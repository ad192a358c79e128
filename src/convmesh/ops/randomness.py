"""Random numbers of a train step, keyed by example: the same on any mesh."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from convmesh import mesh as meshes


def keys_of_examples(key: jax.Array, examples: int) -> jax.Array:
    """Keys [examples]: of each of the batch, from `key` and its place in the global batch."""
    return jax.vmap(lambda place: jax.random.fold_in(key, place))(meshes.places_in_batch(examples))


def uniform_of_examples(key: jax.Array, examples: int, shape: Sequence[int] = ()) -> jax.Array:
    """float32 [examples, *shape], uniform in [0, 1), see `keys_of_examples`."""
    keys = keys_of_examples(key, examples)
    return jax.vmap(lambda key: jax.random.uniform(key, tuple(shape), jnp.float32))(keys)
