"""Evaluation: each image of a split once, on any mesh, judged by the task's metrics."""

import json
from pathlib import Path

import jax
import numpy as np

from convmesh import draw
from convmesh import mesh as meshes
from convmesh.checkpoint import Checkpoints
from convmesh.config import apply_overrides, from_json, parse_overrides
from convmesh.data import BadExample, open_eval
from convmesh.data.loader import eval_batches
from convmesh.errors import ConfigError, DataError
from convmesh.report import json_numbers
from convmesh.setup import Setup, make_setup
from convmesh.step import jit_predict_step

DRAWN_IMAGES = 16


def evaluate(workdir, split=None, step=None, best=False, overrides=()) -> dict[str, float]:
    """Evaluates a checkpoint of `workdir` (the newest by default), with the config it has there.

    Writes `eval/SPLIT/metrics.json`, `predictions.json` and pictures into the workdir, prints the
    table and returns the metrics. Of a data set with another `data.name` than the run's, the folder
    is `eval/NAME:SPLIT`. Any mesh will do: the config's where it fits the devices that
    are here, else all devices share the examples.
    """
    workdir = Path(workdir)
    config, classes = read_workdir(workdir)
    own_name = config.data.name
    config = apply_overrides(config, overrides)
    of_another = "" if config.data.name == own_name else config.data.name.replace("/", "-") + ":"
    if not config.data.classes:
        config.data.classes = classes
    source = open_eval(config, split)
    if tuple(source.classes) != tuple(classes):
        raise DataError(
            f"split {source.split}: its classes, {', '.join(source.classes)}, are not those that "
            f"{workdir} was trained on, {', '.join(classes)}"
        )
    asked = any(key.startswith("mesh.") for key in parse_overrides(overrides))
    setup = make_setup(config, classes, mesh_here(config, asked), len(source))
    variables, step = load_variables(setup, workdir, step, best)
    of_what = of_another + source.split
    print(f"{workdir}: checkpoint of step {step}, split {of_what}")
    return evaluate_variables(setup, variables, source, workdir / "eval" / of_what)


def evaluate_variables(setup: Setup, variables, source, directory: Path, say=print) -> dict:
    """The metrics of `variables` over all of `source`; files and pictures go to `directory`."""
    mesh, task, classes = setup.mesh, setup.task, setup.classes
    shards = mesh.shape[meshes.DATA]
    batch_size = setup.config.eval.batch_size or setup.config.train.batch_size
    batch_size = -(-batch_size // shards) * shards
    predict = jit_predict_step(mesh, model=setup.model, task=task)

    truth, found = [], []
    with eval_batches(source, setup.config, batch_size) as batches:
        for batch in batches:
            image = {"image": batch["image"]}
            image = jax.device_put(image, meshes.batch_shardings(mesh, image))["image"]
            predictions = jax.device_get(predict(variables, image))
            for i in np.flatnonzero(batch["present"]):
                one = {name: value[i] for name, value in predictions.items()}
                placement = {k: batch[k][i] for k in ("scale", "offset", "original_size")}
                truth.append(_truth(batch["record"][i], placement["original_size"]))
                found.append(task.to_host(one, placement) | _identity(truth[-1]))
        unreadable = batches.counts["unreadable"]
    if not truth:
        raise DataError(f"split {source.split}: no image could be read")
    metrics = task.metrics(truth, found, classes)

    directory.mkdir(parents=True, exist_ok=True)
    (directory / "predictions.json").write_text(json.dumps(task.results(found, classes)))
    (directory / "metrics.json").write_text(json.dumps(json_numbers(metrics), indent=1) + "\n")
    _draw(directory, setup, source, truth, found)
    say(task.table(metrics, classes))
    if unreadable:
        say(f"{unreadable} images could not be read and were not counted (data.on_bad_example)")
    say(f"predictions and pictures: {directory}")
    return metrics


def _truth(record, size) -> dict:
    """What a record says of its image, without the pixels; `size` is (height, width)."""
    return {
        "image_id": record.image_id,
        "file_name": record.file_name,
        "height": int(size[0]),
        "width": int(size[1]),
        "label": record.label,
        "boxes": record.boxes,
        "labels": record.labels,
        "crowd": record.crowd,
    }


def _identity(truth: dict) -> dict:
    return {name: truth[name] for name in ("image_id", "file_name")}


def _draw(directory: Path, setup: Setup, source, truth, found) -> None:
    """The first images with their predictions and the truth, as one picture."""
    drawn = range(min(DRAWN_IMAGES, len(source)))
    images, shown = [], []
    for index in drawn:
        try:
            record = source[index]
        except BadExample:
            continue
        images.append(record.image)
        shown.append(next(i for i, t in enumerate(truth) if t["image_id"] == record.image_id))
    detect = setup.config.task == "detect"
    picture = draw.draw_predictions_grid(
        images,
        [setup.task.distinct(found[i]) if detect else found[i] for i in shown],
        setup.classes,
        truth=[truth[i] if detect else truth[i]["label"] for i in shown],
    )
    draw.save_png(picture, directory / "predictions.png")


def read_workdir(workdir: Path):
    """The config and the class names of a run. Raises ConfigError where there is none."""
    try:
        config = from_json((workdir / "config.json").read_text())
        classes = tuple(json.loads((workdir / "classes.json").read_text()))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{error.filename}: not there; --workdir is a folder that `convmesh train` wrote"
        ) from None
    return config, classes


def mesh_here(config, asked: bool = False):
    """The config's mesh if it fits the devices here (or was `asked` for), else all over data."""
    try:
        return meshes.make_mesh(config.mesh.data, config.mesh.spatial, config.mesh.model)
    except ConfigError:
        if asked:
            raise
        return meshes.make_mesh()


def load_variables(setup: Setup, workdir: Path, step=None, best=False):
    """The weights of a checkpoint, the average where one is kept, on the setup's mesh; its step."""
    config = setup.config
    if not (workdir / "checkpoints").is_dir():
        raise DataError(f"{workdir}: no checkpoint yet; train first")
    metric = config.checkpoint.best_metric or setup.task.best_metric
    with Checkpoints(workdir, best_metric=metric, read_only=True) as checkpoints:
        step = checkpoints.choose(step, best)
        return checkpoints.restore_variables(step, setup.abstract_state()), step
