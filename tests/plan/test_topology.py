"""topology: names of devices that are not here, and what is said where there are none."""

import importlib.util
import types

import jax
import pytest
from jax.experimental import topologies

from convmesh.errors import ConfigError
from convmesh.plan import topology
from convmesh.plan.gpu_targets import GPU_TARGETS, target_description
from convmesh.plan.topology import TPUS, open_topology
from convmesh.programs.accelerators import CHIPS


@pytest.fixture
def nothing_installed(monkeypatch):
    """No compiler for accelerators, whatever this machine has."""
    find = importlib.util.find_spec
    hidden = ("libtpu", "nvidia", "jax_cuda12_plugin", "jax_cuda13_plugin")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in hidden else find(name)
    )
    monkeypatch.setattr(topology, "simulate_devices", lambda count: None)


def test_simulated_devices():
    found = open_topology("cpu:8")
    assert list(found.devices) == jax.devices() and found.chip is None and found.hosts == 0


@pytest.mark.parametrize(
    "name",
    ["", "v5e", "v5e:", "8", "x100:8", "v5e:4y4", "cpu:2x2", "h100:2x2", "2xv5e:2x2", "h100:0"],
)
def test_a_name_that_is_none_is_refused(nothing_installed, name):
    with pytest.raises(ConfigError, match=f"--topology {name}: ") as error:
        open_topology(name)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("name", [f"{kind}:2x2" for kind in TPUS])
def test_the_extra_for_tpus_is_named(nothing_installed, name):
    with pytest.raises(ConfigError, match=r"not installed; pip install 'convmesh\[tpu\]'"):
        open_topology(name)


@pytest.mark.parametrize("name", [*(f"{kind}:8" for kind in GPU_TARGETS), "2xh100:8"])
def test_the_extra_for_gpus_is_named(nothing_installed, name):
    with pytest.raises(ConfigError, match=r"not installed; pip install 'convmesh\[plan-cuda\]'"):
        open_topology(name)


def test_every_device_to_compile_for_is_in_the_table_of_accelerators():
    known = {chip.name: chip for chip in CHIPS}
    for name in (*TPUS, *GPU_TARGETS):
        assert known[name].memory and known[name].link, name


def test_the_description_of_a_gpu():
    text = target_description("h200")
    assert 'device_description_str: "NVIDIA H200"' in text
    assert "cuda_compute_capability { major: 9 minor: 0 }" in text
    assert "memory_bandwidth: 4800000000000 " in text
    assert text.count("{") == text.count("}") == 3


def test_ptxas_of_a_wheel_is_put_on_the_path(tmp_path, monkeypatch):
    ptxas = tmp_path / "cuda_nvcc" / "bin" / "ptxas"
    ptxas.parent.mkdir(parents=True)
    ptxas.write_text("")
    monkeypatch.setattr(topology.shutil, "which", lambda name: None)
    spec = importlib.util.spec_from_loader("nvidia", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setenv("PATH", "/bin")
    assert topology._find_ptxas()
    assert topology.os.environ["PATH"] == f"/bin:{ptxas.parent}"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not topology._find_ptxas()


@pytest.mark.parametrize(
    "name, words",
    [
        ("v5e:32x32", "a slice of v5e has at most 256 chips"),
        ("v5e:3x5", "there is no such slice; its first two sides are 1 or even"),
    ],
)
def test_a_slice_that_does_not_exist_is_refused(monkeypatch, name, words):
    def refuse(*_, **options):
        raise ValueError('"v5e:3x5" is not divisible by the given chips_per_host_bounds')

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(topology, "simulate_devices", lambda count: None)
    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    with pytest.raises(ConfigError, match=f"--topology {name}: {words}"):
        open_topology(name)


@pytest.mark.parametrize(
    "name, bounds",
    [
        ("v5e:1x1", [1, 1, 1]),
        ("v6e:2x1", [2, 1, 1]),
        ("v4:1x1x1", [1, 1, 1]),
        ("v5e:2x2", None),
        ("v5p:2x2x1", None),
    ],
)
def test_the_smallest_slices_are_less_than_a_host(monkeypatch, name, bounds):
    asked = {}
    found = types.SimpleNamespace(devices=[])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(topology, "simulate_devices", lambda count: None)
    monkeypatch.setattr(
        topologies, "get_topology_desc", lambda *_, **options: asked.update(options) or found
    )
    open_topology(name)
    assert asked.get("chips_per_host_bounds") == bounds
