"""Finding, listing and running recipes."""

import os
import re
import sys
import types
from pathlib import Path

import pytest

from convmesh import config as cfg
from convmesh.config import recipes
from convmesh.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = sorted(CONFIGS.glob("*.py"))


def write_recipe(folder: Path, body: str, **neighbours: str) -> Path:
    """Writes FOLDER/recipe.py, whose get_config() sets train.seed to `SEED`, and other modules."""
    folder.mkdir(exist_ok=True)
    for name, text in neighbours.items():
        (folder / f"{name}.py").write_text(text)
    path = folder / "recipe.py"
    path.write_text(
        f"{body}\ndef get_config():\n    return {{'task': 'detect', 'train': {{'seed': SEED}}}}\n"
    )
    return path


def seed(path) -> int:
    return cfg.load_config(path).train.seed


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_recipe_loads_and_is_complete_with_a_data_root(path):
    config = cfg.load_config(path, {"data.root": "/data"})
    cfg.check_complete(config)
    command = f"convmesh train --config configs/{path.name} --workdir "
    assert command in path.read_text(), "the docstring gives the command"


def test_imagenet_warms_up_for_five_epochs_with_either_batch_size():
    path = CONFIGS / "imagenet_resnet50.py"
    (text,) = re.findall(r"\n\n((?:    --config\.\S+ --config\.\S+\n)+)\n", path.read_text())
    larger = cfg.parse_overrides(text.split())
    for config in (cfg.load_config(path), cfg.load_config(path, larger)):
        epochs = config.train.batch_size / 1_281_167
        assert round(config.schedule.warmup_steps * epochs, 2) == 5
        assert config.eval.every_steps == config.schedule.warmup_steps
        assert config.optimizer.learning_rate == pytest.approx(0.1 * config.train.batch_size / 256)


def test_the_recipes_of_a_checkout_are_listed_with_the_first_line_of_their_docstring():
    found = cfg.list_recipes()
    assert [recipe.path for recipe in found] == RECIPES and len(RECIPES) >= 9
    for recipe in found:
        assert recipe.path.read_text().startswith(f'"""{recipe.summary}\n'), recipe.name
        assert recipe.summary.endswith("."), "the first line is a sentence of its own"


def test_the_recipes_of_an_installed_package_are_inside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "_PACKAGE", tmp_path / "site-packages" / "convmesh")
    folder = tmp_path / "site-packages" / "convmesh" / "recipes"
    folder.mkdir(parents=True)
    (tmp_path / "configs").mkdir()
    write_recipe(folder, '"""A recipe.\n\nMore.\n"""\nSEED = 5')
    assert cfg.list_recipes() == [recipes.Recipe("recipe", folder / "recipe.py", "A recipe.")]
    assert seed("recipe") == 5


def test_a_packaged_recipe_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cfg.find_recipe("detect") == CONFIGS / "detect.py"
    assert cfg.load_config("demo").data.name == "digit_scenes"
    (tmp_path / "mine").write_bytes(write_recipe(tmp_path, "SEED = 6").read_bytes())
    assert seed("mine") == 6  # a file without .py
    (tmp_path / "demo").write_bytes((tmp_path / "mine").read_bytes())
    assert seed("./demo") == 6  # with a path separator it is a file


