"""The train step and the evaluation step: pure functions, sharded over a mesh by jit."""

import functools

import jax
import jax.numpy as jnp
import optax
from jax import lax

from convmesh import mesh as meshes
from convmesh.devices import compiler_options
from convmesh.models.depth import frozen_norms, with_frozen
from convmesh.state import TrainState
from convmesh.tasks import normalise


def ema_decay(step, limit: float):
    """Decay of the running average after `step` steps: it ramps, min(limit, (1 + t) / (10 + t))."""
    return jnp.minimum(limit, (1.0 + step) / (10.0 + step))


def train_step(
    state: TrainState,
    batch,
    *,
    model,
    task,
    optimizer,
    decay: float = 0.0,
    accumulate: int = 1,
    frozen: int = 0,
    unroll: bool = False,
):
    """One update: (state, batch) -> (state, numbers), in the global view.

    With `accumulate` above 1 the batch's leaves are [accumulate, batch / accumulate, ...]: the
    micro-batches go one after another, their gradients and totals are summed, and all is divided
    once. Batch norm sees one micro-batch at a time; the running statistics take their mean.
    `unroll` makes no loop of it. The stem and the first `frozen` stages of the backbone stay bit
    for bit as they are, running statistics included, which their batch norms use; their gradient is
    zero, in the norm too. A step whose loss or gradient is not finite changes nothing but the
    counters.
    """

    # What any process has noted, such as a signal to stop, all are told.
    noted = batch.get(meshes.NOTE)
    batch = {name: leaf for name, leaf in batch.items() if name != meshes.NOTE}

    def summed(micro):
        """Gradients and sums of a micro-batch, nothing divided yet, and its running statistics."""

        def loss_of(params):
            params = with_frozen(lax.stop_gradient, frozen, params)
            variables = {"params": params, "batch_stats": state.batch_stats}
            images = normalise(micro["image"], model.dtype)
            with frozen_norms(frozen):
                outputs, changed = model.apply(
                    variables, images, train=True, mutable=["batch_stats"]
                )
            sums = task.sums(outputs, micro)
            return sums["loss"], (sums, changed.get("batch_stats", {}))

        return jax.grad(loss_of, has_aux=True)(state.params)

    if accumulate == 1:
        gradients, (sums, batch_stats) = summed(batch)
    else:
        gradients, (sums, batch_stats) = _sum_over(summed, batch, unroll)
        batch_stats = jax.tree.map(lambda leaf: leaf / accumulate, batch_stats)
    loss, numbers = task.finish(sums)
    divisor = task.divisor(sums)
    gradients = jax.tree.map(lambda leaf: leaf / divisor, gradients)
    norm = optax.tree.norm(gradients)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)

    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    keep = lambda new, old: old  # noqa: E731
    new = {
        "params": with_frozen(keep, frozen, params, state.params),
        "batch_stats": with_frozen(keep, frozen, batch_stats, state.batch_stats),
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
    if noted is not None:
        numbers[meshes.NOTE] = jnp.any(noted)
    return state, {**numbers, "nonfinite_steps": state.nonfinite_steps}


def _sum_over(function, batch, unroll: bool):
    """The sum of `function(micro)` over the micro-batches of `batch`."""
    first = jax.tree.map(lambda leaf: leaf[0], batch)
    zeros = jax.tree.map(
        lambda leaf: meshes.like_a_parameter(jnp.zeros(leaf.shape, leaf.dtype)),
        jax.eval_shape(function, first),
    )

    def add(so_far, micro):
        return jax.tree.map(jnp.add, so_far, function(micro)), None

    return jax.lax.scan(add, zeros, batch, unroll=unroll)[0]


def predict_step(variables, images, *, model, task):
    """Predictions for a batch of images, on whatever mesh is current."""
    outputs = model.apply(variables, normalise(images, model.dtype), train=False)
    return task.predict(outputs)


def jit_train_step(mesh, state, batch, *, accumulate: int = 1, **parts):
    """`train_step` compiled for `mesh`; `state`, `batch` give the shapes; the state is donated."""
    state_at = meshes.state_shardings(mesh, state)
    # XLA's CPU runs a convolution inside a loop several times slower.
    platform = meshes.platform(mesh)
    unroll = platform == "cpu"
    step = jax.jit(
        lambda state, batch: train_step(
            state, batch, accumulate=accumulate, unroll=unroll, **parts
        ),
        in_shardings=(state_at, meshes.batch_shardings(mesh, batch, stacked=accumulate > 1)),
        out_shardings=(state_at, meshes.replicated(mesh)),
        donate_argnums=0,
        compiler_options=compiler_options(platform),
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
