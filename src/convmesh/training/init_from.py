"""Initial weights of a new run: another run's, or a file's, where name and shape match."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from convmesh import mesh as meshes
from convmesh.data.stores.object_store import is_url
from convmesh.distributed import compile_cache, console, processes, same_run
from convmesh.errors import ConfigError, nearest, some
from convmesh.inference.trained_model import check_same_weights
from convmesh.inference.weight_files import (
    Net,
    WeightFile,
    default_class_names,
    fit_weights,
    fitting_net,
    group_of,
)
from convmesh.models.depth import in_backbone, is_frozen, path_names
from convmesh.models.registry import classifier_inside
from convmesh.steps.setup import Setup, make_setup
from convmesh.steps.state import TrainState
from convmesh.training.class_outputs import ClassOutputs, Columns, Shapes, same_names
from convmesh.training.signals import Phase, StopSignal
from convmesh.weights.hub import SCHEME, hub_input, hub_weights
from convmesh.weights.published import TABLES, published_weights
from convmesh.workdir import checksums
from convmesh.workdir.checkpoints import Checkpoints
from convmesh.workdir.layout import WEIGHTS_FILE, Workdir
from convmesh.workdir.saved_arrays import naming_edited_key
from convmesh.workdir.step_folders import CHECKPOINTS, names_step

T = TypeVar("T")


@dataclass(frozen=True)
class InitFrom:
    """Weights of another run, on this run's mesh, or of a file, on the host."""

    weights: dict[tuple[str, ...], Any]  # by `_name`
    columns: dict[tuple[str, ...], Columns]  # of weights of another shape: what is taken of them
    notes: tuple[str, ...]  # lines for the log
    details: tuple[str, ...] = ()  # lines for `Workdir.weights_file`: each weight

    def merge_params(self, state: TrainState) -> TrainState:
        """`state` with every weight whose name and shape match replaced, in the EMA too.

        And, of other classes' outputs, those of classes of the same name.
        """

        def leaf(path: Any, initial: Any) -> Any:
            loaded = self.weights.get(_name(path))
            if _name(path) in self.columns:
                return self.columns[_name(path)].merge(loaded, initial)
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
    `imagenet` names the published ones of the classifier, or of a detector's backbone, and `coco`
    those of the detector; they may be downloaded. `hf://` is a file on the Hugging Face hub.
    Every process must call it. Raises ConfigError if the run or checkpoint does not exist or none
    of its weights fits, DataError if it is damaged.
    """
    if not setup.config.init_from:
        return None
    if processes.broadcast(workdir.has_checkpoints()):
        return None
    with stop.during(Phase.RESTORE):
        if setup.config.init_from in TABLES or setup.config.init_from.startswith(SCHEME):
            path = _downloaded(setup.config)
            return _read_file(setup, path, input_on_hub(setup.config))
        return _read(setup, source_path(setup.config.init_from))


def _read(setup: Setup, path: Path | str) -> InitFrom:
    if isinstance(path, Path) and path.is_file():
        return _read_file(setup, path)
    root, step = split_path(path)
    source = Workdir(root)
    if not source.checkpoints_folder.is_dir():
        hint = ""
        if isinstance(path, Path) and len(path.parts) == 1:
            hint = nearest(path.name.casefold(), TABLES)
        raise ConfigError(
            f"init_from={path}: no checkpoints there{hint}; give the workdir of a run or an "
            "import, WORKDIR/checkpoints/STEP, or a file of weights"
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
        Checkpoints(source, read_only=True, log=console.print_status) as checkpoints,
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
    return _init_from(weights, lines, compared(setup, path, source_setup, variables))


def weights_model(config: ConfigDict) -> str:
    """The model whose weights `init_from` has: the run's or, of a backbone, its classifier."""
    name, backbone, source = config.model.name, config.model.backbone, config.init_from
    if source == "coco":
        if backbone and name in TABLES[source]:
            raise ConfigError(
                f"init_from=coco: the weights of {name} are published for its own backbone only; "
                "leave model.backbone empty, or take imagenet"
            )
        return name
    if config.task == "detect" and source == "imagenet":
        return backbone or classifier_inside(name) or name
    return backbone or name


