"""What a run tells: `metrics.jsonl` and TensorBoard for later, a bar or plain lines for now.

Numbers go to the files at the step they belong to and never stand there twice: a run that goes on
from step N first drops what an earlier run had written beyond N.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from convmesh import journal
from convmesh.errors import DataError, RunError
from convmesh.journal import Journal
from convmesh.signals import tell

METRICS_FILE = "metrics.jsonl"
SECONDS_BETWEEN_LINES = 10.0  # in a log file or a notebook
SECONDS_BETWEEN_DRAWS = 0.1  # of the bar on a terminal


class Report:
    """The numbers and messages of one training run.

    Used as a context manager, or closed with `close()`. Not for several threads at once.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        total_steps: int,
        start_step: int,
        batch_size: int,
        stream: TextIO | None = None,
        *,
        enabled: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens the files, after dropping what they hold of steps beyond `start_step`.

        Args:
          workdir: where `metrics.jsonl` and the TensorBoard event files stand; made if absent.
          total_steps: the step at which the run ends.
          start_step: steps already done: 0, or that of the checkpoint the run goes on from.
          batch_size: images of one step over all devices; gives the time left.
          stream: for people; standard error where left out.
          enabled: False writes and prints nothing, for every process but the first.
          clock: seconds from any moment.

        Raises:
          DataError: a line of an existing `metrics.jsonl` is no JSON object with a step.
        """
        self.total_steps, self.start_step, self.batch_size = total_steps, start_step, batch_size
        self._workdir = Path(workdir)
        self._stream = sys.stderr if stream is None else stream
        self._enabled = enabled
        self._clock = clock
        self._last_shown = -math.inf
        self._bar: Any = None
        self._events: _EventFile | None = None
        self._journal: Journal | None = None
        self._on_terminal = enabled and _is_terminal(self._stream)
        if enabled:
            self._workdir.mkdir(parents=True, exist_ok=True)
            self._journal = Journal(self._workdir / METRICS_FILE, start_step)

    def log(self, step: int, split: str, numbers: Mapping[str, float]) -> None:
        """Appends the numbers of one step to `metrics.jsonl` and TensorBoard, and flushes both.

        A number that is not finite becomes null in the file; TensorBoard, which cannot show it,
        gets none. There its name is `SPLIT/NAME`.
        """
        if not self._enabled:
            return
        if self._journal is None:
            raise ValueError("the report is closed")
        plain = json_numbers(numbers)
        if "step" in plain or "split" in plain:
            raise ValueError("a number cannot be named 'step' or 'split'")
        self._journal.add([{"step": int(step), "split": split, **plain}])

        known = {f"{split}/{name}": value for name, value in plain.items() if value is not None}
        try:
            if self._events is None:
                self._events = _EventFile(self._workdir, self.start_step)
            self._events.write(int(step), known)
        except OSError as error:
            raise RunError(f"{self._workdir}: TensorBoard's events: {error.strerror}") from error

    def sync(self) -> None:
        """Brings `metrics.jsonl` to the disk, before a checkpoint that is to be no newer."""
        if self._journal is not None:
            self._journal.sync()

    def progress(
        self, step: int, loss: float | None = None, images_per_second: float | None = None
    ) -> None:
        """Shows how far the run is: a bar on a terminal, elsewhere a line at times.

        Cheap enough for every step; the last step is always shown.
        """
        if not self._enabled:
            return
        now = self._clock()
        pause = SECONDS_BETWEEN_DRAWS if self._on_terminal else SECONDS_BETWEEN_LINES
        if step < self.total_steps and now - self._last_shown < pause:
            return
        self._last_shown = now

        parts = [] if loss is None else [f"loss {_short(loss)}"]
        speed = images_per_second or 0.0
        if math.isfinite(speed) and speed > 0:
            parts.append(f"{speed:.0f} images/s" if speed >= 10 else f"{speed:.2g} images/s")
            if step < self.total_steps:
                seconds = (self.total_steps - step) * self.batch_size / speed
                parts.append(f"{duration(seconds)} left")

        if not self._on_terminal:
            self._print("  ".join([f"step {step}/{self.total_steps}", *parts]))
            return
        try:
            self._draw_bar(step, "  ".join(parts))
        except OSError:  # the terminal is gone; the run goes on
            self._bar, self._on_terminal = None, False

    def _draw_bar(self, step: int, text: str) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(
                total=self.total_steps,
                initial=self.start_step,
                file=self._stream,
                dynamic_ncols=True,
                bar_format="step {n_fmt}/{total_fmt} |{bar}| {desc}",
            )
        self._bar.n = step
        self._bar.set_description_str(text, refresh=False)
        self._bar.refresh()

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        if not self._enabled:
            return
        if self._bar is None:
            self._print(text)
            return
        with contextlib.suppress(OSError):
            self._bar.clear()
            self._print(text)
            self._bar.refresh()

    def close(self) -> None:
        """Ends the bar and closes the files. May be called again."""
        # What the disk did not take has been told when it was written.
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.close()
            self._bar = None
        if self._events is not None:
            with contextlib.suppress(OSError):
                self._events.close()
            self._events = None
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def __enter__(self) -> Report:
        """The report itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes, whatever happened."""
        self.close()

    def _print(self, text: str) -> None:
        tell(text, self._stream)


class _EventFile:
    """One TensorBoard event file, complete on disk after each write.

    tensorboardX's SummaryWriter would hand the numbers to a thread through a queue between
    processes, and its `flush` does not wait for them.
    """

    def __init__(self, folder: Path, start_step: int) -> None:
        # Slow to import, and a call that finds its run finished logs nothing.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._event = Event
        # The name holds the second and the host; the step keeps a quick restart's file apart.
        self._writer = EventsWriter(str(folder / "events"), f".{os.getpid()}.from{start_step}")
        # TensorBoard forgets what earlier files of the folder hold from this step on.
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


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, in their order; null reads as None.

    A last line that was only half written, as after a crash, is left out.

    Raises:
      DataError: there is no such file, or another line is no JSON object with a step.
    """
    try:
        return journal.read(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; a training run writes it") from None


def read_scores(workdir, metric: str) -> dict[int, float]:
    """What a run's evaluations found of `metric`, by step; nothing where none was logged."""
    found = read_evaluations(workdir, metric)
    return {step: value for step, value in found.items() if value is not None}


def read_evaluations(workdir, metric: str) -> dict[int, float | None]:
    """As `read_scores`, and None for an evaluation that found no such number."""
    path = Path(workdir) / METRICS_FILE
    rows = read_metrics(path) if path.exists() else []
    return {row["step"]: row.get(metric) for row in rows if not is_of_training(row)}


def is_of_training(row: Mapping[str, Any]) -> bool:
    """Whether a line of `metrics.jsonl` is of a training step, and of no evaluation.

    The split does not tell: the one that judges may be `train` as well.
    """
    return "loss" in row


def json_numbers(numbers: Mapping[str, Any]) -> dict[str, int | float | None]:
    """Numbers of any library as JSON can hold them: whole ones stay whole, NaN becomes None."""
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


def duration(seconds: float) -> str:
    """`4:10`, or `2:04:10` from one hour on."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _is_terminal(stream: TextIO) -> bool:
    """Whether a bar can be drawn there; some terminals say they are 0 columns wide."""
    if os.environ.get("TERM") == "dumb" or not getattr(stream, "isatty", lambda: False)():
        return False
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except OSError:  # a stand-in without a descriptor
        return True


def _short(loss: float) -> str:
    """Four figures: 1.234, 12.34, 0.01234."""
    return f"{float(loss):#.4g}"
