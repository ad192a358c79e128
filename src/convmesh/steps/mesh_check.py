"""`convmesh check-mesh`: a recipe's training steps on a mesh, compared with one device.

Each platform has its own partitioner, and a wrong one gives wrong gradients without an error. In
float64 (on CPUs) results must be equal to 1e-9 of each leaf's scale. In narrower dtypes correct
programs differ by rounding, since the order of sums differs; by how much depends on model and
leaf, so it is measured on one device, with the same batch in reverse order.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import numpy as np
import optax
from jax.sharding import Mesh

from convmesh import mesh as meshes
from convmesh.distributed.batch import Batch
from convmesh.errors import ConvmeshError
from convmesh.models.depth import Frozen
from convmesh.ops.windows import describe_replicated
from convmesh.steps.noise import noise_batch
from convmesh.steps.setup import Setup, traced_windows
from convmesh.steps.state import StateSpec, create_state
from convmesh.steps.step import StepParts, jit_train_step
from convmesh.tasks.image_mixing import ImageMixing

EXACT = 1e-9  # largest relative difference in float64
FLOOR = 1e-12  # absolute, in float64, for leaves that are zero in theory
MIN_TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}  # of a leaf's norm, for any noise
NOISE_FACTOR = 10  # a mesh may differ by this factor times the reversed batch's difference
MAX_TOLERANCE = 0.1  # a lost or doubled sum differs by more; noisier leaves cannot be judged
DECAY = 0.9  # of the running average
_RATES = "stochastic_depth", "dropout"  # of a model, of what it drops at random


class MeshCheckError(ConvmeshError):
    """The results on the mesh differ from those of one device."""


# --- steps of SGD, whose state shows the gradients ------------------------------------------------


@dataclasses.dataclass(frozen=True)
class SGDSpec:
    """The arguments of `sgd_steps`: a model, its task, a seed, and clipping by the global norm.

    frozen: what is not trained. start: the state before the first step, host arrays; None: a new
    one from the seed. mixing: of the images of a batch.
    """

    model: Any
    task: Any
    accumulate: int = 1
    clip_norm: float = 1e9
    seed: int = 0
    frozen: Frozen = Frozen()
    start: Any = None
    mixing: ImageMixing | None = None


@flax.struct.dataclass
class SGDResult:
    """Host arrays: metrics of each step, gradients and batch statistics of the first, the state."""

    metrics: list[dict[str, Any]]
    gradients: Any  # clipped by the global norm
    batch_stats: Any
    state: Any
    start: Any = flax.struct.field(pytree_node=False)  # the state before the first step


def sgd_steps(spec: SGDSpec, mesh: Mesh, batches: Sequence[Batch]) -> SGDResult:
    """Takes one step of SGD on a mesh for each of `batches` (global host arrays).

    The gradients are read from the momentum after the first step, which equals them.
    """
    size = batches[0].image.shape[1:3]
    clip = optax.clip_by_global_norm(spec.clip_norm)
    optimizer = optax.chain(clip, optax.sgd(0.05, momentum=0.9))
    parts = StepParts(
        spec.model,
        spec.task,
        optimizer,
        DECAY,
        spec.accumulate,
        spec.frozen,
        spec.seed,
        spec.mixing,
    )
    if spec.start is None:
        state = create_state(StateSpec(spec.model, optimizer, size, spec.seed), mesh)
    else:
        state = jax.tree.map(meshes.placed, spec.start, meshes.state_shardings(mesh, spec.start))
    start = meshes.on_host(mesh, state) if spec.start is None else spec.start
    shard = meshes.process_shard(mesh, len(batches[0].image), size[0], spec.accumulate)
    step: Any = None
    gradients = batch_stats = None
    all_metrics: list[dict[str, Any]] = []
    for batch in batches:
        batch = meshes.make_global_batch(mesh, shard.take(batch), shard)
        step = step or jit_train_step(mesh, state, batch, parts)
        state, metrics = step(state, batch)
        if not all_metrics:
            gradients = meshes.on_host(mesh, state.opt_state[1][0].trace)
            batch_stats = meshes.on_host(mesh, state.batch_stats)
        all_metrics.append(meshes.on_host(mesh, metrics))
    return SGDResult(all_metrics, gradients, batch_stats, meshes.on_host(mesh, state), start)


# --- leaf by leaf ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference of a leaf from the reference."""

    leaf: str
    error: float  # relative to the leaf's scale
    tolerance: float  # inf: too noisy to be judged in this precision
    ratio: float  # the projection on the reference: 2.0 where a sum was taken twice

    @property
    def fails(self) -> bool:
        """Whether the error is larger than the tolerance, or NaN."""
        return not self.error <= self.tolerance


def differences(
    result: Any, reference: Any, noisy: Any = None, min_tolerance: float = EXACT
) -> list[Difference]:
    """The differences of two trees of host arrays, leaf by leaf, worst first.

    Without `noisy`, the largest difference relative to the leaf's largest value is compared with
    `min_tolerance`. With `noisy`, the result of a noisy reference, norms are compared, and
    `NOISE_FACTOR` times the noise is allowed. Raises ValueError if the trees differ in leaves or
    shapes.
    """
    paths, results = jax.tree_util.tree_leaves_with_path(reference), jax.tree.leaves(result)
    if len(paths) != len(results):
        raise ValueError(f"{len(results)} leaves, the reference has {len(paths)}")
    noisy_leaves = [None] * len(paths) if noisy is None else jax.tree.leaves(noisy)
    found = []
    for (path, expected), got, noisy_leaf in zip(paths, results, noisy_leaves, strict=True):
        leaf = jax.tree_util.keystr(path, simple=True, separator="/")
        expected, got = np.asarray(expected, np.float64), np.asarray(got, np.float64)
        if expected.shape != got.shape:
            raise ValueError(f"{leaf}: {got.shape}, the reference has {expected.shape}")
        if expected.size:
            found.append(_difference(leaf, got, expected, noisy_leaf, min_tolerance))
    return sorted(found, key=lambda d: -(d.error / d.tolerance) if d.error == d.error else -np.inf)


