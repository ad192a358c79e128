"""Training: the one loop, for both tasks and any mesh."""

import json
import signal
import time
from collections import deque
from pathlib import Path

import jax

from convmesh import compile_cache, devices, draw, processes
from convmesh import mesh as meshes
from convmesh.checkpoint import Checkpoints
from convmesh.config import check, check_complete, check_resume, from_json, to_json
from convmesh.data import BadExample, open_eval, open_train
from convmesh.data.loader import train_batches
from convmesh.errors import DataError, Stopped
from convmesh.evaluation import evaluate_variables
from convmesh.flops import ideal_seconds
from convmesh.models import check_model
from convmesh.profile import Profile
from convmesh.report import METRICS_FILE, Report, read_metrics
from convmesh.setup import Setup, layout_notes, make_run_mesh, make_setup
from convmesh.state import create_state
from convmesh.step import jit_train_step

SPEED_OVER_STEPS = 20  # what the speed that is shown is measured over


def train(config, workdir, profile_steps: int = 0) -> dict[str, float]:
    """Trains what `config` describes, in `workdir`; goes on where an earlier run there stopped.

    Traces `profile_steps` of the steps, see `Profile`. Returns the metrics of the last evaluation.
    Raises ConfigError before anything is written if the config or the mesh is wrong, DataError for
    unusable data, Stopped if a signal ended the run (its state is saved).
    """
    check(config)
    check_complete(config)
    workdir = Path(workdir)
    check_model(config.model.name, config.task)
    check_same_run(config, workdir)

    compile_cache.start()
    mesh = make_run_mesh(config)
    train_source = open_train(config)
    eval_source = open_eval(config)
    setup = make_setup(config, train_source.classes, mesh, len(train_source))
    best_metric = config.checkpoint.best_metric or setup.task.best_metric
    check_readable(train_source, config)

    if processes.is_first():
        write_identity(setup, workdir)
    processes.wait_for_all("identity")
    with Checkpoints(workdir, config.checkpoint.keep, best_metric) as checkpoints:
        if checkpoints.steps():
            state, _ = checkpoints.restore(checkpoints.choose(), setup.abstract_state())
        else:
            state = create_state(**setup.state_arguments())
        owed = evaluation_owed(setup, int(state.step), workdir, eval_source.split)
        if int(state.step) >= setup.steps and not owed:
            if processes.is_first():
                print(f"{workdir}: this run has finished, at step {int(state.step)}")
            return last_metrics(workdir, eval_source.split)
        with Report(
            workdir,
            setup.steps,
            int(state.step),
            config.train.batch_size,
            enabled=processes.is_first(),
        ) as report:
            announce(setup, state, train_source, eval_source, report)
            with Profile(workdir, int(state.step), profile_steps, report.say) as profile:
                metrics = run_steps(
                    setup, state, train_source, eval_source, checkpoints, report, owed, profile
                )
    if processes.is_first():
        draw.draw_curves(workdir / "metrics.jsonl", workdir / "plots" / "curves.png")
    return metrics


