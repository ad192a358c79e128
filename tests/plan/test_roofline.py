"""roofline: seconds by hand."""

import types

import numpy as np
import pytest

from convmesh.plan.roofline import collective_seconds, crosses_hosts, step_seconds
from convmesh.plan.topology import Topology
from convmesh.programs.accelerators import Chip
from convmesh.programs.collectives import CollectiveTotal

GPU = Chip("gpu", "gpu", 100.0, 10.0, 50.0, link=4e9, network=1e9)
TPU = Chip("tpu", "tpu", 100.0, 10.0, 50.0, link=1e9, links=4)


def sizes(data=1, spatial=1, model=1):
    return {"data": data, "spatial": spatial, "model": model}


def seconds(kind, axes, count, size, mesh, chip=GPU, crosses=False):
    total = CollectiveTotal(kind, axes, count, int(size))
    return collective_seconds(total, mesh, chip, crosses)


def test_a_ring_sends_the_payload_twice_for_a_sum():
    # 8 GB at 4 GB/s: 3/4 of it twice, and six hops of a microsecond.
    assert seconds("all-reduce", ("data",), 1, 8e9, sizes(4)) == pytest.approx(3 + 6e-6)
    assert seconds("all-gather", ("data",), 1, 8e9, sizes(4)) == pytest.approx(1.5 + 3e-6)
    assert seconds("collective-permute", ("data",), 5, 8e9, sizes(4)) == pytest.approx(2 + 5e-6)
    assert seconds("all-reduce", ("data",), 1, 8e9, sizes(1, 4)) == 0


def test_between_hosts_the_network_counts():
    inside = seconds("all-gather", ("model",), 1, 8e9, sizes(2, 1, 4))
    assert inside == pytest.approx(1.5 + 3e-6)
    across = seconds("all-gather", ("data", "model"), 1, 8e9, sizes(2, 1, 4), crosses=True)
    assert across == pytest.approx(8 * 7 / 8 + 7e-5)


def test_a_group_crosses_hosts_where_its_members_are_on_several():
    hosts = np.array([types.SimpleNamespace(process_index=i // 8) for i in range(16)])

    def crosses(shape, *axes):
        names = ("data", "spatial", "model")
        mesh = types.SimpleNamespace(
            devices=hosts.reshape(shape),
            axis_names=names,
            shape=dict(zip(names, shape, strict=True)),
        )
        return crosses_hosts(mesh, axes)

    assert crosses((2, 1, 8), "data") and crosses((2, 8, 1), "data") and crosses((16, 1, 1), "data")
    assert not crosses((2, 1, 8), "model") and not crosses((4, 2, 2), "spatial", "model")
    assert crosses((2, 1, 8), "data", "model")


def test_a_group_of_the_whole_slice_uses_all_links_of_a_tpu():
    part = seconds("all-gather", ("data",), 1, 8e9, sizes(4, 2), TPU)
    assert part == pytest.approx(6 / 2 + 3e-6)  # two of its links, of 1 GB/s
    whole = seconds("all-gather", ("data", "spatial"), 1, 8e9, sizes(4, 2), TPU)
    assert whole == pytest.approx(7 / 4 + 7e-6)


def step(precision="bfloat16", chip=GPU, **collective):
    found = [CollectiveTotal("all-gather", ("data",), 0, 8 * 10**9, **collective)]
    setup = types.SimpleNamespace(precision=precision, mesh=types.SimpleNamespace(shape=sizes(4)))
    return step_seconds(setup, Topology("", [], chip, 1), 400.0, 100, found)


def test_a_step_takes_the_longer_of_arithmetic_and_memory_and_what_is_sent():
    found = step()
    assert (found.arithmetic, found.memory, found.communication) == (4, 2, 1.5)
    assert found.total == 5.5 and found.efficiency == pytest.approx(4 / 5.5)
    assert step("float32").arithmetic == 40


def test_what_is_overlapped_is_hidden():
    found = step(overlapped=4 * 10**9)
    assert (found.communication, found.overlapped, found.total) == (0.75, 0.75, 4.75)


def test_nothing_is_said_of_devices_without_known_rates():
    assert step(chip=None) is None
    assert step("float64") is None
