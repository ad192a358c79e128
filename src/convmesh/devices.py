"""What is particular to one platform: simulated CPU devices, and how XLA is to compile for it."""

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

from convmesh.errors import ConfigError

_COUNT_FLAG = "--xla_force_host_platform_device_count"

# On CPUs XLA drops `optimization_barrier` before it fuses, and then computes activations anew while
# it transposes them for the kernels' gradients, in an order that suits no cache: a ResNet-50 step
# takes 9.7 s without this, 6.7 s with it (2 cores, batch 16, 224 px).
#
# On GPUs collectives are moved so that they run beside arithmetic (NVIDIA's own JAX images set it).
# TPUs: nothing that XLA does not do by itself was shown to help, so nothing is set.
_COMPILER_OPTIONS: dict[str, dict[str, str | bool]] = {
    "cpu": {"xla_disable_hlo_passes": "cse_barrier_expander"},
    "gpu": {"xla_gpu_enable_latency_hiding_scheduler": True},
}


def compiler_options(platform: str) -> dict[str, str | bool]:
    """What `jax.jit` is told to compile a train step with for `platform` ("cpu", "gpu", "tpu").

    Without those that the environment's XLA_FLAGS sets, to whatever value.
    """
    given = {flag.partition("=")[0] for flag in os.environ.get("XLA_FLAGS", "").split()}
    options = _COMPILER_OPTIONS.get(platform, {})
    return {name: value for name, value in options.items() if f"--{name}" not in given}


@functools.cache
def cpu_flags() -> frozenset[str]:
    """What this CPU can do, as Linux names it ("avx2", "avx512f", ...); empty where it is not told.

    Of a machine with several CPUs, the first's.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    told = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(told.partition(":")[2].split())


def simulate_devices(n: int) -> None:
    """Makes JAX see `n` CPU devices in this process, and no others. Call it before JAX does work.

    Raises ConfigError if `n` is not at least 1, or if JAX has already started with other devices.
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ConfigError(f"simulated devices: got {n!r}, wanted an integer, at least 1")
    jax = sys.modules.get("jax")
    if jax is not None:
        # An imported JAX has read its environment; JAX itself says if it has started as well.
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
    os.environ["XLA_FLAGS"] = " ".join([*flags, f"{_COUNT_FLAG}={n}"])
    os.environ["JAX_PLATFORMS"] = "cpu"
    # Where it is set, JAX takes it before the flag.
    os.environ.pop("JAX_NUM_CPU_DEVICES", None)
    global _simulated
    _simulated = n
    _keep_freed_memory()


# Numbers from malloc.h.
_ARENA_MAX, _MAX_MAPS, _TRIM_THRESHOLD, _TOP_PAD = -8, -4, -1, -2
_ARENA_BYTES = 2**26  # what an arena of glibc, other than its first, holds in one piece
_simulated = 0  # devices whose use has not begun


def _keep_freed_memory() -> None:
    """Makes glibc keep what is freed, for the next step, instead of giving it to the system.

    Each step allocates its temporaries anew; mapped and cleared by the system every time, they took
    a quarter of the demo's CPU time. Elsewhere than on glibc this does nothing.
    """
    _mallopt((_MAX_MAPS, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, 2**26))  # -1: never


def expect_temporaries(total_bytes: Callable[[], float]) -> None:
    """Is told what steps will allocate on all simulated devices, before the first of them is used.

    Temporaries of one device stand in one piece. Where that is larger than an arena, it would be
    mapped anew every step (570,000 page faults in a step of a ResNet-50, which then takes 1.2 to
    1.6 times as long), but in the first arena, so that one is made the only one. Its price, why it
    is not always so: threads wait for each other, a third of compiling and a fifth of a small step.
    """
    global _simulated
    devices, _simulated = _simulated, 0  # later, threads have their arenas
    if devices and total_bytes() / devices > _ARENA_BYTES:
        _mallopt((_ARENA_MAX, 1))


def _mallopt(*options: tuple[int, int]) -> None:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for option in options:
        mallopt(*option)


def platform() -> str:
    """The platform of JAX's devices, "cpu", "gpu" or "tpu"; JAX need not have started."""
    import jax

    return "cpu" if jax.config.values["jax_platforms"] == "cpu" else jax.default_backend()