def _difference(
    leaf: str, got: np.ndarray, expected: np.ndarray, noisy: Any, min_tolerance: float
) -> Difference:
    """The difference of a leaf; `noisy` is the same leaf of a noisy reference, or None."""
    size: Callable = (lambda a: np.abs(a).max()) if noisy is None else np.linalg.norm
    scale = max(float(size(expected)), FLOOR / min_tolerance)
    tolerance = min_tolerance
    if noisy is not None:
        noise = float(size(np.asarray(noisy, np.float64) - expected)) / scale
        allowed = min(MAX_TOLERANCE, max(min_tolerance, NOISE_FACTOR * noise))
        tolerance = np.inf if noise > MAX_TOLERANCE else allowed
    return Difference(
        leaf=leaf,
        error=float(size(got - expected)) / scale,
        tolerance=tolerance,
        ratio=float((got * expected).sum() / max((expected * expected).sum(), FLOOR)),
    )


# --- the check ------------------------------------------------------------------------------------


def check_mesh(setup: Setup, log: Callable[[str], Any] = print) -> None:
    """Compares the recipe's train step on `setup.mesh` with one device of this process.

    Logs what was compared and how far it differs. Raises MeshCheckError if a difference is larger
    than the precision explains.
    """
    config = setup.config
    height, width = config.data.image_size
    log(
        f"{setup.model_name}, {setup.precision}, {config.train.batch_size} images of {height} x "
        f"{width}: {meshes.describe(setup.mesh)} against one device"
    )
    left_out = [name for name in _RATES if getattr(setup.model, name, 0.0)]
    left_out += ["mixup and cutmix"] if setup.mixing else []
    if left_out and setup.precision != "float64":
        log(f"without {', '.join(left_out)}: only precision=float64 on the CPU compares these")
    windows = traced_windows(setup)
    for line in describe_replicated(windows) or [f"all {len(windows)} windows use the full mesh"]:
        log(line)
    failed = []
    for title, found in _compare(setup).items():
        for line in _describe(title, found, setup.precision):
            log(line)
        failed += [difference for difference in found if difference.fails]
    if failed:
        shown = "; ".join(f"{d.leaf}: off by {d.error:.1e}, x{d.ratio:.2f}" for d in failed[:3])
        raise MeshCheckError(
            f"check-mesh: {len(failed)} leaves differ from those of one device: {shown}. Do not "
            "train on this mesh; please report it with the versions of jax and of the driver"
        )
    log("equal: this mesh trains as one device does")


def _compare(setup: Setup) -> dict[str, list[Difference]]:
    """The differences between steps on `setup.mesh` and on one device, by what is compared.

    In float32 without what is drawn at random by place, since the batch is also reversed.
    """
    config, one_device = setup.config, single_device_mesh()
    exact = setup.precision == "float64"
    size, batch_size = tuple(config.data.image_size), config.train.batch_size
    batches = [noise_batch(setup.task, size, batch_size, seed=i) for i in range(3 if exact else 1)]
    plain: Any = {name: 0.0 for name in _RATES if getattr(setup.model, name, 0.0)}
    model = setup.model if exact or not plain else setup.model.clone(**plain)
    spec = SGDSpec(
        model,
        setup.task,
        accumulate=config.train.accumulate,
        clip_norm=config.optimizer.clip_norm or np.inf,
        seed=config.train.seed,
        frozen=setup.frozen,
        mixing=setup.mixing if exact else None,
    )
    reference = sgd_steps(spec, one_device, batches)
    spec = dataclasses.replace(spec, start=reference.start)  # computed once
    noisy = None
    if not exact:
        reversed_batches = [b.map(lambda _, array: array[::-1]) for b in batches]
        noisy = sgd_steps(spec, one_device, reversed_batches)
    result = sgd_steps(spec, setup.mesh, batches)

    compared = {
        "loss and metrics": "metrics",
        "gradients": "gradients",
        "batch statistics": "batch_stats",
    }
    if exact:
        compared[f"the state after {len(batches)} steps"] = "state"
    min_tolerance = EXACT if exact else MIN_TOLERANCE[setup.precision]
    found = {}
    for title, name in compared.items():
        # In a dict, so that the names of the leaves begin with `name`.
        got, expected = ({name: getattr(each, name)} for each in (result, reference))
        noise = noisy and {name: getattr(noisy, name)}
        found[title] = differences(got, expected, noise, min_tolerance)
    return found


def _describe(title: str, found: list[Difference], precision: str) -> list[str]:
    """Lines about the worst difference, and about leaves that cannot be judged."""
    if not found:
        return []
    worst, unjudged = found[0], sum(d.tolerance == np.inf for d in found)
    lines = [
        f"{title}: {len(found)} leaves, the worst differs by {worst.error:.1e} (tolerance "
        f"{worst.tolerance:.1e}): {worst.leaf}"
    ]
    if unjudged:
        lines.append(
            f"  {unjudged} of them are noisier than {MAX_TOLERANCE:g} in {precision} and cannot be "
            "judged; precision=float64 on the CPU judges all"
        )
    return lines


def single_device_mesh() -> Mesh:
    """A mesh of one device of this process."""
    return meshes.make_mesh(1, 1, 1, jax.local_devices()[:1])
