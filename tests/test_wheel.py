"""The wheel: what somebody has who installs with pip, without a checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parent.parent
RECIPES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds the unpacked wheel, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    [wheel] = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site-packages")
    return folder / "site-packages"


def convmesh(installed, folder, *arguments):
    """Runs the unpacked `python -m convmesh` in `folder`."""
    command = [sys.executable, "-m", "convmesh", *arguments]
    env = os.environ | {"PYTHONPATH": str(installed)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


def test_the_wheel_holds_every_module_and_recipe_and_no_more(installed):
    files = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    package = {path for path in files if path.startswith("convmesh/")}
    source = ROOT / "src"
    modules = {str(path.relative_to(source)) for path in source.rglob("*.py")}
    recipes = {f"convmesh/recipes/{name}.py" for name in RECIPES}
    classes = {f"convmesh/weights/{name}_classes.txt" for name in ("imagenet", "coco")}
    others = {"convmesh/py.typed", *classes}
    assert package == modules | recipes | others
    assert all(path.partition("/")[0].endswith(".dist-info") for path in files - package)


def test_the_recipes_are_found_outside_a_checkout(installed, tmp_path):
    done = convmesh(installed, tmp_path, "recipes")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == RECIPES
    done = convmesh(installed, tmp_path, "check-data", "--config", "detect")
    assert done.returncode == 2
    assert done.stderr.startswith("convmesh: error: data.root: not set"), "the recipe was read"
    code = "import convmesh, convmesh.config as c; print(convmesh.__file__, c.find_recipe('demo'))"
    env = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    files = [installed / "convmesh/__init__.py", installed / "convmesh/recipes/demo.py"]
    assert done.stdout.split() == [str(file) for file in files]