def run_steps(
    setup: Setup,
    state,
    train_source,
    eval_source,
    checkpoints,
    report,
    owed: bool = False,
    profile: Profile | None = None,
):
    """The steps that are left: step, log, evaluate, save; returns the last evaluation's metrics.

    `owed`: an earlier call was stopped where an evaluation was due, so that comes first.
    """
    config, workdir = setup.config, checkpoints.workdir
    start = int(state.step)
    metrics: dict[str, float] = {}

    def evaluation(step: int) -> dict[str, float]:
        directory = workdir / "eval" / eval_source.split
        variables = state.variables(ema=True)
        found = evaluate_variables(setup, variables, eval_source, directory, report.say)
        report.log(step, eval_source.split, found)
        return found

    if owed:
        metrics = evaluation(start)
    share = train_share(setup)
    with train_batches(train_source, config, start, share) as batches, StopSignal() as stop:
        step_fn, log = None, StepLog(setup, report)
        for step in range(start + 1, setup.steps + 1):
            if profile and profile.turns_at(step):
                log.flush()
                profile.turn(step)
                log.restart_clock()
            before = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - before
            if step_fn is None and processes.is_first():
                picture = draw.draw_batch(batch, setup.classes)
                draw.save_png(picture, workdir / "plots" / "first_batch.png")
            batch = stop.put_into(meshes.place(setup.mesh, batch, share), setup.mesh)
            if step_fn is None:
                step_fn = jit_train_step(setup.mesh, state, batch, **step_parts(setup))
                if profile and profile.steps:
                    step_fn = profile.compile(step_fn, state, batch)
            state, numbers = step_fn(state, batch)
            stop.take_from(numbers)
            # The numbers of the step before are read while this one runs.
            log.take(step, numbers, waited)
            if step == start + 1:
                report.say(f"compiled and ran the first step in {log.flush():.0f} s")
                compile_cache.vouch()
                log.restart_clock()

            last, stopped = step == setup.steps, stop.agreed()
            due_eval = last or _due(step, config.eval.every_steps)
            due_save = due_eval or stopped or _due(step, config.checkpoint.every_steps)
            # Who stops a run does not wait for an evaluation: the next call makes up for it.
            due_eval = due_eval and not stopped
            if due_save:
                log.flush()
            if due_eval:
                metrics = evaluation(step)
            if due_save:
                checkpoints.save(state, _meta(setup, step), metrics if due_eval else None)
            if stopped:
                checkpoints.wait()
                raise Stopped(f"stopped by {stopped} at step {step}, saved; run it again to go on")
            if due_save:
                log.restart_clock()
        log.flush()
        for problem, words in COUNTED.items():
            if count := sum(counts[problem] for counts in processes.gather(batches.counts)):
                report.say(f"{count} {words}")
    skipped = int(state.nonfinite_steps)
    if skipped:
        report.say(f"{skipped} steps had a loss or gradient that was not finite and were skipped")
    return metrics


COUNTED = {
    "unreadable": "images could not be read and were passed by (data.on_bad_example)",
    "bad_boxes": "bad boxes were dropped or clipped (data.on_bad_box)",
    "truncated": "boxes did not fit in data.max_boxes and were left out",
}


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def step_parts(setup: Setup) -> dict:
    """What `train_step` needs besides state and batch."""
    return dict(
        model=setup.model,
        task=setup.task,
        optimizer=setup.optimizer,
        decay=setup.config.ema.decay,
        accumulate=setup.config.train.accumulate,
    )


def train_share(setup: Setup):
    """What this process reads of each training batch."""
    train, height = setup.config.train, setup.config.data.image_size[0]
    return meshes.share_of(setup.mesh, train.batch_size, height, train.accumulate)


def _meta(setup: Setup, step: int) -> dict:
    return {
        "data_position": step * setup.config.train.batch_size,
        "config": json.loads(to_json(setup.config)),
        "classes": list(setup.classes),
    }


class StepLog:
    """Logs each step one step late, so that reading its numbers never holds up the devices."""

    def __init__(self, setup: Setup, report: Report):
        """Writes the numbers of every `train.log_every_steps`-th step to `report`."""
        self._setup, self._report = setup, report
        self._ideal_seconds = ideal_seconds(setup)
        self._pending: tuple[int, dict] | None = None
        # When the last steps were done, and how long each had waited for its batch.
        self._done: deque[float] = deque(maxlen=SPEED_OVER_STEPS + 1)
        self._waits: deque[float] = deque(maxlen=SPEED_OVER_STEPS)
        self.restart_clock()

    def take(self, step: int, numbers, waited: float) -> None:
        """Takes the numbers of a step just dispatched; reads those of the step before."""
        self.flush()
        self._pending = step, numbers
        self._waits.append(waited)

    def flush(self) -> float:
        """Reads the numbers that are pending, waiting for their step; returns seconds a step."""
        if self._pending is None:
            return 0.0
        (step, numbers), self._pending = self._pending, None
        loss = float(numbers["loss"])
        self._done.append(time.perf_counter())
        seconds = (self._done[-1] - self._done[0]) / (len(self._done) - 1)
        config = self._setup.config
        speed = config.train.batch_size / seconds
        self._report.progress(step, loss, speed)
        if step % config.train.log_every_steps == 0 or step == self._setup.steps:
            line = {name: float(value) for name, value in numbers.items()}
            line["learning_rate"] = float(self._setup.schedule(step - 1))
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


