"""The step that all processes stop after, by reductions over the devices of one process."""

import types

import equality
import numpy as np
import pytest

from convmesh.distributed import processes
from convmesh.training.stop_agreement import StopAgreement


@pytest.fixture
def agreement(monkeypatch):
    """The agreement of one of two processes, which has received nothing, and its signal."""
    monkeypatch.setattr(processes, "count", lambda: 2)
    stop = types.SimpleNamespace(received=None)
    return StopAgreement(stop, equality.make_mesh((2, 2, 2))), stop


def test_a_single_process_stops_at_once():
    stop = types.SimpleNamespace(received=None)
    alone = StopAgreement(stop, mesh=None)
    assert alone.agreed() is False
    stop.received = "SIGTERM"
    assert alone.agreed() is True


def test_several_stop_one_step_after_the_one_that_a_signal_was_dispatched_with(agreement):
    agreement, stop = agreement
    assert [agreement.agreed() for _ in range(3)] == [False, False, False]
    stop.received = "SIGTERM"
    assert [agreement.agreed() for _ in range(2)] == [False, True]
    assert stop.received == "SIGTERM"


def test_a_signal_to_another_process_counts_as_received_here(agreement):
    agreement, stop = agreement
    agreement._any = lambda flag: np.array(True)  # another process's flag
    assert agreement.agreed() is False and stop.received is None
    assert agreement.agreed() is True
    assert stop.received == "a signal to another process"


def test_one_device_of_one_process_suffices(agreement):
    agreement, _ = agreement
    for at in range(8):
        flags = np.arange(8) == at
        assert bool(agreement._any(flags)) is True
    assert bool(agreement._any(np.zeros(8, bool))) is False
