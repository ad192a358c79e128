"""Platform settings: simulated CPU devices, memory allocation and XLA's compiler options."""

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from convmesh.errors import ConfigError

_COUNT_FLAG = "--xla_force_host_platform_device_count"
# XLA aborts the process when a simulated device has waited a minute for another in a collective,
# which can happen on an overloaded machine. Here it may wait this much longer.
_PATIENCE_FLAG, _PATIENCE_SECONDS = "--xla_cpu_collective_call_terminate_timeout_seconds", 300

# CPU: XLA drops `optimization_barrier` before it fuses, and then recomputes activations while it
# transposes them for the kernels' gradients, with poor cache locality: a ResNet-50 step takes 9.7 s
# without this option, 6.7 s with it (2 cores, batch 16, 224 px).
#
# GPU: collectives are scheduled to overlap with arithmetic (NVIDIA's JAX images set the same flag).
# TPU: no option was shown to improve on XLA's defaults (docs/accelerators.md), so none is set.
_COMPILER_OPTIONS: dict[str, dict[str, str | bool]] = {
    "cpu": {"xla_disable_hlo_passes": "cse_barrier_expander"},
    "gpu": {"xla_gpu_enable_latency_hiding_scheduler": True},
}


def compiler_options(platform: str) -> dict[str, str | bool]:
    """Compiler options of a train step on `platform` ("cpu", "gpu", "tpu"), for `jax.jit`.

    Options that XLA_FLAGS sets in the environment are left out.
    """
    set_by_user = {flag.partition("=")[0] for flag in os.environ.get("XLA_FLAGS", "").split()}
    options = _COMPILER_OPTIONS.get(platform, {})
    return {name: value for name, value in options.items() if f"--{name}" not in set_by_user}


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Instruction sets of this CPU in Linux's names ("avx2", "avx512f", ...); empty if unknown.

    On a machine with several CPUs, those of the first one.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(flags.partition(":")[2].split())


def simulate_devices(n: int) -> None:
    """Makes JAX use `n` simulated CPU devices in this process. Call it before JAX starts.

    Raises ConfigError if `n` is not an integer of at least 1, or if JAX has already started with
    other devices.
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ConfigError(f"simulated devices: got {n!r}, wanted an integer, at least 1")
    jax = sys.modules.get("jax")
    if jax is not None:
        # An imported JAX has read its environment already; it raises if it has started as well.
        try:
            jax.config.update("jax_num_cpu_devices", n)
        except RuntimeError:
            if jax.default_backend() == "cpu" and jax.local_device_count() == n:
                return
            raise ConfigError(
                f"cannot simulate {n} devices: JAX has already started with "
                f"{jax.local_device_count()} ({jax.default_backend()}); "
                "call simulate_devices first, in a fresh process"
            ) from None
        jax.config.update("jax_platforms", "cpu")
    flags = os.environ.get("XLA_FLAGS", "").split()
    flags = [flag for flag in flags if flag.partition("=")[0] != _COUNT_FLAG]
    if _PATIENCE_FLAG not in (flag.partition("=")[0] for flag in flags):
        flags.append(f"{_PATIENCE_FLAG}={_PATIENCE_SECONDS}")
    os.environ["XLA_FLAGS"] = " ".join([*flags, f"{_COUNT_FLAG}={n}"])
    os.environ["JAX_PLATFORMS"] = "cpu"
    # It would take precedence over the flag.
    os.environ.pop("JAX_NUM_CPU_DEVICES", None)
    global _simulated, _simulated_in_all
    _simulated = _simulated_in_all = n
    _keep_freed_memory()


def simulated_devices() -> int:
    """The devices that `simulate_devices` has set for this process; 0 if it was not called."""
    return _simulated_in_all


# Numbers from malloc.h.
_ARENA_MAX, _MAX_MAPS, _TRIM_THRESHOLD, _TOP_PAD = -8, -4, -1, -2
_ARENA_BYTES = 2**26  # what an arena of glibc, other than its first, holds in one piece
_simulated = 0  # simulated devices whose allocator is not chosen yet
_simulated_in_all = 0  # simulated devices of this process


def _keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next step instead of returning it to the system.

    Each step allocates its temporaries again; mapping and clearing them every time took a quarter
    of the demo's CPU time. Does nothing without glibc.
    """
    _mallopt((_MAX_MAPS, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, 2**26))  # -1: never


def expect_temporaries(total_bytes: Callable[[], float]) -> None:
    """Chooses the allocator for steps that allocate `total_bytes()` on all simulated devices.

    Call it before the first device is used. The temporaries of one device are one block. A block
    larger than an arena would be mapped again in every step (570,000 page faults in a step of a
    ResNet-50, which then takes 1.2 to 1.6 times as long), except in glibc's first arena, so only
    that one is used then. With smaller blocks it is not, because threads would wait for each other,
    which costs a third of compile time and a fifth of a small step.
    """
    global _simulated
    devices, _simulated = _simulated, 0  # once threads have arenas of their own it is too late
    if devices and total_bytes() / devices > _ARENA_BYTES:
        _mallopt((_ARENA_MAX, 1))


def _mallopt(*options: tuple[int, int]) -> None:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for option in options:
        mallopt(*option)


def has_bfloat16(device: Any) -> bool:
    """Whether a device computes fast in bfloat16: TPUs, and NVIDIA's GPUs from Ampere on (compute
    capability 8.0) and AMD's of the Instinct series.
    """
    if device.platform == "tpu":
        return True
    if device.platform not in ("gpu", "cuda", "rocm"):
        return False
    capability = str(getattr(device, "compute_capability", ""))
    major = capability.partition(".")[0]
    return not major.isdecimal() or int(major) >= 8


def platform() -> str:
    """The platform of JAX's devices, "cpu", "gpu" or "tpu"; JAX need not have started."""
    import jax

    return "cpu" if jax.config.values["jax_platforms"] == "cpu" else jax.default_backend()
