"""How much arithmetic a training step is, and how much of it a device could do at most."""

import math
from typing import Any

import jax
from jax.extend import core

from convmesh.setup import Setup

# Dense FLOP/s of one JAX device by a part of its `device_kind`, from the vendors' data sheets:
# bfloat16 with float32 sums, and float32 without TF32. (Devices of TPU v2 and v3 are half a chip.)
PEAKS: dict[str, dict[str, float]] = {
    "H200": {"bfloat16": 989e12, "float32": 67e12},
    "H100 PCIe": {"bfloat16": 756e12, "float32": 51e12},
    "H100": {"bfloat16": 989e12, "float32": 67e12},
    "A100": {"bfloat16": 312e12, "float32": 19.5e12},
    "V100": {"float32": 15.7e12},
    "L4": {"bfloat16": 121e12, "float32": 30.3e12},
    "T4": {"float32": 8.1e12},
    "TPU v2": {"bfloat16": 22.5e12},
    "TPU v3": {"bfloat16": 61.5e12},
    "TPU v4": {"bfloat16": 275e12},
    "TPU v5 lite": {"bfloat16": 197e12},
    "TPU v5e": {"bfloat16": 197e12},
    "TPU v5p": {"bfloat16": 459e12},
    "TPU v5": {"bfloat16": 459e12},
    "TPU v6": {"bfloat16": 918e12},
}


def peak(device_kind: str, precision: str) -> float | None:
    """FLOP/s of one device of that kind in that precision; None where it is not known."""
    words = device_kind.replace("-", " ") + " "
    kind = next((kind for kind in PEAKS if f"{kind} " in words), None)
    return PEAKS[kind].get(precision) if kind else None


def step_flops(setup: Setup) -> float:
    """FLOPs of a training step of the whole batch: three times the forward pass's.

    The usual count: of convolutions and products alone, a multiplication and an addition each, taps
    on padding included; the backward pass is two such products for each of the forward pass. What
    `model.remat` computes again is left out.
    """
    config = setup.config
    shape = (config.train.batch_size, *config.data.image_size, 3)
    images = jax.ShapeDtypeStruct(shape, setup.model.dtype)

    def forward(images):
        return setup.model.init_with_output(jax.random.key(0), images, train=True)[0]

    return 3.0 * flops(jax.make_jaxpr(forward)(images).jaxpr)


def flops(jaxpr: core.Jaxpr) -> float:
    """FLOPs of the convolutions and products of a program (a loop's body is counted once)."""
    total = 0.0
    for equation in jaxpr.eqns:
        shapes: list[Any] = [variable.aval for variable in (*equation.invars, *equation.outvars)]
        if equation.primitive.name == "conv_general_dilated":
            kernel = shapes[1].shape
            out_channels = equation.params["dimension_numbers"].rhs_spec[0]
            taps = math.prod(kernel) / kernel[out_channels]
            total += 2.0 * shapes[-1].size * taps
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = shapes[0].shape
            length = math.prod(left[axis] for axis in contracted)
            total += 2.0 * shapes[-1].size * length
        else:
            total += sum(flops(inner) for inner in core.jaxprs_in_params(equation.params))
    return total


def ideal_seconds(setup: Setup) -> float | None:
    """What a step would take at its devices' peak, None where that is not known.

    MFU, the utilisation of the devices, is this by the seconds that the step took.
    """
    devices = setup.mesh.devices.flat
    most = peak(devices[0].device_kind, setup.config.precision)
    return step_flops(setup) / (most * setup.mesh.size) if most else None
