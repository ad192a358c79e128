"""The weights of a run's checkpoint, on a mesh of the available devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from convmesh import mesh as meshes
from convmesh.config import apply_overrides, parse_overrides
from convmesh.config.keys import KEYS
from convmesh.config.load import Overrides
from convmesh.config.open_keys import is_open
from convmesh.config.tree import flatten
from convmesh.data.augmentation.eval_view import eval_size
from convmesh.distributed import compile_cache, console, processes, same_run
from convmesh.errors import ConfigError, DataError
from convmesh.steps.setup import Setup, config_mesh, has_weights_for_all
from convmesh.workdir import checksums
from convmesh.workdir.checkpoints import Checkpoints
from convmesh.workdir.layout import Workdir
from convmesh.workdir.saved_arrays import naming_edited_key

_SHOWN = 5  # steps without a value of the metric


def available_mesh(config: ConfigDict, required: bool = False) -> Mesh:
    """Return the config's mesh if it fits the available devices, else all devices over `data`.

    If it is `required`, raises ConfigError where it does not fit.
    """
    compile_cache.start()
    same_run.check_same_devices()
    try:
        return config_mesh(config)
    except ConfigError:
        if required:
            raise
        return meshes.make_mesh()


def load_variables(
    setup: Setup, workdir: Workdir, step: int | None = None, best: bool = False
) -> tuple[dict[str, Any], int]:
    """Return a checkpoint's variables on the setup's mesh, averaged if EMA is on, and its step.

    The checkpoint is that of `step`, the best one, or the newest by default. Raises DataError if
    there is none, it is damaged or of another model, ConfigError if there is none of `step`.
    """
    if not workdir.checkpoints_folder.is_dir():
        raise DataError(f"{workdir}: no checkpoint yet; train first")
    scores = workdir.scores(setup.best_metric)
    if best and step is None:
        _report_undefined(workdir, setup.best_metric)
    with Checkpoints(
        workdir, scores=scores, read_only=True, log=console.print_result
    ) as checkpoints:
        with naming_edited_key(workdir):
            return checkpoints.choose_variables(
                setup.abstract_state(),
                step,
                best,
                check=lambda chosen: check_same_weights(workdir.checkpoints_folder / str(chosen)),
            )


def check_same_weights(checkpoint: Path) -> None:
    """Raise ConfigError if the processes read other weights: the path may be another folder."""
    if processes.count() > 1:
        sums = checkpoint / checksums.CHECKSUMS
        digest = checksums.sha256(sums)[:8] if sums.exists() else "none"
        stated = {f"checkpoint {checkpoint.name}": digest}
        same_run.check_same(stated, "give every process the same weights", "read its weights")


def _report_undefined(workdir: Workdir, metric: str) -> None:
    """Prints at which steps `metric` is undefined, so that they cannot be the best."""
    evaluations = workdir.evaluations(metric)
    steps = [step for step, value in sorted(evaluations.items()) if value is None]
    if steps:
        shown = ", ".join(map(str, steps[:_SHOWN])) + ", ..." * (len(steps) > _SHOWN)
        console.print_result(
            f"{metric} is undefined in {len(steps)} of {len(evaluations)} evaluations (step "
            f"{shown}); they cannot be the best"
        )


def with_overrides(trained: ConfigDict, overrides: Overrides) -> ConfigDict:
    """`trained` with these keys changed, for evaluation and prediction.

    With another size of the input, `data.eval_resize` changes in proportion, unless it is given:
    the crop is the same part of the image. A `data.image_size` that is given is that of evaluation.
    Raises ConfigError as `parse_overrides`, and for a value that leaves a key open.
    """
    changes = parse_overrides(overrides)
    for key, value in changes.items():
        if is_open(key, value):
            was = dict(flatten(trained))[key]
            raise ConfigError(f"{key}: only a new run can leave it open; this one has {was}")
    if "data.image_size" in changes and "data.eval_size" not in changes:
        changes = {**changes, "data.eval_size": KEYS["data.eval_size"].default}
    names = ("data.image_size", "data.eval_size")
    sizes: dict[str, Any] = {name: changes[name] for name in names if name in changes}
    resize, was = trained.data.eval_resize, eval_size(trained)
    if resize and sizes and "data.eval_resize" not in changes:
        now = eval_size(apply_overrides(trained, {**sizes, "data.eval_resize": 0}))
        if was != now:
            changes = {**changes, "data.eval_resize": max(1, round(resize * min(now) / min(was)))}
    return apply_overrides(trained, changes)


def check_same_model(trained: ConfigDict, config: ConfigDict, workdir: Workdir) -> None:
    """Raise ConfigError if `config` describes another model than the one that was trained."""
    for key, was, now in (
        ("task", trained.task, config.task),
        ("model.name", trained.model.name, config.model.name),
        ("model.backbone", trained.model.backbone, config.model.backbone),
        ("ema.decay", trained.ema.decay, config.ema.decay),
    ):
        # The decay itself may differ: what matters is whether there are averaged weights.
        if was != now and (key != "ema.decay" or 0 in (was, now)):
            raise ConfigError(
                f"{key}={now}: {workdir} was trained with {was}, and its checkpoints hold no other "
                "weights; leave it out"
            )


def check_image_size(setup: Setup, trained: ConfigDict) -> None:
    """Raise ConfigError if the weights trained at one image size do not fit that of `setup`."""
    was, now = tuple(trained.data.image_size), eval_size(setup.config)
    if not has_weights_for_all(setup.model, [was, now]):
        key = "data.eval_size" if any(setup.config.data.eval_size) else "data.image_size"
        raise ConfigError(
            f"{key}={now[0]},{now[1]}: the weights of {trained.model.name} fit images of "
            f"{was[0]} x {was[1]} (height x width) only, as it was trained; leave it out"
        )
