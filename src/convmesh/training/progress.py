"""Progress of a run: a bar on a terminal, plain lines in a log file or a notebook."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from convmesh.distributed import console, processes

SECONDS_BETWEEN_LINES = 10.0  # in a log file or a notebook
SECONDS_BETWEEN_DRAWS = 0.1  # of the bar on a terminal


class Progress:
    """The progress bar and the log lines of one run; silent on all processes but the first.

    A context manager. Not thread-safe.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int,
        batch_size: int,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Shows nothing yet.

        total_steps: the step at which the run ends. start_step: steps already done. batch_size:
        global batch size, for the remaining time. stream: standard error by default. clock:
        returns seconds.
        """
        self.total_steps, self.start_step, self.batch_size = total_steps, start_step, batch_size
        self._stream = sys.stderr if stream is None else stream
        self._silent = not processes.is_first()
        self._clock = clock
        self._last_shown = -math.inf
        self._bar: Any = None
        self._on_terminal = not self._silent and _is_terminal(self._stream)

    def show(
        self, step: int, loss: float | None = None, images_per_second: float | None = None
    ) -> None:
        """Shows the step: on the bar, or as a line every SECONDS_BETWEEN_LINES.

        Cheap enough to call at every step; the last step is always shown.
        """
        if self._silent:
            return
        now = self._clock()
        pause = SECONDS_BETWEEN_DRAWS if self._on_terminal else SECONDS_BETWEEN_LINES
        if step < self.total_steps and now - self._last_shown < pause:
            return
        self._last_shown = now

        parts = [] if loss is None else [f"loss {float(loss):#.4g}"]
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
        except OSError:  # the terminal was closed; the run continues
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

    def log(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._silent:
            return
        if self._bar is None:
            self._print(text)
            return
        with contextlib.suppress(OSError):
            self._bar.clear()
            self._print(text)
            self._bar.refresh()

    def close(self) -> None:
        """Ends the bar. May be called again."""
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.close()
            self._bar = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _print(self, text: str) -> None:
        console.print_line(text, self._stream)


def duration(seconds: float) -> str:
    """`4:10`, or `2:04:10` from one hour on."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _is_terminal(stream: TextIO) -> bool:
    """Whether a bar can be drawn there; some terminals report a width of 0 columns."""
    if os.environ.get("TERM") == "dumb" or not getattr(stream, "isatty", lambda: False)():
        return False
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except OSError:  # a stream object without a file descriptor
        return True
