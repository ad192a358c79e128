"""The train state: everything that training changes, made sharded."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from convmesh import mesh as meshes


@flax.struct.dataclass
class TrainState:
    """All state of a run. Leaves are arrays; `mesh.state_shardings` says where they stand."""

    step: Any  # int32 []: steps done
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any  # {"params", "batch_stats"}: the running average that is evaluated; None without
    nonfinite_steps: Any  # int32 []: steps whose update was skipped

    def variables(self, ema: bool = False) -> dict:
        """What `model.apply` takes: the averaged weights if asked for and kept."""
        if ema and self.ema is not None:
            return self.ema
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(model, optimizer, image_size, mesh, seed: int, ema: bool) -> TrainState:
    """A fresh state on `mesh`, each device making its own shards alone.

    The same (model, seed) gives the same values on every mesh.
    """
    make, shardings = _maker(model, optimizer, image_size, mesh, seed, ema)
    return jax.jit(make, out_shardings=shardings)()


def abstract_state(model, optimizer, image_size, mesh, seed: int, ema: bool) -> TrainState:
    """Shapes, types and shardings of `create_state`, nothing computed: what a restore needs."""
    make, shardings = _maker(model, optimizer, image_size, mesh, seed, ema)
    return jax.tree.map(
        lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at),
        jax.eval_shape(make),
        shardings,
    )


def _maker(model, optimizer, image_size, mesh, seed, ema):
    def make():
        images = jnp.zeros((1, *image_size, 3), model.dtype)
        variables = model.init(jax.random.key(seed), images)
        params, batch_stats = variables["params"], variables.get("batch_stats", {})
        averaged = {"params": params, "batch_stats": batch_stats}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=batch_stats,
            opt_state=optimizer.init(params),
            # A copy, since the state is donated and no buffer may stand in it twice.
            ema=jax.tree.map(jnp.copy, averaged) if ema else None,
            nonfinite_steps=jnp.zeros((), jnp.int32),
        )

    return make, meshes.state_shardings(mesh, jax.eval_shape(make))
