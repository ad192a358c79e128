"""How much memory is free, with the limits of containers and jobs."""

import pytest

from convmesh.data.loading import host_memory

V1, V2 = "/sys/fs/cgroup/memory", "/sys/fs/cgroup"


@pytest.fixture
def files(monkeypatch):
    """The files of the system: {path: lines}. 8,000 kB are free, and there are no limits."""
    found = {"/proc/meminfo": ["MemTotal: 99 kB", "MemAvailable:   8000 kB"]}
    monkeypatch.setattr(host_memory, "_lines", lambda path: found.get(path, []))
    return found


def limit(files, folder, most, used, version=2, remembered=None):
    names = {2: ("max", "current"), 1: ("limit_in_bytes", "usage_in_bytes")}[version]
    for name, value in zip(names, (most, used), strict=True):
        files[f"{folder}/memory.{name}"] = [str(value)]
    if remembered is not None:
        key = {2: "inactive_file", 1: "total_inactive_file"}[version]
        files[f"{folder}/memory.stat"] = ["anon 5", f"{key} {remembered}", "slab 7"]


def test_without_a_limit_it_is_what_the_system_says(files):
    assert host_memory.free_memory() == 8000 * 1024
    limit(files, V2, "max", 500)
    limit(files, V1, 9223372036854771712, 2000, version=1)
    assert host_memory.free_memory() == 8000 * 1024
    files.clear()
    assert host_memory.free_memory() == 0


@pytest.mark.parametrize("version, folder", [(2, V2), (1, V1)])
def test_a_container_may_have_less(files, version, folder):
    limit(files, folder, 1500, 500, version)
    assert host_memory.free_memory() == 1000
    limit(files, folder, 400, 500, version)
    assert host_memory.free_memory() == 0


@pytest.mark.parametrize(
    "version, folder, line",
    [(2, V2, "0::/slurm/job_7/step_0"), (1, V1, "4:cpu,memory:/slurm/job_7/step_0")],
)
def test_so_may_a_job_and_the_smallest_of_the_limits_around_it_counts(files, version, folder, line):
    files["/proc/self/cgroup"] = ["1:name=systemd:/else", line]
    limit(files, f"{folder}/slurm/job_7/step_0", 5000, 500, version)
    assert host_memory.free_memory() == 4500
    limit(files, f"{folder}/slurm", 3000, 1000, version)
    assert host_memory.free_memory() == 2000
    limit(files, f"{folder}/else", 10, 0, version)
    assert host_memory.free_memory() == 2000


@pytest.mark.parametrize("version, folder", [(2, V2), (1, V1)])
def test_contents_of_files_that_are_merely_remembered_are_free(files, version, folder):
    limit(files, folder, 1500, 1400, version, remembered=1000)
    assert host_memory.free_memory() == 1100


def test_a_host_has_more_memory_than_is_free():
    assert host_memory.physical_memory() > host_memory.free_memory()
