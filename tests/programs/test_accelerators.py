"""accelerators: what JAX calls a device is found in the table."""

import re

import pytest

from convmesh.programs.accelerators import CHIPS, peak


@pytest.mark.parametrize(
    "device_kind, precision, expected",
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
        ("NVIDIA H100 PCIe", "bfloat16", 756e12),
        ("NVIDIA A100-SXM4-40GB", "float32", 19.5e12),
        ("NVIDIA L40", "bfloat16", 181e12),  # not an L4
        ("TPU v5 lite", "bfloat16", 197e12),
        ("TPU v5", "bfloat16", 459e12),
        ("TPU v4", "float32", 275e12 / 6),  # in six passes
        ("TPU v4 lite", "bfloat16", None),
        ("NVIDIA H100 NVL", "bfloat16", 835e12),
        ("NVIDIA B200", "bfloat16", 2250e12),
        ("NVIDIA A10", "float32", 31.2e12),
        ("NVIDIA A10G", "bfloat16", 70e12),
        ("NVIDIA A40", "bfloat16", 149.7e12),
        ("NVIDIA L40S", "bfloat16", 362e12),
        ("NVIDIA GeForce RTX 4090", "float32", 82.6e12),
        ("AMD Instinct MI300X", "bfloat16", 1307e12),
        ("TPU7x", "bfloat16", 1153e12),
        ("TPU v5e", "bfloat16", 197e12),
        ("NVIDIA H200", "float32", 67e12),
        ("NVIDIA H100 PCIe", "float32", 51e12),
        ("NVIDIA L4", "float32", 30.3e12),
        ("Tesla V100-SXM2-16GB", "float32", 15.7e12),
        ("Tesla V100-SXM2-16GB", "bfloat16", None),
        ("Tesla T4", "float32", 8.1e12),
        ("TPU v5p", "bfloat16", 459e12),
        ("TPU v6 lite", "bfloat16", 918e12),
        ("cpu", "float32", None),
    ],
)
def test_peaks(device_kind, precision, expected):
    assert peak(device_kind, precision) == expected


def test_every_chip_has_a_rate_and_a_bandwidth_and_a_name_of_its_own():
    assert len({chip.name for chip in CHIPS}) == len(CHIPS)
    for chip in CHIPS:
        re.compile(chip.kind)
        assert chip.float32 > 1e12 and chip.bandwidth > 1e11, chip
        assert chip.bfloat16 == 0 or chip.bfloat16 > chip.float32, chip
