"""Evaluation: the task's metrics over a split, each image counted once, on any mesh."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from convmesh.config import parse_overrides, same_for_all_processes
from convmesh.data.record import Source, truth_identity
from convmesh.data.same_splits import check_same_splits
from convmesh.data.splits import open_eval
from convmesh.data.stores.object_store import is_url
from convmesh.distributed import console, processes, same_run
from convmesh.distributed.own_progress import MAIN, Activity
from convmesh.errors import DataError, RunError, some
from convmesh.inference.evaluation_report import write_report
from convmesh.inference.split_predictions import SplitPredictions, predict_all
from convmesh.inference.trained_model import (
    available_mesh,
    check_image_size,
    check_same_model,
    load_variables,
    with_overrides,
)
from convmesh.steps.setup import Setup, make_setup
from convmesh.tasks.zero_ap import explain_zero_ap
from convmesh.workdir.layout import EvaluationFiles, Workdir

# The keys that select the data set.
_DATA_KEYS = (
    "name", "root", "eval_annotations", "eval_images", "train_annotations", "val_fraction",
)  # fmt: skip


def evaluate(
    workdir: str | os.PathLike[str],
    split: str | None = None,
    step: int | None = None,
    best: bool = False,
    overrides: Iterable[str] | Mapping[str, Any] = (),
) -> dict[str, float]:
    """Evaluate a checkpoint of `workdir` with its config; print and return the metrics.

    Writes `eval/SPLIT/metrics.json`, `predictions.json` and pictures into the workdir. For a
    detector also details of the AP, as JSON and as pictures: `curves`, `confusion`, `images.json`
    with `worst.png` and `best.png`; and reasons for an AP of 0, printed and as `why_zero` in
    `metrics.json`. Of other data than the run's own, by `overrides`, the folder is
    `eval/NAME:SPLIT`. The mesh is the config's if it fits the available devices, else all of them
    along `data`.

    Args:
      workdir: of a run.
      split: by default the run's evaluation split.
      step: of the checkpoint, by default the newest.
      best: whether to take the best checkpoint instead of the newest.
      overrides: of config keys, see `parse_overrides`.

    Raises:
      ConfigError: the run, checkpoint or split does not exist, the config describes another
        model, or the model's weights do not fit its image size.
      DataError: a file of the run or the data is damaged or unusable.
      RunError: as `evaluate_variables`.
    """
    files = Workdir(workdir)
    trained, classes = files.read_run()
    config = with_overrides(trained, overrides)
    check_same_model(trained, config, files)
    same_run.check_same(same_for_all_processes(config), "give every process the same run and keys")
    if not config.data.classes:
        config.data.classes = classes
    prefix = _data_prefix(trained, config, files)
    source = open_eval(config, split)
    check_same_splits({"evaluation": source})
    if tuple(source.classes) != tuple(classes):
        raise DataError(
            f"split {source.split}: its classes, {some(source.classes, 10)}, are not those that "
            f"{files} was trained on, {some(classes, 10)}"
        )
    mesh_given = any(key.startswith("mesh.") for key in parse_overrides(overrides))
    setup = make_setup(config, classes, available_mesh(config, mesh_given), len(source))
    check_image_size(setup, trained)
    variables, step = load_variables(setup, files, step, best)
    name = prefix + source.split
    console.print_result(f"{files}: checkpoint of step {step}, split {name}")
    metrics = evaluate_variables(setup, variables, source, files.evaluation(name))
    if processes.is_first():
        files.publish(f"eval/{name}/")
    return metrics


def evaluate_variables(
    setup: Setup,
    variables: Any,
    source: Source,
    files: EvaluationFiles,
    log: Callable[[str], None] = console.print_result,
    each_batch: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Return the metrics of `variables` over `source`; write files and pictures to `files`.

    Each process predicts its own examples; process 0 computes the metrics, logs and writes. A
    folder that cannot be written, as of a read-only run, is said and no error.

    Args:
      setup: model, task and mesh.
      variables: of the model, on the mesh.
      source: the split.
      files: of this evaluation.
      log: takes each line of the result.
      each_batch: called before each batch; an exception that it raises ends the evaluation.

    Raises:
      DataError: no image could be read.
      RunError: the files cannot be written, as on a full disk; the metrics have been logged.
    """
    results = predict_all(setup, variables, source, each_batch)
    with MAIN.during(Activity.SCORE):
        metrics = _score(setup, source, results, files, log) if processes.is_first() else {}
    metrics = processes.broadcast(metrics)
    if not metrics:
        raise DataError(f"split {source.split}: no image could be read")
    return metrics


