"""The folder of a run: the name of every file in it.

    config.json, classes.json     what is trained: the resolved config, the class names
    category_ids.json             the data set's own number of each class, where it has some
    metrics.jsonl, events.*       the metrics of every logged step and evaluation
    evaluated.json                the identity of the evaluated data, and from which step on
    nonfinite.jsonl               steps whose loss or gradient was not finite
    checkpoints/STEP/             see `checkpoints`
    plots/first_batch.png, curves.png
    eval/SPLIT/                   the last evaluation of a split: metrics.json, predictions.json and
                                  .png; of a detector also curves and confusion (.json, .png),
                                  images.json, worst.png, best.png
    profile/                      traces of `--profile`
    weights.txt                   of an import, or of a run that began with `init_from`: what became
                                  of each weight
    .lock                         see `lock`; in an object store a folder, see `store_lock`

Process 0 alone writes, except for checkpoints.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from convmesh.config import to_json
from convmesh.data.documents import read_json
from convmesh.data.stores.object_store import ObjectStore, explained, is_url
from convmesh.distributed import console
from convmesh.errors import ConfigError, DataError, RunError
from convmesh.workdir import atomic_files
from convmesh.workdir.local_copy import LocalCopy
from convmesh.workdir.lock import LOCK, RunLock
from convmesh.workdir.metrics import Row, evaluation_rows, read_metrics, training_rows
from convmesh.workdir.run_files import check_same_model, read_run_config
from convmesh.workdir.step_folders import CHECKPOINTS, newest_meta, saved_steps
from convmesh.workdir.store_lock import StoreLock

WEIGHTS_FILE = "weights.txt"


class Workdir:
    """The files of one run, by name. Nothing is read or created until a method is called."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """`root`: the folder, which need not exist yet; or gs://BUCKET/FOLDER, s3://BUCKET/FOLDER.

        Of an object store the files are read into a local copy now. Raises ConfigError if it cannot
        be read, or for other addresses.
        """
        self.copy = _local_copy(os.fspath(root)) if is_url(os.fspath(root)) else None
        self.root = self.copy.folder if self.copy else Path(os.path.expanduser(root))
        self.config_file = self.root / "config.json"
        self.classes_file = self.root / "classes.json"
        self.category_ids_file = self.root / "category_ids.json"
        self.metrics_file = self.root / "metrics.jsonl"
        self.evaluated_file = self.root / "evaluated.json"
        self.nonfinite_file = self.root / "nonfinite.jsonl"
        self.lock_file = self.root / LOCK
        self.weights_file = self.root / WEIGHTS_FILE
        self.checkpoints_folder = self.root / CHECKPOINTS
        self.profile_folder = self.root / "profile"
        self.first_batch_picture = self.root / "plots" / "first_batch.png"
        self.curves_picture = self.root / "plots" / "curves.png"

    def __str__(self) -> str:
        return self.copy.store.url if self.copy else str(self.root)

    def lock(self) -> RunLock | StoreLock:
        """The lock that a run takes before it writes."""
        return StoreLock(self.copy) if self.copy else RunLock(self.root)

    def publish(self, below: str = "") -> None:
        """Writes what was changed into the object store; on a disk there is nothing to do.

        below: in which folder, with a last /. A store that may only be read is said, and no error.
        Raises RunError.
        """
        if self.copy:
            try:
                self.copy.push(below)
            except PermissionError as error:
                console.print_status(
                    f"{self}: cannot be written ({error.strerror}): not kept there"
                )
            except OSError as error:
                raise explained(f"{self}: cannot be written", error, RunError) from error

    # The config and the classes.

    def has_run(self) -> bool:
        """Whether a run was started here."""
        return self.config_file.exists()

    def has_checkpoints(self) -> bool:
        """Whether there is a checkpoint here, intact or damaged."""
        return bool(saved_steps(self.checkpoints_folder))

    def read_config(self) -> ConfigDict:
        """The config of the run; a key that is missing takes its default, which is printed.

        Raises DataError naming the file if it is damaged, or of another version.
        """
        return read_run_config(self.config_file, newest_meta(self.checkpoints_folder))

    def read_classes(self) -> tuple[str, ...] | None:
        """The class names, index = class id; None if no run was started here."""
        return tuple(read_json(self.classes_file)) if self.classes_file.exists() else None

    def read_run(self) -> tuple[ConfigDict, tuple[str, ...]]:
        """Config and class names.

        Raises ConfigError if there is no run here, DataError if a file is damaged or describes
        another model than the checkpoints hold.
        """
        classes = self.read_classes()
        for file in (self.config_file, self.classes_file):
            if not file.exists():
                raise ConfigError(
                    f"{file}: missing; --workdir must be a folder that `convmesh train` or "
                    "`import-weights` wrote"
                )
        assert classes is not None
        config = self.read_config()
        check_same_model(config, classes, newest_meta(self.checkpoints_folder), self.root)
        return config, classes

    def read_category_ids(self, classes: Sequence[str]) -> tuple[int, ...] | None:
        """The data set's own id of each class, or None. Raises DataError if damaged."""
        path = self.category_ids_file
        if not path.exists():
            return None
        ids = read_json(path)
        integers = isinstance(ids, list) and all(type(number) is int for number in ids)
        if not integers or len(ids) != len(classes):
            raise DataError(
                f"{path}: wanted {len(classes)} integers, one for each class; delete it"
            )
        return tuple(ids)

    def write_run(
        self, config: ConfigDict, classes: Sequence[str], category_ids: Sequence[int] | None = None
    ) -> None:
        """Writes config, classes and category ids; config.json last. Raises RunError."""
        try:
            text = json.dumps(list(classes), indent=1) + "\n"
            atomic_files.write_atomically(self.classes_file, text)
            if category_ids is not None:
                text = json.dumps(list(category_ids)) + "\n"
                atomic_files.write_atomically(self.category_ids_file, text)
            atomic_files.write_atomically(self.config_file, to_json(config))
        except OSError as error:
            raise RunError(f"{self}: cannot be written: {error.strerror or error}") from error

    # Metrics.

    def metrics(self) -> list[Row]:
        """The rows of metrics.jsonl; [] if it does not exist. Raises DataError if damaged."""
        return read_metrics(self.metrics_file) if self.metrics_file.exists() else []

    def training_rows(self) -> list[Row]:
        """The rows of training steps."""
        return training_rows(self.metrics())

    def evaluations(self, metric: str) -> dict[int, float | None]:
        """`metric` of each evaluation, by step; None where it is missing or undefined.

        Without those of other data than the run evaluates now: they cannot be compared.
        """
        rows = evaluation_rows(self.metrics())
        last = self._evaluated()
        if last:
            rows = [r for r in rows if r["step"] > last["after_step"]]
        return {row["step"]: row.get(metric) for row in rows}

    def scores(self, metric: str) -> dict[int, float]:
        """As `evaluations`, without missing values."""
        scores = self.evaluations(metric)
        return {step: value for step, value in scores.items() if value is not None}

    def evaluated_split(self) -> dict[str, Any] | None:
        """The identity of the data that the run evaluates, see `truth_identity`; None if unknown.

        Raises DataError if the file is damaged.
        """
        return self._evaluated().get("identity")

    def _evaluated(self) -> dict[str, Any]:
        if not self.evaluated_file.exists():
            return {}
        found = read_json(self.evaluated_file)
        if not isinstance(found, dict) or not {"identity", "after_step"} <= found.keys():
            raise DataError(f"{self.evaluated_file}: has no identity and after_step; delete it")
        return found

    def note_evaluated_split(self, identity: dict[str, Any], after_step: int) -> None:
        """Records that evaluations after `after_step` are of the data of `identity`.

        Raises RunError.
        """
        content = {"identity": identity, "after_step": after_step}
        try:
            atomic_files.write_atomically(self.evaluated_file, json.dumps(content, indent=1) + "\n")
        except OSError as error:
            raise RunError(f"{self}: cannot be written: {error.strerror or error}") from error

    def is_evaluated(self, step: int, split: str) -> bool:
        """Whether the run has evaluated `split` at `step`."""
        return any(row["step"] == step for row in evaluation_rows(self.metrics(), split))

    def last_evaluation(self, split: str) -> dict[str, Any]:
        """The metrics of the last evaluation of `split`, by name; {} if there was none."""
        rows = evaluation_rows(self.metrics(), split)
        last = rows[-1] if rows else {}
        return {name: value for name, value in last.items() if name not in ("step", "split")}

    def evaluation(self, split: str) -> EvaluationFiles:
        """The files of the last evaluation of `split`."""
        return EvaluationFiles(self.root / "eval" / split)


