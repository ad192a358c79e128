"""Training: the one loop, for both tasks and any mesh."""

import contextlib
import dataclasses
import functools
import json
import time
from collections import deque
from pathlib import Path
from typing import Any

import jax
import numpy as np

from convmesh import advice, compile_cache, devices, draw, draw_curves, durable, processes
from convmesh import mesh as meshes
from convmesh.checkpoint import Checkpoints
from convmesh.config import check, check_complete, check_resume, to_json
from convmesh.data import BadExample, identity, open_eval, open_train
from convmesh.data.documents import read_json
from convmesh.data.loader import reading_ahead, train_batches
from convmesh.data.record import category_ids
from convmesh.data.sizes import input_sizes, size_of_step
from convmesh.data.survey import survey
from convmesh.errors import ConfigError, DataError, RunError, Stopped
from convmesh.evaluation import CATEGORY_IDS, evaluate_variables, read_config
from convmesh.flops import ideal_seconds
from convmesh.ledger import Ledger
from convmesh.lock import RunLock
from convmesh.models import check_model
from convmesh.nonfinite import NonFinite
from convmesh.patience import Patience
from convmesh.profile import Profile
from convmesh.report import METRICS_FILE, Report, is_of_training, read_metrics, read_scores
from convmesh.setup import Setup, layout_notes, make_run_mesh, make_setup
from convmesh.signals import StopSignal, tell
from convmesh.start import Start, find_start
from convmesh.state import create_state
from convmesh.step import jit_train_step

SPEED_OVER_STEPS = 20  # what the speed that is shown is measured over


def train(
    config, workdir, profile_steps: int = 0, ledger=None, stop: StopSignal | None = None
) -> dict[str, float]:
    """Trains what `config` describes, in `workdir`; goes on where an earlier run there stopped.

    Traces `profile_steps` of the steps, see `Profile`; `ledger` names a file for `Ledger`. `stop`
    is open already, where the command line has begun to listen before.
    Returns the metrics of the last evaluation. Raises ConfigError before anything is written if the
    config or the mesh is wrong or another run is under way there, DataError for unusable data or
    checkpoints, RunError if the run cannot go on, Stopped if a signal ended it (nothing is lost).
    """
    check(config)
    check_complete(config)
    workdir = Path(workdir)
    lock = RunLock(workdir)
    lock.refuse_if_held()
    check_model(config.model.name, config.task)
    check_same_run(config, workdir)
    if ledger and not Path(ledger).absolute().parent.is_dir():
        raise ConfigError(f"--debug-ledger {ledger}: there is no such folder")

    with contextlib.ExitStack() as open_parts:
        if stop is None:
            stop = open_parts.enter_context(StopSignal(alone=processes.count() == 1))
            stop.begin()
        train_source = open_train(config)
        eval_source = open_eval(config)
        compile_cache.start()
        mesh = make_run_mesh(config)
        setup = make_setup(config, train_source.classes, mesh, len(train_source))
        check_readable(train_source, config)
        check_same_classes(setup, workdir)
        with stop.noted():
            begin = find_start(setup, workdir)

        if processes.is_first():
            open_parts.enter_context(lock)
            durable.remove_leftovers(workdir)
        processes.wait_for_all("lock")
        checkpoints = open_parts.enter_context(open_checkpoints(setup, workdir, lock))
        open_parts.callback(stop.note_only)
        state = restore_or_create(setup, checkpoints, train_source, stop, begin)
        if processes.is_first():
            write_identity(setup, workdir, category_ids(train_source))
        owed = evaluation_owed(setup, int(state.step), workdir, eval_source.split)
        limit, metric = config.train.patience, best_metric(setup)
        patience = Patience.of_run(limit, metric, workdir, int(state.step))
        if (int(state.step) >= setup.steps or patience.is_out) and not owed:
            if processes.is_first():
                why = f", after {patience}" if patience.is_out else ""
                print(f"{workdir}: this run has finished, at step {int(state.step)}{why}")
                draw_run(workdir, again=False)
            return last_metrics(workdir, eval_source.split)
        report = open_parts.enter_context(
            Report(
                workdir,
                setup.steps,
                int(state.step),
                config.train.batch_size,
                enabled=processes.is_first(),
            )
        )
        announce(setup, state, train_source, eval_source, report)
        for line in begin.notes if begin else ():
            report.say(line)
        profile = open_parts.enter_context(
            Profile(workdir, int(state.step), profile_steps, report.say)
        )
        book = None
        if ledger:
            share = train_share(setup)
            book = Ledger(ledger, int(state.step), train_source, config, share)
            open_parts.enter_context(book)
        open_parts.callback(stop.note_only)
        metrics = run_steps(
            setup,
            state,
            train_source,
            eval_source,
            checkpoints,
            report,
            stop,
            owed,
            profile,
            book,
            patience,
        )
    if processes.is_first():
        draw_run(workdir)
    return metrics


