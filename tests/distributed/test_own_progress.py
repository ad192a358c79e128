"""own_progress: activities are timed, points counted, and bounds follow from what was measured."""

import pytest

from convmesh.distributed import own_progress
from convmesh.distributed.own_progress import Activity, Track


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def least(monkeypatch):
    monkeypatch.setattr(own_progress, "_least_seconds", 5.0)


def steps(track, clock, *seconds):
    """Steps that take so long each, and the beginning of another."""
    for i, taken in enumerate(seconds):
        track.enter(Activity.STEP, i + 1)
        clock.now += taken
    track.enter(Activity.STEP, len(seconds) + 1)


def test_the_first_of_a_kind_is_bounded_by_an_hour(clock, least):
    track = Track(Activity.OUTSIDE, clock)
    assert track.position().bound is None
    steps(track, clock, 1.0, 1.0)
    assert track.position().bound == own_progress.FIRST_SECONDS
    for _ in range(3):
        track.enter(Activity.COMPILE)
        assert track.position().bound == own_progress.FIRST_SECONDS


@pytest.mark.parametrize(
    "seconds, bound",
    [((0.125, 0.125, 0.125), 5.0), ((1.0, 2.0, 3.0), 40.0), ((1.0, 1.0, 1.0, 30.0), 60.0)],
)
def test_later_ones_by_the_median_and_by_the_longest(clock, least, seconds, bound):
    track = Track(Activity.OUTSIDE, clock)
    steps(track, clock, *seconds)
    clock.now += bound
    assert track.position().bound == bound
    assert not track.position().overdue
    clock.now += 0.1
    assert track.position().overdue
    assert track.position().longest == max(seconds)


def test_a_bound_of_0_is_none(clock, monkeypatch):
    monkeypatch.setattr(own_progress, "_least_seconds", 5.0)
    own_progress.set_least(0)
    track = Track(Activity.OUTSIDE, clock)
    steps(track, clock, 1.0, 1.0, 1.0)
    clock.now += 1e6
    assert not track.position().overdue


def test_an_activity_within_another_has_its_own_time(clock, least):
    track = Track(Activity.OUTSIDE, clock)
    steps(track, clock, 1.0, 1.0, 1.0)
    clock.now += 50
    with track.during(Activity.SAVE, 3):
        clock.now += 7
        position = track.position()
        assert (position.what, position.step, position.seconds) == ("saving", 3, 7.0)
    position = track.position()
    assert (position.what, position.step, position.seconds) == ("a training step", 4, 50.0)
    assert position.longest == 1.0  # neither the 50 nor the 7 seconds
    track.enter(Activity.SAVE)
    assert track.position().bound == 140.0


def test_points_are_counted(clock):
    track = Track(Activity.OUTSIDE, clock)
    track.enter(Activity.STEP, 1)
    track.arrive()
    with track.during(Activity.SAVE):
        pass
    assert track.position().arrivals == 4


def test_a_suspended_process_is_forgiven(clock, least):
    track = Track(Activity.OUTSIDE, clock)
    steps(track, clock, 1.0, 1.0, 1.0)
    clock.now += 1000
    track.forgive()
    assert track.position().seconds == 0.0
