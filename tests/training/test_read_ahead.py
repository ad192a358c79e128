"""Batches read ahead, and the step at which an error of reading is known."""

import contextlib
import threading
import time

import pytest

from convmesh.distributed import processes
from convmesh.training import read_ahead
from convmesh.training.read_ahead import Placed, ReadAhead, ReadBatch


class Numbers:
    """Batches 1, 2, ...; the one of `broken` cannot be read."""

    def __init__(self, broken=None):
        self.read, self.broken = 0, broken

    def __next__(self):
        if self.read + 1 == self.broken:
            raise OSError("unreadable")
        self.read += 1
        return ReadBatch(self.read, -self.read, f"counts up to {self.read}")


def used(batches, steps, until=99):
    """(batch, counts, how many were read, whether the error is known) of each step."""
    ahead, seen = ReadAhead(batches, steps), []
    for batch, on_mesh, counts in ahead:
        assert on_mesh == -batch
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


class Arrays:
    """Batches 1, 2, ...; reading and placing are events."""

    def __init__(self, broken=None):
        self.read, self.broken, self.counts, self.placed = 0, broken, "", []

    def __next__(self):
        if self.read + 1 == self.broken:
            raise OSError("unreadable")
        self.read += 1
        self.counts = f"counts up to {self.read}"
        return self.read

    def place(self, step, batch):
        self.placed.append((step, batch, threading.current_thread()))
        return f"{batch} on the mesh"


def wait_until(condition):
    """Waits until the condition holds, for 30 s at most."""
    end = time.monotonic() + 30
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def test_batches_are_read_and_placed_in_a_thread_one_before_it_is_used():
    arrays = Arrays()
    with contextlib.closing(Placed(arrays, range(5, 99), arrays.place)) as placed:
        wait_until(lambda: len(arrays.placed) == 1)
        time.sleep(0.05)
        assert arrays.read == 1  # no more wait on the devices
        assert next(placed) == (1, "1 on the mesh", "counts up to 1")
        assert next(placed) == (2, "2 on the mesh", "counts up to 2")
        wait_until(lambda: len(arrays.placed) == 3)
    assert arrays.read == 3
    assert [placed[:2] for placed in arrays.placed] == [(5, 1), (6, 2), (7, 3)]
    assert threading.main_thread() not in {thread for *_, thread in arrays.placed}


def test_no_batch_is_read_beyond_the_last_step():
    arrays = Arrays()
    placed = Placed(arrays, range(1, 3), arrays.place)
    assert [next(placed).batch for _ in range(2)] == [1, 2]
    placed.close()
    assert arrays.read == 2


def test_an_error_takes_the_place_of_its_batch_and_ends_the_thread():
    arrays = Arrays(broken=2)
    placed = Placed(arrays, range(1, 9), arrays.place)
    assert next(placed).batch == 1
    with pytest.raises(OSError, match="unreadable"):
        next(placed)
    wait_until(lambda: not placed._thread.is_alive())
    placed.close()


def test_an_error_of_placing_does_too():
    def full(step, batch):
        raise MemoryError("no room")

    placed = Placed(Arrays(), range(1, 9), full)
    with pytest.raises(MemoryError, match="no room"):
        next(placed)
    placed.close()


@pytest.mark.parametrize("used_before", [0, 1, 2])
def test_closing_ends_the_thread_whatever_it_does(used_before):
    arrays = Arrays()
    placed = Placed(arrays, range(1, 99), arrays.place)
    for _ in range(used_before):
        next(placed)
    placed.close()
    assert not placed._thread.is_alive()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, StopIteration])
def test_whatever_ends_the_reading_reaches_the_loop(error):
    class Ending(Arrays):
        def __next__(self):
            raise error

    placed = Placed(Ending(), range(1, 9), lambda step, batch: batch)
    with pytest.raises(error):
        next(placed)
    placed.close()


def test_a_read_that_hangs_does_not_hold_the_end_of_the_run(monkeypatch):
    monkeypatch.setattr(read_ahead, "CLOSE_SECONDS", 0.1)
    released = threading.Event()

    class Hanging(Arrays):
        def __next__(self):
            released.wait(30)
            return super().__next__()

    arrays = Hanging()
    placed = Placed(arrays, range(1, 9), arrays.place)
    before = time.monotonic()
    placed.close()
    assert time.monotonic() - before < 10
    released.set()
    wait_until(lambda: not placed._thread.is_alive())
