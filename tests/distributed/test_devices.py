"""Simulated devices, memory allocation and compiler options."""

import json
import os
import subprocess
import sys

import jax
import pytest
from runs import CONFIGS

from convmesh.distributed import devices
from convmesh.distributed.devices import compiler_options, simulate_devices
from convmesh.errors import ConfigError


def run_python(code, **env):
    """Runs code in a fresh Python; returns the JSON that it prints last."""
    clean = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=clean | env, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_simulated_devices_in_a_fresh_process():
    code = """
import json, os
import convmesh
from convmesh.errors import ConfigError
if {imported}: import jax
convmesh.simulate_devices(3)
import jax
found = [jax.device_count(), jax.config.jax_platforms, os.environ["XLA_FLAGS"]]
convmesh.simulate_devices(3)
try:
    convmesh.simulate_devices(5)
except ConfigError as error:
    found.append(str(error))
print(json.dumps(found))
"""
    flags = "--xla_force_host_platform_device_count=7 --xla_cpu_multi_thread_eigen=false"
    for imported in (False, True):
        count, platforms, now, message = run_python(
            code.format(imported=imported), XLA_FLAGS=flags, JAX_NUM_CPU_DEVICES="6"
        )
        assert (count, platforms) == (3, "cpu")
        assert now == (
            "--xla_cpu_multi_thread_eigen=false "
            "--xla_cpu_collective_call_terminate_timeout_seconds=300 "
            "--xla_force_host_platform_device_count=3"
        )
        assert message.startswith("cannot simulate 5 devices: JAX has already started with 3 (cpu)")


@pytest.mark.parametrize("batch_size, one_arena", [(8, False), (64, True)])
def test_large_temporaries_get_a_single_arena_before_jax_starts(batch_size, one_arena):
    code = f"""
import json
import convmesh
from convmesh.distributed import devices
from convmesh.steps import setup
calls = []
def mallopt(*options):
    from jax._src import xla_bridge
    calls.append([options, xla_bridge.backends_are_initialized()])
devices._mallopt = mallopt
convmesh.simulate_devices(2)
config = convmesh.load_config("{CONFIGS}/demo.py", ["--config.train.batch_size={batch_size}"])
setup.make_run_mesh(config)
setup.make_run_mesh(config)
print(json.dumps(calls))
"""
    calls = run_python(code)
    assert [started for _, started in calls] == [False] * len(calls)
    assert len(calls) == 1 + one_arena
    assert not one_arena or calls[1][0] == [[-8, 1]]


@pytest.mark.parametrize("n", [0, -1, 2.5, True, "4"])
def test_a_wrong_number_of_simulated_devices_is_refused(n):
    with pytest.raises(ConfigError, match="wanted an integer, at least 1"):
        simulate_devices(n)


def test_xla_flags_of_the_environment_override_compiler_options(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_other=1")
    assert compiler_options("gpu") == {"xla_gpu_enable_latency_hiding_scheduler": True}
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_latency_hiding_scheduler=false --xla_x=1")
    assert compiler_options("gpu") == {}
    assert compiler_options("cpu") and compiler_options("tpu") == {}


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_xla_accepts_every_compiler_option(platform, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS")
    f = jax.jit(lambda x: x + 1, compiler_options=compiler_options(platform))
    assert f(1) == 2


@pytest.mark.parametrize("title", ["flags", "Features"])  # of x86 and of ARM
def test_instruction_sets_are_those_of_the_first_cpu(monkeypatch, title):
    text = f"processor : 0\n{title}\t: fma avx2\nbogomips: 1\n{title} : other\n"
    monkeypatch.setattr(devices.Path, "read_text", lambda self: text)
    assert devices.cpu_flags.__wrapped__() == {"fma", "avx2"}
