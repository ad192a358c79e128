"""Descriptions of NVIDIA GPUs for XLA's compiler, which then needs none.

Sources: the tables of compute capabilities in NVIDIA's CUDA programming guide (threads, registers
and shared memory of a multiprocessor), and the white papers of Ampere, Hopper and Blackwell
(multiprocessors, clock, caches, memory).
"""

import dataclasses

from convmesh.programs.accelerators import CHIPS


@dataclasses.dataclass(frozen=True)
class Target:
    """A GPU as XLA's `gpu_device_info` has it; shared memory and caches in bytes, clock in GHz."""

    title: str
    capability: tuple[int, int]
    multiprocessors: int
    float_units: int  # of a multiprocessor
    clock: float
    shared: int  # of a multiprocessor
    shared_per_block: int  # at most
    cache: int
    memory: int


GPU_TARGETS = {
    "a100": Target(
        "NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 1.41, 167936, 166912, 41943040, 84987740160
    ),
    "h100": Target(
        "NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 1.98, 233472, 232448, 52428800, 84942979072
    ),
    "h200": Target("NVIDIA H200", (9, 0), 132, 128, 1.98, 233472, 232448, 62914560, 150109880320),
    "b200": Target(
        "NVIDIA B200", (10, 0), 148, 128, 1.965, 233472, 232448, 132644864, 191126044672
    ),
}


def target_description(name: str) -> str:
    """The text of the target configuration of a GPU of GPU_TARGETS."""
    target = GPU_TARGETS[name]
    bandwidth = next(chip.bandwidth for chip in CHIPS if chip.name == name)
    major, minor = target.capability
    return f"""gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: {target.shared}
  shared_memory_per_block_optin: {target.shared_per_block}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  core_count: {target.multiprocessors} fpus_per_core: {target.float_units}
  clock_rate_ghz: {target.clock}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth:.0f} l2_cache_size: {target.cache}
  device_memory_size: {target.memory}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{target.title}"
"""
