"""Tells when a run saves by the clock: `checkpoint.every_minutes` after its last checkpoint."""

import time
from collections.abc import Callable


class SaveTimer:
    """Counts from `restart`, which each save calls."""

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`minutes` between two checkpoints, 0 for none by the clock; `clock` returns seconds."""
        self._seconds, self._clock = 60 * minutes, clock
        self.restart()

    def restart(self) -> None:
        """Counts from now on."""
        self._since, self._told = self._clock(), False

    def is_due(self) -> bool:
        """Whether a save is due: True once, until `restart`.

        With several processes the save follows a step later; it must not be asked for twice.
        """
        due = 0 < self._seconds <= self._clock() - self._since and not self._told
        self._told = self._told or due
        return due
