"""A recipe's model and train step on random data, for check-mesh and bench."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from convmesh import mesh as meshes
from convmesh.distributed.batch import Batch
from convmesh.errors import ConfigError
from convmesh.steps.setup import Setup, make_run_mesh, make_setup
from convmesh.steps.state import TrainState
from convmesh.steps.step import jit_train_step

USUAL_CLASSES = {"classify": 1000, "detect": 80}  # of ImageNet and COCO


def noise_setup(config: ConfigDict, mesh: Mesh | None = None) -> Setup:
    """The setup of a recipe for steps on noise; only the class names are read from its data.

    On the recipe's own mesh of all devices if no mesh is given. Raises ConfigError if the recipe
    names no model, and as `make_run_mesh` and `make_setup` do.
    """
    if not config.model.name:
        raise ConfigError("model.name: not set; give it as --config.model.name=NAME")
    return make_setup(config, _class_names(config), mesh or make_run_mesh(config))


def _class_names(config: ConfigDict) -> tuple[str, ...]:
    """The recipe's classes: as given, or from its data, or the usual number for the task."""
    if config.data.classes:
        return tuple(config.data.classes)
    if config.data.root or config.data.name:
        from convmesh.data.splits import open_train

        return tuple(open_train(config).classes)
    return tuple(map(str, range(USUAL_CLASSES[config.task])))


def noise_batch(
    task: Any, image_size: tuple[int, int], batch_size: int, boxes: int = 4, seed: int = 0
) -> Batch:
    """A batch of noise like the loader's: with labels, or with `boxes` boxes per image."""
    rng = np.random.default_rng(seed)
    height, width = image_size
    batch = Batch(
        image=rng.integers(0, 256, (batch_size, height, width, 3), np.uint8),
        index=np.arange(batch_size),
        present=np.ones(batch_size, bool),
    )
    if not hasattr(task, "assign"):
        label = rng.integers(0, task.classes, batch_size).astype(np.int32)
        return dataclasses.replace(batch, label=label)
    corner = rng.uniform(0, 0.6, (batch_size, boxes, 2)) * (width, height)
    side = rng.uniform(0.1, 0.4, (batch_size, boxes, 2)) * (width, height)
    valid = rng.uniform(size=(batch_size, boxes)) < 0.8
    return dataclasses.replace(
        batch,
        boxes=np.concatenate([corner, corner + side], -1).astype(np.float32),
        labels=rng.integers(0, task.classes, (batch_size, boxes)).astype(np.int32),
        valid=valid,
        crowd=valid & (rng.uniform(size=(batch_size, boxes)) < 0.2),
        truncated=np.zeros(batch_size, np.int32),
    )


def abstract_step(setup: Setup) -> tuple[Any, TrainState, Batch]:
    """The jitted train step of a recipe, and the shapes and shardings of its state and batch.

    To compile it (`.lower(state, batch).compile()`), also for devices that are not here.
    """
    config, mesh = setup.config, setup.mesh
    size, parts = tuple(config.data.image_size), config.train.accumulate
    one = noise_batch(setup.task, size, 1, config.data.max_boxes)

    def shape(name: str, leaf: Any) -> jax.ShapeDtypeStruct:
        lead = (parts,) if parts > 1 else ()
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
        return jax.ShapeDtypeStruct(
            (*lead, config.train.batch_size // parts, *leaf.shape[1:]), dtype
        )

    shapes = one.map(shape)
    layout = meshes.batch_shardings(mesh, shapes, stacked=parts > 1)
    batch = shapes.map(lambda name, leaf: leaf.update(sharding=getattr(layout, name)))
    state = setup.abstract_state()
    return jit_train_step(mesh, state, batch, setup.step_parts()), state, batch


def noise_step(setup: Setup) -> tuple[Any, TrainState, Batch]:
    """The jitted train step of a recipe, a fresh state, and a global batch of noise for it."""
    config, mesh, shard = setup.config, setup.mesh, setup.train_shard()
    size, boxes = tuple(config.data.image_size), config.data.max_boxes
    batch = noise_batch(setup.task, size, config.train.batch_size, boxes)
    batch = meshes.make_global_batch(mesh, shard.take(batch), shard)
    state = setup.create_state()
    return jit_train_step(mesh, state, batch, setup.step_parts()), state, batch
