"""The fault campaign, with each fault a few times, in a process that has not started JAX."""

import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parents[2] / "tools" / "faults" / "campaign.py"


@pytest.mark.parametrize(
    "faults",
    [
        "kill=6 damage=30 sigterm=3 no_room=2",
        "second_run=2 nonfinite=3 hostile=60",
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
