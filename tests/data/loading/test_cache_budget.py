"""How the memory for decoded images is divided."""

import math

import pytest

from convmesh.data.loading import cache_budget
from convmesh.data.loading.cache_budget import Budget, Member
from convmesh.data.loading.kept_records import OwnMemory
from convmesh.data.loading.shared_memory import SharedMemory, offered


def members(count, allowed=1000, wanted="auto", workers=0, offer=None):
    return [Member(i, wanted, "here", allowed, 1 + workers, offer) for i in range(count)]


def test_the_budget_is_one_for_the_processes_of_a_host():
    budget = Budget.of(members(4))
    assert (budget.total, budget.part, budget.decider) == (1000, 250, 0)
    assert budget.left_by([]) == 1000
    # One that cannot open the shared memory takes its own part; the others share what is left.
    assert budget.left_by(budget.members[2:3]) == 750


def test_workers_without_the_shared_memory_have_parts_as_processes_do():
    budget = Budget.of(members(2, workers=4))
    assert (budget.total, budget.part) == (1000, 100)
    assert budget.left_by(budget.members[1:]) == 500


def test_the_least_that_a_process_may_take_counts():
    assert Budget.of(members(1, 900) + members(1, 700)).total == 700


def test_true_takes_whatever_is_there_for_each_cache(monkeypatch):
    monkeypatch.setattr(cache_budget, "physical_memory", lambda: 10**9)
    budget = Budget.of(members(4, allowed=0, wanted="true"))
    assert (budget.total, budget.part, budget.left_by(budget.members[1:])) == (10**9,) * 3
    assert budget.choose([10**12, None], 10**9) == [True, True]


@pytest.mark.parametrize(
    "needed, chosen",
    [
        ([600, 400], [True, True]),
        ([600, 401], [True, False]),
        ([1001, 400], [False, True]),
        ([None, 1000], [False, True]),
        ([1001, 1001], [False, False]),
    ],
)
def test_evaluation_takes_what_training_leaves(needed, chosen):
    assert Budget.of(members(1)).choose(needed, 1000) == chosen


def test_memory_is_shared_only_if_there_is_another_process_or_worker():
    with offered() as offer:
        assert isinstance(Budget.of(members(1, offer=offer)).open(3), OwnMemory)
        for some in (members(2, offer=offer), members(1, workers=1, offer=offer)):
            kept = Budget.of(some).open(3)
            assert isinstance(kept, SharedMemory) and kept.limit == 1000
    # Now it cannot be opened any more.
    kept = Budget.of(members(2, offer=offer)).open(3)
    assert isinstance(kept, OwnMemory) and kept.limit == 500
    assert OwnMemory(3).limit == math.inf
