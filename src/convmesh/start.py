"""The weights that a fresh run starts from: those of another run, as far as they fit."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from convmesh import processes
from convmesh.checkpoint import Checkpoints
from convmesh.errors import ConfigError
from convmesh.evaluation import read_workdir
from convmesh.models.depth import in_backbone, path_names
from convmesh.setup import Setup, make_setup
from convmesh.signals import tell
from convmesh.state import TrainState


@dataclass(frozen=True)
class Start:
    """Weights of another run, on this run's mesh, and what there is to say of them."""

    weights: dict[tuple[str, ...], Any]  # by `_place`
    notes: tuple[str, ...]  # lines for people

    def graft(self, state: TrainState) -> TrainState:
        """`state` with each weight that has its like here in place, in the average too."""

        def leaf(path, fresh):
            found = self.weights.get(_place(path))
            return fresh if found is None or found.shape != fresh.shape else found

        model = {"params": state.params, "batch_stats": state.batch_stats}
        model = jax.tree_util.tree_map_with_path(leaf, model)
        if state.ema is not None:
            # A copy, since the state is donated and no buffer may stand in it twice.
            at = jax.tree.map(lambda leaf: leaf.sharding, state.ema)
            copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=at)
            state = replace(state, ema=copy(model))
        return replace(state, **model)


def find_start(setup: Setup, workdir: Path) -> Start | None:
    """What `init_from` names, read and checked; None where nothing is named, or the run goes on.

    The average is taken where one is kept. All processes call it together. Raises ConfigError where
    there is no such run or checkpoint, or none of its weights fits; DataError where it is damaged.
    """
    if not setup.config.init_from:
        return None
    begun = any(path.name.isdecimal() for path in (workdir / "checkpoints").glob("*"))
    if processes.broadcast(begun):
        return None
    return _read(setup, Path(setup.config.init_from).expanduser())


def _read(setup: Setup, path: Path) -> Start:
    source, step = _split(path)
    if not (source / "checkpoints").is_dir():
        raise ConfigError(
            f"init_from={path}: no checkpoints there; give the workdir of a run, or "
            "WORKDIR/checkpoints/STEP"
        )
    try:
        config, classes = read_workdir(source)
        config.precision = setup.config.precision
        theirs = make_setup(config, classes, setup.mesh, train_images=1)
    except ConfigError as error:
        raise ConfigError(f"init_from={path}: {error}") from None
    target, say = theirs.abstract_state(), tell if processes.is_first() else lambda text: None
    with Checkpoints(source, read_only=True, say=say) as checkpoints:
        step = checkpoints.choose(step, asked="init_from")
        found = checkpoints.restore_variables(step, target)
    weights = {_place(at): leaf for at, leaf in jax.tree_util.tree_leaves_with_path(found)}
    which = "" if target.ema is None else ", averaged"
    lines = [f"init_from: weights of {source}, step {step}{which}"]
    lines += compared(setup, path, theirs, found)
    return Start(weights, tuple(lines))


def _split(path: Path) -> tuple[Path, int | None]:
    """The workdir, and the step if `path` is one of its checkpoints."""
    if path.name.isdecimal() and path.absolute().parent.name == "checkpoints":
        return path.parent.parent, int(path.name)
    return path, None


def _place(path) -> tuple[str, ...]:
    """Where a weight stands, the same for a backbone alone and in a detector."""
    collection, *names = path_names(path)
    return collection, *in_backbone(names)


def compared(setup: Setup, path: str | Path, theirs: Setup, found) -> list[str]:
    """Which of the weights `found`, of `theirs`, do not fit `setup`'s model, by name: lines.

    Shapes are all it needs. Raises ConfigError that names `path` if no parameter fits.
    """
    ours = setup.abstract_state()
    model = {"params": ours.params, "batch_stats": ours.batch_stats}
    here, there = _shapes(model), _shapes(found)
    known = {place: shape for place, (_, shape) in there.items()}
    places = {place for place, (_, shape) in here.items() if known.get(place) == shape}
    if not any(collection == "params" for collection, *_ in places):
        raise ConfigError(
            f"init_from={path}: none of its weights fits; it is of {theirs.config.model.name}, and "
            f"this is {setup.config.model.name}"
        )
    lines = [f"{len(places)} of this model's {len(here)} arrays start from them"]
    for what, names in (
        (
            "made anew, since they have other shapes",
            [
                f"{name} {known[place]} there, {shape} here"
                for place, (name, shape) in here.items()
                if place in known and place not in places
            ],
        ),
        (
            "made anew, since they are not there",
            [f"{name} {shape}" for place, (name, shape) in here.items() if place not in known],
        ),
        (
            "not used, since this model has no place for them",
            [f"{name} {shape}" for place, (name, shape) in there.items() if place not in here],
        ),
    ):
        if names:
            lines.append(f"{what}: {'; '.join(names)}")
    was, now = theirs.classes, setup.classes
    if len(was) == len(now) and was != now:
        lines.append(
            "the classes are as many, and not the same: "
            f"{', '.join(was)} there, {', '.join(now)} here"
        )
    return [f"init_from: {line}" for line in lines]


def _shapes(variables) -> dict[tuple[str, ...], tuple[str, tuple[int, ...]]]:
    """Name and shape of each array, by `_place`."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {_place(path): ("/".join(path_names(path)), leaf.shape) for path, leaf in leaves}
