"""The speed that is logged, by a clock made up."""

import types

import pytest

from convmesh.training import step_clock
from convmesh.training.step_clock import SPEED_OVER_STEPS, StepClock


@pytest.fixture
def at(monkeypatch):
    """`at(seconds)` sets the time."""
    now = [0.0]
    monkeypatch.setattr(step_clock, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    return lambda seconds: now.__setitem__(0, seconds)


def done_at(clock, at, *times):
    for seconds in times:
        at(seconds)
        clock.step_done()


def test_the_mean_since_the_start(at):
    clock = StepClock()
    done_at(clock, at, 6.0)
    assert clock.step_seconds == 6.0
    done_at(clock, at, 7.0, 9.0)
    assert clock.step_seconds == 3.0


def test_only_the_last_steps_count(at):
    clock = StepClock()
    done_at(clock, at, 1000.0, *(1000.0 + 2 * i for i in range(1, SPEED_OVER_STEPS + 1)))
    assert clock.step_seconds == 2.0


def test_what_was_before_a_restart_does_not_count(at):
    clock = StepClock()
    done_at(clock, at, 5.0, 10.0)
    clock.waited(4.0)
    at(100.0)
    clock.restart()
    assert clock.input_wait_seconds == 0.0
    done_at(clock, at, 101.0, 103.0)
    assert clock.step_seconds == 1.5


def test_the_mean_wait_of_the_last_steps():
    clock = StepClock()
    for seconds in (100.0, *[0.25, 0.75] * (SPEED_OVER_STEPS // 2)):
        clock.waited(seconds)
    assert clock.input_wait_seconds == 0.5
