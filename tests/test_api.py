"""The names that users import, and that importing them costs nothing."""

import inspect
import subprocess
import sys

import pytest

import convmesh

NAMES = ["Classifier", "Detector", "evaluate", "load_config", "simulate_devices", "train"]
HEAVY = ("jax", "numpy", "flax", "cv2", "tensorflow_datasets", "matplotlib", "ml_collections")


@pytest.mark.parametrize("name", NAMES)
def test_the_names_are_there_and_documented(name):
    found = getattr(convmesh, name)
    assert callable(found) and found.__doc__
    assert name in dir(convmesh) and name in convmesh.__all__


def test_there_are_no_others():
    assert sorted(convmesh.__all__) == NAMES
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        convmesh.trian  # noqa: B018


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("load_config", ["path", "overrides"]),
        ("train", ["config", "workdir"]),
        ("evaluate", ["workdir", "split"]),
        ("simulate_devices", ["n"]),
    ],
)
def test_the_parameters_of_the_contract(name, parameters):
    assert list(inspect.signature(getattr(convmesh, name)).parameters)[: len(parameters)] == (
        parameters
    )


@pytest.mark.parametrize("name", ["Detector", "Classifier"])
def test_a_predictor_is_loaded_from_a_workdir(name):
    load = getattr(convmesh, name).load
    assert next(iter(inspect.signature(load).parameters)) == "workdir"
    assert callable(getattr(convmesh, name).__call__)


def test_import_starts_nothing_heavy():
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