def _score(
    setup: Setup,
    source: Source,
    results: SplitPredictions,
    files: EvaluationFiles,
    log: Callable[[str], None],
) -> dict[str, float]:
    """Return the metrics, after logging and writing them; empty if no image could be read."""
    if not results.truth:
        _log_left_out(setup, results, log)
        return {}
    detect = setup.config.task == "detect"
    metrics = setup.task.metrics(results.truth, results.predictions, setup.classes)
    metrics["unreadable"] = results.unreadable
    if detect:
        metrics["bad_boxes"] = results.bad_boxes
        metrics["left_out_boxes"] = results.left_out_boxes
    why_zero = explain_zero_ap(results.truth, results.predictions, metrics) if detect else []
    log(setup.task.table(metrics, setup.classes))
    for sentence in why_zero:
        log(sentence)
    _log_left_out(setup, results, log)
    with _noting_read_only(files, log):
        write_report(files, setup, source, results, metrics, why_zero)
    return metrics


@contextlib.contextmanager
def _noting_read_only(files: EvaluationFiles, log: Callable[[str], None]) -> Iterator[None]:
    """Log where the files are, or why there are none if they may not be written.

    Raises RunError if they cannot be written for another reason.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise RunError(f"{files}: cannot be written: {reason}") from error
        log(f"predictions and pictures are not kept: {error.filename or files}: {reason}")
    else:
        log(f"predictions and pictures: {files}")


def _log_left_out(setup: Setup, results: SplitPredictions, log: Callable[[str], None]) -> None:
    """Log what the metrics do not count."""
    if results.unreadable:
        log(
            f"{results.unreadable} images could not be read and were not counted "
            "(data.on_bad_example)"
        )
    if results.bad_boxes:
        log(
            f"{results.bad_boxes} boxes were dropped or clipped, so these metrics do not count "
            "them as the files state them (data.on_bad_box)"
        )
    if results.left_out_boxes:
        log(
            f"{results.left_out_boxes} boxes were left out, since their class is none of "
            f"{some(setup.classes, 10)} (data.classes)"
        )


def _data_prefix(trained: ConfigDict, config: ConfigDict, workdir: Workdir) -> str:
    """A prefix of the split's name if the data set is not the run's own, else ''.

    The run's own data may lie elsewhere now: it is recognized by the split that the run evaluated.
    """
    changed = [key for key in _DATA_KEYS if _location(trained, key) != _location(config, key)]
    if not changed:
        return ""
    own = workdir.evaluated_split()
    if own is not None and "name" not in changed and truth_identity(open_eval(config)) == own:
        return ""
    if config.data.name:
        return config.data.name.replace("/", "-") + ":"
    # Two folders may have one name.
    values = [_location(config, key) for key in _DATA_KEYS]
    digest = hashlib.sha256("\n".join(values).encode("utf-8", "surrogateescape")).hexdigest()
    first = next((_location(config, key) for key in changed if key != "val_fraction"), "")
    return f"{Path(first or config.data.root).stem}-{digest[:6]}:"


def _location(config: ConfigDict, key: str) -> str:
    """The value of the data key as text, a path as an absolute one."""
    value = config.data[key]
    if key in ("name", "val_fraction") or not value or is_url(value):
        return str(value)
    path = Path(value).expanduser()
    return str(path.resolve() if key == "root" else path)
