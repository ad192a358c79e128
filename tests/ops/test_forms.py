"""forms: the form of an op is that of the mesh's platform."""

import jax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from convmesh.ops.forms import PLAIN, form, plain_form


def traced_form(mesh, inside=lambda: form()):
    """The form that an op finds inside a traced program on `mesh`."""
    found = []

    def program(x):
        found.append(inside())
        return x

    with use_abstract_mesh(mesh):
        jax.eval_shape(jax.jit(program), 1.0)
    return found[0]


def mesh_of(platform):
    device = AbstractDevice(device_kind="some", num_cores=1, platform=platform)
    return AbstractMesh((2,), ("data",), abstract_device=device)


@pytest.mark.parametrize(
    "platform, wanted",
    [("cpu", "cpu"), ("tpu", "tpu"), ("gpu", "gpu"), ("cuda", "gpu"), ("rocm", "gpu")],
)
def test_the_meshs_platform_is_the_form(platform, wanted):
    assert jax.default_backend() == "cpu"
    assert traced_form(mesh_of(platform)) == wanted


def test_without_a_mesh_it_is_that_of_the_host():
    assert form() == "cpu"


def test_a_program_for_export_has_the_plain_form():
    with plain_form():
        assert form() == PLAIN
        assert traced_form(mesh_of("tpu")) == PLAIN
    assert form() == "cpu"