def run_steps(
    setup: Setup,
    state,
    train_source,
    eval_source,
    checkpoints: Checkpoints,
    report: Report,
    stop: StopSignal,
    owed: bool = False,
    profile: Profile | None = None,
    ledger: Ledger | None = None,
    patience: Patience | None = None,
):
    """The steps that are left: step, log, save, evaluate; returns the last evaluation's metrics.

    `owed`: an earlier call was stopped where an evaluation was due, so that comes first. Each
    evaluation is of a state that is saved, so that whatever ends it, it ends nothing else. Once
    `patience` is out, the run has finished.
    """
    config, workdir = setup.config, checkpoints.workdir
    start = int(state.step)
    patience = patience or Patience(0, best_metric(setup))
    metrics: dict[str, float] = {}

    def evaluation(step: int) -> dict[str, float]:
        directory = workdir / "eval" / eval_source.split
        variables = state.variables(ema=True)
        found = evaluate_variables(
            setup, variables, eval_source, directory, report.say, each_batch=checkpoints.check
        )
        report.log(step, eval_source.split, found)
        score = found.get(best_metric(setup))
        checkpoints.note_score(step, score)
        patience.note(score)
        if patience.is_out and step < setup.steps:
            report.say(f"the run ends at step {step} of {setup.steps}, after {patience}")
        return found

    if owed:
        metrics = evaluation(start)
    advised = False
    share, meta, sizes = train_share(setup), _meta(setup, train_source), input_sizes(config)
    limit, skipped = config.train.max_nonfinite_steps, int(state.nonfinite_steps)
    nonfinite = NonFinite(workdir, start, skipped, limit, train_source, report.say)
    log = StepLog(setup, report, nonfinite)
    together = StopTogether(stop, setup.mesh)
    stop.note_only()  # to the end: nothing may end the wait for the last save
    with (
        contextlib.closing(nonfinite),
        train_batches(train_source, config, start, share, setup.steps) as batches,
    ):
        step_fns: dict[tuple[int, int], Any] = {}  # by the size of their images
        for step in range(start + 1, setup.steps + 1):
            if patience.is_out:
                break
            if profile and profile.turns_at(step):
                log.flush()
                profile.turn(step)
                log.restart_clock()
            before = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - before
            if not step_fns and processes.is_first():
                picture = draw.draw_batch(batch, setup.classes)
                draw.save_png(picture, workdir / "plots" / "first_batch.png")
            size = size_of_step(sizes, config.train.seed, step)
            its_share = share if size[0] == share.height else share.resized(size[0])
            placed = together.put_into(meshes.place(setup.mesh, batch, its_share))
            if size not in step_fns:
                log.flush()
                step_fn = jit_train_step(setup.mesh, state, placed, **step_parts(setup, size))
                # The first time nothing is lost while XLA compiles, and images can be read.
                with (
                    stop.noted() if step_fns else stop.at_once(),
                    (
                        contextlib.nullcontext()
                        if step_fns
                        else reading_ahead(train_source, config, start, share)
                    ),
                ):
                    step_fns[size] = step_fn.lower(state, placed).compile()
                if len(step_fns) > 1:
                    log.restart_clock()
                elif profile:
                    profile.learn(step_fns[size])
            state, numbers = step_fns[size](state, placed)
            together.take_from(numbers)
            if ledger:
                ledger.take(step, batch, batches.partners)
            # The numbers of the step before are read while this one runs.
            log.take(step, numbers, waited, batch["index"][share.owned])
            checkpoints.check()
            if step == start + 1:
                report.say(f"compiled and ran the first step in {log.flush():.0f} s")
                compile_cache.vouch()
                log.restart_clock()

            last, stopped = step == setup.steps, together.agreed()
            due_eval = last or _due(step, setup.eval_every)
            due_save = due_eval or stopped or _due(step, config.checkpoint.every_steps)
            if due_save:
                log.flush()
                report.sync()
                nonfinite.sync()
                if ledger:
                    ledger.sync()
                checkpoints.save(state, {**meta, "data_position": step * config.train.batch_size})
                stop.told = functools.partial(told_of, step, checkpoints)
            if stopped:
                # It does not wait for an evaluation: the next call makes up for it.
                checkpoints.wait()
                raise Stopped(stop.message())
            if due_eval:
                with stop.at_once():
                    metrics = evaluation(step)
                if not advised and step >= advice.OPENING * setup.steps:
                    advised = True
                    advise(advice.of_curve(config, train_rows(workdir), setup.steps), report)
            if due_save:
                log.restart_clock()
        log.flush()
        for problem, words in COUNTED.items():
            if count := sum(counts[problem] for counts in processes.gather(batches.counts)):
                report.say(f"{count} {words}")
        boxes = sum(counts["boxes"] for counts in processes.gather(batches.counts))
        rows = [row for row in train_rows(workdir) if row["step"] > start]
        advise(advice.at_end(rows, boxes, int(state.step) - start), report)
    if nonfinite.skipped:
        report.say(
            f"{nonfinite.skipped} steps had a loss or gradient that was not finite and were skipped"
        )
    return metrics


