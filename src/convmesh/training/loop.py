"""The training loop, for both tasks and any mesh."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from convmesh.config import apply_overrides, check, check_complete, check_resume
from convmesh.config.keys import AUTO_MODEL
from convmesh.config.open_keys import open_keys
from convmesh.config.tree import flatten
from convmesh.data.limits import BOXES, MIN_BAD, sample_of
from convmesh.data.loading.cache import with_caches
from convmesh.data.loading.worker_errors import end_if_worker_is_starting
from convmesh.data.record import BadExample, Source, refusal
from convmesh.data.splits import RunData, open_data
from convmesh.distributed import compile_cache, console
from convmesh.distributed.own_progress import MAIN, Activity
from convmesh.errors import DataError, some
from convmesh.models.registry import check_model
from convmesh.steps.chosen_sizes import with_sizes_of_all
from convmesh.steps.setup import Setup, make_run_mesh, make_setup
from convmesh.training.class_balance import with_class_weights
from convmesh.training.default_hooks import default_hooks
from convmesh.training.elastic import fit_mesh
from convmesh.training.expected_input import not_set, with_expected_input
from convmesh.training.hooks import Hook
from convmesh.training.init_from import load_init_from
from convmesh.training.one_run import check_same_config, check_same_data
from convmesh.training.run import Run
from convmesh.training.signals import listening
from convmesh.workdir.layout import Workdir
from convmesh.workdir.run_files import check_same_run, trained_config
from convmesh.workdir.step_folders import newest_meta


def train(
    config: Any, workdir: Any, hooks: Sequence[Hook] = (), elastic: bool = False
) -> dict[str, float]:
    """Trains `config` in `workdir`, resuming from the newest checkpoint there if there is one.

    `hooks`: the user's own, see `convmesh.training.hooks`. `elastic`: whether another mesh
    than the config's may be taken, see `elastic.fit_mesh`. Returns the metrics of the last
    evaluation. Raises ConfigError before anything is written if the config or the mesh is wrong or
    another run uses the workdir, DataError for unusable data or checkpoints, RunError if the run
    cannot continue, Stopped if a signal ended it (after saving).
    """
    end_if_worker_is_starting()
    workdir = Workdir(workdir)
    check_config(config)
    with listening() as stop:
        check_same_config(config, hooks)
        left_open = open_keys(config)
        config = check_earlier_run(config, workdir)
        config = with_sizes_of_all(config, left_open)
        if not workdir.has_checkpoints():
            config = with_expected_input(config)
        data = open_data(config)
        check_same_data(data)
        data = with_caches(data, config)
        compile_cache.start()
        if elastic:
            config = fit_mesh(config)
        mesh = make_run_mesh(config)
        setup = make_setup(config, data.train.classes, mesh, len(data.train))
        setup = with_class_weights(setup, data.train)
        hooks = [*default_hooks(setup), *hooks]
        check_run(setup, data, workdir, hooks)
        init_from = load_init_from(setup, workdir, stop)
        stop.end_if_any_received()  # not only after the first step, which can take long to compile
        with Run(setup, data, workdir, hooks, stop) as run:
            with MAIN.during(Activity.START):
                run.restore_or_create(init_from)
            if run.finished:
                run.report_finished()
                return run.last_metrics()
            run.start()
            return run_steps(run)


def run_steps(run: Run) -> dict[str, float]:
    """Runs the remaining steps: batch, step, log, save, evaluate, stop.

    The state is saved before it is evaluated, and before an error of the data ends the run. A stop
    skips the evaluation that is due; the next call runs it. Returns the metrics of the last
    evaluation.
    """
    if run.pending_evaluation:
        run.evaluate()
    with contextlib.closing(run.batches()) as batches:
        for step, batch in batches:
            run.take_step(step, batch)
            (stopping, time_due), evaluation_due = run.agree(), run.is_evaluation_due()
            if stopping or evaluation_due or time_due or run.is_save_due():
                run.save()
            if stopping:
                raise run.stopped()
            if evaluation_due:
                run.evaluate()
    run.end()
    return run.last_metrics()


# Checks before anything is written.


def check_config(config: Any) -> None:
    """Raises ConfigError for a config that is wrong or incomplete."""
    check(config)
    check_complete(config)
    if config.model.name != AUTO_MODEL:
        check_model(config.model.name, config.task, config.model.backbone)


def check_earlier_run(config: Any, workdir: Workdir) -> Any:
    """The config to train, of an earlier run in `workdir` with what may change when it resumes.

    Raises ConfigError if the config is that of another run, or if a run uses the workdir now;
    DataError if config.json or classes.json does not describe the run of the checkpoints.
    """
    workdir.lock().refuse_if_held()
    meta = newest_meta(workdir.checkpoints_folder)
    if workdir.has_run():
        earlier = workdir.read_config()
        check_same_run(earlier, workdir.read_classes(), meta, workdir.root)
    else:
        earlier = trained_config(meta)
        if earlier is None:
            return config
        file = workdir.config_file
        console.print_status(f"{file}: missing; it is taken from the newest checkpoint")
    if workdir.has_checkpoints():  # only a new run reads the key, so it may change
        config = apply_overrides(config, {"init_from": earlier.init_from})
    # A run keeps what it began with, also on other devices.
    kept = [*open_keys(config), *(["precision"] if config.precision == "auto" else [])]
    recorded = dict(flatten(earlier))
    config = apply_overrides(config, {key: recorded[key] for key in kept})
    if earlier.init_from and earlier.init_from == config.init_from:
        config = apply_overrides(config, not_set(config, recorded))
    check_resume(earlier, config)
    return config


def check_run(setup: Setup, data: RunData, workdir: Workdir, hooks: Sequence[Hook]) -> None:
    """Raises DataError if the data cannot be read or its classes differ from the earlier run's.

    Raises ConfigError if a hook cannot work.
    """
    for hook in hooks:
        hook.check(setup, workdir)
    _read_sample(data.train, setup.config)
    classes = workdir.read_classes()
    if classes is None and (trained := newest_meta(workdir.checkpoints_folder).get("classes")):
        classes = tuple(trained)
    if classes not in (None, setup.classes):
        raise DataError(
            f"{workdir.classes_file}: the data now has other classes, {some(setup.classes, 10)}; "
            "take a new --workdir"
        )


def _read_sample(source: Source, config: Any) -> None:
    """Raises DataError as the source does, or if most boxes of the sample are bad.

    Skips unreadable images if the config does.
    """
    bad = total = 0
    for index in sample_of(len(source), least=config.train.batch_size):
        try:
            record = source[index]
        except BadExample as error:
            if config.data.on_bad_example == "fail":
                raise refusal(error) from None
        else:
            bad += record.bad_boxes - record.left_out_boxes
            total += len(record.boxes) + record.dropped_boxes - record.left_out_boxes
    # The whole split may have fewer bad boxes than the sample, but hardly so many fewer.
    allowed = BOXES.of(config)
    if bad >= MIN_BAD and BOXES.exceeded(bad, total, max(0.5, allowed)):
        raise DataError(
            f"split {source.split}: of a sample {BOXES.exceeded(bad, total, allowed)};"
            " `convmesh check-data` lists them"
        )
