"""The proof of parallelism: a sharded result equals the one-device result, in float64.

In float32 correct programs differ by up to 1e-2 in a gradient leaf, and wrong ones by no more.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from convmesh import mesh as meshes
from convmesh.models import make_model
from convmesh.models.detector import grid_points
from convmesh.models.resnet import ResNet
from convmesh.models.small_cnn import SmallCNN
from convmesh.state import create_state
from convmesh.step import jit_train_step
from convmesh.tasks.classify import Classify
from convmesh.tasks.detect import Detect

TOLERANCE = 1e-9  # of a leaf's scale
FLOOR = 1e-12  # for leaves that are zero in theory: a bias before a norm

# Every way to lay 8 devices over (data, spatial, model).
ALL_MESHES = [(d, s, 8 // d // s) for d in (1, 2, 4, 8) for s in (1, 2, 4, 8) if 8 % (d * s) == 0]


def make_mesh(shape):
    """A mesh of the first devices of that shape: (1, 1, 1) is the one device."""
    return meshes.make_mesh(*shape, devices=jax.devices()[: int(np.prod(shape))])


def assert_equal(result, reference):
    """Every leaf equal to 1e-9 of its scale. Raises AssertionError that names the worst leaf."""
    paths = jax.tree_util.tree_leaves_with_path(reference)
    leaves = jax.tree.leaves(result)
    assert len(paths) == len(leaves)
    errors = []
    for (path, wanted), got in zip(paths, leaves, strict=True):
        wanted, got = np.asarray(wanted), np.asarray(got)
        assert wanted.shape == got.shape, jax.tree_util.keystr(path)
        if not wanted.size:
            continue
        scale = np.abs(wanted).max()
        error = np.abs(got - wanted).max()
        if not error <= FLOOR:  # a NaN is an error too
            errors.append((float(error / max(scale, FLOOR)), jax.tree_util.keystr(path)))
    worst, where = max(errors, default=(0.0, ""))
    assert worst <= TOLERANCE, f"{where} differs by {worst:.1e} of its scale"


def random_batch(task, size: int, batch: int = 8, seed: int = 0):
    """A batch as the loader makes it, of noise, with boxes of all sizes."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (batch, size, size, 3), np.uint8)
    common = {"image": images, "index": np.arange(batch), "present": np.ones(batch, bool)}
    if not hasattr(task, "assign"):
        return common | {"label": rng.integers(0, task.classes, batch).astype(np.int32)}
    corner = rng.uniform(0, 0.6 * size, (batch, 4, 2))
    side = rng.uniform(0.1 * size, 0.4 * size, (batch, 4, 2))
    valid = rng.uniform(size=(batch, 4)) < 0.8
    return common | {
        "boxes": np.concatenate([corner, corner + side], -1).astype(np.float32),
        "labels": rng.integers(0, task.classes, (batch, 4)).astype(np.int32),
        "valid": valid,
        "crowd": valid & (rng.uniform(size=(batch, 4)) < 0.2),
        "truncated": np.zeros(batch, np.int32),
    }


def three_steps(model, task, size: int, shape, batch: int = 8):
    """What three SGD steps on a mesh of `shape` give, all on the host.

    After the first step the momentum IS the gradient, so every gradient leaf is compared.
    """
    mesh = make_mesh(shape)
    optimizer = optax.sgd(0.05, momentum=0.9)
    state = create_state(model, optimizer, (size, size), mesh, seed=0, ema=True)
    first = random_batch(task, size, batch)
    step = jit_train_step(
        mesh, state, first, model=model, task=task, optimizer=optimizer, decay=0.9
    )
    seen = {}
    for i in range(3):
        given = random_batch(task, size, batch, seed=i)
        state, numbers = step(state, jax.device_put(given, meshes.batch_shardings(mesh, given)))
        seen[f"numbers {i}"] = jax.device_get(numbers)
        if i == 0:
            seen["gradients"] = jax.device_get(state.opt_state[0].trace)
    return seen | {"state": jax.device_get(state)}


def case(name):
    """(model, task, image side) of a tiny net of each family, and of the real ones."""
    dtype = jnp.float64
    classify = lambda classes: Classify(classes, (0, 0))  # noqa: E731
    return {
        "tiny small_cnn": lambda: (SmallCNN(8, dtype, (8, 16), hidden=16), classify(8), 16),
        "tiny resnet": lambda: (ResNet(8, (1, 1), dtype, width=8), classify(8), 32),
        "ghost resnet": lambda: (
            ResNet(8, (1, 1), dtype, width=8, norm_group=2),
            classify(8),
            32,
        ),
        "tiny detector": lambda: (
            make_model("detector_tiny", "detect", 8, dtype),
            Detect(8, (64, 64)),
            64,
        ),
        "small_cnn": lambda: (make_model("small_cnn", "classify", 10, dtype), classify(10), 32),
        "resnet18": lambda: (make_model("resnet18", "classify", 10, dtype), classify(10), 64),
        "detector_nano": lambda: (
            make_model("detector_nano", "detect", 10, dtype),
            Detect(10, (96, 96)),
            96,
        ),
    }[name]()


@functools.cache
def one_device(name):
    """The reference, computed once."""
    with jax.enable_x64(True):
        return three_steps(*case(name), (1, 1, 1))


def noise_images(size: int, batch: int = 8, seed: int = 0):
    """Float images [batch, size, size, 3]."""
    return np.random.default_rng(seed).normal(size=(batch, size, size, 3))


def number_of_points(size: int) -> int:
    """Points of a square image."""
    return len(grid_points((size, size))[0])
