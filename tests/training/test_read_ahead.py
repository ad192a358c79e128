"""Batches read ahead, and the step at which an error of reading is known."""

import types

import pytest

from convmesh.distributed import processes
from convmesh.training.read_ahead import ReadAhead


class Numbers:
    """Batches 1, 2, ...; the one of `broken` cannot be read."""

    def __init__(self, broken=None):
        self.read, self.broken, self.counts = 0, broken, types.SimpleNamespace()

    def __next__(self):
        if self.read + 1 == self.broken:
            raise OSError("unreadable")
        self.read += 1
        self.counts = f"counts up to {self.read}"
        return self.read


def used(batches, steps, until=99):
    """(batch, counts, how many were read, whether the error is known) of each step."""
    ahead, seen = ReadAhead(batches, steps), []
    for batch, counts in ahead:
        seen.append((batch, counts, batches.read, ahead.error is not None))
        if batch == until:
            break
    return seen


def test_alone_one_batch_is_read_ahead_and_none_beyond_the_last_step():
    assert used(Numbers(broken=5), 4) == [
        (1, "counts up to 1", 2, False),
        (2, "counts up to 2", 3, False),
        (3, "counts up to 3", 4, False),
        (4, "counts up to 4", 4, False),
    ]


def test_alone_an_error_is_known_in_the_step_before_it():
    batches = Numbers(broken=4)
    assert [known for *_, known in used(batches, 9, until=3)] == [False, False, True]
    with pytest.raises(OSError):  # if that step does not end the run
        used(Numbers(broken=4), 9)


def test_of_several_processes_two_steps_before_it(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    assert [known for *_, known in used(Numbers(broken=5), 9, until=4)] == [False] * 2 + [True] * 2


@pytest.mark.parametrize("count, broken", [(1, 1), (2, 1), (2, 2)])
def test_too_early_an_error_ends_the_run_before_its_first_step(monkeypatch, count, broken):
    monkeypatch.setattr(processes, "count", lambda: count)
    with pytest.raises(OSError):
        next(iter(ReadAhead(Numbers(broken), 9)))


@pytest.mark.parametrize("count, broken", [(1, 2), (2, 3)])
def test_a_step_later_it_does_not(monkeypatch, count, broken):
    monkeypatch.setattr(processes, "count", lambda: count)
    assert next(iter(ReadAhead(Numbers(broken), 9))).batch == 1
