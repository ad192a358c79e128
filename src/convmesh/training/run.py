"""A training run: its state, workdir, checkpoints and hooks, and the operations of the loop."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import jax

from convmesh import mesh as meshes
from convmesh.data.augmentation.sizes import StepSizes
from convmesh.data.loading.batches import DataCounts, TrainBatch
from convmesh.data.loading.loader import train_batches
from convmesh.data.loading.warm_cache import warm_cache
from convmesh.data.record import Source, identity
from convmesh.data.splits import RunData
from convmesh.distributed import compile_cache, console, processes
from convmesh.distributed.batch import Batch
from convmesh.distributed.own_progress import MAIN, Activity
from convmesh.errors import ConvmeshError, DataError, RunError, Stopped, StoreError, first_line
from convmesh.inference.evaluation import evaluate_variables
from convmesh.steps.compiled import TrainSteps
from convmesh.steps.setup import Setup
from convmesh.steps.state import TrainState
from convmesh.training.evaluated_split import note_evaluated_split
from convmesh.training.hooks import Hook
from convmesh.training.init_from import InitFrom
from convmesh.training.one_run import check_same_workdir
from convmesh.training.progress import Progress
from convmesh.training.read_ahead import Placed, ReadAhead
from convmesh.training.resume_report import notes_on_restart, notes_on_resume
from convmesh.training.same_examples import example_check
from convmesh.training.save_timer import SaveTimer
from convmesh.training.signals import Phase, StopSignal
from convmesh.training.step_agreement import StepAgreement
from convmesh.training.step_clock import StepClock
from convmesh.workdir import atomic_files
from convmesh.workdir.checkpoints import Checkpoints
from convmesh.workdir.layout import Workdir
from convmesh.workdir.metrics import MetricsLog
from convmesh.workdir.run_files import model_meta


class Run:
    """A run of `setup` in `workdir`; a context manager, which waits for saves on exit.

    `hooks.RunView` says what hooks may use of it.
    """

    def __init__(
        self, setup: Setup, data: RunData, workdir: Workdir, hooks: Sequence[Hook], stop: StopSignal
    ):
        """Opens no files; `with` does."""
        self.setup, self.data, self.workdir, self.hooks = setup, data, workdir, list(hooks)
        self.stop, self.clock, self.steps = stop, StepClock(), TrainSteps(setup)
        self.state: TrainState
        self.start_step = self.step = 0
        self.pending_evaluation = False
        self.counts = self.own_counts = DataCounts()
        self._finish_reason: str | None = None
        self._eval_note = ""
        self._pending_metrics: tuple[int, Mapping[str, Any]] | None = None
        self._last_metrics: dict[str, float] | None = None
        self._agreement = StepAgreement(setup.mesh)
        self._read_error: Exception | None = None
        self._save_timer = SaveTimer(setup.config.checkpoint.every_minutes)
        self._parts = contextlib.ExitStack()
        self._init_from: InitFrom | None = None
        self._progress: Progress | None = None
        self._metrics_log: MetricsLog | None = None

    def __enter__(self) -> Run:
        """Takes the workdir's lock and opens its checkpoints.

        Raises ConfigError if another run uses the workdir, RunError if it cannot be written.
        """
        self.stop.enter(Phase.RESTORE)
        with contextlib.ExitStack() as parts:
            lock = self.workdir.lock()
            if processes.is_first():
                parts.enter_context(lock)
                atomic_files.remove_temporary_files(self.workdir.root)
            processes.wait_for_all("lock")
            check_same_workdir(self.workdir, lock, meshes.shards_parameters(self.setup.mesh))
            scores = self.workdir.scores(self.setup.best_metric)
            keep = self.setup.config.checkpoint.keep
            guard = lock.check if processes.is_first() else lambda: None
            self.checkpoints = parts.enter_context(
                Checkpoints(self.workdir, keep, scores, log=console.print_status, guard=guard)
            )
            self._parts = parts.pop_all()
        for hook in self.hooks:
            self._parts.push(functools.partial(_close_hook, hook))
        return self

    def __exit__(self, *error: Any) -> None:
        self.stop.enter(Phase.CLOSE)
        MAIN.enter(Activity.END)
        try:
            self._parts.__exit__(*error)
        finally:
            MAIN.enter(Activity.OUTSIDE)  # what a script does now has no bound

    # Before the first step.

    def restore_or_create(self, init_from: InitFrom | None = None) -> None:
        """Restores `state` from the newest intact checkpoint, or creates it if there is none.

        A new state takes the weights of `init_from` where they fit. Raises DataError if every
        checkpoint is damaged, or if the data differs from the data that the run began with, which
        would change the data order.
        """
        newest, notes = self.checkpoints.newest(), []
        if newest is None:
            if processes.is_first():
                notes = notes_on_restart(self.workdir)
            self._create(init_from)
        else:
            self.stop.status = functools.partial(stop_status, newest, self.checkpoints)
            self.state, meta = self.checkpoints.restore(newest, self.setup.abstract_state())
            _check_same_data(meta, self.data.train, self.workdir)
            notes = notes_on_resume(
                meta, self.setup, self.state, self.workdir, len(self.data.train)
            )
        self.start_step = self.step = int(self.state.step)
        if self.start_step < self.setup.steps:
            self._note_evaluated_split()
        split, due = self.data.eval.split, self.start_step > 0 and self.is_evaluation_due()
        # On a network file system the newest metrics may be visible to process 0 only.
        missing = processes.is_first() and not self.workdir.is_evaluated(self.start_step, split)
        self.pending_evaluation = processes.broadcast(due and missing)
        self._call_hooks("on_restore")
        if not self.finished:  # a finished run keeps its files, whatever length the call asks for
            for note in notes:
                console.print_status(note)
            if processes.is_first():
                ids = self.data.train.category_ids
                self.workdir.write_run(self.setup.config, self.setup.classes, ids)

    def _note_evaluated_split(self) -> None:
        """Forgets the scores of evaluations of other data."""
        if processes.is_first():
            self._eval_note = note_evaluated_split(self.workdir, self.data.eval, self.start_step)
        scores = self.workdir.scores(self.setup.best_metric) if processes.is_first() else {}
        self.checkpoints.scores = {}
        for step, score in processes.broadcast(scores).items():
            self.checkpoints.note_score(step, score)

    def _create(self, init_from: InitFrom | None) -> None:
        self.stop.status = lambda: "before the first step; run it again to begin"
        with self.stop.during(Phase.CREATE):
            self.state = self.setup.create_state()
            if init_from:
                self.state = init_from.merge_params(self.state)
        self._init_from = init_from

    @property
    def finished(self) -> bool:
        """Whether the run is complete: all steps are done and evaluated, or `finish` was called."""
        return self._is_last_step and not self.pending_evaluation

    @property
    def _is_last_step(self) -> bool:
        return self.step >= self.setup.steps or self._finish_reason is not None

    def finish(self, reason: str) -> None:
        """Makes the current step the last one. Every process must call it."""
        self._finish_reason = reason

    def last_metrics(self) -> dict[str, float]:
        """The metrics of the last evaluation, in this call or an earlier one."""
        if self._last_metrics is None:
            split = self.data.eval.split
            metrics = self.workdir.last_evaluation(split) if processes.is_first() else {}
            self._last_metrics = processes.broadcast(metrics)
        return self._last_metrics

    def report_finished(self) -> None:
        """Prints that the run had already finished before this call."""
        why = f", {self._finish_reason}" if self._finish_reason else ""
        console.print_result(f"{self.workdir}: this run has finished, at step {self.step}{why}")

    def start(self) -> None:
        """Opens the logs and calls the hooks' `on_start`."""
        self.stop.enter(Phase.STEP)
        MAIN.enter(Activity.START, self.start_step)  # until the first step
        config = self.setup.config
        if processes.is_first():
            log = MetricsLog(self.workdir.metrics_file, self.start_step)
            self._metrics_log = self._parts.enter_context(log)
        progress = Progress(self.setup.steps, self.start_step, config.train.batch_size)
        self._progress = self._parts.enter_context(progress)
        self._call_hooks("on_start")
        if self._init_from and processes.is_first():
            text = "\n".join(self._init_from.details) + "\n"
            atomic_files.write_atomically(self.workdir.weights_file, text)
        for line in (*(self._init_from.notes if self._init_from else ()), self._eval_note):
            if line:
                self.log(line)
        self.clock.restart()  # creating or restoring the state is no part of the first step
        self._save_timer.restart()

    def _call_hooks(self, method: str, *args: Any) -> None:
        with MAIN.during(Activity.HOOK):
            for hook in self.hooks:
                getattr(hook, method)(self, *args)

    # Logging, for hooks too.

    def log(self, text: str) -> None:
        """Prints a line, above the progress bar if there is one."""
        if self._progress is None:
            console.print_status(text)
        else:
            self._progress.log(text)

    def show_progress(self, step: int, loss: float, images_per_second: float) -> None:
        """Updates the progress bar."""
        assert self._progress is not None
        self._progress.show(step, loss, images_per_second)

    def log_metrics(self, step: int, split: str, numbers: Mapping[str, Any]) -> None:
        """Appends numbers to `metrics.jsonl` and TensorBoard."""
        if self._metrics_log is not None:
            self._metrics_log.log(step, split, numbers)

    # The steps.

    def batches(self) -> Generator[tuple[int, Batch], None, None]:
        """Yields (step, global batch on the mesh) for each remaining step.

        Ends early if a hook has called `finish`. At the end, `counts` is summed over the processes.
        """
        setup, start = self.setup, self.start_step
        source, shard = self.data.train, setup.train_shard()
        with train_batches(source, setup.config, start, shard, setup.steps) as batches:
            check = example_check(setup.config, shard, source)
            steps = range(start + 1, setup.steps + 1)
            with contextlib.closing(Placed(batches, steps, self._place)) as placed:
                ahead = ReadAhead(placed, len(steps), check)
                read = iter(ahead)
                while not self._is_last_step:
                    self._call_hooks("before_step", self.step + 1)
                    before = time.perf_counter()
                    batch, on_mesh, self.own_counts = next(read)
                    self._waited, self._read_error = time.perf_counter() - before, ahead.error
                    self._call_hooks("on_batch", self.step + 1, batch)
                    yield self.step + 1, on_mesh
            self.flush()
            self.counts = sum(processes.gather(self.own_counts), DataCounts())

    def _place(self, step: int, batch: TrainBatch) -> Batch:
        height, _ = StepSizes.of(self.setup.config, self.setup.steps)(step)
        return meshes.make_global_batch(self.setup.mesh, batch, self.setup.train_shard(height))

    def take_step(self, step: int, batch: Batch) -> None:
        """Dispatches a step; while it runs, the hooks get the metrics of the previous step."""
        MAIN.enter(Activity.STEP, step)
        program = self.steps.get(batch) or self._compile(step, batch)
        self.state, metrics = program(self.state, batch)
        self.step = step
        self.flush()
        self._pending_metrics = step, metrics
        self.clock.waited(self._waited)
        self.checkpoints.check()
        if step == self.start_step + 1:
            self.flush()
            compile_cache.write_checksums()
            self.clock.restart()
        self._call_hooks("after_step", step)

    def _compile(self, step: int, batch: Any) -> Any:
        self.flush()
        first = step == self.start_step + 1
        with contextlib.ExitStack() as stack:
            if first:  # a signal here loses nothing, and images can be read while XLA compiles
                config, shard = self.setup.config, self.setup.train_shard()
                stack.enter_context(self.stop.during(Phase.CREATE))
                stack.enter_context(warm_cache(self.data.train, config, self.start_step, shard))
            stack.enter_context(MAIN.during(Activity.COMPILE, step))
            program = self.steps.compile(self.state, batch)
            # Between CPUs, those that run a program first wait only 30 s for the others to connect.
            processes.wait_for_all("compiled")
        self._call_hooks("on_compile", step, program)
        if not first:
            self.clock.restart()
        return program

    def flush(self) -> None:
        """Waits for the last dispatched step and passes its metrics to the hooks."""
        if self._pending_metrics is None:
            return
        (step, metrics), self._pending_metrics = self._pending_metrics, None
        jax.block_until_ready(metrics["loss"])
        self.clock.step_done()
        self._call_hooks("on_metrics", step, metrics)

    def agree(self) -> tuple[bool, bool]:
        """Whether all processes stop after this step, and whether they save because time is due.

        They stop if one has received a signal or cannot read its next batches.
        """
        wants_stop = bool(self.stop.received) or self._read_error is not None
        wants_save = processes.is_first() and self._save_timer.is_due()  # clocks differ
        return self._agreement.agree(wants_stop, wants_save)

    def stopped(self) -> ConvmeshError:
        """Why the run stops after this step, with the step that was saved; for all processes."""
        self.checkpoints.wait()
        unanswered = isinstance(self._read_error, StoreError)
        own = bool(self.stop.received), _described(self._read_error), unanswered
        stated = processes.gather(own)
        errors = [error for _, error, _ in stated if error]
        if errors and any(received for received, *_ in stated):
            self.log(f"the data cannot be read on: {errors[0]}")  # also when it is run again
        elif errors:
            unanswered = all(of_store for _, error, of_store in stated if error)
            kind = StoreError if unanswered else DataError
            error = kind(f"{errors[0]}; step {self.step} is saved, run it again to resume")
            error.__cause__ = self._read_error
            return error
        # A signal of this process's own may still arrive; it counts as the first one then.
        self.stop.received = self.stop.received or "a signal to another process"
        return Stopped(self.stop.message())

    def is_evaluation_due(self) -> bool:
        """Whether the state is evaluated after this step."""
        return self._is_last_step or _is_due(self.step, self.setup.eval_every)

    def is_save_due(self) -> bool:
        """Whether `checkpoint.every_steps` is due. The state is also saved before an evaluation
        or a stop, and every `checkpoint.every_minutes`.
        """
        return _is_due(self.step, self.setup.config.checkpoint.every_steps)

    def save(self) -> None:
        """Starts to save the state under its step; the disk is written in the background."""
        with MAIN.during(Activity.SAVE, self.step):
            self._save()

    def _save(self) -> None:
        self.flush()
        if self._metrics_log is not None:
            self._metrics_log.sync()
        self._call_hooks("before_save", self.step)
        position = self.step * self.setup.config.train.batch_size
        self.checkpoints.save(self.state, {**self._meta, "data_position": position})
        self._save_timer.restart()
        self.stop.status = functools.partial(stop_status, self.step, self.checkpoints)
        self.clock.restart()

    def saved_steps(self) -> Sequence[int]:
        """The steps of the checkpoints, ascending, once the save in progress has ended."""
        with contextlib.suppress(RunError):  # it is reported when the run closes
            self.checkpoints.wait()
        return self.checkpoints.steps()

    @functools.cached_property
    def _meta(self) -> dict[str, Any]:
        return checkpoint_meta(self.setup, self.data.train)

    def evaluate(self) -> None:
        """Evaluates the state. Call it after `save`, so that an interruption loses nothing."""
        with self.stop.during(Phase.EVALUATE), MAIN.during(Activity.EVALUATE, self.step):
            split = self.data.eval.split
            metrics = evaluate_variables(
                self.setup,
                self.state.variables(ema=True),
                self.data.eval,
                self.workdir.evaluation(split),
                self.log,
                each_batch=self._before_evaluated_batch,
            )
            self.log_metrics(self.step, split, metrics)
            self.checkpoints.note_score(self.step, metrics.get(self.setup.best_metric))
            self.pending_evaluation, self._last_metrics = False, metrics
            self._call_hooks("after_evaluation", self.step, metrics)
        self.clock.restart()

    def _before_evaluated_batch(self) -> None:
        MAIN.enter(Activity.EVALUATE, self.step)
        self.checkpoints.check()

    def end(self) -> None:
        """Calls the hooks' `on_end`, after the last step and its evaluation."""
        MAIN.enter(Activity.END, self.step)
        self._call_hooks("on_end")


