"""From a config to the parts of a run: mesh, model, task, optimiser. Training, evaluation and
prediction all start here."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from convmesh import devices
from convmesh import mesh as meshes
from convmesh.data.sizes import input_sizes
from convmesh.errors import ConfigError
from convmesh.models import make_model
from convmesh.ops.windows import Window, describe_whole, noting
from convmesh.optimizer import check_stages, make_optimizer, make_schedule, needs_stages
from convmesh.state import abstract_state
from convmesh.tasks import make_task

EVALUATIONS = 10  # of a run, where the config leaves it to us


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
            ema=self.config.ema.decay != 0,
        )

    @property
    def ema_decay(self) -> float:
        """Decay of the averaged weights: the config's, or the one that suits the run's length."""
        given = self.config.ema.decay
        return given if given >= 0 else ema_decay_for(self.steps)

    @property
    def eval_every(self) -> int:
        """Steps between two evaluations: the config's number, or a tenth of the run; 0 for none."""
        given = self.config.eval.every_steps
        return given if given >= 0 else -(-self.steps // EVALUATIONS)

    def abstract_state(self):
        """Shapes, types and shardings of the train state."""
        return abstract_state(**self.state_arguments())


def make_setup(config, classes, mesh, train_images: int = 0) -> Setup:
    """The parts of a run on `mesh`; `train_images` sets its length where the config does not."""
    kind, given = compute_type(config), config.model
    _check_groups(config)
    model = make_model(given.name, config.task, len(classes), kind, given.norm_group, given.remat)
    steps = count_steps(config, train_images)
    schedule = make_schedule(config, steps)
    setup = Setup(
        config=config,
        classes=tuple(classes),
        mesh=mesh,
        model=model,
        task=make_task(config, len(classes), model),
        steps=steps,
        schedule=schedule,
        optimizer=make_optimizer(config, schedule),
    )
    if needs_stages(config):
        check_stages(config, setup.abstract_state().params)
    _check_sizes(setup)
    return setup


def _check_sizes(setup: Setup) -> None:
    """Raises ConfigError if the run has several sizes of image and its model can take but one."""

    def shapes(size):
        images = jax.ShapeDtypeStruct((1, *size, 3), setup.model.dtype)
        variables = jax.eval_shape(setup.model.init, jax.random.key(0), images)
        return jax.tree.map(lambda leaf: leaf.shape, variables["params"])

    sizes = input_sizes(setup.config)
    if len(sizes) > 1 and any(shapes(size) != shapes(sizes[0]) for size in sizes[1:]):
        raise ConfigError(
            f"data.sizes: {setup.config.model.name} has weights for one size of image alone; leave "
            "it empty"
        )


def make_run_mesh(config):
    """The mesh that the config asks for.

    Raises ConfigError if it does not fit the devices, or the batch does not divide over it.
    """
    _check_groups(config)
    devices.expect_temporaries(lambda: expected_temporaries(config))
    mesh = config_mesh(config)
    batch_size, parts = config.train.batch_size, config.train.accumulate
    shards = mesh.shape[meshes.DATA]
    if batch_size % (shards * parts):
        near = max(1, round(batch_size / (shards * parts))) * shards * parts
        over = f"the {shards} devices of the data axis"
        if parts > 1:
            over = f"train.accumulate={parts} times {over}"
        raise ConfigError(
            f"train.batch_size={batch_size}: does not divide over {over}; take {near}, or another "
            "mesh.data"
        )
    sizes = input_sizes(config)
    if config.data.sizes and len(sizes) == 1:
        raise ConfigError(
            f"data.sizes: to multiples of 32 all of them are {sizes[0][0]} x {sizes[0][1]}; give "
            "factors farther apart, or none"
        )
    for height, _ in sizes if config.data.sizes else ():
        if not meshes.share_of(mesh, batch_size, height, parts).whole:
            raise ConfigError(
                "data.sizes: processes share the rows of an image here; leave it empty, or keep "
                "mesh.spatial within a process"
            )
    return mesh


def expected_temporaries(config) -> float:
    """About how many bytes a train step needs beside its state, over all devices; JAX not started.

    Five times what the convolutions and products of the forward pass put out: XLA's CPU took 4.6 to
    5.1 times that, for the demo's detector and for ResNet-18.
    """
    given, kind = config.model, jnp.promote_types(config.precision, jnp.float32)
    model = make_model(given.name, config.task, 1, kind, given.norm_group, given.remat)
    images = config.train.batch_size // config.train.accumulate
    # Batches that do not divide are refused later, with the sizes of the mesh.
    images = max(1, images) if not given.norm_group else max(given.norm_group, images)
    shape = (images, *input_sizes(config)[-1], 3)

    def forward(key, images):
        return model.init_with_output(key, images, train=True)[0]

    key = jax.eval_shape(lambda: jax.random.key(0))
    return 5.0 * _put_out(jax.make_jaxpr(forward)(key, jax.ShapeDtypeStruct(shape, kind)).jaxpr)


def _put_out(jaxpr: core.Jaxpr) -> float:
    """Bytes of the results of all convolutions and products of a program."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            result: Any = equation.outvars[0].aval
            total += result.size * result.dtype.itemsize
        else:
            total += sum(map(_put_out, core.jaxprs_in_params(equation.params)))
    return total


def _check_groups(config) -> None:
    """Raises ConfigError if the micro-batches do not divide into the groups of batch norm."""
    size, parts, group = config.train.batch_size, config.train.accumulate, config.model.norm_group
    if group and size // parts % group:
        raise ConfigError(
            f"model.norm_group={group}: {size // parts} examples (train.batch_size / "
            "train.accumulate) are no multiple of it; 0 takes them all"
        )


def config_mesh(config, devices=None):
    """The mesh of `devices` (all by default) that `config.mesh` names. Raises as `make_mesh`."""
    given = config.mesh
    return meshes.make_mesh(given.data, given.spatial, given.model, devices, given.fsdp)


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


def ema_decay_for(steps: int) -> float:
    """Decay of the averaged weights that suits a run of that many steps: 1 - 20 / steps.

    That is an average over about a twentieth of the run; at least 0.998 (up to 10,000 steps), at
    most 0.9998 (from 100,000 steps on).
    """
    return min(0.9998, max(0.998, 1 - 20 / max(1, steps)))


def layout_notes(setup: Setup) -> list[str]:
    """What the mesh cannot share of this model, and what that means: one line each."""
    config, mesh = setup.config, setup.mesh
    lines = describe_whole(traced_windows(setup))
    group, data = config.model.norm_group, mesh.shape[meshes.DATA]
    held = config.train.batch_size // config.train.accumulate // data
    if group and held % group:
        lines.append(
            f"model.norm_group={group}: a device holds {held} examples, so the groups span "
            f"{-(-(held - math.gcd(group, held) + group) // held)} of them along mesh.data and talk"
        )
    if group and mesh.shape[meshes.SPATIAL] > 1:
        lines.append(
            f"model.norm_group={group}: each group spans mesh.spatial, so its statistics are "
            "summed over the devices that share its rows, and no others"
        )
    return lines


def traced_windows(setup: Setup) -> list[Window]:
    """Every window operation of the model's forward pass in training, as the mesh lays it out."""
    config = setup.config
    batch = config.train.batch_size // config.train.accumulate
    images = jax.ShapeDtypeStruct((batch, *config.data.image_size, 3), setup.model.dtype)

    def forward(images):
        return setup.model.init_with_output(jax.random.key(0), images, train=True)[0]

    with noting() as windows:
        meshes.on_mesh(setup.mesh, jax.eval_shape)(forward, images)
    return windows