def test_an_unknown_name_names_the_nearest_recipe(tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    write_recipe(tmp_path, "SEED = 1").rename("boats.py")
    for given, message in [
        ("detekt", "detekt: no such recipe; did you mean detect?"),
        ("boats", "boats: no such recipe; did you mean boats.py?"),
        ("zzz", "zzz: no such recipe; `convmesh recipes` lists them"),
        ("boat.py", "boat.py: no such recipe file; did you mean boats.py?"),
        (
            "configs/demo.py",
            "configs/demo.py: no such recipe file; did you mean the packaged recipe demo?",
        ),
    ]:
        assert refused(cfg.load_config, given) == message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("config.train.stpes = 5", "recipe.py:4: train.stpes: no such key; did you mean train.s"),
        ("config.trian.steps = 5", "recipe.py:4: trian.steps: no such key; did you mean train.s"),
        ("t = config.train; t.stpes = 5", "recipe.py:4: stpes: no such key; did you mean train.s"),
        ("config.train = {'stpes': 5}", "recipe.py: train.stpes: no such key; did you mean tr"),
        ("config.train = 5", "recipe.py: train: a group of keys, not a value"),
        ("config.train.steps = '5'", "recipe.py: train.steps: got '5', wanted an integer"),
        ("config.train.steps = -5", "recipe.py: train.steps: got -5, wanted an integer, at le"),
        ("config.train.steps = 1 / 0", "recipe.py:4: ZeroDivisionError: division by zero"),
        ("import no_such_module", "recipe.py:4: ModuleNotFoundError: No module named"),
        ("defaults('detekt')", "recipe.py:4: task: got 'detekt'"),
        ("x = [", "recipe.py:4: SyntaxError: '[' was never closed"),
        ("''.stpes", "recipe.py:4: AttributeError: 'str' object has no attribute 'stpes'"),
        ("raise SystemExit('no data')", "recipe.py:4: SystemExit: no data"),
        ("return 5", "recipe.py: get_config() returned int, wanted a config"),
    ],
)
def test_a_wrong_recipe_names_its_file_and_line(recipe, line, message, refused):
    assert message in refused(cfg.load_config, recipe(line))


def test_a_missing_file_and_a_recipe_without_get_config(tmp_path, recipe, refused):
    path = recipe()
    message = refused(cfg.load_config, tmp_path / "recpie.py")
    assert message == f"{tmp_path}/recpie.py: no such recipe file; did you mean {path}?"
    assert "no such recipe file" in refused(cfg.load_config, tmp_path)
    path.write_text("config = 1\n")
    assert "recipe.py: has no get_config()" in refused(cfg.load_config, path)


def test_loading_a_recipe_writes_nothing_beside_it(recipe):
    path = recipe()
    cfg.load_config(path)
    assert list(path.parent.iterdir()) == [path]


def test_a_recipe_may_return_a_plain_dict(tmp_path, refused):
    path = tmp_path / "plain.py"
    path.write_text("def get_config():\n    return {'task': 'classify', 'train': {'steps': 3}}\n")
    assert cfg.load_config(path).train.steps == 3
    path.write_text("def get_config():\n    return {'train': {'steps': 3}}\n")
    message = refused(cfg.load_config, path)
    assert message == "task: not set; the recipe must set it to detect or classify"
    assert cfg.load_config(path, ["task=detect"]).task == "detect"


