"""`convmesh check-mesh`: a recipe's training steps on a mesh against the same on one device.

GPUs and TPUs have partitioners of their own, and a wrong one gives wrong gradients without a word.
Equality is proven in float64 (CPU), to 1e-9 of each leaf's scale. In narrower types correct
programs differ by what rounding makes of another order of sums; how much that is depends on model
and leaf, so it is measured: the same batch in reverse order, on one device.
"""

import dataclasses

import jax
import numpy as np
import optax

from convmesh import mesh as meshes
from convmesh.errors import ConfigError, ConvmeshError
from convmesh.ops.windows import describe_whole
from convmesh.setup import Setup, make_run_mesh, make_setup, traced_windows
from convmesh.state import create_state
from convmesh.step import jit_train_step

EXACT, FLOOR = 1e-9, 1e-12  # float64: of a leaf's scale; and for leaves that are zero in theory
LEAST = {"float32": 1e-4, "bfloat16": 2e-2}  # tolerance of a leaf's norm, whatever the noise
NOISE_FACTOR = 10  # a mesh may differ by that many times the reversed batch's difference
MOST = 0.1  # a lost or doubled sum differs by more; a leaf noisier than that cannot be judged


def classes_of(config) -> tuple[str, ...]:
    """The recipe's classes: given, or those of its data; without either a usual number of them."""
    if config.data.classes:
        return tuple(config.data.classes)
    if config.data.root or config.data.name:
        from convmesh.data import open_train

        return tuple(open_train(config).classes)
    return tuple(map(str, range({"classify": 1000, "detect": 80}[config.task])))


def noise_setup(config, mesh=None) -> Setup:
    """The parts of a recipe for steps on noise: its data gives the classes and nothing else.

    On the recipe's own mesh, of all devices, if none is given.
    """
    if not config.model.name:
        raise ConfigError("model.name: not set; give it as --config.model.name=NAME")
    return make_setup(config, classes_of(config), mesh or make_run_mesh(config))


def noise_batch(task, image_size, batch_size: int, boxes: int = 4, seed: int = 0) -> dict:
    """A batch as the loader makes it, of noise, with labels, or boxes of all sizes."""
    rng = np.random.default_rng(seed)
    height, width = image_size
    batch = {
        "image": rng.integers(0, 256, (batch_size, height, width, 3), np.uint8),
        "index": np.arange(batch_size),
        "present": np.ones(batch_size, bool),
    }
    if not hasattr(task, "assign"):
        return batch | {"label": rng.integers(0, task.classes, batch_size).astype(np.int32)}
    corner = rng.uniform(0, 0.6, (batch_size, boxes, 2)) * (width, height)
    side = rng.uniform(0.1, 0.4, (batch_size, boxes, 2)) * (width, height)
    valid = rng.uniform(size=(batch_size, boxes)) < 0.8
    return batch | {
        "boxes": np.concatenate([corner, corner + side], -1).astype(np.float32),
        "labels": rng.integers(0, task.classes, (batch_size, boxes)).astype(np.int32),
        "valid": valid,
        "crowd": valid & (rng.uniform(size=(batch_size, boxes)) < 0.2),
        "truncated": np.zeros(batch_size, np.int32),
    }


