"""The public names of the package, which are imported lazily."""

import inspect
import subprocess
import sys

import pytest

import convmesh

NAMES = ["Classifier", "Detector", "evaluate", "load_config", "simulate_devices", "train"]
HEAVY = ("jax", "numpy", "flax", "cv2", "tensorflow_datasets", "matplotlib", "ml_collections")


@pytest.mark.parametrize("name", NAMES)
def test_each_public_name_is_callable_and_documented(name):
    found = getattr(convmesh, name)
    assert callable(found) and found.__doc__
    assert name in dir(convmesh) and name in convmesh.__all__


def test_there_are_no_other_public_names():
    assert sorted(convmesh.__all__) == NAMES
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        convmesh.trian  # noqa: B018


def test_a_public_name_is_that_of_its_module():
    from convmesh.config import load_config
    from convmesh.training.loop import train

    assert convmesh.load_config is load_config and convmesh.train is train


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("load_config", ["path", "overrides"]),
        ("train", ["config", "workdir"]),
        ("evaluate", ["workdir", "split"]),
        ("simulate_devices", ["n"]),
    ],
)
def test_the_first_parameters_are_the_documented_ones(name, parameters):
    assert list(inspect.signature(getattr(convmesh, name)).parameters)[: len(parameters)] == (
        parameters
    )


@pytest.mark.parametrize("name", ["Detector", "Classifier"])
def test_a_predictor_loads_a_workdir_and_is_callable(name):
    load = getattr(convmesh, name).load
    assert next(iter(inspect.signature(load).parameters)) == "workdir"
    assert callable(getattr(convmesh, name).__call__)


def test_import_convmesh_imports_nothing_heavy():
    code = (
        "import sys, convmesh\n"
        f"print(*[name for name in {HEAVY} if name in sys.modules])\n"
        "convmesh.simulate_devices(3)\n"
        "print('jax' in sys.modules)\n"
        "import jax\n"
        "print(jax.device_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["", "False", "3"]
