"""The train step and the prediction step: pure functions, sharded over a mesh by jit."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh

from convmesh import mesh as meshes
from convmesh.distributed.batch import Batch
from convmesh.distributed.devices import compiler_options
from convmesh.models.depth import Frozen
from convmesh.steps.state import TrainState
from convmesh.tasks.image_mixing import TOGETHER, ImageMixing


@dataclasses.dataclass(frozen=True)
class StepParts:
    """The parts of a train step.

    Attributes:
      model: a Flax module.
      task: `Classify` or `Detect`, for images of the size of the batch.
      optimizer: turns gradients into updates.
      ema_decay: limit of the running average's decay, see `ramped_decay`.
      accumulate: number of micro-batches; if above 1, the batch has leaves [accumulate,
        batch / accumulate, ...].
      frozen: the stages and batch norms that are not trained.
      seed: of what is drawn at random in a step, see `_options` and `_random_keys`.
      mixing: mixes the images of a batch, or None.
    """

    model: Any
    task: Any
    optimizer: optax.GradientTransformation
    ema_decay: float = 0.0
    accumulate: int = 1
    frozen: Frozen = Frozen()
    seed: int = 0
    mixing: ImageMixing | None = None


def ramped_decay(step: Any, limit: float) -> jax.Array:
    """Decay of the running average after `step` steps: min(limit, (1 + step) / (10 + step))."""
    return jnp.minimum(limit, (1.0 + step) / (10.0 + step))


def train_step(
    state: TrainState, batch: Any, parts: StepParts, *, unroll: bool = False
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update: (state, batch) -> (state, metrics), on global arrays.

    Micro-batches are processed in sequence: their gradients and totals are summed, then divided
    once. Batch norm sees one micro-batch at a time; the running statistics take their mean.
    `unroll` unrolls the loop over them. What is frozen, including the running statistics of batch
    norms, stays unchanged bit by bit; its gradient is zero, also in the gradient norm. A step whose
    loss or gradient is not finite changes only the counters.
    """
    gradients, sums, batch_stats = _summed_gradients(state, batch, parts, unroll)
    loss, metrics = parts.task.finish(sums)
    divisor = parts.task.divisor(sums)
    gradients = jax.tree.map(lambda leaf: leaf / divisor, gradients)
    norm = optax.tree.norm(gradients)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)

    new = _updated(state, gradients, batch_stats, parts)
    old = {name: getattr(state, name) for name in new}
    new = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)
    state = TrainState(step=state.step + 1, nonfinite_steps=state.nonfinite_steps + ~finite, **new)
    metrics = {"loss": loss, **metrics, "gradient_norm": norm}
    return state, {**metrics, "nonfinite_steps": state.nonfinite_steps}


def _summed_gradients(
    state: TrainState, batch: Any, parts: StepParts, unroll: bool
) -> tuple[Any, dict[str, jax.Array], Any]:
    """Undivided gradients and the task's sums over the batch, and the new batch statistics.

    Where devices share nothing but the examples, each computes those of its own, and all are summed
    at the end: fewer sums than the partitioner makes, and no device waits for others before.
    """
    mesh, examples = meshes.current(), batch.image.shape[parts.accumulate > 1]
    together = TOGETHER if parts.mixing else 1
    if mesh is None or not devices_are_independent(mesh, parts.model, examples, together):
        return _gradients_of_batch(state, batch, parts, unroll)
    frozen = parts.frozen.replace

    def of_own_examples(state: TrainState, batch: Any) -> tuple[Any, dict[str, jax.Array], Any]:
        gradients, sums, batch_stats = _gradients_of_batch(state, batch, parts, unroll)
        # What is frozen has gradients of zero, which need no sum.
        gradients = frozen(lambda leaf: leaf.reshape(-1)[:0], state.batch_stats, gradients)
        devices = meshes.devices_of_batch()
        return gradients, sums, jax.tree.map(lambda leaf: leaf / devices, batch_stats)

    used = dataclasses.replace(state, opt_state=None, ema=None)
    summed = meshes.sum_over_devices(of_own_examples, parts.accumulate > 1)
    gradients, sums, batch_stats = summed(used, batch)
    zeros = lambda _, leaf: jnp.zeros_like(leaf)  # noqa: E731
    return frozen(zeros, state.batch_stats, gradients, state.params), sums, batch_stats


def devices_are_independent(
    mesh: meshes.AnyMesh, model: Any, examples: int, together: int = 1
) -> bool:
    """Whether each device can compute the gradients of its own of so many examples.

    Not where a group of a batch norm, or `together` examples that are mixed, span devices, nor in a
    model with two stages, which draws at random for the whole batch at once.
    """
    if not meshes.shards_examples_only(mesh) or getattr(model, "two_stage", False):
        return False
    own, left = divmod(examples, mesh.size)
    groups = getattr(model, "norm_group", 0) or 1, together
    return not left and not any(own % group for group in groups)


def _gradients_of_batch(
    state: TrainState, batch: Any, parts: StepParts, unroll: bool
) -> tuple[Any, dict[str, jax.Array], Any]:
    """As `_summed_gradients`, by the current mesh alone."""

    def gradients_of(numbered: Any) -> tuple[Any, tuple[dict[str, jax.Array], Any]]:
        number, micro_batch = numbered
        keys = _random_keys(state, number, parts)
        loss = functools.partial(_summed_loss, state=state, batch=micro_batch, parts=parts)
        return jax.grad(functools.partial(loss, keys=keys), has_aux=True)(state.params)

    if parts.accumulate == 1:
        gradients, (sums, batch_stats) = gradients_of((0, batch))
    else:
        numbered = (jnp.arange(parts.accumulate), batch)
        gradients, (sums, batch_stats) = _sum_over(gradients_of, numbered, unroll)
        batch_stats = jax.tree.map(lambda leaf: leaf / parts.accumulate, batch_stats)
    return gradients, sums, batch_stats