def sgd_steps(
    model, task, image_size, mesh, batches, accumulate: int = 1, clip=1e9, seed=0
) -> dict:
    """What SGD steps on `batches` give on a mesh, whole and on the host: numbers, state, gradients.

    After the first step the momentum IS the gradient (clipped by its global norm).
    """
    optimizer = optax.chain(optax.clip_by_global_norm(clip), optax.sgd(0.05, momentum=0.9))
    state = create_state(model, optimizer, image_size, mesh, seed, ema=True)
    share = meshes.share_of(mesh, len(batches[0]["image"]), image_size[0], accumulate)
    step, seen = None, {}
    for i, batch in enumerate(batches):
        batch = meshes.place(mesh, share.take(batch), share)
        if step is None:
            parts = dict(model=model, task=task, optimizer=optimizer, decay=0.9)
            step = jit_train_step(mesh, state, batch, accumulate=accumulate, **parts)
        state, numbers = step(state, batch)
        seen[f"numbers {i}"] = meshes.on_host(mesh, numbers)
        if i == 0:
            seen["gradients"] = meshes.on_host(mesh, state.opt_state[1][0].trace)
            seen["statistics"] = meshes.on_host(mesh, state.batch_stats)
    return seen | {"state": meshes.on_host(mesh, state)}


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far a leaf is from the reference."""

    leaf: str
    error: float  # of its scale
    tolerance: float  # inf: this precision cannot judge it
    ratio: float  # the part of the reference that is in it: 2.0 where a sum was made twice

    @property
    def fails(self) -> bool:
        """Whether it is more than rounding. A NaN is."""
        return not self.error <= self.tolerance


def differences(result, reference, noisy=None, least: float = EXACT) -> list[Difference]:
    """Leaf by leaf, worst first, of trees of host arrays.

    Without `noisy`, the largest difference by the leaf's largest value, against `least`. With the
    result of a noisy reference, norms, against what the noise is times `NOISE_FACTOR`.
    """
    found = []
    noisy_leaves = jax.tree.leaves(noisy) if noisy is not None else None
    paths, results = jax.tree_util.tree_leaves_with_path(reference), jax.tree.leaves(result)
    if len(paths) != len(results):
        raise ValueError(f"{len(results)} leaves, the reference has {len(paths)}")
    for i, ((path, wanted), got) in enumerate(zip(paths, results, strict=True)):
        leaf = jax.tree_util.keystr(path, simple=True, separator="/")
        wanted, got = np.asarray(wanted, np.float64), np.asarray(got, np.float64)
        if wanted.shape != got.shape:
            raise ValueError(f"{leaf}: {got.shape}, the reference has {wanted.shape}")
        if not wanted.size:
            continue
        size = np.linalg.norm if noisy_leaves else lambda a: np.abs(a).max()
        scale = max(float(size(wanted)), FLOOR / least)
        error = float(size(got - wanted)) / scale
        tolerance = least
        if noisy_leaves:
            noise = float(size(np.asarray(noisy_leaves[i], np.float64) - wanted)) / scale
            tolerance = np.inf if noise > MOST else min(MOST, max(least, NOISE_FACTOR * noise))
        ratio = float((got * wanted).sum() / max((wanted * wanted).sum(), FLOOR))
        found.append(Difference(leaf, error, tolerance, ratio))
    return sorted(found, key=lambda d: -(d.error / d.tolerance) if d.error == d.error else -np.inf)


class NotEqual(ConvmeshError):
    """The mesh gives another result than one device."""


def check_mesh(setup: Setup, say=print) -> None:
    """Compares the recipe's step on `setup.mesh` with one device of this process.

    Says what was compared and how far it differs. Raises NotEqual where that is more than the
    precision allows.
    """
    config = setup.config
    exact = config.precision == "float64"
    size, batch = tuple(config.data.image_size), config.train.batch_size
    one = mesh_of_one()
    batches = [noise_batch(setup.task, size, batch, seed=i) for i in range(3 if exact else 1)]
    clip = config.optimizer.clip_norm or np.inf

    def run(mesh, batches):
        parts = dict(accumulate=config.train.accumulate, clip=clip, seed=config.train.seed)
        return sgd_steps(setup.model, setup.task, size, mesh, batches, **parts)

    say(
        f"{config.model.name}, {config.precision}, {batch} images of {size[0]} x {size[1]}: "
        f"{meshes.describe(setup.mesh)} against one device"
    )
    windows = traced_windows(setup)
    for line in describe_whole(windows) or [f"all {len(windows)} windows use the whole mesh"]:
        say(line)
    reference = run(one, batches)
    noisy = None
    if not exact:
        noisy = run(one, [{name: leaf[::-1] for name, leaf in b.items()} for b in batches])
    result = run(setup.mesh, batches)

    failed = []
    parts = {
        "loss and numbers": [f"numbers {i}" for i in range(len(batches))],
        "gradients": ["gradients"],
        "batch statistics": ["statistics"],
    }
    if exact:
        parts[f"all of the state after {len(batches)} steps"] = ["state"]
    for title, names in parts.items():
        pick = lambda tree: tree and {name: tree[name] for name in names}  # noqa: B023, E731
        least = EXACT if exact else LEAST[config.precision]
        found = differences(pick(result), pick(reference), pick(noisy), least)
        wrong = [d for d in found if d.fails]
        blind = [d for d in found if d.tolerance == np.inf]
        failed += wrong
        if not found:
            continue
        worst = found[0]
        say(
            f"{title}: {len(found)} leaves, the worst differs by {worst.error:.1e} (tolerance "
            f"{worst.tolerance:.1e}): {worst.leaf}"
        )
        if blind:
            say(
                f"  {len(blind)} of them are noisier than {MOST:g} in {config.precision} and prove "
                "nothing; precision=float64 on the CPU judges all"
            )
    if failed:
        shown = "; ".join(f"{d.leaf}: off by {d.error:.1e}, x{d.ratio:.2f}" for d in failed[:3])
        raise NotEqual(
            f"check-mesh: {len(failed)} leaves are not those of one device: {shown}. Do not train "
            "on this mesh; please report it with the versions of jax and of the driver"
        )
    say("equal: this mesh trains as one device does")


def mesh_of_one():
    """The mesh of one device of this process."""
    return meshes.make_mesh(1, 1, 1, jax.local_devices()[:1])