def checkpoint_meta(setup: Setup, source: Source) -> dict[str, Any]:
    """The metadata of a checkpoint, except the data position."""
    return {
        **model_meta(setup.config, setup.classes),
        "category_ids": source.category_ids,
        "data": identity(source),
    }


def stop_status(step: int, checkpoints: Checkpoints) -> str:
    """For the message of a stop after `step`: whether it was saved, else the newest checkpoint."""
    steps = checkpoints.steps()
    if step in steps:
        return f"at step {step}, saved; run it again to resume"
    newest = f"the newest checkpoint is of step {steps[-1]}" if steps else "there is no checkpoint"
    return f"at step {step}, which was not saved; {newest}"


def _check_same_data(meta: Mapping[str, Any], source: Source, workdir: Workdir) -> None:
    """Raises DataError if `source` differs from the data that the run began with."""
    before, now = meta.get("data"), identity(source)
    if not before or before == now:
        return
    change = "it has other examples or another order"
    if now["examples"] != before["examples"]:
        change = f"it has {now['examples']} examples instead of {before['examples']}"
    raise DataError(
        f"split {source.split} is not the data that the run in {workdir} began with: {change}; "
        "restore the data, or use a new --workdir"
    )


def _described(error: Exception | None) -> str:
    """The message of an error for the other processes; '' for none."""
    if error is None or isinstance(error, ConvmeshError):
        return str(error or "")
    return f"{type(error).__name__}: {first_line(error)}"


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _close_hook(hook: Hook, kind: Any, *_: Any) -> None:
    hook.close(failed=kind is not None)
