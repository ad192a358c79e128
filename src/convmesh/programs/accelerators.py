"""Peak rates and memory of accelerators, as their makers publish them.

Sources: for TPUs the pages "System architecture" of Google Cloud's documentation
(docs.cloud.google.com/tpu/docs/v4, v5e, v5p, v6e, tpu7x), for NVIDIA's and AMD's GPUs the data
sheet of each product. Rates are dense, without sparsity. `memory` of TPUs is what libtpu 0.0.42
says is available when a program is too large (v2 to TPU7x without v3: read off); of GPUs what the
driver reports, not read off by us. Rates of TPU v5p, v6e and TPU7x were compared with those pages
on 2026-11-29, the others not again.
"""

import dataclasses
import re
from typing import Any

GIB = 2**30
# bfloat16 passes of a float32 product at the highest precision, which TPUs have no unit for.
PASSES = 6


@dataclasses.dataclass(frozen=True)
class Chip:
    """One JAX device of a kind.

    Attributes:
      name: short, as in the names of topologies.
      kind: a regular expression found in JAX's `device_kind`.
      bfloat16, float32: peak FLOP/s of matrix products; 0 where there is no such unit.
      bandwidth: of its memory, bytes/s.
      memory: bytes that a program can use; 0 if unknown.
      link: bytes/s that it sends to neighbours in its slice or host, over `links` links in all.
      network: bytes/s that it sends to other hosts, or slices.
    """

    name: str
    kind: str
    bfloat16: float
    float32: float
    bandwidth: float
    memory: float = 0
    link: float = 0
    links: int = 1
    network: float = 0


def _tpu(name: str, kind: str, flops: float, bandwidth: float, memory: float, **links: Any) -> Chip:
    return Chip(name, kind, flops, flops / PASSES, bandwidth, memory * GIB, **links)


# The first whose `kind` is found is taken, so the more special ones stand first.
CHIPS = (
    # Devices of TPU v2, v3 and TPU7x are half a chip.
    _tpu("v2", r"TPU v2", 22.5e12, 0.35e12, 7.48, link=62e9, links=2),
    _tpu("v3", r"TPU v3", 61.5e12, 0.45e12, 15.48, link=82e9, links=2),
    _tpu("v4", r"TPU v4(?! lite)", 275e12, 1.228e12, 30.75, link=50e9, links=6, network=3e9),
    _tpu("v5e", r"TPU v5 ?(lite|e)", 197e12, 0.819e12, 15.75, link=50e9, links=4, network=3e9),
    _tpu("v5p", r"TPU v5", 459e12, 2.765e12, 95.74, link=100e9, links=6, network=6e9),
    _tpu("v6e", r"TPU v6", 918e12, 1.638e12, 31.25, link=100e9, links=4, network=12e9),
    _tpu("tpu7x", r"TPU ?7x", 1153e12, 3.69e12, 94.75, link=100e9, links=3, network=6e9),
    Chip("b300", r"B300", 2250e12, 75e12, 8e12, 268 * GIB, 900e9, network=100e9),
    Chip("b200", r"B200", 2250e12, 75e12, 7.7e12, 178 * GIB, 900e9, network=50e9),
    Chip("h200", r"H200", 989e12, 67e12, 4.8e12, 139.8 * GIB, 450e9, network=50e9),
    Chip("h100-nvl", r"H100 NVL", 835e12, 60e12, 3.9e12, 93.6 * GIB, 300e9),
    Chip("h100-pcie", r"H100 PCIe", 756e12, 51e12, 2.0e12, 79.6 * GIB, 64e9),
    Chip("h100", r"H100", 989e12, 67e12, 3.35e12, 79.1 * GIB, 450e9, network=50e9),
    Chip("a100-40gb", r"A100.*40GB", 312e12, 19.5e12, 1.555e12, 39.4 * GIB, 300e9, network=25e9),
    Chip("a100", r"A100", 312e12, 19.5e12, 2.039e12, 79.2 * GIB, 300e9, network=25e9),
    Chip("a10g", r"A10G", 70e12, 31.2e12, 0.6e12),
    Chip("a10", r"A10(?!\d)", 125e12, 31.2e12, 0.6e12),
    Chip("a30", r"A30", 165e12, 10.3e12, 0.933e12),
    Chip("a40", r"(?<!L)A40", 149.7e12, 37.4e12, 0.696e12),
    Chip("l40s", r"L40S", 362e12, 91.6e12, 0.864e12),
    Chip("l40", r"L40", 181e12, 90.5e12, 0.864e12),
    Chip("l4", r"L4(?!\d)", 121e12, 30.3e12, 0.3e12),
    Chip("v100", r"V100", 0, 15.7e12, 0.9e12, link=150e9),
    Chip("t4", r"T4(?!\d)", 0, 8.1e12, 0.32e12),
    Chip("rtx-5090", r"RTX 5090", 209.5e12, 104.8e12, 1.792e12),
    Chip("rtx-4090", r"RTX 4090", 165.2e12, 82.6e12, 1.008e12),
    Chip("rtx-3090", r"RTX 3090", 71e12, 35.6e12, 0.936e12),
    Chip("mi300x", r"MI300X", 1307e12, 163.4e12, 5.3e12, 191 * GIB, 448e9),
    # A device of an MI250X is one of its two dies.
    Chip("mi250x", r"MI250X", 191.5e12, 23.9e12, 1.6e12, 63 * GIB, 200e9),
)


def chip_of(device_kind: str) -> Chip | None:
    """The chip that JAX calls `device_kind`; None if it is not known."""
    return next((chip for chip in CHIPS if re.search(rf"\b{chip.kind}", device_kind)), None)


def peak(device_kind: str, precision: str) -> float | None:
    """Peak FLOP/s of a device by its JAX `device_kind` and dtype; None if it is not known."""
    chip = chip_of(device_kind.replace("-", " "))
    return (getattr(chip, precision, 0) or None) if chip else None
