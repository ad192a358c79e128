"""What all processes do after a step, by reductions over the devices of one process."""

import equality
import numpy as np
import pytest

from convmesh.distributed import processes
from convmesh.training.step_agreement import StepAgreement

NOTHING = (False, False)


@pytest.fixture
def agreement(monkeypatch):
    """The agreement of one of two processes."""
    monkeypatch.setattr(processes, "count", lambda: 2)
    return StepAgreement(equality.make_mesh((2, 2, 2)))


@pytest.mark.parametrize("wanted", [(False, False), (True, False), (False, True), (True, True)])
def test_a_single_process_does_at_once_what_it_wants(wanted):
    assert StepAgreement(mesh=None).agree(*wanted) == wanted


@pytest.mark.parametrize("wanted", [(True, False), (False, True), (True, True)])
def test_several_do_it_one_step_after_the_one_that_it_was_dispatched_with(agreement, wanted):
    assert [agreement.agree(*NOTHING) for _ in range(3)] == [NOTHING] * 3
    assert [agreement.agree(*wanted), agreement.agree(*NOTHING)] == [NOTHING, wanted]
    assert agreement.agree(*NOTHING) == NOTHING


def test_one_device_of_one_process_suffices(agreement):
    agreement.agree(*NOTHING)
    for at in range(8):
        stop = np.arange(8) == at
        flags = np.stack([stop, np.zeros(8, bool)], axis=1)
        assert np.asarray(agreement._any(flags)).tolist() == [True, False]
        assert np.asarray(agreement._any(flags[:, ::-1])).tolist() == [False, True]
    assert np.asarray(agreement._any(np.zeros((8, 2), bool))).tolist() == [False, False]