COUNTED = {
    "unreadable": "images could not be read and were passed by (data.on_bad_example)",
    "bad_boxes": "bad boxes were dropped or clipped (data.on_bad_box)",
    "bad_partners": "images to be mixed into others could not be read and were left out",
    "truncated": "boxes did not fit in data.max_boxes and were left out",
}


def best_metric(setup: Setup) -> str:
    """The metric that names the best checkpoint."""
    return setup.config.checkpoint.best_metric or setup.task.best_metric


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def step_parts(setup: Setup, size: tuple[int, int] | None = None) -> dict:
    """What `train_step` needs besides state and batch, for images of `size` (height, width)."""
    task = dataclasses.replace(setup.task, image_size=size) if size else setup.task
    return dict(
        model=setup.model,
        task=task,
        optimizer=setup.optimizer,
        decay=setup.ema_decay,
        accumulate=setup.config.train.accumulate,
        frozen=setup.config.train.frozen_stages,
    )


def train_share(setup: Setup):
    """What this process reads of each training batch."""
    train, height = setup.config.train, setup.config.data.image_size[0]
    return meshes.share_of(setup.mesh, train.batch_size, height, train.accumulate)


def _meta(setup: Setup, train_source) -> dict:
    """What a checkpoint holds besides arrays and the data position."""
    return {
        "config": json.loads(to_json(setup.config)),
        "classes": list(setup.classes),
        "category_ids": category_ids(train_source),
        "data": identity(train_source),
    }


class StepLog:
    """Logs each step one step late, so that reading its numbers never holds up the devices."""

    def __init__(self, setup: Setup, report: Report, nonfinite: NonFinite):
        """Writes the numbers of every `train.log_every_steps`-th step to `report`."""
        self._setup, self._report, self._nonfinite = setup, report, nonfinite
        # Of several sizes, or of stages without a backward pass, it says nothing.
        usual = len(input_sizes(setup.config)) == 1 and not setup.config.train.frozen_stages
        self._ideal_seconds = ideal_seconds(setup) if usual else None
        self._learning_rate = jax.jit(setup.schedule)  # uncompiled it takes 20 ms
        self._pending: tuple[int, dict, np.ndarray] | None = None
        # When the last steps were done, and how long each had waited for its batch.
        self._done: deque[float] = deque(maxlen=SPEED_OVER_STEPS + 1)
        self._waits: deque[float] = deque(maxlen=SPEED_OVER_STEPS)
        self.restart_clock()

    def take(self, step: int, numbers, waited: float, index: np.ndarray) -> None:
        """Takes the numbers of a step just dispatched; reads those of the step before.

        index: the examples of the step that are this process's own.
        """
        self.flush()
        self._pending = step, numbers, index
        self._waits.append(waited)

    def flush(self) -> float:
        """Reads the numbers that are pending, waiting for their step; returns seconds a step."""
        if self._pending is None:
            return 0.0
        (step, numbers, index), self._pending = self._pending, None
        loss = float(numbers["loss"])
        self._done.append(time.perf_counter())
        updates = step - 1 - self._nonfinite.skipped  # that the schedule has counted before it
        seconds = (self._done[-1] - self._done[0]) / (len(self._done) - 1)
        config = self._setup.config
        speed = config.train.batch_size / seconds
        self._report.progress(step, loss, speed)
        # The one number that tells of a step without a finite loss or gradient.
        if int(numbers["nonfinite_steps"]) > self._nonfinite.skipped:
            told = {name: float(value) for name, value in numbers.items()}
            self._nonfinite.take(step, told, index)
        else:
            self._nonfinite.passed()
        if step % config.train.log_every_steps == 0 or step == self._setup.steps:
            line = {name: float(value) for name, value in numbers.items()}
            line["learning_rate"] = float(self._learning_rate(updates))
            line["images_per_second"] = speed
            line["step_seconds"] = seconds
            if self._ideal_seconds:
                line["mfu"] = self._ideal_seconds / seconds
            line["input_wait_seconds"] = sum(self._waits) / max(1, len(self._waits))
            self._report.log(step, "train", line)
        return seconds

    def restart_clock(self) -> None:
        """Starts to measure speed anew, after something that is no step."""
        self._done.clear()
        self._waits.clear()
        self._done.append(time.perf_counter())


