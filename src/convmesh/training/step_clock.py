"""Step time and input wait time, averaged over the last steps."""

import time
from collections import deque

SPEED_OVER_STEPS = 20  # number of steps that the logged speed is averaged over


class StepClock:
    """Seconds per step, and seconds per step spent waiting for the batch."""

    def __init__(self) -> None:
        """Starts the clock."""
        self._done: deque[float] = deque(maxlen=SPEED_OVER_STEPS + 1)
        self._waits: deque[float] = deque(maxlen=SPEED_OVER_STEPS)
        self.restart()

    def restart(self) -> None:
        """Starts a new measurement, after something that was not a step."""
        self._done.clear()
        self._waits.clear()
        self._done.append(time.perf_counter())

    def step_done(self) -> None:
        """Records that a step has completed."""
        self._done.append(time.perf_counter())

    def waited(self, seconds: float) -> None:
        """Records the seconds that a step waited for its batch."""
        self._waits.append(seconds)

    @property
    def steps(self) -> int:
        """The number of steps that `step_seconds` is the mean of."""
        return len(self._done) - 1

    @property
    def step_seconds(self) -> float:
        """Seconds per step; call it after `step_done`."""
        return (self._done[-1] - self._done[0]) / (len(self._done) - 1)

    @property
    def input_wait_seconds(self) -> float:
        """Seconds per step that the loop waited for a batch."""
        return sum(self._waits) / max(1, len(self._waits))
