"""cores: the smallest of what the machine, the affinity, the container and Slurm allow."""

import os

import pytest

from convmesh.distributed import cores


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """16 cores, all of them in the affinity, no container and no Slurm."""
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setattr(cores, "_CGROUP", tmp_path)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    return tmp_path


def test_all_of_a_machine(machine):
    assert cores.usable_cores() == 16


def test_the_affinity(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5})
    assert cores.usable_cores() == 2


@pytest.mark.parametrize(
    "text, wanted",
    [("400000 100000", 4), ("150000 100000", 2), ("1000 100000", 1), ("max 100000", 16), ("", 16)],
)
def test_the_quota_of_a_container(machine, text, wanted):
    (machine / "cpu.max").write_text(text)
    assert cores.usable_cores() == wanted


@pytest.mark.parametrize("quota, wanted", [("300000", 3), ("-1", 16)])
def test_the_quota_of_an_older_container(machine, quota, wanted):
    (machine / "cpu").mkdir()
    (machine / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (machine / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert cores.usable_cores() == wanted


@pytest.mark.parametrize("share, wanted", [("6", 6), ("0", 16), ("many", 16)])
def test_the_share_of_slurm(machine, monkeypatch, share, wanted):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", share)
    assert cores.usable_cores() == wanted
