"""Evaluation: each image of a split once, on any mesh, judged by the task's metrics."""

import json
from pathlib import Path

import jax
import numpy as np

from convmesh import compile_cache, draw, durable, processes
from convmesh import mesh as meshes
from convmesh.checkpoint import Checkpoints
from convmesh.config import apply_overrides, from_json, parse_overrides
from convmesh.data import BadExample, open_eval
from convmesh.data.documents import read_json
from convmesh.data.loader import eval_batches
from convmesh.errors import ConfigError, DataError
from convmesh.report import json_numbers, read_scores
from convmesh.setup import Setup, config_mesh, make_setup
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
    say = print if processes.is_first() else _silent
    say(f"{workdir}: checkpoint of step {step}, split {of_what}")
    return evaluate_variables(setup, variables, source, workdir / "eval" / of_what, say)


def _silent(text: str) -> None:
    """What all processes but the first say."""


def evaluate_variables(
    setup: Setup, variables, source, directory: Path, say=print, each_batch=lambda: None
) -> dict:
    """The metrics of `variables` over all of `source`; files and pictures go to `directory`.

    Of several processes each reads its own examples, and the first judges and writes.
    """
    truth, found, unreadable = predict_all(setup, variables, source, each_batch)
    metrics: dict[str, float] = {}
    if processes.is_first():
        if truth:
            metrics = setup.task.metrics(truth, found, setup.classes)
            _write(directory, setup, source, truth, found, metrics)
            say(setup.task.table(metrics, setup.classes))
            say(f"predictions and pictures: {directory}")
        if unreadable:
            say(f"{unreadable} images could not be read and were not counted (data.on_bad_example)")
    metrics = processes.broadcast(metrics)
    if not metrics:
        raise DataError(f"split {source.split}: no image could be read")
    return metrics


def eval_batch_size(setup: Setup) -> int:
    """Images in an evaluation step: the config's number, rounded up to divide over data."""
    shards, config = setup.mesh.shape[meshes.DATA], setup.config
    return -(-(config.eval.batch_size or config.train.batch_size) // shards) * shards


def predict_all(
    setup: Setup, variables, source, each_batch=lambda: None
) -> tuple[list[dict], list[dict], int]:
    """Truth and prediction of each image of `source`, in its order; how many were unreadable.

    `each_batch` is called with each, and may raise what ends the evaluation.
    """
    mesh, task, config = setup.mesh, setup.task, setup.config
    batch_size = eval_batch_size(setup)
    share = meshes.share_of(mesh, batch_size, config.data.image_size[0])
    predict = jit_predict_step(mesh, model=setup.model, task=task)

    pairs: list[tuple[int, dict, dict]] = []
    with eval_batches(source, config, batch_size, share) as batches:
        for batch in batches:
            each_batch()
            image = meshes.place(mesh, {"image": batch["image"]}, share)["image"]
            predictions = jax.device_get(predict(variables, image))
            for i in np.flatnonzero(batch["present"] & share.owned):
                one = {name: value[share.examples[i]] for name, value in predictions.items()}
                placement = {k: batch[k][i] for k in ("scale", "offset", "original_size")}
                truth = _truth(batch["record"][i], placement["original_size"])
                found = task.to_host(one, placement) | _identity(truth)
                pairs.append((int(batch["index"][i]), truth, found))
        unreadable = batches.counts["unreadable"]
    everybodys = processes.gather((pairs, unreadable))
    pairs = sorted((pair for some, _ in everybodys for pair in some), key=lambda pair: pair[0])
    _, truths, founds = zip(*pairs, strict=True) if pairs else ((), (), ())
    return list(truths), list(founds), sum(count for _, count in everybodys)


def _write(directory: Path, setup: Setup, source, truth, found, metrics) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    results = setup.task.results(found, setup.classes)
    durable.write_whole(directory / "predictions.json", json.dumps(results))
    text = json.dumps(json_numbers(metrics), indent=1) + "\n"
    durable.write_whole(directory / "metrics.json", text)
    _draw(directory, setup, source, truth, found)


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
    for name in ("config.json", "classes.json"):
        if not (workdir / name).exists():
            raise ConfigError(
                f"{workdir / name}: not there; --workdir is a folder that `convmesh train` wrote"
            )
    return read_config(workdir / "config.json"), tuple(read_json(workdir / "classes.json"))


def read_config(path: Path):
    """The config that a run has written. Raises DataError naming the file if it is damaged."""
    try:
        return from_json(json.dumps(read_json(path)))
    except ConfigError as error:
        raise DataError(f"{path}: {error}") from None


def mesh_here(config, asked: bool = False):
    """The config's mesh if it fits the devices here (or was `asked` for), else all over data."""
    compile_cache.start()
    try:
        return config_mesh(config)
    except ConfigError:
        if asked:
            raise
        return meshes.make_mesh()


def load_variables(setup: Setup, workdir: Path, step=None, best=False):
    """The weights of a checkpoint, the average where one is kept, on the setup's mesh; its step."""
    config = setup.config
    if not (workdir / "checkpoints").is_dir():
        raise DataError(f"{workdir}: no checkpoint yet; train first")
    scores = read_scores(workdir, config.checkpoint.best_metric or setup.task.best_metric)
    say = print if processes.is_first() else _silent
    with Checkpoints(workdir, scores=scores, read_only=True, say=say) as checkpoints:
        step = checkpoints.choose(step, best)
        return checkpoints.restore_variables(step, setup.abstract_state()), step
