"""Initial weights of a new run: another run's, or a file's, where name and shape match."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from convmesh import mesh as meshes
from convmesh.distributed import compile_cache, console, processes, same_run
from convmesh.errors import ConfigError, some
from convmesh.inference.trained_model import check_same_weights
from convmesh.inference.weight_files import WeightFile, default_class_names, fit_weights
from convmesh.models.depth import in_backbone, is_frozen, path_names
from convmesh.steps.setup import Setup, make_setup
from convmesh.steps.state import TrainState
from convmesh.training.signals import Phase, StopSignal
from convmesh.weights.published import KEYWORD, imagenet_weights
from convmesh.workdir import checksums
from convmesh.workdir.checkpoints import Checkpoints
from convmesh.workdir.layout import CHECKPOINTS, Workdir
from convmesh.workdir.saved_arrays import naming_edited_key
from convmesh.workdir.step_folders import names_step


@dataclass(frozen=True)
class InitFrom:
    """Weights of another run, on this run's mesh, or of a file, on the host."""

    weights: dict[tuple[str, ...], Any]  # by `_name`
    notes: tuple[str, ...]  # lines for the log

    def merge_params(self, state: TrainState) -> TrainState:
        """`state` with every weight whose name and shape match replaced, in the EMA too."""

        def leaf(path: Any, initial: Any) -> Any:
            loaded = self.weights.get(_name(path))
            if loaded is None or loaded.shape != initial.shape:
                return initial
            is_on_host = isinstance(loaded, np.ndarray)
            return meshes.placed(loaded, initial.sharding) if is_on_host else loaded

        model = {"params": state.params, "batch_stats": state.batch_stats}
        model = jax.tree_util.tree_map_with_path(leaf, model)
        if state.ema is not None:
            # A copy, since the state is donated and must not hold a buffer twice.
            shardings = jax.tree.map(lambda leaf: leaf.sharding, state.ema)
            copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=shardings)
            state = replace(state, ema=copy(model))
        return replace(state, **model)


def load_init_from(setup: Setup, workdir: Workdir, stop: StopSignal) -> InitFrom | None:
    """Reads and checks the weights that `init_from` names; None if it is empty or the run resumes.

    The EMA is used if the checkpoint has one. A file of weights is read as `import-weights` does;
    `imagenet` names the published ones of the model, which may be downloaded.
    Every process must call it. Raises ConfigError if the run or checkpoint does not exist or none
    of its weights fits, DataError if it is damaged.
    """
    if not setup.config.init_from:
        return None
    if processes.broadcast(workdir.has_checkpoints()):
        return None
    with stop.during(Phase.RESTORE):
        if setup.config.init_from == KEYWORD:
            return _read_file(setup, _imagenet_file(setup.config))
        return _read(setup, Path(os.path.expanduser(setup.config.init_from)))


def _read(setup: Setup, path: Path) -> InitFrom:
    if path.is_file():
        return _read_file(setup, path)
    root, step = _split(path)
    source = Workdir(root)
    if not source.checkpoints_folder.is_dir():
        raise ConfigError(
            f"init_from={path}: no checkpoints there; give the workdir of a run or an import, "
            "WORKDIR/checkpoints/STEP, or a file of weights"
        )
    try:
        config, classes = source.read_run()
        config.precision = setup.config.precision
        source_setup = make_setup(config, classes, setup.mesh, train_images=1)
    except ConfigError as error:
        raise ConfigError(f"init_from={path}: {error}") from None
    target = source_setup.abstract_state()
    with (
        naming_edited_key(source),
        Checkpoints(source.root, read_only=True, log=console.print_status) as checkpoints,
    ):
        variables, step = checkpoints.choose_variables(
            target,
            step,
            asked="init_from",
            check=lambda step: check_same_weights(source.checkpoints_folder / str(step)),
        )
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    weights = {_name(key_path): leaf for key_path, leaf in leaves}
    averaged = "" if target.ema is None else ", EMA"
    lines = [f"init_from: weights of {source}, step {step}{averaged}"]
    lines += compared(setup, path, source_setup, variables)
    return InitFrom(weights, tuple(lines))


def _imagenet_file(config: ConfigDict) -> Path:
    """The file of the published weights of the run's model, or of a detector's backbone."""
    model = config.model.backbone or config.model.name
    cache = compile_cache.user_folder() / "weights"
    log = console.print_status if processes.is_first() else lambda line: None
    path = imagenet_weights(model, cache, log) if processes.is_first() else Path()
    processes.wait_for_all("weights")  # the others of this machine find them in the cache
    return path if processes.is_first() else imagenet_weights(model, cache, log)