class StopTogether:
    """All processes stop at the same step, whichever of them has heard a signal, and when.

    The note travels with the batch, through the step to all of them, and the next step is the last.
    """

    def __init__(self, stop: StopSignal, mesh):
        """Passes on what `stop` has received."""
        self._stop, self._mesh = stop, mesh
        self._noted = self._noted_before = None  # by any process, in the last step and before it

    def put_into(self, batch: dict) -> dict:
        """`batch`, with the note where other processes need it."""
        if processes.count() == 1:
            return batch
        return {**batch, meshes.NOTE: meshes.note(self._mesh, bool(self._stop.received))}

    def take_from(self, numbers: dict) -> None:
        """Takes the note of a step just dispatched out of its `numbers`, without waiting for it."""
        self._noted_before, self._noted = self._noted, numbers.pop(meshes.NOTE, None)

    def agreed(self) -> bool:
        """Whether all processes stop after the last step."""
        if processes.count() == 1:
            return bool(self._stop.received)
        if self._noted_before is None or not bool(self._noted_before):
            return False
        # Its own may still come: that is then the first it hears.
        self._stop.received = self._stop.received or "a signal to another process"
        return True


# --- the workdir ----------------------------------------------------------------------------------


def check_same_run(config, workdir: Path) -> None:
    """Raises ConfigError if `workdir` holds a run that `config` would make another one."""
    path = workdir / "config.json"
    if path.exists():
        check_resume(read_config(path), config)


def check_readable(source, config) -> None:
    """Reads a batch of `source`, so that data that is wrong throughout is refused before a write.

    Raises DataError as the source does; unreadable images pass where the config skips them.
    """
    for index in range(min(config.train.batch_size, len(source))):
        try:
            source[index]
        except BadExample:
            if config.data.on_bad_example == "fail":
                raise


def check_same_classes(setup: Setup, workdir: Path) -> None:
    """Raises DataError if the classes are another run's."""
    path = workdir / "classes.json"
    if path.exists() and tuple(read_json(path)) != setup.classes:
        raise DataError(
            f"{path}: the data now has other classes, {', '.join(setup.classes)}; "
            "take a new --workdir"
        )


def write_identity(setup: Setup, workdir: Path, ids: tuple[int, ...] | None = None) -> None:
    """Writes config.json and classes.json, which say what is trained, and the source's own ids."""
    classes = json.dumps(list(setup.classes), indent=1) + "\n"
    try:
        durable.write_whole(workdir / "classes.json", classes)
        if ids is not None:
            durable.write_whole(workdir / CATEGORY_IDS, json.dumps(list(ids)) + "\n")
        durable.write_whole(workdir / "config.json", to_json(setup.config))
    except OSError as error:
        raise RunError(f"{workdir}: cannot be written: {error.strerror or error}") from error


def open_checkpoints(setup: Setup, workdir: Path, lock: RunLock) -> Checkpoints:
    """The checkpoints of a run that is about to go on."""
    config = setup.config
    scores = read_scores(workdir, best_metric(setup))
    keep = config.checkpoint.keep
    if processes.is_first():
        return Checkpoints(workdir, keep, scores, say=tell, guard=lock.check)
    return Checkpoints(workdir, keep, scores, say=lambda text: None)


def told_of(step: int, checkpoints: Checkpoints) -> str:
    """What a run that ends after `step` has done, in words."""
    steps = checkpoints.steps()
    if step in steps:
        return f"at step {step}, saved; run it again to go on"
    newest = f"the newest checkpoint is of step {steps[-1]}" if steps else "there is no checkpoint"
    return f"at step {step}, which was not saved; {newest}"


