"""The fault campaign, with each fault a few times, in a process that has not started JAX."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

CAMPAIGN = Path(__file__).parents[2] / "tools" / "faults" / "campaign.py"


@pytest.mark.parametrize(
    "faults",
    [
        "kill=2 damage=8 sigterm=2 no_room=1",
        "second_run=1 nonfinite=1 hostile=15 mismatch=2 store_kill=1 store_damage=2",
        "mesh=2 processes=1",
    ],
)
def test_a_short_campaign_finds_no_failure(faults):
    command = [sys.executable, str(CAMPAIGN), *faults.split(), "--jobs=1", "--seed=5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    for fault in faults.split():
        name, _, n = fault.partition("=")
        n = {"mesh": 4}.get(name, n)  # each of two meshes to each
        assert f"| {name} | {n} | 0 |" in done.stdout


def test_the_confidence_bound_is_that_of_clopper_and_pearson(monkeypatch):
    monkeypatch.syspath_prepend(str(CAMPAIGN.parent))
    from campaign import bound

    assert bound(1000, 0) == pytest.approx(0.00299, abs=1e-5)
    assert bound(10, 1) == pytest.approx(0.3942, abs=1e-4)  # tables of Hahn and Meeker
    assert bound(3, 3) == 1.0


GOOD = "convmesh: error: train.seed: process 0 has 0, process 1 has 1; start every ...\n"


@pytest.mark.parametrize(
    ("statuses", "said", "wrong"),
    [
        ((2, 2), (GOOD, GOOD), ""),
        ((2, 0), (GOOD, GOOD), "process 1 has status 0"),
        ((1, 2), (GOOD, GOOD), "process 0 has status 1"),
        ((2, 2), (GOOD, ""), "process 1 has status 2 and said: $"),
        ((2, 2), (GOOD, GOOD.replace("train.seed", "a key")), r"not named: \['train.seed: '\]"),
        ((2, 2), (GOOD.replace("1", "X"), GOOD), r"not named: \['process 1'\]"),
        ((2, 2), (GOOD, f"Traceback\n{GOOD}"), "process 1 has status 2"),
        ((None, 2), (GOOD, GOOD), "took too long"),
    ],
)
def test_a_mismatch_must_be_refused_by_all_processes(monkeypatch, statuses, said, wrong):
    monkeypatch.syspath_prepend(str(CAMPAIGN.parent))
    import mismatch
    from undisturbed import Failed, Outcome

    killed = []

    def wait(status):
        assert status is not None, "took too long"
        return status

    started = [
        SimpleNamespace(
            started=0.0,
            wait=lambda timeout, status=status: wait(status),
            output=lambda text=text: text,
            kill=lambda: killed.append(1),
        )
        for status, text in zip(statuses, said, strict=True)
    ]
    odd = mismatch.Odd("train.seed=1", ["train.seed: "])
    if wrong:
        with pytest.raises(Failed, match=wrong):
            mismatch._check_refused(started, odd, 1, Outcome())
    else:
        mismatch._check_refused(started, odd, 1, Outcome())
    assert len(killed) == 2
