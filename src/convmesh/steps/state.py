"""The train state: everything that a training step updates, created sharded."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from convmesh import mesh as meshes


@flax.struct.dataclass
class TrainState:
    """All state of a run. Leaves are arrays with the shardings of `mesh.state_shardings`."""

    step: Any  # int32 []: steps done
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any  # {"params", "batch_stats"}: the running average, which is evaluated; or None
    nonfinite_steps: Any  # int32 []: steps whose update was skipped

    def variables(self, ema: bool = False) -> dict[str, Any]:
        """The variables for `model.apply`; with `ema` the averaged ones, if there are any."""
        if ema and self.ema is not None:
            return self.ema
        return {"params": self.params, "batch_stats": self.batch_stats}


@dataclasses.dataclass(frozen=True)
class StateSpec:
    """The arguments that determine a new train state.

    image_size: (height, width) of the images that the model is initialised with. ema: whether the
    state holds a running average of the weights.
    """

    model: nn.Module
    optimizer: optax.GradientTransformation
    image_size: tuple[int, int]
    seed: int = 0
    ema: bool = True


def create_state(spec: StateSpec, mesh: Mesh) -> TrainState:
    """A new state on `mesh`; each device computes only its own shards.

    The same model and seed give the same values on every mesh.
    """
    create, shardings = _creation(spec, mesh)
    return jax.jit(create, out_shardings=shardings)()


def state_of(spec: StateSpec, variables: dict[str, Any], mesh: Mesh) -> TrainState:
    """A new state on `mesh` with these variables, {"params", "batch_stats"}, in place of initial
    ones.
    """
    _, shardings = _creation(spec, mesh)
    return jax.jit(lambda found: _new_state(spec, found), out_shardings=shardings)(variables)


def abstract_state(spec: StateSpec, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of `create_state`, without computing it, for a restore."""
    create, shardings = _creation(spec, mesh)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(create),
        shardings,
    )


def _creation(spec: StateSpec, mesh: Mesh) -> tuple[Callable[[], TrainState], TrainState]:
    """A function that creates the state, and the shardings of its result."""

    def create() -> TrainState:
        images = jnp.zeros((1, *spec.image_size, 3), spec.model.dtype)
        return _new_state(spec, spec.model.init(jax.random.key(spec.seed), images))

    return create, meshes.state_shardings(mesh, jax.eval_shape(create))


def _new_state(spec: StateSpec, variables: Any) -> TrainState:
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    averaged = {"params": params, "batch_stats": batch_stats}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=spec.optimizer.init(params),
        # A copy, since the state is donated and must not hold a buffer twice.
        ema=jax.tree.map(jnp.copy, averaged) if spec.ema else None,
        nonfinite_steps=jnp.zeros((), jnp.int32),
    )