def _summed_loss(
    params: Any, state: TrainState, batch: Any, parts: StepParts, keys: dict[str, jax.Array]
) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
    """The loss summed over a (micro-)batch; and (the task's sums, new batch statistics)."""
    params = parts.frozen.replace(lax.stop_gradient, state.batch_stats, params)
    variables = {"params": params, "batch_stats": state.batch_stats}
    images = parts.task.pixels.normalise(batch.image, parts.model.dtype)
    mixed = []
    if parts.mixing is not None:
        images, labels = parts.mixing(images, batch.label, keys["mixing"], state.step)
        mixed = [labels]
    with parts.frozen.norms_as_in_evaluation():
        outputs, changed = parts.model.apply(
            variables,
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": keys["dropout"]},
            **_options(state, batch, parts),
        )
    sums = parts.task.sums(outputs, batch, *mixed)
    return sums["loss"], (sums, changed.get("batch_stats", {}))


def _random_keys(state: TrainState, micro_batch: Any, parts: StepParts) -> dict[str, jax.Array]:
    """The keys of what a (micro-)batch draws: a function of seed, step and its number."""
    step = jax.random.fold_in(jax.random.key(parts.seed), state.step)
    mixing, dropout = jax.random.split(jax.random.fold_in(step, micro_batch))
    return {"mixing": mixing, "dropout": dropout}


def _options(state: TrainState, batch: Any, parts: StepParts) -> dict[str, Any]:
    """Further arguments of the model in a train step; none for most.

    A model with the attribute `two_stage` chooses inside its forward pass what its second stage
    learns from, by the boxes of the batch: its task makes the function `choose` that does so, from
    the batch and a key of the seed and the step.
    """
    if not getattr(parts.model, "two_stage", False):
        return {}
    key = jax.random.fold_in(jax.random.key(parts.seed), state.step)
    return {"choose": parts.task.choose(batch, key)}


def _sum_over(function: Callable[[Any], Any], batch: Any, unroll: bool) -> Any:
    """The sum of `function(micro_batch)` over the micro-batches of `batch`."""
    first = jax.tree.map(lambda leaf: leaf[0], batch)
    zeros = jax.tree.map(
        lambda leaf: meshes.like_a_parameter(jnp.zeros(leaf.shape, leaf.dtype)),
        jax.eval_shape(function, first),
    )

    def add(total: Any, micro_batch: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(micro_batch)), None

    return lax.scan(add, zeros, batch, unroll=unroll)[0]


def _updated(state: TrainState, gradients: Any, batch_stats: Any, parts: StepParts) -> dict:
    """Parameters, batch statistics, optimiser state and running average after the update."""
    updates, opt_state = parts.optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    keep_old = lambda new, old: old  # noqa: E731
    old = state.batch_stats
    params = parts.frozen.replace(keep_old, old, params, state.params)
    batch_stats = parts.frozen.replace(keep_old, old, batch_stats, old)
    ema = state.ema
    if ema is not None:
        rate = 1 - ramped_decay(state.step, parts.ema_decay)
        ema = jax.tree.map(
            lambda old, new: old + (rate * (new - old)).astype(old.dtype),
            ema,
            {"params": params, "batch_stats": batch_stats},
        )
    return {"params": params, "batch_stats": batch_stats, "opt_state": opt_state, "ema": ema}


def jit_train_step(mesh: Mesh, state: TrainState, batch: Batch, parts: StepParts) -> Any:
    """`train_step` jitted for `mesh`: (state, batch) -> (state, metrics); the state is donated.

    `state` and `batch` (global arrays) give the shapes.
    """
    state_shardings = meshes.state_shardings(mesh, state)
    batch_shardings = meshes.batch_shardings(mesh, batch, stacked=parts.accumulate > 1)
    platform = meshes.platform(mesh)
    # XLA's CPU backend runs a convolution inside a loop several times slower.
    unroll = platform == "cpu"
    step = jax.jit(
        lambda state, batch: train_step(state, batch, parts, unroll=unroll),
        in_shardings=(state_shardings, batch_shardings),
        out_shardings=(state_shardings, meshes.replicated(mesh)),
        donate_argnums=0,
        compiler_options=compiler_options(platform),
    )
    return meshes.on_mesh(mesh, step)


def predict_step(variables: Any, images: jax.Array, model: Any, task: Any) -> dict[str, jax.Array]:
    """The task's predictions for uint8 images [batch, height, width, 3], on the current mesh."""
    outputs = model.apply(variables, task.pixels.normalise(images, model.dtype), train=False)
    return task.predict(outputs)


@functools.lru_cache(maxsize=8)  # so that later evaluations of a run do not compile it again
def jit_predict_step(mesh: Mesh, model: Any, task: Any) -> Callable:
    """`predict_step` jitted for `mesh`: (variables, images) -> replicated predictions."""
    step = jax.jit(
        lambda variables, images: predict_step(variables, images, model, task),
        out_shardings=meshes.replicated(mesh),
    )
    return meshes.on_mesh(mesh, step)
