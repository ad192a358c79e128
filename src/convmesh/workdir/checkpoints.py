"""Checkpoints: everything that a run needs to resume, restored onto any mesh.

The folder of a step holds three items: `model` (parameters, batch statistics and their running
average: all that prediction reads), `training` (step, optimiser state, counters) and `meta` (data
position, config, class names); and the SHA-256 of each of their files. Orbax writes it to a
temporary folder; then the checksums are added, everything is fsynced, and the folder is renamed.
So a checkpoint is complete or absent. Each restore verifies the checksums first.

The file system must rename atomically and keep fsynced data, as local disks do, and NFS for one
client. Object stores have no rename and are not supported.
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
from typing import Any, Self, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.path import atomicity

from convmesh.distributed import processes
from convmesh.errors import ConfigError, DataError, RunError
from convmesh.workdir import atomic_files, checksums
from convmesh.workdir.layout import CHECKPOINTS

MODEL = ("params", "batch_stats", "ema")  # of the fields of a train state; the rest is `training`
# A dataclass of arrays with these fields and `step`, as `convmesh.steps.state.TrainState`.
State = TypeVar("State", bound=Any)

# The phases of a save, in order. `at_phase` is called as each is reached: tests crash there.
PHASES = ("copied", "written", "checksummed", "committed", "pruning", "pruned")
at_phase: Callable[[str], None] = lambda phase: None  # noqa: E731

_DISK_ERRORS = tuple(  # the system's texts, which C++ libraries put into longer messages
    os.strerror(number)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.ENOENT)
)

_DAMAGED, _DELETED = ".damaged", ".deleted"  # suffixes of a step's folder


def _model(state: Any) -> dict[str, Any]:
    """The fields that prediction reads."""
    return {name: getattr(state, name) for name in MODEL}


def _training(state: Any) -> dict[str, Any]:
    """All other fields."""
    names = [field.name for field in dataclasses.fields(state) if field.name not in MODEL]
    return {name: getattr(state, name) for name in names}


def _copied(tree: Any) -> Any:
    """`tree` with each fully replicated array replaced by a copy on the host.

    Orbax would split those into a slice per device, array by array: on two CPU devices that takes
    three times as long as writing.
    """
    leaves, treedef = jax.tree.flatten(tree)
    replicated = [leaf for leaf in leaves if leaf.is_fully_replicated]
    # Copied, since on CPUs `device_get` returns the array's own memory, which is donated soon.
    copies = iter([np.array(leaf) for leaf in jax.device_get(replicated)])
    return jax.tree.unflatten(
        treedef, [next(copies) if leaf.is_fully_replicated else leaf for leaf in leaves]
    )


class _CheckpointFolder(atomicity.AtomicRenameTemporaryPath):
    """The temporary folder of a checkpoint; checksums are added before it is renamed."""

    committed: Callable[[], None]  # called after the rename

    async def finalize(self) -> None:
        """Commits the checkpoint, in the saving thread of process 0."""
        at_phase("written")
        self._checkpoint_metadata_store.wait_until_finished()
        checksums.write_checksums(Path(self._tmp_path))
        at_phase("checksummed")
        os.rename(self._tmp_path, self._final_path)
        atomic_files.sync_folder(self._final_path.parent)
        at_phase("committed")
        self.committed()


class Checkpoints:
    """The checkpoints in WORKDIR/checkpoints; a context manager. Saving is asynchronous."""

    def __init__(
        self,
        workdir: str | os.PathLike[str],
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
        self.workdir = Path(workdir)
        self.scores: dict[int, float] = {}
        for step, score in (scores or {}).items():
            self.note_score(step, score)
        self._keep, self._read_only, self._log, self._guard = keep, read_only, log, guard
        self._directory = self.workdir.absolute() / CHECKPOINTS
        self._saving: int | None = None
        self._last: int | None = None  # saved or restored; the same on all processes
        # Orbax also logs each error that it raises, with its traceback.
        self._logged = logging.getLogger("absl").level
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self._checkpointer = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(
                model=ocp.StandardCheckpointHandler(),
                training=ocp.StandardCheckpointHandler(),
                meta=ocp.JsonCheckpointHandler(),
            ),
            temporary_path_class=type(
                "CheckpointFolder", (_CheckpointFolder,), {"committed": lambda path: self._prune()}
            ),
        )
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
        self._guard()
        self._saving = self._last = step
        items = ocp.args.Composite(
            model=ocp.args.StandardSave(_copied(_model(state))),
            training=ocp.args.StandardSave(_copied(_training(state))),
            meta=ocp.args.JsonSave(dict(meta)),
        )
        at_phase("copied")
        try:
            self._checkpointer.save(self._folder(step), args=items)
        except (OSError, RuntimeError, ValueError) as error:
            raise self._not_written(error) from error

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
        self._saving = None

    def close(self) -> None:
        """Waits for the current save. Raises as `check`."""
        try:
            self.wait()
        finally:
            _wait_for_saving_thread()  # also if a signal has interrupted the wait
            self._checkpointer.close()
            logging.getLogger("absl").setLevel(self._logged)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()
        if kind is None and not self._read_only and processes.is_first():
            self._prune()

    def _not_written(self, error: Exception) -> RunError:
        step, self._saving, self._last = self._saving, None, None
        newest = ""
        with contextlib.suppress(OSError):
            if processes.is_first():
                self._remove_leftovers()  # they may have filled the disk
            steps = self.steps()
            newest = f"the newest is of step {steps[-1]}; " if steps else "there is none yet; "
        return RunError(
            f"{self._directory}: checkpoint of step {step} could not be written: {_reason(error)}; "
            f"{newest}fix that and run again to resume"
        )

    def _prune(self) -> None:
        """Deletes the steps that are not kept, after a newer one is complete."""
        at_phase("pruning")
        steps = self.steps()
        kept = {*steps[-self._keep :], self._best(steps)}
        for step in steps:
            if step not in kept:
                # Renamed first: a half-deleted step would look like a damaged one.
                deleted = self._folder(step).with_name(f"{step}{_DELETED}")
                try:
                    os.rename(self._folder(step), deleted)
                except OSError as error:
                    self._log(f"{self._folder(step)}: cannot be deleted: {error.strerror}")
                    break
                shutil.rmtree(deleted, ignore_errors=True)
        at_phase("pruned")

    def _remove_leftovers(self) -> None:
        """Removes folders that a crash has left half written or half deleted."""
        for path in _entries(self._directory):
            if path.name.endswith(_DELETED) or atomicity.TMP_DIR_SUFFIX in path.name:
                shutil.rmtree(path, ignore_errors=True)

    # Restoring.

    def steps(self) -> Sequence[int]:
        """The saved steps in ascending order, intact or damaged."""
        return sorted(int(path.name) for path in _entries(self._directory) if path.name.isdecimal())

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
        damaged = []
        for step in reversed(self.steps()):
            if not (fault := checksums.verify_checksums(self._folder(step))):
                break
            damaged.append((step, fault))
        else:
            if damaged:
                raise DataError(
                    f"{self._directory}: every checkpoint is damaged "
                    f"({_damage(*damaged[0])}); use a new --workdir, or delete the folder to "
                    "start again"
                )
            return None
        for bad, fault in damaged:
            where = "" if self._read_only else f"; renamed to {self._set_aside(bad)}"
            self._log(f"{_damage(bad, fault)}{where}; step {step} is used instead")
        return step

    def _set_aside(self, step: int) -> Path:
        n, renamed = 1, self._folder(step).with_name(f"{step}{_DAMAGED}")
        while renamed.exists():
            n += 1
            renamed = renamed.with_name(f"{step}{_DAMAGED}-{n}")
        os.rename(self._folder(step), renamed)
        return renamed

    def choose(self, step: int | None = None, best: bool = False, asked: str = "--step") -> int:
        """`step` if given, else the best if `best`, else the newest intact one.

        `asked` is the flag or key that gave the step, for messages. Raises DataError if nothing
        was saved or `step` is damaged, ConfigError if `step` does not exist.
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
                raise DataError(
                    f"{self._directory}: no checkpoint has a score (none was evaluated, or "
                    "checkpoint.best_metric is undefined), so none is the best; leave out --best"
                )
        if step is None:
            return _call_on_first(self._newest)
        return _call_on_first(lambda: self._verified(step, asked))

    def _verified(self, step: int, asked: str) -> int:
        if fault := checksums.verify_checksums(self._folder(step)):
            raise DataError(f"{self._directory}: {_damage(step, fault)}; choose another {asked}")
        return step

    def restore(self, step: int, target: State) -> tuple[State, dict]:
        """The state saved at `step`, with the shardings of the abstract `target`, and its meta.

        `step` comes from `newest` or `choose`, which have verified its files.
        """
        items = self._read(
            step,
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
        """The variables to evaluate, with the shardings of `target`: the EMA if there is one."""
        model = self._read(step, model=ocp.args.StandardRestore(_model(target))).model
        if model["ema"] is not None:
            return model["ema"]
        return {"params": model["params"], "batch_stats": model["batch_stats"]}

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self._checkpointer.restore(self._folder(step), args=ocp.args.Composite(**items))
        except (OSError, ValueError) as error:
            if self._folder(step).is_dir():
                raise
            raise DataError(
                f"{self._folder(step)}: was deleted by a run that is training there; try again"
            ) from error


def _wait_for_saving_thread() -> None:
    """Waits for the saving thread, found by the name that Orbax gives it.

    After `Thread.join` was interrupted by an exception, later calls return immediately.
    """
    while any(thread.name == "async_save" for thread in threading.enumerate()):
        time.sleep(0.005)


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except FileNotFoundError:
        return []


def _damage(step: int, fault: str) -> str:
    return f"the checkpoint of step {step} is damaged ({fault})"


def _reason(error: BaseException) -> str:
    """The reason of a failed write, in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error)
    line = next(iter(text.strip().splitlines()), type(error).__name__)
    return next((reason for reason in _DISK_ERRORS if reason in text), line[:200])


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