def restore_or_create(
    setup: Setup, checkpoints: Checkpoints, train_source, stop: StopSignal, begin: Start | None
):
    """The state of the newest checkpoint that is whole, or a fresh one where there is none.

    A fresh one has the weights of `begin`, where they fit. Raises DataError if the data is not what
    the run began with: the order would be another.
    """
    step = checkpoints.newest()
    if step is None:
        stop.told = lambda: "before the first step; run it again to begin"
        state = create_state(**setup.state_arguments())
        return begin.graft(state) if begin else state
    stop.told = functools.partial(told_of, step, checkpoints)
    with stop.noted():  # Orbax would take the end for an error of the disk's
        state, meta = checkpoints.restore(step, setup.abstract_state())
    began, now = meta.get("data"), identity(train_source)
    if began and began != now:
        what = (
            f"has {now['examples']} examples, and had {began['examples']}"
            if now["examples"] != began["examples"]
            else "has other examples, or has them in another order"
        )
        raise DataError(
            f"split {train_source.split} {what} when the run in {checkpoints.workdir} began; "
            "put it back, or take a new --workdir"
        )
    return state


def draw_run(workdir: Path, again: bool = True) -> None:
    """Draws what was logged; with `again` also where there is such a picture."""
    path = workdir / "plots" / "curves.png"
    if again or not path.exists():
        draw_curves.draw_curves(workdir / METRICS_FILE, path)


def evaluation_owed(setup: Setup, step: int, workdir: Path, split: str) -> bool:
    """Whether `step` was to be evaluated and was not, since a signal stopped the run just there."""
    path = workdir / METRICS_FILE
    due = step > 0 and (step >= setup.steps or _due(step, setup.eval_every))
    if due and path.exists():
        rows = [row for row in read_metrics(path) if not is_of_training(row)]
        due = not any(row["step"] == step and row["split"] == split for row in rows)
    return processes.broadcast(due)  # a network's file system may show it to some alone


def last_metrics(workdir: Path, split: str) -> dict[str, float]:
    """What the run's last evaluation of `split` found, or nothing."""
    path = workdir / METRICS_FILE
    rows = read_metrics(path) if path.exists() else []
    judged = [row for row in rows if row["split"] == split and not is_of_training(row)]
    last = judged[-1] if judged else {}
    return {name: value for name, value in last.items() if name not in ("step", "split")}


def announce(setup: Setup, state, train_source, eval_source, report: Report) -> None:
    """Says what is about to be trained, on what, and where."""
    config = setup.config
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    kind = setup.mesh.devices.flat[0].device_kind
    several = f" of {processes.count()} processes" if processes.count() > 1 else ""
    report.say(
        f"{config.model.name}, {parameters / 1e6:.2f} M parameters, {config.precision}, "
        f"on {setup.mesh.size} x {kind} (mesh: {meshes.describe(setup.mesh)}){several}"
    )
    report.say(
        f"{len(train_source)} images to train on ({train_source.split}), {len(eval_source)} to "
        f"evaluate ({eval_source.split}), {len(setup.classes)} classes; "
        f"{setup.steps} steps of {config.train.batch_size}"
    )
    sizes = input_sizes(config)
    if len(sizes) > 1:
        named = ", ".join(f"{height} x {width}" for height, width in sizes)
        report.say(f"images of {named} (height x width), each compiled when it is first met")
    options = devices.compiler_options(meshes.platform(setup.mesh))
    if options:
        told = " ".join(f"--{name}={str(value).lower()}" for name, value in options.items())
        report.say(f"XLA's options: {told} (XLA_FLAGS overrides)")
    for line in layout_notes(setup):
        report.say(line)
    if int(state.step):
        report.say(f"going on from the checkpoint of step {int(state.step)}")
    if processes.is_first():
        found = survey(train_source)
        advise(advice.at_start(config, setup.classes, setup.steps, found), report)


def advise(sentences, report: Report) -> None:
    """Says what may spare the user a useless run; empty sentences are left out."""
    for sentence in filter(None, sentences):
        report.say(f"advice: {sentence}")


def train_rows(workdir: Path) -> list[dict]:
    """The lines of `metrics.jsonl` that are of training steps; none but for the first process."""
    if not processes.is_first():
        return []
    return [row for row in read_metrics(workdir / METRICS_FILE) if is_of_training(row)]
