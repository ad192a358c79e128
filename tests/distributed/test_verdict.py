"""verdict: who is lost or hangs, and what is said about it."""

from dataclasses import replace

import pytest

from convmesh.distributed import processes, verdict
from convmesh.distributed.own_progress import Position

BUSY = Position(arrivals=9, what="a training step", step=4, seconds=1.0, longest=0.5, bound=20.0)
LATE = replace(BUSY, seconds=21.0)
IDLE = Position(arrivals=3, what="idle", step=0, seconds=99.0, longest=0.0, bound=None)


def named(group):
    return processes.named(group, {})


def hung(*main, saving=None):
    saving = saving or [IDLE] * len(main)
    return verdict.hung(dict(enumerate(main)), dict(enumerate(saving)), named)


@pytest.mark.parametrize("main", [(BUSY,), (BUSY, LATE), (LATE, LATE, BUSY), (IDLE, LATE)])
def test_nobody_hangs_while_one_may_still_make_progress(main):
    assert hung(*main) is None


def test_the_process_that_the_others_wait_for_is_named():
    found = hung(LATE, replace(LATE, arrivals=7, what="saving", step=3, seconds=140.0), LATE)
    assert (found.status, found.processes) == (77, (1,))
    assert found.message == (
        "process 1 hung: saving (step 3) has taken 140 s, the longest before 0.5 s; run it again "
        "to resume"
    )


def test_what_the_others_do_meanwhile_may_have_a_longer_bound():
    hook = replace(BUSY, arrivals=11, what="a hook", seconds=60.0, bound=3600.0)
    assert hung(hook, LATE).processes == (1,)
    # One that is behind is waited for, even in a hook.
    assert hung(replace(hook, arrivals=8), LATE) is None


def test_if_none_is_behind_all_hang():
    assert hung(LATE, LATE).message.startswith("all 2 processes hung: a training step (step 4)")
    assert hung(LATE).message.startswith("the process hung: ")


def test_a_thread_that_saves_hangs_alone():
    save = Position(arrivals=5, what="saving", step=3, seconds=50.0, longest=0.0, bound=20.0)
    behind = replace(save, arrivals=4)
    assert hung(BUSY, BUSY, saving=[behind, save]).processes == (0,)
    assert hung(BUSY, BUSY, saving=[behind, IDLE]).processes == (0,)
    assert hung(BUSY, BUSY, saving=[behind, replace(save, seconds=3.0)]) is None
    assert hung(LATE, LATE, saving=[replace(save, seconds=3.0), IDLE]) is None  # it is waited for
    assert "the longest" not in hung(BUSY, BUSY, saving=[behind, save]).message


def test_a_silent_process_that_was_overdue_has_hung():
    save = Position(arrivals=5, what="saving", step=3, seconds=50.0, longest=1.5, bound=20.0)
    found = verdict.was_overdue(BUSY, save, 5, named)
    assert (found.status, found.processes) == (77, (0,))
    assert found.message.startswith("process 0 hung: saving (step 3) has taken 50 s, the longest")
    assert verdict.was_overdue(LATE, IDLE, 10, named).message.startswith("process 0 hung: a train")
    waited = verdict.was_overdue(LATE, IDLE, 9, named)
    assert waited.status == 77 and waited.message == (
        "process 0 ended while a training step (step 4) had taken 21 s: it, or one that it waited "
        "for, hung; run it again to resume"
    )
    assert verdict.was_overdue(LATE, replace(save, seconds=3.0), 9, named) is None
    assert verdict.was_overdue(BUSY, IDLE, 9, named) is None


@pytest.mark.parametrize(
    "silent, step, said",
    [
        ([2], 17, "process 2 was lost after step 17: no sign of life for 30 s; run it again"),
        ([1, 3], 0, "processes 1 and 3 were lost: no sign of life for 30 s; run it again"),
    ],
)
def test_lost_processes_are_named(silent, step, said):
    found = verdict.lost(silent, 30.0, step, named)
    assert (found.status, found.processes) == (76, tuple(silent))
    assert found.message.startswith(said)