_copies: dict[tuple[int, str], LocalCopy] = {}  # by process (a fork has its own) and address


def _local_copy(url: str) -> LocalCopy:
    """The local copy of this process, up to date. Raises ConfigError, StoreError."""
    store = ObjectStore(url)
    if len(store.parts) < 2:
        raise ConfigError(f"--workdir {url}: is a bucket; give a folder in it, {url}/NAME")
    try:
        key = os.getpid(), store.url
        copy = _copies.get(key) or LocalCopy(store)
        copy.pull()
    except OSError as error:
        raise explained(f"--workdir {url}", error, ConfigError) from error
    console.shown_as[str(copy.folder)] = store.url
    return _copies.setdefault(key, copy)


class EvaluationFiles:
    """WORKDIR/eval/SPLIT: the files of the last evaluation of a split."""

    def __init__(self, folder: Path) -> None:
        """`folder` is created by `write`."""
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def picture(self, name: str) -> Path:
        """The path of the picture `name`.png."""
        return self.folder / f"{name}.png"

    def write(self, name: str, content: Any, indent: int | None = None) -> None:
        """Writes `content` as `name`.json."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, indent=indent) + ("\n" if indent else "")
        atomic_files.write_atomically(self.folder / f"{name}.json", text)

    def read(self, name: str) -> Any:
        """The content of `name`.json. Raises DataError if it is absent or damaged."""
        return read_json(self.folder / f"{name}.json")
