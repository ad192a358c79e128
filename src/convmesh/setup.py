"""From a config to the parts of a run: mesh, model, task, optimiser. Training, evaluation and
prediction all start here."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from convmesh import mesh as meshes
from convmesh.errors import ConfigError
from convmesh.models import make_model
from convmesh.state import abstract_state
from convmesh.tasks import make_task


@dataclasses.dataclass(frozen=True)
class Setup:
    """The parts that a config describes, on the devices that are here."""

    config: Any
    classes: tuple[str, ...]
    mesh: jax.sharding.Mesh
    model: Any
    task: Any
    steps: int
    schedule: Any
    optimizer: Any

    def state_arguments(self) -> dict:
        """What `create_state` and `abstract_state` take."""
        return dict(
            model=self.model,
            optimizer=self.optimizer,
            image_size=tuple(self.config.data.image_size),
            mesh=self.mesh,
            seed=self.config.train.seed,
            ema=self.config.ema.decay > 0,
        )

    def abstract_state(self):
        """Shapes, types and shardings of the train state."""
        return abstract_state(**self.state_arguments())


def make_setup(config, classes, mesh, train_images: int = 0) -> Setup:
    """The parts of a run on `mesh`; `train_images` sets its length where the config does not."""
    kind, group = compute_type(config), config.model.norm_group
    if group and config.train.batch_size % group:
        raise ConfigError(
            f"model.norm_group={group}: train.batch_size={config.train.batch_size} is no multiple "
            "of it; 0 takes the whole batch"
        )
    model = make_model(config.model.name, config.task, len(classes), kind, group)
    steps = count_steps(config, train_images)
    schedule = make_schedule(config, steps)
    return Setup(
        config=config,
        classes=tuple(classes),
        mesh=mesh,
        model=model,
        task=make_task(config, len(classes)),
        steps=steps,
        schedule=schedule,
        optimizer=make_optimizer(config, schedule),
    )


def make_run_mesh(config, batch_size: int, key: str = "train.batch_size"):
    """The mesh that the config asks for.

    Raises ConfigError if it does not fit the devices, or the batch does not divide over it.
    """
    mesh = meshes.make_mesh(config.mesh.data, config.mesh.spatial, config.mesh.model)
    shards = mesh.shape[meshes.DATA]
    if batch_size % shards:
        near = max(1, round(batch_size / shards)) * shards
        raise ConfigError(
            f"{key}={batch_size}: does not divide over the {shards} devices of the data axis; "
            f"take {near}, or another mesh.data"
        )
    return mesh


def compute_type(config):
    """The type of the arithmetic that `config.precision` names.

    float64 switches JAX to 64 bits for the rest of the process: proofs run on CPUs, on their own.
    """
    if config.precision == "float64":
        if jax.default_backend() != "cpu":
            raise ConfigError("precision=float64: for proofs on the CPU; use float32 or bfloat16")
        jax.config.update("jax_enable_x64", True)
    return {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float64": jnp.float64}[
        config.precision
    ]


def count_steps(config, train_images: int) -> int:
    """Length of the run in steps: `train.steps`, or `train.epochs`, or by the number of images.

    Few images need many epochs: 300 for a hundred, 95 for a thousand, 12 at the least.
    """
    if config.train.steps:
        return config.train.steps
    epochs = config.train.epochs
    if not epochs:
        epochs = min(300.0, max(12.0, 3000.0 / max(1, train_images) ** 0.5))
    return max(1, round(epochs * train_images / config.train.batch_size))


def make_schedule(config, steps: int):
    """Learning rate by step: a linear warm-up (5% of the run by default), then the schedule."""
    peak, warmup = config.optimizer.learning_rate, config.schedule.warmup_steps
    if warmup < 0:
        warmup = round(0.05 * steps)
    warmup = min(warmup, steps)
    after = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, max(1, steps - warmup), alpha=0.01),
    }[config.schedule.name]()
    rise = optax.linear_schedule(peak / max(1, warmup), peak, max(1, warmup - 1))
    return optax.join_schedules([rise, after], [warmup])


def make_optimizer(config, schedule):
    """Clip by the global norm, then AdamW or SGD; norms and biases are not decayed."""
    given = config.optimizer
    decays = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)  # noqa: E731
    if given.name == "adamw":
        rule = optax.adamw(schedule, weight_decay=given.weight_decay, mask=decays)
    else:
        decay = optax.add_decayed_weights(given.weight_decay, mask=decays)
        momentum = given.momentum or None
        rule = optax.chain(decay, optax.sgd(schedule, momentum=momentum))
    if not given.clip_norm:
        return rule
    return optax.chain(optax.clip_by_global_norm(given.clip_norm), rule)
