"""The train step and the evaluation step: pure functions, sharded over a mesh by jit."""

import functools

import jax
import jax.numpy as jnp
import optax

from convmesh import mesh as meshes
from convmesh.state import TrainState
from convmesh.tasks import normalise


def ema_decay(step, limit: float):
    """Decay of the running average after `step` steps: it ramps, min(limit, (1 + t) / (10 + t))."""
    return jnp.minimum(limit, (1.0 + step) / (10.0 + step))


def train_step(state: TrainState, batch, *, model, task, optimizer, decay: float = 0.0):
    """One update: (state, batch) -> (state, numbers), in the global view.

    A step whose loss or gradient is not finite changes nothing but the counters.
    """

    def loss_of(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        images = normalise(batch["image"], model.dtype)
        outputs, changed = model.apply(variables, images, train=True, mutable=["batch_stats"])
        loss, numbers = task.loss(outputs, batch)
        return loss, (numbers, changed.get("batch_stats", {}))

    (loss, (numbers, batch_stats)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
        state.params
    )
    norm = optax.tree.norm(gradients)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)

    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    new = {
        "params": optax.apply_updates(state.params, updates),
        "batch_stats": batch_stats,
        "opt_state": opt_state,
        "ema": state.ema,
    }
    if state.ema is not None:
        rate = 1 - ema_decay(state.step, decay)
        fresh = {"params": new["params"], "batch_stats": new["batch_stats"]}
        new["ema"] = jax.tree.map(
            lambda old, new: old + (rate * (new - old)).astype(old.dtype), state.ema, fresh
        )
    old = {name: getattr(state, name) for name in new}
    new = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)
    state = TrainState(step=state.step + 1, nonfinite_steps=state.nonfinite_steps + ~finite, **new)
    numbers = {"loss": loss, **numbers, "gradient_norm": norm}
    return state, {**numbers, "nonfinite_steps": state.nonfinite_steps}


def predict_step(variables, images, *, model, task):
    """Predictions for a batch of images, on whatever mesh is current."""
    outputs = model.apply(variables, normalise(images, model.dtype), train=False)
    return task.predict(outputs)


def jit_train_step(mesh, state, batch, **parts):
    """`train_step` compiled for `mesh`; `state`, `batch` give the shapes; the state is donated."""
    state_at = meshes.state_shardings(mesh, state)
    step = jax.jit(
        lambda state, batch: train_step(state, batch, **parts),
        in_shardings=(state_at, meshes.batch_shardings(mesh, batch)),
        out_shardings=(state_at, meshes.replicated(mesh)),
        donate_argnums=0,
    )
    return meshes.on_mesh(mesh, step)


@functools.lru_cache(maxsize=8)  # so that each evaluation of a run finds it compiled
def jit_predict_step(mesh, model, task):
    """`predict_step` compiled for `mesh`; results whole on every device."""
    step = jax.jit(
        lambda variables, images: predict_step(variables, images, model=model, task=task),
        out_shardings=meshes.replicated(mesh),
    )
    return meshes.on_mesh(mesh, step)
