"""The shortest time of a step: arithmetic, memory and communication at the devices' peak rates."""

import dataclasses
import math

import numpy as np
from jax.sharding import Mesh

from convmesh.mesh import AXES
from convmesh.plan.topology import Topology
from convmesh.programs.accelerators import Chip
from convmesh.programs.collectives import CollectiveTotal
from convmesh.steps.setup import Setup

# Of a collective, from its start to its end: one hop between neighbours, or through a network.
LINK_LATENCY, NETWORK_LATENCY = 1e-6, 10e-6

ASSUMPTIONS = """\
arithmetic: FLOPs at the peak rate; memory: each fusion's operands and results once; whichever takes
longer. Communication: rings at the rate of one axis of links (two links of a TPU's torus; all of
them where a group is the whole slice), and of the network between hosts of GPUs, plus 1 us a hop
(10 us through the network); only what the compiled program overlaps is hidden. A real step takes
longer: few convolutions reach the peak."""


@dataclasses.dataclass(frozen=True)
class StepSeconds:
    """Seconds of one step. total: the longer of arithmetic and memory, and what is sent beside
    them: `communication` that is not overlapped, and `overlapped` as far as it is longer.
    """

    arithmetic: float
    memory: float
    communication: float
    overlapped: float
    total: float

    @property
    def efficiency(self) -> float:
        """The speed of a device here beside that of one that sends nothing."""
        return max(self.arithmetic, self.memory) / self.total


def step_seconds(
    setup: Setup,
    topology: Topology,
    flops: float,
    traffic: int,
    collectives: list[CollectiveTotal],
) -> StepSeconds | None:
    """The roofline of a step: FLOPs and bytes of one device. None for simulated devices."""
    chip = topology.chip
    rate = getattr(chip, setup.precision, 0) if chip else 0
    if chip is None or not rate:
        return None
    arithmetic, memory = flops / rate, traffic / chip.bandwidth
    sent = overlapped = 0.0
    sizes = {axis: setup.mesh.shape[axis] for axis in AXES}
    for each in collectives:
        crosses = topology.hosts > 1 and crosses_hosts(setup.mesh, each.axes)
        seconds = collective_seconds(each, sizes, chip, crosses)
        hidden = seconds * each.overlapped / each.bytes if each.bytes else 0.0
        sent, overlapped = sent + seconds - hidden, overlapped + hidden
    work = max(arithmetic, memory)
    return StepSeconds(arithmetic, memory, sent, overlapped, max(work, overlapped) + sent)


def crosses_hosts(mesh: Mesh, axes: tuple[str, ...]) -> bool:
    """Whether devices along these axes are of several hosts."""
    places = [mesh.axis_names.index(axis) for axis in axes]
    devices = np.moveaxis(mesh.devices, places, range(-len(places), 0))
    hosts = np.vectorize(lambda device: device.process_index)(devices)
    groups = hosts.reshape(-1, math.prod(mesh.shape[axis] for axis in axes))
    return bool(np.ptp(groups, axis=1).any())


def collective_seconds(
    total: CollectiveTotal, sizes: dict[str, int], chip: Chip, crosses: bool
) -> float:
    """Seconds of all collectives of one kind and axes, one after another.

    crosses: whether the members of a group are on several hosts, which a network connects.
    """
    devices = 1
    for axis in total.axes:
        devices *= sizes.get(axis, 1)
    if devices == 1:
        return 0.0
    rate, latency = _link(devices, sizes, chip, crosses)
    share = (devices - 1) / devices
    sent = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(total.kind, share)
    hops = {"all-reduce": 2 * (devices - 1), "collective-permute": 1}.get(total.kind, devices - 1)
    # Large rings are trees, or rings of rings: their latency grows with the root of their size.
    hops = min(hops, 4 * int(devices**0.5))
    return total.bytes * sent / rate + total.count * hops * latency


def _link(devices: int, sizes: dict[str, int], chip: Chip, crosses: bool) -> tuple[float, float]:
    """Bytes/s and seconds of latency between the members of a group of `devices`."""
    everyone = sizes["data"] * sizes["spatial"] * sizes["model"]
    if crosses:
        return chip.network or chip.link, NETWORK_LATENCY
    if chip.links > 1:
        return chip.link * (chip.links if devices == everyone else 2), LINK_LATENCY
    return chip.link, LINK_LATENCY
