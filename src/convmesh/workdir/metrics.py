"""Writes and reads the metrics of a run: `metrics.jsonl` and TensorBoard event files.

No metric occurs twice for a step: a run that resumes from step N first drops the rows beyond N.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convmesh.errors import DataError, RunError
from convmesh.workdir.json_lines import JsonLines, read_json_lines

Row = dict[str, Any]


class MetricsLog:
    """Appends metrics to `metrics.jsonl` and to TensorBoard; a context manager."""

    def __init__(self, path: Path, start_step: int):
        """Opens the files and drops the rows of steps beyond `start_step`.

        Raises DataError if a line of an existing `metrics.jsonl` is not a JSON object with a step,
        RunError if it cannot be written.
        """
        self._folder, self._start_step = path.parent, start_step
        self._events: _EventFile | None = None
        self._rows: JsonLines | None = JsonLines(path, start_step)

    def log(self, step: int, split: str, numbers: Mapping[str, Any]) -> None:
        """Appends the numbers of one step to both files and flushes them.

        A number that is not finite becomes null in `metrics.jsonl` and is left out of TensorBoard,
        where its name is `SPLIT/NAME`. Raises RunError if writing fails.
        """
        if self._rows is None:
            raise ValueError("the metrics log is closed")
        plain = json_numbers(numbers)
        if "step" in plain or "split" in plain:
            raise ValueError("a metric cannot be named 'step' or 'split'")
        self._rows.add([{"step": int(step), "split": split, **plain}])
        scalars = {f"{split}/{name}": value for name, value in plain.items() if value is not None}
        try:
            if self._events is None:
                self._events = _EventFile(self._folder, self._start_step)
            self._events.write(int(step), scalars)
        except OSError as error:
            raise RunError(
                f"{self._folder}: TensorBoard events cannot be written: {error.strerror}"
            ) from error

    def sync(self) -> None:
        """Flushes `metrics.jsonl` to the disk, so that no checkpoint is newer than its metrics."""
        if self._rows is not None:
            self._rows.sync()

    def close(self) -> None:
        """Closes the files. May be called again."""
        if self._events is not None:
            with contextlib.suppress(OSError):  # a failed write was reported when it happened
                self._events.close()
            self._events = None
        if self._rows is not None:
            self._rows.close()
            self._rows = None

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _EventFile:
    """One TensorBoard event file, complete on disk after each write.

    tensorboardX's SummaryWriter passes the numbers to a thread through a multiprocessing queue, and
    its `flush` does not wait for them.
    """

    def __init__(self, folder: Path, start_step: int) -> None:
        # Imported here because it is slow, and a run that is already finished logs nothing.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._event = Event
        # The name contains the second and the host; the step makes it unique after a quick restart.
        self._writer = EventsWriter(str(folder / "events"), f".{os.getpid()}.from{start_step}")
        # Makes TensorBoard drop the events of earlier files from this step on.
        start = SessionLog(status=SessionLog.START)
        self._writer.write_event(
            Event(step=start_step + 1, wall_time=time.time(), session_log=start)
        )

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        from tensorboardX.summary import scalar

        event = self._event(step=step, wall_time=time.time())
        for tag, value in scalars.items():
            event.summary.value.extend(scalar(tag, value).value)
        self._writer.write_event(event)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def read_metrics(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a `metrics.jsonl`, in order; null reads as None.

    An incomplete last line, as after a crash, is left out. Raises DataError if the file does not
    exist, or another line is not a JSON object with a step.
    """
    try:
        return read_json_lines(path)
    except FileNotFoundError:
        raise DataError(f"{path}: does not exist; a training run writes it") from None


def is_training_row(row: Mapping[str, Any]) -> bool:
    """Whether a row is of a training step; all others are of evaluations.

    The split does not decide: a run may evaluate the split that it trains on.
    """
    return "loss" in row


def training_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows of training steps."""
    return [row for row in rows if is_training_row(row)]


def evaluation_rows(rows: Sequence[Row], split: str | None = None) -> list[Row]:
    """The rows of evaluations, of one split or of all."""
    return [
        row for row in rows if not is_training_row(row) and (split is None or row["split"] == split)
    ]


def json_numbers(numbers: Mapping[str, Any]) -> dict[str, int | float | None]:
    """Numbers of any library as Python numbers: integers stay integers, NaN becomes None."""
    plain: dict[str, int | float | None] = {}
    for name, value in numbers.items():
        if value is None:
            plain[name] = None
            continue
        value = np.asarray(value)
        if value.dtype.kind in "iub":
            plain[name] = int(value)
        else:
            number = float(value)
            plain[name] = number if math.isfinite(number) else None
    return plain
