"""Checkpoints: all that a run needs to go on, in one unit, restored onto any mesh.

One step is one folder that holds three items: `model` (parameters, batch statistics, their running
average: all that prediction reads), `training` (step, optimiser state, counters) and `meta` (the
data position, the config, the class names); and the SHA-256 of every file of theirs. Orbax writes
it beside its place, the sums are added, all is brought to the disk, and it gets its name with one
rename: a checkpoint is whole or absent. Each restore checks the sums first.

This asks of the file system that a rename is atomic and that fsync lasts, as on local disks; NFS
keeps both for one client. Object stores have no rename, and are not supported.
"""

import contextlib
import dataclasses
import errno
import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.path import atomicity

from convmesh import durable, processes
from convmesh.errors import ConfigError, DataError, RunError
from convmesh.state import TrainState

MODEL = ("params", "batch_stats", "ema")
TRAINING = tuple(f.name for f in dataclasses.fields(TrainState) if f.name not in MODEL)

# What a save goes through, in order; `at_phase` is called with each as it is reached, by whoever
# tests what a crash there does.
PHASES = ("copied", "written", "sealed", "committed", "pruning", "pruned")
at_phase: Callable[[str], None] = lambda phase: None  # noqa: E731

_DISK_ERRORS = tuple(  # in the system's words, which C++ puts into longer ones
    os.strerror(number)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.ENOENT)
)

_DAMAGED, _DELETED = ".damaged", ".deleted"  # after a step's number: set aside, being deleted


def _part(state: TrainState, names) -> dict:
    return {name: getattr(state, name) for name in names}


def _copied(tree):
    """`tree` with a copy on the host of each array that is whole on every device.

    Orbax would cut those into a slice for each device, array by array: on two CPU devices three
    times the time that the writing takes.
    """
    leaves, form = jax.tree.flatten(tree)
    whole = [leaf for leaf in leaves if leaf.is_fully_replicated]
    # Copied, since on CPUs what `device_get` gives is the array's own memory, soon donated.
    copies = iter([np.array(leaf) for leaf in jax.device_get(whole)])
    return form.unflatten([next(copies) if leaf.is_fully_replicated else leaf for leaf in leaves])


class _WholeFolder(atomicity.AtomicRenameTemporaryPath):
    """Where Orbax writes a checkpoint, until it is sealed and renamed to its place."""

    committed: Callable[[], None]  # called when it is there

    async def finalize(self):
        """Commits the checkpoint, in the thread that saves; of several processes, the first's."""
        at_phase("written")
        self._checkpoint_metadata_store.wait_until_finished()
        durable.seal(Path(self._tmp_path))
        at_phase("sealed")
        os.rename(self._tmp_path, self._final_path)
        durable.sync_folder(self._final_path.parent)
        at_phase("committed")
        self.committed()