def possible_nets(config: ConfigDict) -> tuple[Net, ...]:
    """The nets whose weights a file may have for this run: its own and, for a detector, the
    classifier that has the backbone; first the one that is meant more often.
    """
    name, backbone = config.model.name, config.model.backbone
    if config.task != "detect":
        return (Net(name),)
    inside = backbone or classifier_inside(name)
    own, classifier = (Net(name, backbone),), (Net(inside),) if inside else ()
    return classifier + own if backbone else own + classifier


def _downloaded(config: ConfigDict) -> Path:
    """The file of a key of TABLES, or of an address on the Hugging Face hub."""
    model, source, cache = weights_model(config), config.init_from, _cache()
    log = console.print_status if processes.is_first() else lambda line: None

    def get() -> Path:
        if source in TABLES:
            return published_weights(source, model, cache, log)
        return hub_weights(source, cache, log)

    return _first_then_others(get)


def input_on_hub(config: ConfigDict) -> dict[str, Any]:
    """What weights on the Hugging Face hub expect of their input, see `hub_input`; {} for others.

    Every process must call it.
    """
    if not config.init_from.startswith(SCHEME):
        return {}
    models = [net.name for net in possible_nets(config)]
    return _first_then_others(lambda: hub_input(config.init_from, _cache(), models))


def _cache() -> Path:
    return compile_cache.user_folder() / "weights"


def _first_then_others(get: Callable[[], T]) -> T:
    """`get()` of process 0, then of the others, which find the files of their machine there."""
    found = [get()] if processes.is_first() else []
    processes.wait_for_all("weights")
    return found[0] if found else get()


def _read_file(setup: Setup, path: Path, expected: Mapping[str, Any] | None = None) -> InitFrom:
    """The weights of a file in the net of which it has most: see `possible_nets`.

    expected: what they expect of their input, where it is known from elsewhere.
    """
    file, config = WeightFile.read(path), setup.config
    if processes.count() > 1:
        stated = {"weights": checksums.sha256(path)[:8]}
        same_run.check_same(stated, "give every process the same file", "read its weights")

    net = fitting_net(file, possible_nets(config))

    unnamed = []

    def class_names(outputs: int | None) -> tuple[str, ...]:
        names = default_class_names(file, outputs, net.name)
        if names is None and outputs == len(setup.classes):
            unnamed.append(
                f"init_from: the file does not name its {outputs} classes; its outputs are taken "
                f"for this run's, in their order: {some(setup.classes)}"
            )
        if outputs is None or outputs == len(setup.classes):
            return names or setup.classes
        return names or tuple(f"output {i}" for i in range(outputs))

    overrides = {k: v for k, v in (expected or {}).items() if k.startswith("data.pixel_")}
    overrides |= net.to_config() | {
        "precision": config.precision,
        "data.image_size": config.data.image_size,
    }
    found = fit_weights(file, net.name, class_names, setup.mesh, overrides)
    leaves = jax.tree_util.tree_leaves_with_path(found.variables)
    weights = {_name(key_path): leaf for key_path, leaf in leaves}
    lines = [f"init_from: weights of {path}, by {found.naming.whose}'s names"]
    lines += unnamed
    if assumption := found.assumption():
        lines.append(f"init_from: {assumption}")
    return _init_from(weights, lines, compared(setup, path, found.setup, found.variables))


def _init_from(weights: dict[tuple[str, ...], Any], lines: list[str], fit: Comparison) -> InitFrom:
    return InitFrom(weights, fit.columns, (*lines, *fit.lines), fit.details)


def source_path(init_from: str) -> Path | str:
    """A path, or an address of an object store, as a string."""
    return init_from if is_url(init_from) else Path(os.path.expanduser(init_from))


