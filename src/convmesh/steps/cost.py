"""The FLOPs of a training step, and its time at the devices' peak FLOP/s."""

from convmesh.programs.accelerators import peak
from convmesh.programs.flops import flops
from convmesh.steps.forward import forward_jaxpr, training_forward
from convmesh.steps.setup import Setup


def step_flops(setup: Setup) -> float:
    """FLOPs of a training step on the global batch: three times those of the forward pass.

    The usual count: only convolutions and matrix products, a multiply-add as two, taps on padding
    included; the backward pass has two products for each one of the forward pass. Recomputation
    by `model.remat` is not counted.
    """
    config = setup.config
    image_size = tuple(config.data.image_size)
    forward = training_forward(setup.model, config.train.batch_size, image_size)
    return 3.0 * flops(forward_jaxpr(forward))


def ideal_seconds(setup: Setup) -> float | None:
    """Seconds per step at the devices' peak FLOP/s; None if the peak is not known.

    MFU (model FLOPs utilisation) is this divided by the measured seconds.
    """
    device_peak = peak(setup.mesh.devices.flat[0].device_kind, setup.precision)
    return step_flops(setup) / (device_peak * setup.mesh.size) if device_peak else None
