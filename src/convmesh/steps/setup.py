"""Builds the parts of a run from a config: mesh, model, task, schedule, optimizer.

Training, evaluation and prediction all start here.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from convmesh import mesh as meshes
from convmesh.config import same_for_all_processes
from convmesh.data.augmentation.eval_view import eval_size
from convmesh.data.augmentation.sizes import input_sizes
from convmesh.distributed import devices, same_run
from convmesh.distributed.batch import ProcessShard
from convmesh.errors import ConfigError
from convmesh.models.depth import Frozen
from convmesh.models.registry import make_model
from convmesh.ops.windows import Window, describe_replicated, record_windows
from convmesh.steps.forward import check_norm_values, expected_temporaries, training_forward
from convmesh.steps.freezing import make_frozen
from convmesh.steps.optimizer import check_stages, make_optimizer, make_schedule, needs_stages
from convmesh.steps.state import StateSpec, TrainState, abstract_state, create_state
from convmesh.steps.step import StepParts
from convmesh.tasks.image_mixing import TOGETHER, ImageMixing
from convmesh.tasks.registry import make_task

EVALUATIONS = 10  # of a run, where eval.every_steps is -1


@dataclasses.dataclass(frozen=True)
class Setup:
    """The parts of a run that a config describes, on a mesh of devices."""

    config: ConfigDict
    classes: tuple[str, ...]
    mesh: Mesh
    precision: str  # of `model`: "float32", "bfloat16" or "float64"
    model: nn.Module
    task: Any
    steps: int
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation

    @property
    def ema_decay(self) -> float:
        """Decay of the averaged weights: the config's, or the default for the run's length."""
        decay = self.config.ema.decay
        return decay if decay >= 0 else ema_decay_for(self.steps)

    @property
    def eval_every(self) -> int:
        """Steps between two evaluations: the config's number, or a tenth of the run; 0: only at
        the end.
        """
        steps = self.config.eval.every_steps
        return steps if steps >= 0 else -(-self.steps // EVALUATIONS)

    @property
    def frozen(self) -> Frozen:
        """The stages and batch norms that are not trained."""
        return make_frozen(self.config, self.model)

    @property
    def mixing(self) -> ImageMixing | None:
        """How the images of a batch are mixed on the devices; None if they are not."""
        augment = self.config.data.augment
        if self.config.task != "classify" or not augment.mixup + augment.cutmix:
            return None
        return ImageMixing(
            mixup=augment.mixup,
            cutmix=augment.cutmix,
            mixup_alpha=augment.mixup_alpha,
            cutmix_alpha=augment.cutmix_alpha,
            ends=(1 - augment.last_plain) * self.steps,
        )

    @property
    def model_name(self) -> str:
        """The name of the model and, if it is another than its own, of its backbone."""
        name, backbone = self.config.model.name, self.config.model.backbone
        return f"{name} on {backbone}" if backbone else name

    @property
    def best_metric(self) -> str:
        """The metric that selects the best checkpoint."""
        return self.config.checkpoint.best_metric or self.task.best_metric

    @property
    def state_spec(self) -> StateSpec:
        """The arguments of `steps.state.create_state`."""
        return StateSpec(
            model=self.model,
            optimizer=self.optimizer,
            image_size=tuple(self.config.data.image_size),
            seed=self.config.train.seed,
            ema=self.config.ema.decay != 0,
        )

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the train state."""
        return abstract_state(self.state_spec, self.mesh)

    def create_state(self) -> TrainState:
        """A new train state, initialised from the config's seed."""
        return create_state(self.state_spec, self.mesh)

    def step_parts(self, size: tuple[int, int] | None = None) -> StepParts:
        """The parts of the train step for images of `size` (height, width), or the config's."""
        return StepParts(
            model=self.model,
            task=dataclasses.replace(self.task, image_size=size) if size else self.task,
            optimizer=self.optimizer,
            ema_decay=self.ema_decay,
            accumulate=self.config.train.accumulate,
            frozen=self.frozen,
            seed=self.config.train.seed,
            mixing=self.mixing,
        )

    def train_shard(self, height: int | None = None) -> ProcessShard:
        """This process's part of each training batch, of images of `height`, or the config's."""
        if height is None or height == self.config.data.image_size[0]:
            return self._config_shard
        return self._config_shard.resized(height)

    @functools.cached_property
    def _config_shard(self) -> ProcessShard:
        train, height = self.config.train, self.config.data.image_size[0]
        return meshes.process_shard(self.mesh, train.batch_size, height, train.accumulate)