class StopSignal:
    """While open, SIGTERM and SIGINT are noted instead of obeyed; a second one is obeyed.

    Several processes hear a signal at different times, or not at all, and must stop at the same
    step: the note travels with the batch, through the step to all of them, and the next step is the
    last.
    """

    def __init__(self):
        """Notes nothing until it is entered."""
        self.received = ""
        self._noted = self._noted_before = None  # by any process, in the last step and before it

    def put_into(self, batch: dict, mesh) -> dict:
        """`batch`, with the note where other processes need it."""
        if processes.count() == 1:
            return batch
        return {**batch, meshes.NOTE: meshes.note(mesh, bool(self.received))}

    def take_from(self, numbers: dict) -> None:
        """Takes the note of a step just dispatched out of its `numbers`, without waiting for it."""
        self._noted_before, self._noted = self._noted, numbers.pop(meshes.NOTE, None)

    def agreed(self) -> str:
        """The signal that all processes stop for after the last step, or nothing."""
        if processes.count() == 1:
            return self.received
        if self._noted_before is None or not bool(self._noted_before):
            return ""
        return self.received or "a signal to another process"

    def _note(self, number, frame):
        if self.received:
            signal.default_int_handler(number, frame)
        self.received = signal.Signals(number).name

    def __enter__(self):
        self._before = {}
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        except ValueError:  # not in the main thread: signals are somebody else's
            pass
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)


# --- the workdir ----------------------------------------------------------------------------------


def check_same_run(config, workdir: Path) -> None:
    """Raises ConfigError if `workdir` holds a run that `config` would make another one."""
    path = workdir / "config.json"
    if path.exists():
        check_resume(from_json(path.read_text()), config)


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


def write_identity(setup: Setup, workdir: Path) -> None:
    """Writes config.json and classes.json. Raises DataError if the classes are another run's."""
    workdir.mkdir(parents=True, exist_ok=True)
    classes = workdir / "classes.json"
    if classes.exists() and tuple(json.loads(classes.read_text())) != setup.classes:
        raise DataError(
            f"{classes}: the data now has other classes, {', '.join(setup.classes)}; "
            "take a new --workdir"
        )
    classes.write_text(json.dumps(list(setup.classes), indent=1) + "\n")
    (workdir / "config.json").write_text(to_json(setup.config))


def evaluation_owed(setup: Setup, step: int, workdir: Path, split: str) -> bool:
    """Whether `step` was to be evaluated and was not, since a signal stopped the run just there."""
    path = workdir / METRICS_FILE
    due = step > 0 and (step >= setup.steps or _due(step, setup.config.eval.every_steps))
    if not due or not path.exists():
        return due
    return not any(row["step"] == step and row["split"] == split for row in read_metrics(path))


def last_metrics(workdir: Path, split: str) -> dict[str, float]:
    """What the last evaluation of `split` wrote, or nothing."""
    path = workdir / "eval" / split / "metrics.json"
    return json.loads(path.read_text()) if path.exists() else {}


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
    options = devices.compiler_options(meshes.platform(setup.mesh))
    if options:
        told = " ".join(f"--{name}={str(value).lower()}" for name, value in options.items())
        report.say(f"XLA's options: {told} (XLA_FLAGS overrides)")
    for line in layout_notes(setup):
        report.say(line)
    if int(state.step):
        report.say(f"going on from the checkpoint of step {int(state.step)}")