class Checkpoints:
    """The checkpoints under WORKDIR/checkpoints. Saving is asynchronous; use as a context."""

    def __init__(
        self,
        workdir,
        keep: int = 2,
        scores: Mapping[int, float] | None = None,
        read_only: bool = False,
        say: Callable[[str], None] = print,
        guard: Callable[[], None] = lambda: None,
    ):
        """Opens the folder; it is made by the first save.

        `keep` newest steps are kept, and of those that `scores` has (metric by step; more may be
        noted later) the one with the highest. `read_only` touches nothing, not even a save of
        another process that is under way. `say` is told of what is damaged. `guard` is called
        before each save, and raises if there is nowhere to save to any more.
        """
        self.workdir = Path(workdir)
        self.scores: dict[int, float] = {}
        for step, score in (scores or {}).items():
            self.note_score(step, score)
        self._keep, self._read_only, self._say, self._guard = keep, read_only, say, guard
        self._directory = self.workdir.absolute() / "checkpoints"
        self._saving: int | None = None
        self._last: int | None = None  # saved or restored; the same on all processes
        # Orbax logs what it raises, with its whole stack.
        self._logged = logging.getLogger("absl").level
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self._checkpointer = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(
                model=ocp.StandardCheckpointHandler(),
                training=ocp.StandardCheckpointHandler(),
                meta=ocp.JsonCheckpointHandler(),
            ),
            temporary_path_class=type(
                "WholeFolder", (_WholeFolder,), {"committed": lambda path: self._prune()}
            ),
        )
        if not read_only and processes.is_first():
            self._remove_leftovers()

    def note_score(self, step: int, score) -> None:
        """Notes the metric of `step`, by which the best is known; NaN and None count for none."""
        if score is not None and math.isfinite(score):
            self.scores[step] = float(score)

    # Saving.

    def save(self, state: TrainState, meta: Mapping) -> None:
        """Saves `state` as its own step; returns once the arrays are copied, before the disk.

        Raises RunError if it cannot be written, or if the save before could not.
        """
        step = int(state.step)
        if step == self._last:
            return
        self.wait()
        self._guard()
        self._saving = self._last = step
        items = ocp.args.Composite(
            model=ocp.args.StandardSave(_copied(_part(state, MODEL))),
            training=ocp.args.StandardSave(_copied(_part(state, TRAINING))),
            meta=ocp.args.JsonSave(dict(meta)),
        )
        at_phase("copied")
        try:
            self._checkpointer.save(self._folder(step), args=items)
        except (OSError, RuntimeError, ValueError) as error:
            raise self._not_written(error) from error

    def check(self) -> None:
        """Raises RunError if what is being saved has failed; waits for nothing."""
        if self._saving is None:
            return
        try:
            self._checkpointer.check_for_errors()
        except Exception as error:  # whatever the thread that writes has met
            raise self._not_written(error) from error

    def wait(self) -> None:
        """Waits until what is being saved is on the disk. Raises as `check`."""
        try:
            self._checkpointer.wait_until_finished()
        except Exception as error:
            raise self._not_written(error) from error
        self._saving = None

    def close(self) -> None:
        """Waits for what is being saved. Raises as `check`."""
        try:
            self.wait()
        finally:
            _until_saved()  # also where a signal has ended the wait
            self._checkpointer.close()
            logging.getLogger("absl").setLevel(self._logged)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.close()
        if kind is None and not self._read_only and processes.is_first():
            self._prune()

    def _not_written(self, error: Exception) -> RunError:
        step, self._saving, self._last = self._saving, None, None
        newest = ""
        with contextlib.suppress(OSError):
            if processes.is_first():
                self._remove_leftovers()  # they may be what fills the disk
            steps = self.steps()
            newest = f"the newest is of step {steps[-1]}; " if steps else "there is none yet; "
        return RunError(
            f"{self._directory}: checkpoint of step {step} could not be written: {_reason(error)}; "
            f"{newest}mend that, and run again to go on"
        )

    def _prune(self) -> None:
        """Deletes the steps that are not to be kept, all older than one that is whole."""
        at_phase("pruning")
        steps = self.steps()
        kept = {*steps[-self._keep :], self._best(steps)}
        for step in steps:
            if step not in kept:
                # Renamed first: a step that is half deleted would look like a damaged one.
                going = self._folder(step).with_name(f"{step}{_DELETED}")
                try:
                    os.rename(self._folder(step), going)
                except OSError as error:
                    self._say(f"{self._folder(step)}: cannot be deleted: {error.strerror}")
                    break
                shutil.rmtree(going, ignore_errors=True)
        at_phase("pruned")

    def _remove_leftovers(self) -> None:
        """Removes what a crash has left half written or half deleted."""
        for path in _entries(self._directory):
            if path.name.endswith(_DELETED) or atomicity.TMP_DIR_SUFFIX in path.name:
                shutil.rmtree(path, ignore_errors=True)

    # Restoring.

    def steps(self) -> Sequence[int]:
        """The steps there are, in order, whole or damaged."""
        return sorted(int(path.name) for path in _entries(self._directory) if path.name.isdecimal())

    def _folder(self, step: int) -> Path:
        return self._directory / str(step)

    def _best(self, steps: Sequence[int]) -> int | None:
        """The one of `steps` with the highest score, of equal ones the newest."""
        ranked = [step for step in steps if step in self.scores]
        return max(ranked, key=lambda step: (self.scores[step], step)) if ranked else None

    def newest(self) -> int | None:
        """The newest step that is whole; None where there is none at all.

        Damaged ones that are newer are told, and set aside unless `read_only`. Raises DataError if
        there are damaged ones only; then nothing is set aside.
        """
        return _first_decides(self._newest)

    def _newest(self) -> int | None:
        damaged = []
        for step in reversed(self.steps()):
            if not (fault := durable.fault(self._folder(step))):
                break
            damaged.append((step, fault))
        else:
            if damaged:
                raise DataError(
                    f"{self._directory}: no checkpoint is as it was saved "
                    f"({_told(*damaged[0])}); take a new --workdir, or delete the folder to begin "
                    "anew"
                )
            return None
        for bad, fault in damaged:
            where = "" if self._read_only else f"; set aside as {self._set_aside(bad)}"
            self._say(f"{_told(bad, fault)}{where}; step {step} is used instead")
        return step

    def _set_aside(self, step: int) -> Path:
        n, aside = 1, self._folder(step).with_name(f"{step}{_DAMAGED}")
        while aside.exists():
            n += 1
            aside = aside.with_name(f"{step}{_DAMAGED}-{n}")
        os.rename(self._folder(step), aside)
        return aside

    def choose(self, step: int | None = None, best: bool = False, asked: str = "--step") -> int:
        """The step asked for, else the best if `best`, else the newest that is whole.

        `asked` is how the user gave the step. Raises DataError where there is none or the one asked
        for is damaged, ConfigError for a step that is not there.
        """
        steps = self.steps()
        if not steps:
            raise DataError(f"{self._directory}: no checkpoint yet; train first")
        if step is not None and step not in steps:
            raise ConfigError(
                f"{asked} {step}: no such checkpoint; there are {', '.join(map(str, steps))}"
            )
        if step is None and best:
            step = self._best(steps)
            if step is None:
                raise DataError(f"{self._directory}: no checkpoint was evaluated, so none is best")
        if step is None:
            return _first_decides(self._newest)
        return _first_decides(lambda: self._whole(step, asked))

    def _whole(self, step: int, asked: str) -> int:
        if fault := durable.fault(self._folder(step)):
            raise DataError(f"{self._directory}: {_told(step, fault)}; take another {asked}")
        return step

    def restore(self, step: int, target: TrainState) -> tuple[TrainState, dict]:
        """The state saved at `step`, onto the shardings of the abstract `target`; and its meta.

        `step` is one that `newest` or `choose` gave: they have checked its files.
        """
        found = self._read(
            step,
            model=ocp.args.StandardRestore(_part(target, MODEL)),
            training=ocp.args.StandardRestore(_part(target, TRAINING)),
            meta=ocp.args.JsonRestore(),
        )
        state = TrainState(**found.model, **found.training)
        if int(state.step) != step:
            raise DataError(
                f"{self._folder(step)}: holds step {int(state.step)}; give it its name back"
            )
        self._last = step
        return state, found.meta

    def restore_variables(self, step: int, target: TrainState) -> dict:
        """What evaluation reads, onto the shardings of `target`: the average if one is kept."""
        found = self._read(step, model=ocp.args.StandardRestore(_part(target, MODEL))).model
        if found["ema"] is not None:
            return found["ema"]
        return {"params": found["params"], "batch_stats": found["batch_stats"]}

    def _read(self, step: int, **items):
        try:
            return self._checkpointer.restore(self._folder(step), args=ocp.args.Composite(**items))
        except (OSError, ValueError) as error:
            if self._folder(step).is_dir():
                raise
            raise DataError(
                f"{self._folder(step)}: deleted meanwhile, by a run that trains there; call again"
            ) from error


def _until_saved() -> None:
    """Waits for the thread that saves, which Orbax names.

    Python's `Thread.join`, once it was left by an exception, returns at once ever after.
    """
    while any(thread.name == "async_save" for thread in threading.enumerate()):
        time.sleep(0.005)


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except FileNotFoundError:
        return []


def _told(step: int, fault: str) -> str:
    return f"the checkpoint of step {step} is damaged ({fault})"


def _reason(error: BaseException) -> str:
    """What went wrong on the disk, in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error)
    line = next(iter(text.strip().splitlines()), type(error).__name__)
    return next((words for words in _DISK_ERRORS if words in text), line[:200])


def _first_decides(look):
    """What `look()` gives or raises on the first process, on all of them."""
    answer, error = None, None
    if processes.is_first():
        try:
            answer = look()
        except (DataError, OSError) as met:
            error = met
    answer, error = processes.broadcast((answer, error))
    if error is not None:
        raise error
    return answer
