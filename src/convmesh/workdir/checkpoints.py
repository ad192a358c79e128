"""Checkpoints: everything that a run needs to resume, restored onto any mesh.

The folder of a step holds three items: `model` (parameters, batch statistics and their running
average: all that prediction reads), `training` (step, optimiser state, counters) and `meta` (data
position, config, class names); and the SHA-256 of each of their files. A checkpoint is complete or
absent, see `saving`. Each restore verifies the checksums first.

The file system must rename atomically and keep fsynced data, as local disks do, and NFS for one
client. Object stores have no rename: see `local_copy`.
"""

import contextlib
import dataclasses
import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import orbax.checkpoint as ocp

from convmesh.data.stores.object_store import explained, is_unanswered
from convmesh.distributed import processes
from convmesh.distributed.own_progress import MAIN, SAVING, Activity
from convmesh.errors import ConfigError, DataError, RunError, StoreError, first_line, some
from convmesh.workdir import checksums, saving
from convmesh.workdir.layout import Workdir
from convmesh.workdir.saved_arrays import (
    AnotherModelError,
    copied,
    first_difference,
    without_added_files,
)
from convmesh.workdir.step_folders import (
    CHECKPOINTS,
    COPY,
    DAMAGED,
    DELETED,
    UNFINISHED,
    entries,
    free_names,
    held_step,
    names_step,
    printable,
    read_meta,
    saved_steps,
    unlike_steps,
)

MODEL = ("params", "batch_stats", "ema")  # of the fields of a train state; the rest is `training`
# A dataclass of arrays with these fields and `step`, as `convmesh.steps.state.TrainState`.
State = TypeVar("State", bound=Any)


class DeletedError(DataError):
    """A checkpoint was deleted while it was read, by a run that is training there."""


def _model(state: Any) -> dict[str, Any]:
    """The fields that prediction reads."""
    return {name: getattr(state, name) for name in MODEL}


def _training(state: Any) -> dict[str, Any]:
    """All other fields."""
    names = [field.name for field in dataclasses.fields(state) if field.name not in MODEL]
    return {name: getattr(state, name) for name in names}