def _read_file(setup: Setup, path: Path) -> InitFrom:
    """The weights of a file in the run's model or, for a detector, in its backbone's classifier."""
    file, config = WeightFile.read(path), setup.config
    if processes.count() > 1:
        stated = {"weights": checksums.sha256(path)[:8]}
        same_run.check_same(stated, "give every process the same file", "read its weights")

    def class_names(outputs: int | None) -> tuple[str, ...]:
        if outputs is None or outputs == len(setup.classes):
            return default_class_names(file, outputs) or setup.classes
        names = default_class_names(file, outputs)
        return names or tuple(f"output {i}" for i in range(outputs))

    model = config.model.backbone or config.model.name
    overrides = {"precision": config.precision, "data.image_size": config.data.image_size}
    found = fit_weights(file, model, class_names, setup.mesh, overrides)
    leaves = jax.tree_util.tree_leaves_with_path(found.variables)
    weights = {_name(key_path): leaf for key_path, leaf in leaves}
    lines = [f"init_from: weights of {path}, by {found.naming.whose}'s names"]
    lines += compared(setup, path, found.setup, found.variables)
    return InitFrom(weights, tuple(lines))


def _split(path: Path) -> tuple[Path, int | None]:
    """The workdir, and the step if `path` is one of its checkpoints."""
    if names_step(path.name) and path.absolute().parent.name == CHECKPOINTS:
        return path.parent.parent, int(path.name)
    return path, None


def _name(path: Any) -> tuple[str, ...]:
    """The name of a weight; the same for a classifier and for a detector's backbone."""
    collection, *names = path_names(path)
    return collection, *in_backbone(names)


def compared(setup: Setup, path: str | Path, source: Setup, variables: Any) -> list[str]:
    """Lines for the log: which of the `variables` of `source` fit the model of `setup`.

    Only shapes are read. Raises ConfigError that names `path` if no parameter fits.
    """
    state = setup.abstract_state()
    model = {"params": state.params, "batch_stats": state.batch_stats}
    here, there = _shapes(model), _shapes(variables)
    source_shapes = {key: shape for key, (_, shape) in there.items()}
    fitting = {key for key, (_, shape) in here.items() if source_shapes.get(key) == shape}
    if not any(collection == "params" for collection, *_ in fitting):
        raise ConfigError(
            f"init_from={path}: none of its weights fits; its model is {source.config.model.name}, "
            f"this one is {setup.config.model.name}"
        )
    lines = [f"{len(fitting)} of this model's {len(here)} arrays start from them"]
    for status, names in (
        (
            "randomly initialised, other shape",
            [
                f"{name} {source_shapes[key]} there, {shape} here"
                for key, (name, shape) in here.items()
                if key in source_shapes and key not in fitting
            ],
        ),
        (
            "randomly initialised, not in the source",
            [f"{name} {shape}" for key, (name, shape) in here.items() if key not in source_shapes],
        ),
        (
            "unused, not in this model",
            [f"{name} {shape}" for key, (name, shape) in there.items() if key not in here],
        ),
    ):
        if names:
            lines.append(f"{status}: {'; '.join(names)}")
    stages = setup.config.train.frozen_stages
    random = [name for key, (name, _) in here.items() if key not in fitting]
    if frozen := [name for name in random if is_frozen(name.split("/")[1:], stages)]:
        lines.append(
            f"train.frozen_stages={stages} freezes {len(frozen)} arrays with random values: "
            f"{some(frozen)}; lower it, or take weights that fit"
        )
    old, new = source.classes, setup.classes
    if len(old) == len(new) and old != new:
        lines.append(
            f"same number of classes, other names: {', '.join(old)} there, {', '.join(new)} here"
        )
    lines += _other_pixels(source.config, setup.config)
    return [f"init_from: {line}" for line in lines]


def _other_pixels(there: ConfigDict, here: ConfigDict) -> list[str]:
    """A line if the weights were trained on pixels of another scale."""
    keys = ("pixel_mean", "pixel_std")
    if all(np.allclose(there.data[key], here.data[key], atol=5e-3) for key in keys):
        return []
    wanted = " ".join(
        f"--config.data.{key}={','.join(f'{number:.6g}' for number in there.data[key])}"
        for key in keys
    )
    return [f"these weights were trained on pixels of another mean and deviation: give {wanted}"]


def _shapes(variables: Any) -> dict[tuple[str, ...], tuple[str, tuple[int, ...]]]:
    """Name and shape of each array, by `_name`."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {_name(path): ("/".join(path_names(path)), leaf.shape) for path, leaf in leaves}
