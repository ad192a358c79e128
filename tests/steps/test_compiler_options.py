"""known_options: options that the compiler at hand does not know are left out."""

import jax
import pytest

from convmesh import mesh as meshes
from convmesh.distributed.devices import compiler_options
from convmesh.steps import compiler_options as module
from convmesh.steps.compiler_options import known_options


@pytest.fixture(autouse=True)
def no_cache():
    known_options.cache_clear()
    yield
    known_options.cache_clear()


def mesh():
    return meshes.make_mesh(2, devices=jax.devices()[:2])


def test_options_of_cpus_are_passed_on():
    assert known_options(mesh()) == compiler_options("cpu") != {}


def test_options_that_the_compiler_does_not_know_are_left_out(monkeypatch):
    known = {"xla_disable_hlo_passes": "cse_barrier_expander"}
    monkeypatch.setattr(meshes, "platform", lambda mesh: "tpu")
    options = {"xla_no_such_option": True, **known}  # the compiler of CPUs refuses the first
    monkeypatch.setattr(module, "compiler_options", lambda platform: options)
    assert known_options(mesh()) == known


def test_another_refusal_is_not_hidden(monkeypatch):
    monkeypatch.setattr(meshes, "platform", lambda mesh: "tpu")
    options = {"xla_backend_optimization_level": "no number"}
    monkeypatch.setattr(module, "compiler_options", lambda platform: options)
    with pytest.raises(jax.errors.JaxRuntimeError, match="no number"):
        known_options(mesh())