def make_setup(
    config: ConfigDict, classes: Sequence[str], mesh: Mesh, train_images: int = 0
) -> Setup:
    """The parts of a run on `mesh`; `train_images` sets its length if the config does not.

    Raises ConfigError if the model does not support a setting of the config.
    """
    _check_norm_groups(config)
    precision = precision_on(config, mesh)
    dtype = jnp.dtype(precision)
    model = make_model(dtype=dtype, task=config.task, classes=len(classes), **config.model)
    steps = count_steps(config, train_images)
    schedule = make_schedule(config, steps)
    setup = Setup(
        config=config,
        classes=tuple(classes),
        mesh=mesh,
        precision=precision,
        model=model,
        task=make_task(config, len(classes), model),
        steps=steps,
        schedule=schedule,
        optimizer=make_optimizer(config, schedule),
    )
    if needs_stages(config):
        check_stages(config, setup.abstract_state().params)
    _check_model_takes_all_sizes(setup)
    return setup


def make_run_mesh(config: ConfigDict, elsewhere: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of all devices that the config asks for, checked for training; or of devices
    `elsewhere`, that the program is only compiled for.

    Raises ConfigError if the config contradicts itself, which is checked before the devices are
    used, if processes differ in config or devices, if the mesh does not fit the devices, or if the
    batch or the images do not fit the mesh.
    """
    _check_norm_groups(config)
    _check_pairs(config)
    _check_sizes_differ(config)
    check_norm_values(config)
    devices.expect_temporaries(lambda: expected_temporaries(config))
    if elsewhere is None:
        same = same_for_all_processes(config)
        same_run.check_same(same, "start every process with the same config")
        same_run.check_same_devices()
    mesh = config_mesh(config, elsewhere)
    _check_batch_divides(config, mesh)
    _check_rows_stay_in_process(config, mesh)
    return mesh


def config_mesh(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of `devices` (all by default) that the config's `mesh` keys describe.

    Raises ConfigError as `make_mesh`.
    """
    sizes = config.mesh
    return meshes.make_mesh(sizes.data, sizes.spatial, sizes.model, devices, sizes.fsdp)


# --- checks: of the config alone, of config and mesh, of config and model -------------------------


def _check_norm_groups(config: ConfigDict) -> None:
    size, parts, group = config.train.batch_size, config.train.accumulate, config.model.norm_group
    if group and size // parts % group:
        raise ConfigError(
            f"model.norm_group={group}: {size // parts} examples (train.batch_size / "
            "train.accumulate) are not a multiple of it; 0 uses the global batch"
        )


def _check_pairs(config: ConfigDict) -> None:
    size, parts, augment = config.train.batch_size, config.train.accumulate, config.data.augment
    mixes = config.task == "classify" and augment.mixup + augment.cutmix > 0
    if mixes and size // parts % TOGETHER:
        raise ConfigError(
            f"train.batch_size={size}: mixup and cutmix take two examples each, but "
            f"{size // parts} (train.batch_size / train.accumulate) is odd"
        )


def _check_sizes_differ(config: ConfigDict) -> None:
    sizes = input_sizes(config)
    if config.data.sizes and len(sizes) == 1 and config.data.size_order == "random":
        height, width = sizes[0]
        raise ConfigError(
            f"data.sizes: rounded to multiples of 32, all of them are {height} x {width}; use "
            "factors that differ more, or leave it empty"
        )


def _check_batch_divides(config: ConfigDict, mesh: Mesh) -> None:
    batch_size, parts = config.train.batch_size, config.train.accumulate
    shards = mesh.shape[meshes.DATA]
    if batch_size % (shards * parts) == 0:
        return
    nearest = max(1, round(batch_size / (shards * parts))) * shards * parts
    over = f"the {shards} devices of the data axis"
    if parts > 1:
        over = f"train.accumulate={parts} times {over}"
    raise ConfigError(
        f"train.batch_size={batch_size}: does not divide over {over}; use {nearest}, or another "
        "mesh.data"
    )


def _check_rows_stay_in_process(config: ConfigDict, mesh: Mesh) -> None:
    if not config.data.sizes:
        return
    batch_size, parts = config.train.batch_size, config.train.accumulate
    for height, _ in input_sizes(config):
        if not meshes.process_shard(mesh, batch_size, height, parts).has_all_rows:
            raise ConfigError(
                "data.sizes: on this mesh the rows of an image are split over processes; leave it "
                "empty, or keep mesh.spatial within a process"
            )


def has_weights_for_all(model: nn.Module, sizes: Sequence[tuple[int, int]]) -> bool:
    """Whether the weights of `model` have the same shapes for images of all `sizes`."""

    def parameter_shapes(size: tuple[int, int]) -> Any:
        images = jax.ShapeDtypeStruct((1, *size, 3), model.dtype)
        variables = jax.eval_shape(model.init, jax.random.key(0), images)
        return jax.tree.map(lambda leaf: leaf.shape, variables["params"])

    first, *others = dict.fromkeys(sizes)
    return all(parameter_shapes(size) == parameter_shapes(first) for size in others)


def _check_model_takes_all_sizes(setup: Setup) -> None:
    sizes, name = input_sizes(setup.config), setup.config.model.name
    if not has_weights_for_all(setup.model, sizes):
        raise ConfigError(
            f"data.sizes: the weights of {name} fit one image size only; leave it empty"
        )
    if not has_weights_for_all(setup.model, [*sizes, eval_size(setup.config)]):
        raise ConfigError(
            f"data.eval_size: the weights of {name} fit one image size only; leave it at 0,0"
        )


# --- values derived from the config ---------------------------------------------------------------


def precision_on(config: ConfigDict, mesh: Mesh) -> str:
    """The name of the compute dtype on the devices of `mesh`: `config.precision`, or what its
    "auto" stands for there.

    float64 enables 64 bits in JAX for the rest of the process. Raises ConfigError for float64 on
    devices that are not CPUs.
    """
    if config.precision == "auto":
        return "bfloat16" if devices.has_bfloat16(mesh.devices.flat[0]) else "float32"
    if config.precision == "float64":
        if meshes.platform(mesh) != "cpu":
            raise ConfigError("precision=float64: supported on CPUs only; use float32 or bfloat16")
        jax.config.update("jax_enable_x64", True)
    return config.precision


def count_steps(config: ConfigDict, train_images: int) -> int:
    """Length of the run in steps: from `train.steps`, `train.epochs` or the number of images.

    Small data sets need many epochs: 300 for 100 images, 95 for 1,000, at least 12. With loaded
    weights (`init_from`) it is a third of that.
    """
    if config.train.steps:
        return config.train.steps
    epochs = config.train.epochs
    if not epochs:
        epochs = min(300.0, max(12.0, 3000.0 / max(1, train_images) ** 0.5))
        epochs = epochs / 3 if config.init_from else epochs
    return max(1, round(epochs * train_images / config.train.batch_size))


def ema_decay_for(steps: int) -> float:
    """The default EMA decay for a run of `steps` steps: 1 - 20 / steps.

    That averages over about a twentieth of the run; at least 0.998 (up to 10,000 steps), at most
    0.9998 (from 100,000 steps on).
    """
    return min(0.9998, max(0.998, 1 - 20 / max(1, steps)))


# --- operations that are not sharded --------------------------------------------------------------


def traced_windows(setup: Setup) -> list[Window]:
    """Every window operation of the model's forward pass in training, with its layout."""
    config = setup.config
    batch_size = config.train.batch_size // config.train.accumulate
    forward = training_forward(setup.model, batch_size, tuple(config.data.image_size))
    trace: Callable = meshes.on_mesh(setup.mesh, jax.eval_shape)
    with record_windows() as windows:
        trace(forward.function, forward.key, forward.images)
    return windows


def layout_notes(setup: Setup) -> list[str]:
    """Lines for the log: which layers the mesh cannot shard, and which norms communicate."""
    config, mesh = setup.config, setup.mesh
    lines = describe_replicated(traced_windows(setup))
    group, data = config.model.norm_group, mesh.shape[meshes.DATA]
    local = config.train.batch_size // config.train.accumulate // data
    if group and local % group:
        spanned = -(-(local - math.gcd(group, local) + group) // local)
        lines.append(
            f"model.norm_group={group}: a device holds {local} examples, so the groups span up to "
            f"{spanned} devices along mesh.data, which communicate"
        )
    if group and mesh.shape[meshes.SPATIAL] > 1:
        lines.append(
            f"model.norm_group={group}: each group spans mesh.spatial, so its statistics are "
            "summed over the devices that hold its rows"
        )
    return lines