def split_path(path: Path | str) -> tuple[Path | str, int | None]:
    """The workdir, and the step if `path` is one of its checkpoints."""
    if isinstance(path, str):
        root, _, step = path.rstrip("/").rpartition(f"/{CHECKPOINTS}/")
        return (root, int(step)) if root and names_step(step) else (path, None)
    if names_step(path.name) and path.absolute().parent.name == CHECKPOINTS:
        return path.parent.parent, int(path.name)
    return path, None


def _name(path: Any) -> tuple[str, ...]:
    """The name of a weight; the same for a classifier and for a detector's backbone."""
    collection, *names = path_names(path)
    return collection, *in_backbone(names)


@dataclass(frozen=True)
class Comparison:
    """How the weights of a source fit a model.

    lines: for the log. details: each weight, for a file. columns: see `InitFrom`.
    """

    lines: tuple[str, ...]
    details: tuple[str, ...]
    columns: dict[tuple[str, ...], Columns]


def compared(setup: Setup, path: str | Path, source: Setup, variables: Any) -> Comparison:
    """Which of the `variables` of `source` fit the model of `setup`; the log has their groups.

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
    columns = _class_columns(setup, source, here, source_shapes)
    details = []
    for status, names, text in (
        (
            "randomly initialised, other shape",
            [k for k in here if k in source_shapes and k not in fitting and k not in columns],
            lambda key: f"{here[key][0]} {source_shapes[key]} there, {here[key][1]} here",
        ),
        (
            "randomly initialised, not in the source",
            [key for key in here if key not in source_shapes],
            lambda key: f"{here[key][0]} {here[key][1]}",
        ),
        (
            "unused, not in this model",
            [key for key in there if key not in here],
            lambda key: f"{there[key][0]} {there[key][1]}",
        ),
    ):
        if names:
            groups = Counter(group_of(key[1:]) for key in names)
            counts = ", ".join(f"{count} of {group}" for group, count in groups.items())
            lines.append(f"{status}: {counts} ({WEIGHTS_FILE} lists them)")
        details += [f"{text(key)}: {status}" for key in names]
    details += [
        f"{here[key][0]} {here[key][1]}: taken" for key in here if key in fitting - set(columns)
    ]
    if columns:
        same = [setup.classes[i] for i in same_names(setup.classes, source.classes)]
        of = f"{len(same)} of {len(setup.classes)} classes"
        lines.append(f"outputs taken of {of}, which have the same names there: {some(same)}")
        details += [f"{here[key][0]} {here[key][1]}: taken of {of}" for key in columns]
    random = [name for key, (name, _) in here.items() if key not in fitting]
    lines += _frozen_random(setup, random)
    old, new = source.classes, setup.classes
    if len(old) == len(new) and old != new and not columns:
        lines.append(
            f"same number of classes, other names: {', '.join(old)} there, {', '.join(new)} here"
        )
    lines += _other_pixels(source.config, setup.config)
    return Comparison(tuple(f"init_from: {line}" for line in lines), tuple(details), columns)


def _class_columns(
    setup: Setup, source: Setup, here: Mapping[Any, tuple], there: Shapes
) -> dict[tuple[str, ...], Columns]:
    """What is taken of the outputs of other classes: that of classes of the same name."""
    same = same_names(setup.classes, source.classes)
    if not same:
        return {}
    larger = replace(setup, model=setup.model.clone(classes=len(setup.classes) + 1))
    state = larger.abstract_state()
    model = {"params": state.params, "batch_stats": state.batch_stats}
    shapes, one_more = (
        {k: shape for k, (_, shape) in each.items()} for each in (here, _shapes(model))
    )
    counts = (len(setup.classes), len(source.classes))
    first = getattr(setup.model, "classes_first", False)
    return ClassOutputs(counts, same, first).find(shapes, one_more, there)


def _frozen_random(setup: Setup, random: list[str]) -> list[str]:
    """A line if some of the arrays with random values are frozen."""
    stages = setup.config.train.frozen_stages
    frozen = [name for name in random if is_frozen(name.split("/")[1:], stages)]
    if not frozen:
        return []
    return [
        f"train.frozen_stages={stages} freezes {len(frozen)} arrays with random values: "
        f"{some(frozen)}; lower it, or take weights that fit"
    ]


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
