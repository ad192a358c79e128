"""Evaluation: each image of a split once, on any mesh, judged by the task's metrics."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from convmesh import compile_cache, draw, draw_evaluation, durable, processes
from convmesh import mesh as meshes
from convmesh.checkpoint import Checkpoints
from convmesh.config import apply_overrides, from_json, parse_overrides
from convmesh.data import BadExample, open_eval
from convmesh.data.documents import read_json
from convmesh.data.loader import eval_batches
from convmesh.data.record import category_ids
from convmesh.errors import ConfigError, DataError
from convmesh.report import json_numbers, read_scores
from convmesh.setup import Setup, config_mesh, make_setup
from convmesh.step import jit_predict_step
from convmesh.tasks import detection_report

DRAWN_IMAGES = 16
RANKED_IMAGES = 9  # in the picture of the best, and of the worst
NAMED_PAIRS = 30  # of classes that are often confused, in confusion.json
CATEGORY_IDS = "category_ids.json"  # in a workdir: the source's own number of each class


def evaluate(workdir, split=None, step=None, best=False, overrides=()) -> dict[str, float]:
    """Evaluates a checkpoint of `workdir` (the newest by default), with the config it has there.

    Writes `eval/SPLIT/metrics.json`, `predictions.json` and pictures into the workdir, prints the
    table and returns the metrics. For a detector also what stands behind the AP, as JSON and as
    pictures: `curves`, `confusion`, `images.json` with `worst.png` and `best.png`; and why an AP is
    0, printed and as `why_zero` in `metrics.json`. Of a data set with another `data.name` than the
    run's, the folder is `eval/NAME:SPLIT`. Any mesh will do: the config's where it fits the devices
    that are here, else all devices share the examples.
    """
    workdir = Path(workdir)
    trained, classes = read_workdir(workdir)
    config = apply_overrides(trained, overrides)
    check_same_model(trained, config, workdir)
    of_another = (
        "" if config.data.name == trained.data.name else config.data.name.replace("/", "-") + ":"
    )
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


def check_same_model(trained, asked, workdir: Path) -> None:
    """Raises ConfigError where `asked` is of another model than the one that was trained."""
    for key, was, now in (
        ("task", trained.task, asked.task),
        ("model.name", trained.model.name, asked.model.name),
        ("ema.decay", trained.ema.decay, asked.ema.decay),
    ):
        if was != now and (key != "ema.decay" or 0 in (was, now)):
            raise ConfigError(
                f"{key}={now}: {workdir} was trained with {was}, and its checkpoints hold no other "
                "weights; leave it out"
            )


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
            detect = setup.config.task == "detect"
            why = detection_report.why_zero(truth, found, metrics) if detect else []
            _write(directory, setup, source, truth, found, metrics, why)
            say(setup.task.table(metrics, setup.classes))
            for sentence in why:
                say(sentence)
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
                index = int(batch["index"][i])
                truth = _truth(batch["record"][i], placement["original_size"], index)
                found = task.to_host(one, placement) | _identity(truth)
                pairs.append((index, truth, found))
        unreadable = batches.counts["unreadable"]
    everybodys = processes.gather((pairs, unreadable))
    pairs = sorted((pair for some, _ in everybodys for pair in some), key=lambda pair: pair[0])
    _, truths, founds = zip(*pairs, strict=True) if pairs else ((), (), ())
    return list(truths), list(founds), sum(count for _, count in everybodys)


def _write(directory: Path, setup: Setup, source, truth, found, metrics, why) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = dict(json_numbers(metrics))
    if why:
        told["why_zero"] = why
    if setup.config.task == "detect":
        _explain(directory, setup.classes, source, truth, found)
    results = setup.task.results(found, setup.classes, category_ids(source))
    durable.write_whole(directory / "predictions.json", json.dumps(results))
    durable.write_whole(directory / "metrics.json", json.dumps(told, indent=1) + "\n")
    _draw(directory, setup, source, truth, found)


def _explain(directory: Path, classes, source, truth, found) -> None:
    """What stands behind a detector's AP: curves, confusions, and the score of each image."""
    matches = detection_report.match(truth, found, classes)
    iou, score = detection_report.IOU, detection_report.SCORE

    curves = detection_report.curves(matches, classes)
    durable.write_whole(directory / "curves.json", json.dumps(curves))
    draw_evaluation.draw_detection_curves(curves, directory / "curves.png")

    table = detection_report.confusion(truth, found, classes)
    pairs = detection_report.most_confused(table, classes, NAMED_PAIRS)
    confusion = {
        "iou": iou,
        "score": score,
        "names": [*classes, "background"],
        "rows_truth_columns_predicted": table.tolist(),
        "most_confused": pairs,
    }
    durable.write_whole(directory / "confusion.json", json.dumps(confusion))
    draw_evaluation.draw_confusion(
        table, classes, directory / "confusion.png", iou=iou, score=score, pairs=pairs
    )

    images = detection_report.image_scores(matches, truth)
    told = {"iou": iou, "score": score, "images": images}
    durable.write_whole(directory / "images.json", json.dumps(told, indent=1))
    for name, chosen, what in (
        ("worst.png", detection_report.worst_images(images, RANKED_IMAGES), "The worst"),
        ("best.png", detection_report.best_images(images, RANKED_IMAGES), "The best"),
    ):
        title = f"{what} of {len(images)} images by F1: IoU >= {iou:g}, score >= {score:g}"
        picture = _judged(source, classes, truth, found, matches, images, chosen, title)
        draw.save_png(picture, directory / name)


def _judged(source, classes, truth, found, matches, images, chosen, title):
    """The chosen images with what was right, wrong and missed, as one picture."""
    shown: tuple[list, list, list, list] = ([], [], [], [])
    for i in chosen:
        try:
            record = source[truth[i]["index"]]
        except BadExample:  # since it was evaluated
            continue
        place, right, ignored, missed = detection_report.marks(matches, i)
        marks = {"right": right, "ignored": ignored}
        predicted = {name: found[i][name][place] for name in ("boxes", "labels", "scores")} | marks
        score = images[i]
        caption = "F1 {F1:.2f}: {true_positives} right, {false_positives} wrong, {misses} missed   "
        caption = caption.format(**score) + Path(truth[i]["file_name"]).name
        for column, value in zip(
            shown, (record.image, predicted, truth[i] | {"missed": missed}, caption), strict=True
        ):
            column.append(value)
    pictures, predictions, objects, captions = shown
    return draw.draw_judged_grid(pictures, predictions, objects, classes, captions, title)


def _truth(record, size, index: int) -> dict:
    """What record `index` says of its image, without the pixels; `size` is (height, width)."""
    return {
        "index": index,
        "image_id": record.image_id,
        "file_name": record.file_name,
        "height": int(size[0]),
        "width": int(size[1]),
        "label": record.label,
        "boxes": record.boxes,
        "labels": record.labels,
        "crowd": record.crowd,
        "area": record.area,
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


def read_category_ids(workdir: Path, classes: tuple[str, ...]) -> tuple[int, ...] | None:
    """The number that the data of a run gave to each class, or None where it gave none."""
    path = workdir / CATEGORY_IDS
    if not path.exists():
        return None
    ids = read_json(path)
    whole = isinstance(ids, list) and all(type(number) is int for number in ids)
    if not whole or len(ids) != len(classes):
        raise DataError(f"{path}: wanted {len(classes)} integers, one for each class; remove it")
    return tuple(ids)


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
