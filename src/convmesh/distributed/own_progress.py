"""How far this process has come, and how long what it does now may take.

All processes run the same program, so they pass the same points in the same order: steps, batches
of an evaluation, waits for each other. `Track.arrivals` counts them; the process with the fewest is
the one that the others wait for.
"""

from __future__ import annotations

import enum
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

LEAST_SECONDS = 300.0  # no activity is called hung before, see `set_least`
# An activity may take so many times the median of its kind in this run, and the longest of them.
TIMES_THE_MEDIAN, TIMES_THE_LONGEST = 20, 2
FIRST_SECONDS = 3600.0  # the first of a kind, to which no other can be compared
_LEAST_MEASURED = 3  # of a kind, before they bound the next
_ALWAYS_FIRST = sys.maxsize  # those that are bounded as the first of their kind
_KEPT = 101  # durations of a kind, for the median

_least_seconds = LEAST_SECONDS


class Activity(enum.Enum):
    """What a process does, as a message names it, and after how many it is bounded by them."""

    IDLE = "idle", 0  # never bounded
    OUTSIDE = "before or after training", 0  # never bounded: at the start, --start-timeout is
    START = "starting", _ALWAYS_FIRST
    COMPILE = "compiling", _ALWAYS_FIRST  # the first may have been found in the cache
    HOOK = "a hook", _ALWAYS_FIRST  # those of other steps may do much less
    STEP = "a training step", _LEAST_MEASURED
    EVALUATE = "a batch of an evaluation", _LEAST_MEASURED
    SCORE = "the metrics of an evaluation", 1
    SAVE = "saving", 1
    END = "ending", _ALWAYS_FIRST

    def __init__(self, what: str, least_measured: int):
        self.what, self.least_measured = what, least_measured


@dataclass(frozen=True)
class Position:
    """Where a process is: published to the others.

    Attributes:
      arrivals: the number of points that it has passed.
      what, step: its activity, and the step of that.
      seconds: how long it has been at it.
      longest: seconds of the longest of its kind before, 0 for none.
      bound: seconds after which it is overdue; None for never.
    """

    arrivals: int
    what: str
    step: int
    seconds: float
    longest: float
    bound: float | None

    @property
    def overdue(self) -> bool:
        """Whether the activity has taken longer than its bound."""
        return self.bound is not None and self.seconds > self.bound


class Track:
    """The activities of one thread of work, one after the other. Any thread may read it."""

    def __init__(
        self, activity: Activity = Activity.IDLE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begins with `activity`; `clock` returns seconds."""
        self._clock, self._lock = clock, threading.Lock()
        self._activity, self._step, self._arrivals, self._since = activity, 0, 0, clock()
        self._longest: dict[Activity, float] = {}
        self._latest: dict[Activity, deque[float]] = {}

    def enter(self, activity: Activity, step: int | None = None) -> None:
        """Passes a point: ends the current activity, whose time counts, and begins another."""
        with self._lock:
            now, ended = self._clock(), self._activity
            taken = now - self._since
            self._longest[ended] = max(self._longest.get(ended, 0.0), taken)
            self._latest.setdefault(ended, deque(maxlen=_KEPT)).append(taken)
            self._begin(activity, step, now)

    def _begin(self, activity: Activity, step: int | None, now: float) -> None:
        self._activity, self._since = activity, now
        self._step = self._step if step is None else step
        self._arrivals += 1

    @contextmanager
    def during(self, activity: Activity, step: int | None = None) -> Iterator[None]:
        """An activity within another, whose time does not go on meanwhile."""
        with self._lock:
            before, elapsed = (self._activity, self._step), self._clock() - self._since
            self._begin(activity, step, self._clock())
        try:
            yield
        finally:
            self.enter(*before)
            with self._lock:
                self._since -= elapsed

    def arrive(self) -> None:
        """Passes a point within an activity: begins to wait for all other processes."""
        with self._lock:
            self._arrivals += 1

    def forgive(self) -> None:
        """Restarts the time of the current activity, as after this process was suspended."""
        with self._lock:
            self._since = self._clock()

    def position(self) -> Position:
        """Where this process is now."""
        with self._lock:
            activity, longest = self._activity, self._longest.get(self._activity, 0.0)
            seconds, arrivals, step = self._clock() - self._since, self._arrivals, self._step
            latest = list(self._latest.get(activity, ()))
        bound = None
        if activity.least_measured and _least_seconds:
            expected = FIRST_SECONDS
            if len(latest) >= activity.least_measured:
                median = statistics.median(latest)
                expected = max(TIMES_THE_MEDIAN * median, TIMES_THE_LONGEST * longest)
            bound = max(_least_seconds, expected)
        return Position(arrivals, activity.what, step, seconds, longest, bound)


MAIN = Track(Activity.OUTSIDE)  # the main thread: steps, evaluations, and the copying part of saves
SAVING = Track()  # the thread that writes a checkpoint


def set_least(seconds: float) -> None:
    """Sets how long any activity may take at least; 0: as long as it likes."""
    global _least_seconds
    _least_seconds = float(seconds)