def test_a_recipe_can_import_the_modules_of_its_folder_and_leaves_no_trace(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path, modules = list(sys.path), set(sys.modules)
    one = write_recipe(tmp_path / "one", "from shared import SEED", shared="SEED = 1")
    two = write_recipe(
        tmp_path / "two", "import shared\nSEED = shared.SEED", shared="from more import SEED"
    )
    (tmp_path / "two" / "more").mkdir()
    (tmp_path / "two" / "more" / "__init__.py").write_text("from more.inner import SEED\n")
    (tmp_path / "two" / "more" / "inner.py").write_text("SEED = 2\n")
    assert [seed(one), seed(two), seed(one)] == [1, 2, 1]
    (tmp_path / "one" / "shared.py").write_text("SEED = 3")
    assert seed(one) == 3, "an edited module is read again"
    assert sys.path == path and not sys.dont_write_bytecode
    assert set(sys.modules) == modules
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_module_written_since_the_last_load_is_found(tmp_path):
    path = write_recipe(tmp_path, "from shared import SEED", shared="SEED = 1")
    before = tmp_path.stat()
    assert seed(path) == 1
    write_recipe(tmp_path, "from added import SEED", added="SEED = 2")
    os.utime(tmp_path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as on a coarse clock
    assert seed(path) == 2


def test_get_config_can_import_the_modules_of_its_folder(tmp_path):
    path = write_recipe(tmp_path, "", shared="SEED = 4")
    path.write_text(
        path.read_text().replace("    return", "    from shared import SEED\n    return")
    )
    assert seed(path) == 4


def test_a_loaded_module_of_the_same_name_is_neither_used_nor_lost(tmp_path, monkeypatch):
    loaded = types.ModuleType("shared")
    loaded.SEED = 9
    monkeypatch.setitem(sys.modules, "shared", loaded)
    assert seed(write_recipe(tmp_path, "from shared import SEED", shared="SEED = 1")) == 1
    assert sys.modules["shared"] is loaded
    failing = write_recipe(tmp_path, "from shared import SEED\n1 / 0", shared="SEED = 1")
    with pytest.raises(ConfigError, match="recipe.py:2: ZeroDivisionError"):
        seed(failing)
    assert sys.modules["shared"] is loaded


def test_a_recipe_can_load_a_recipe_of_another_folder(tmp_path):
    inner = write_recipe(tmp_path / "inner", "from shared import SEED", shared="SEED = 2")
    outer = write_recipe(
        tmp_path / "outer",
        "from convmesh.config import load_config\n"
        f"INNER = load_config({str(inner)!r}).train.seed\n"
        "import sys, shared\n"
        "assert sys.modules[__name__].INNER == INNER\n"
        "SEED = 10 * INNER + shared.SEED",
        shared="SEED = 1",
    )
    assert seed(outer) == 21


def test_modules_of_an_environment_in_the_folder_stay_loaded(tmp_path, monkeypatch):
    packages = tmp_path / ".venv" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "installed_module.py").write_text("SEED = 8\n")
    monkeypatch.syspath_prepend(packages)
    monkeypatch.delitem(sys.modules, "installed_module", raising=False)
    assert seed(write_recipe(tmp_path, "from installed_module import SEED")) == 8
    assert sys.modules.pop("installed_module").SEED == 8


def test_a_recipe_can_define_a_dataclass(tmp_path):
    body = (
        "from __future__ import annotations\n"
        "import dataclasses\n"
        "@dataclasses.dataclass\n"
        "class Sizes:\n"
        "    start: dataclasses.InitVar[int]\n"
        "    def __post_init__(self, start):\n"
        "        self.seed = start + 1\n"
        "SEED = Sizes(2).seed"
    )
    assert seed(write_recipe(tmp_path, body)) == 3


def test_an_error_in_a_module_beside_the_recipe_names_both(tmp_path, refused):
    path = write_recipe(tmp_path, "\nfrom shared import SEED", shared="SEED = [")
    message = refused(cfg.load_config, path)
    assert message == f"{path}:2: SyntaxError: '[' was never closed (shared.py, line 1)"


def test_the_line_of_an_error_is_the_innermost_of_the_recipe(tmp_path, refused):
    path = tmp_path / "recipe.py"
    path.write_text("def rate():\n    return 1 / 0\n\n\ndef get_config():\n    return rate()\n")
    message = refused(cfg.load_config, path)
    assert message == f"{path}:2: ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    ("neighbour", "body"),
    [
        ("json", "import json\nSEED = json.loads('6')"),
        ("convmesh", "from convmesh.config import defaults\nSEED = 6"),
    ],
)
def test_a_file_beside_the_recipe_hides_neither_python_nor_convmesh(tmp_path, neighbour, body):
    loaded = sys.modules[neighbour]
    assert seed(write_recipe(tmp_path, body, **{neighbour: "SEED = 1"})) == 6
    assert sys.modules[neighbour] is loaded


def test_a_recipe_knows_its_file(tmp_path):
    (tmp_path / "seed.txt").write_text("7")
    body = "from pathlib import Path\nSEED = int(Path(__file__).with_name('seed.txt').read_text())"
    assert seed(write_recipe(tmp_path, body)) == 7


def test_a_packaged_recipe_is_suggested_before_a_file(tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "detekt.py").touch()
    assert refused(cfg.load_config, "detect_").endswith("; did you mean detect?")


def test_a_recipe_may_be_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text("")
    assert recipes.find_recipe("~/mine.py") == tmp_path / "mine.py"
