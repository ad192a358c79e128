"""Programs for exports of any model, with random weights under which its outputs differ."""

import dataclasses

import equality
import jax
import jax.numpy as jnp
import numpy as np

from convmesh import mesh as meshes
from convmesh.config import defaults
from convmesh.export.program import Program, exported_setup
from convmesh.models.registry import MODELS
from convmesh.steps.setup import make_setup

CLASSES = tuple("abcdefg")


def random_program(name: str, side: int, batch: int | None = None) -> Program:
    """The program of a model of the registry, or "tiny faster rcnn", for images of side x side."""
    tiny = name not in MODELS
    config = defaults("detect" if tiny else MODELS[name][0])
    config.model.name = "detector_tiny" if tiny else name
    config.data.image_size = (side, side)
    config.train.steps = 1
    mesh = meshes.make_mesh(devices=jax.devices()[:1])
    setup = make_setup(config, CLASSES, mesh)
    if tiny:
        model = equality.tiny_faster_rcnn(jnp.float32, classes=len(CLASSES))
        _, task, _ = equality.torchvision_case(model, side)
        setup = dataclasses.replace(setup, model=model, task=task)
    setup = exported_setup(setup, "float32", "inside")
    image = jnp.zeros((1, side, side, 3))
    shapes = jax.eval_shape(lambda key: setup.model.init(key, image), jax.random.key(0))
    return Program(setup, random_variables(shapes), batch)


def random_variables(shapes):
    """Weights of these shapes: of the size that keeps activations' own, and no zeros."""
    rng = np.random.default_rng(0)

    def leaf(path, shape):
        name = path[-1].key
        if name in ("var", "scale"):
            return rng.uniform(0.5, 1.2, shape.shape).astype(shape.dtype)
        spread = np.sqrt(max(1, np.prod(shape.shape[:-1]))) if name == "kernel" else 10
        return (rng.normal(size=shape.shape) / spread).astype(shape.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)