class Checkpoints:
    """The checkpoints in WORKDIR/checkpoints; a context manager. Saving is asynchronous."""

    def __init__(
        self,
        workdir: Workdir | str | os.PathLike[str],
        keep: int = 2,
        scores: Mapping[int, float] | None = None,
        read_only: bool = False,
        log: Callable[[str], None] = print,
        guard: Callable[[], None] = lambda: None,
    ) -> None:
        """Opens the folder, which the first save creates.

        The `keep` newest steps are kept, and the one with the highest of `scores` (metric by step;
        see `note_score`). With `read_only` no file is changed, not even leftovers of a crash.
        `log` gets a line about each damaged checkpoint. `guard` is called before each save, and
        raises if the folder was removed.
        """
        files = workdir if isinstance(workdir, Workdir) else Workdir(workdir)
        self.workdir, self._copy = files.root, files.copy
        self.scores: dict[int, float] = {}
        for step, score in (scores or {}).items():
            self.note_score(step, score)
        self._keep, self._read_only, self._log, self._guard = keep, read_only, log, guard
        self._directory = self.workdir.absolute() / CHECKPOINTS
        self._saving: int | None = None
        self._named: set[str] = set()  # messages about files of other programs, each logged once
        self._last: int | None = None  # saved or restored; the same on all processes
        # Orbax also logs each error that it raises, with its traceback.
        self._logged = logging.getLogger("absl").level
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        # A local copy is this process's own, so process 0 saves what the others hold.
        self._alone = self._copy is not None and processes.count() > 1
        self._checkpointer = saving.checkpointer(self._push, self._prune, self._alone)
        if not read_only and processes.is_first():
            self._remove_leftovers()

    def note_score(self, step: int, score: float | None) -> None:
        """Records the metric of `step`, which selects the best; NaN and None are ignored."""
        if score is not None and math.isfinite(score):
            self.scores[step] = float(score)

    # Saving.

    def save(self, state: Any, meta: Mapping) -> None:
        """Saves `state` under its step; returns after copying the arrays, and writes them later.

        Raises RunError if it cannot be written, or if the previous save has failed.
        """
        step = int(state.step)
        if step == self._last:
            return
        self.wait()
        if self._alone:  # the others wait here, not in the next collective, which has a bound
            processes.wait_for_all("previous save")
        self._guard()
        self._saving = self._last = step
        model, training = (copied(part, self._alone) for part in (_model(state), _training(state)))
        items = ocp.args.Composite(
            model=ocp.args.StandardSave(model),
            training=ocp.args.StandardSave(training),
            meta=ocp.args.JsonSave({**meta, "step": step}),
        )
        saving.at_phase("copied")
        if self._alone and not processes.is_first():
            self._saving = None
            self._folder(step).mkdir(parents=True, exist_ok=True)  # `steps` lists it
            return
        try:
            if self._alone:
                self._make_room(step)
            else:
                _call_on_first(lambda: self._make_room(step))
            SAVING.enter(Activity.SAVE, step)
            self._checkpointer.save(self._folder(step), args=items)
        except (OSError, RuntimeError, ValueError) as error:
            raise self._not_written(error) from error

    def _make_room(self, step: int) -> None:
        """Sets aside what has the name of a new checkpoint: a file or folder of another program."""
        if os.path.lexists(self._folder(step)):
            aside = self._set_aside(step, COPY)
            self._log(f"{self._folder(step)}: is no checkpoint of this run; renamed to {aside}")

    def check(self) -> None:
        """Raises RunError if the current save has failed; does not wait."""
        if self._saving is None:
            return
        try:
            self._checkpointer.check_for_errors()
        except Exception as error:  # any error of the saving thread
            raise self._not_written(error) from error

    def wait(self) -> None:
        """Waits until the current save is on the disk. Raises as `check`."""
        try:
            self._checkpointer.wait_until_finished()
        except Exception as error:
            raise self._not_written(error) from error
        finally:
            MAIN.forgive()  # the saving thread has its own bound
        self._saving = None

    def close(self) -> None:
        """Waits for the current save. Raises as `check`."""
        try:
            self.wait()
        finally:
            saving.wait_for_saving_thread()  # also if a signal has interrupted the wait
            self._checkpointer.close()
            logging.getLogger("absl").setLevel(self._logged)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()
        if kind is None and not self._read_only and processes.is_first():
            self._prune(last=True)

    def _not_written(self, error: Exception) -> RunError:
        step, self._saving, self._last = self._saving, None, None
        SAVING.forgive()
        SAVING.enter(Activity.IDLE)
        newest = ""
        with contextlib.suppress(OSError):
            if processes.is_first():
                self._remove_leftovers()  # they may have filled the disk
            steps = [saved for saved in self.steps() if saved != step]  # in a store it is not
            newest = f"the newest is of step {steps[-1]}; " if steps else "there is none yet; "
        kind = StoreError if is_unanswered(error) else RunError
        return kind(
            f"{self._directory}: checkpoint of step {step} could not be written: "
            f"{saving.reason_of(error)}; {newest}fix that and run again to resume"
        )

    def _prune(self, last: bool = False) -> None:
        """Deletes the steps that are not kept, after a newer one is complete.

        last: at the end of a run; then raises RunError if the store does not get all files.
        """
        saving.at_phase("pruning")
        steps = self.steps()
        kept = {*steps[-self._keep :], self._best(steps)}
        for step in steps:
            if step not in kept:
                # Renamed first: a half-deleted step would look like a damaged one.
                deleted = self._folder(step).with_name(f"{step}{DELETED}")
                try:
                    os.rename(self._folder(step), deleted)
                except OSError as error:
                    self._log(f"{self._folder(step)}: cannot be deleted: {error.strerror}")
                    break
                self._deleted_in_store(step)
                shutil.rmtree(deleted, ignore_errors=True)
        try:
            self._push()
        except OSError as error:  # the new checkpoint is complete, and the next save tries again
            self._log(
                f"{error.filename or self._directory}: cannot be brought up to date: "
                f"{error.strerror or error}"
            )
            if last:
                what = f"{self._directory}: what was logged after the last checkpoint"
                raise explained(f"{what} is not in the store", error, RunError) from error
        saving.at_phase("pruned")

    def _remove_leftovers(self) -> None:
        """Removes folders that a crash has left half written or half deleted."""
        for path in entries(self._directory):
            half_deleted = path.name.endswith(DELETED) and names_step(path.stem)
            if half_deleted or UNFINISHED in path.name:
                shutil.rmtree(path, ignore_errors=True)

    # The object store, if the folder is a local copy.

    def _push(self) -> None:
        if self._copy:
            self._copy.push()

    def _deleted_in_store(self, step: int) -> None:
        if self._copy:
            self._copy.delete(f"{CHECKPOINTS}/{step}/")

    def _fetch(self, step: int) -> None:
        if self._copy:
            try:
                self._copy.fetch(step)
            except OSError as error:
                raise explained(f"{error.filename}: cannot be read", error, DataError) from error

    # Restoring.

    def steps(self) -> Sequence[int]:
        """The saved steps in ascending order, intact or damaged."""
        return saved_steps(self._directory)

    def _folder(self, step: int) -> Path:
        return self._directory / str(step)

    def _best(self, steps: Sequence[int]) -> int | None:
        """The step with the highest score; the newest of equals."""
        ranked = [step for step in steps if step in self.scores]
        return max(ranked, key=lambda step: (self.scores[step], step)) if ranked else None

    def newest(self) -> int | None:
        """The newest intact step; None if nothing was saved.

        Newer damaged ones are logged, and renamed unless `read_only`. Raises DataError if all are
        damaged; then none is renamed.
        """
        return _call_on_first(self._newest)

    def _newest(self) -> int | None:
        self._name_unlike_steps()
        steps, bad = list(self.steps()), []
        while steps:
            step = steps.pop()
            if not (fault := self._fault(step)):
                break
            if self._folder(step).is_dir():
                bad.append((step, fault))
            else:  # deleted meanwhile by a run that is training there, which has saved a newer one
                steps, bad = list(self.steps()), []
        else:
            if bad:
                raise DataError(
                    f"{self._directory}: no checkpoint can be used ({bad[0][1]}); copy an intact "
                    "one back from a backup, or use a new --workdir"
                )
            return None
        for damaged, fault in bad:
            suffix = COPY if held_step(self._folder(damaged)) not in (None, damaged) else DAMAGED
            where = "" if self._read_only else f"; renamed to {self._set_aside(damaged, suffix)}"
            self._log(f"{fault}{where}; step {step} is used instead")
        if bad and not self._read_only:
            self._push()
        self._name_added_files(step)
        return step

    def _fault(self, step: int) -> str:
        """Why the folder of `step` cannot be used, in a sentence; '' if it can."""
        self._fetch(step)
        if fault := checksums.verify_checksums(self._folder(step)):
            return f"the checkpoint of step {step} is damaged ({fault})"
        held = held_step(self._folder(step))
        if held in (None, step):
            return ""
        return f"the folder {step} holds the checkpoint of step {held}"

    def _set_aside(self, step: int, suffix: str) -> Path:
        names = free_names(self._folder(step), suffix)
        renamed = next(path for path in names if not os.path.lexists(path))
        os.rename(self._folder(step), renamed)
        self._deleted_in_store(step)
        return renamed

    def _name_unlike_steps(self) -> None:
        if names := [printable(name) for name in unlike_steps(self._directory)]:
            self._log_once(
                f"{self._directory}: {some(names)}: ignored, since only a folder that is named by "
                "its step is a checkpoint"
            )

    def _name_added_files(self, step: int) -> None:
        with contextlib.suppress(OSError):  # deleted meanwhile
            names = [printable(name) for name in checksums.added_files(self._folder(step))]
            if names:
                self._log_once(
                    f"{self._folder(step)}: {some(names)}: not part of the checkpoint; ignored"
                )

    def _log_once(self, message: str) -> None:
        if message not in self._named:
            self._named.add(message)
            self._log(message)

    def choose(self, step: int | None = None, best: bool = False, asked: str = "--step") -> int:
        """`step` if given, else the best if `best`, else the newest intact one.

        `asked` is the flag or key that gave the step, for messages. Raises DataError if nothing
        was saved or `step` is damaged, ConfigError if `step` does not exist.
        """
        steps = _call_on_first(self.steps) if self._alone else self.steps()
        if not steps:
            raise DataError(f"{self._directory}: no checkpoint yet; train first")
        if step is not None and step not in steps:
            raise ConfigError(
                f"{asked} {step}: no such checkpoint; there are {', '.join(map(str, steps))}"
            )
        if step is None and best:
            step = self._best(steps)
            if step is None:
                raise DataError(
                    f"{self._directory}: no checkpoint has a score (none was evaluated, or "
                    "checkpoint.best_metric is undefined), so none is the best; leave out --best"
                )
        if step is not None:
            return _call_on_first(lambda: self._verified(step, asked))
        newest = self.newest()
        if newest is None:
            raise DataError(f"{self._directory}: no checkpoint any more; were they deleted?")
        return newest

    def _verified(self, step: int, asked: str) -> int:
        if fault := self._fault(step):
            if not self._folder(step).is_dir():
                raise self._deleted(step)
            raise DataError(f"{self._directory}: {fault}; choose another {asked}")
        self._name_added_files(step)
        return step

    def restore(self, step: int, target: State) -> tuple[State, dict]:
        """The state saved at `step`, with the shardings of the abstract `target`, and its meta.

        `step` comes from `newest` or `choose`, which have verified its files. Raises DataError if
        they are of another model than `target`, DeletedError if they are not there any more.
        """
        items = self._read(
            step,
            target,
            model=ocp.args.StandardRestore(_model(target)),
            training=ocp.args.StandardRestore(_training(target)),
            meta=ocp.args.JsonRestore(),
        )
        state = type(target)(**items.model, **items.training)
        if int(state.step) != step:
            raise DataError(
                f"{self._folder(step)}: holds step {int(state.step)}; rename the folder to that"
            )
        self._last = step
        return state, items.meta

    def restore_variables(self, step: int, target: Any) -> dict:
        """The variables to evaluate, with the shardings of `target`: the EMA if there is one.

        Raises as `restore`.
        """
        model = self._read(step, target, model=ocp.args.StandardRestore(_model(target))).model
        if model["ema"] is not None:
            return model["ema"]
        return {"params": model["params"], "batch_stats": model["batch_stats"]}

    def choose_variables(
        self,
        target: Any,
        step: int | None = None,
        best: bool = False,
        asked: str = "--step",
        check: Callable[[int], None] = lambda step: None,
    ) -> tuple[dict, int]:
        """`restore_variables` of the step that `choose` chooses, and the step.

        `check` is called with the step before it is read. If a run that is training there deletes
        the newest one meanwhile, the next newest is taken. Raises as `choose` and `restore`.
        """
        while True:
            chosen = self.choose(step, best, asked)
            try:
                check(chosen)
                return self.restore_variables(chosen, target), chosen
            except DeletedError:
                if step is not None or best or processes.count() > 1:
                    raise

    def meta(self, step: int) -> dict[str, Any]:
        """The meta that `step` was saved with. Raises DeletedError, or OSError."""
        try:
            return read_meta(self._folder(step))
        except OSError as error:
            if self._folder(step).is_dir():
                raise
            raise self._deleted(step) from error

    def _read(self, step: int, target: Any, **items: Any) -> Any:
        self.wait()
        self._fetch(step)
        folder = self._folder(step)
        if self._alone and (fault := checksums.verify_checksums(folder)):  # its own copy
            raise DataError(f"{folder}: is damaged ({fault}); run it again")
        try:
            with without_added_files(folder) as named:
                if differs := first_difference(named / "model", _model(target)):
                    raise AnotherModelError(
                        f"{folder}: holds another model than the config describes: {differs}"
                    )
                return self._checkpointer.restore(named, args=ocp.args.Composite(**items))
        except (OSError, ValueError, TypeError, KeyError) as error:
            if not folder.is_dir():
                raise self._deleted(step) from error
            if isinstance(error, OSError):
                raise
            raise DataError(f"{folder}: cannot be restored: {first_line(error)}") from error

    def _deleted(self, step: int) -> DeletedError:
        return DeletedError(
            f"{self._folder(step)}: was deleted by a run that is training there; try again"
        )


def _call_on_first(function: Callable[[], Any]) -> Any:
    """Calls `function` on process 0; all processes return its result or raise its error."""
    result, error = None, None
    if processes.is_first():
        try:
            result = function()
        except (DataError, OSError) as caught:
            error = caught
    result, error = processes.broadcast((result, error))
    if error is not None:
        raise error
    return result
