"""The meshes that a run is moved between, and the state that is restored on each."""

from pathlib import Path

import jax
import numpy as np
import trial

from convmesh.workdir.checkpoints import Checkpoints

# data, spatial, model, fsdp.
MESHES = {
    "one device": (1, 1, 1, False),
    "data 4": (4, 1, 1, False),
    "spatial 4": (1, 4, 1, False),
    "model 4": (1, 1, 4, False),
    "data 2 spatial 2": (2, 2, 1, False),
    "data 2 model 2": (2, 1, 2, False),
    "spatial 2 model 2": (1, 2, 2, False),
    "data 4 fsdp": (4, 1, 1, True),
    "data 2 model 2 fsdp": (2, 1, 2, True),
}
BATCH = {"train.batch_size": 20}  # of 24 images; divides over 4 devices


def devices(name: str) -> int:
    """How many devices a mesh has."""
    return int(np.prod(MESHES[name][:3]))


def recipe(name: str, photos: Path, folder: Path) -> str:
    """The tiny recipe on a mesh."""
    keys = ("mesh.data", "mesh.spatial", "mesh.model", "mesh.fsdp")
    changes = dict(zip(keys, MESHES[name], strict=True))
    return trial.tiny_recipe(photos, folder, BATCH | changes)


def _restore(recipe: str, workdir: str, count: int):
    target = trial.make_target(recipe, count)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        state, _ = checkpoints.restore(checkpoints.newest(), target)
    for leaf, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(target), strict=True):
        assert leaf.sharding == wanted.sharding
    return state


def restored(recipe: str, workdir: str, count: int) -> str:
    """The digest of the newest checkpoint of `workdir`, restored onto the recipe's mesh."""
    return trial.digest(_restore(recipe, workdir, count))


def difference(recipe: str, one: str, other: str, count: int) -> float:
    """The largest difference of two runs' newest parameters, relative to the leaf's largest."""
    ours, theirs = (_restore(recipe, workdir, count).params for workdir in (one, other))
    worst = 0.0
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        worst = max(worst, float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-3)))
    return worst
