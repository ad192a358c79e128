"""Commands about a recipe: recipes, check-mesh, bench."""

import pytest

from convmesh.cli.command_line import main
from convmesh.config import list_recipes


def test_recipes_lists_the_name_and_the_summary_of_each(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=1) for line in lines] == [
        [recipe.name, recipe.summary] for recipe in list_recipes()
    ]
    assert len(lines) > 5
    column = 2 + max(len(recipe.name) for recipe in list_recipes())
    assert [line[column:] for line in lines] == [recipe.summary for recipe in list_recipes()]


def test_check_mesh_passes_the_model_of_the_recipe(recipe, monkeypatch):
    made = []
    monkeypatch.setattr("convmesh.steps.noise.noise_setup", lambda config: config)
    monkeypatch.setattr(
        "convmesh.steps.mesh_check.check_mesh", lambda config, _: made.append(config)
    )
    assert main(["check-mesh", "--config", recipe, "--config.mesh.spatial=2"]) == 0
    assert (made[0].model.name, made[0].mesh.spatial) == ("m", 2)


def test_sizes_that_a_recipe_leaves_open_are_chosen(monkeypatch):
    made = []
    monkeypatch.setattr("convmesh.steps.noise.noise_setup", lambda config: config)
    monkeypatch.setattr(
        "convmesh.steps.mesh_check.check_mesh", lambda config, _: made.append(config)
    )
    for part in ("step", "input"):
        bench = f"convmesh.bench.{part}.bench_{part}"
        monkeypatch.setattr(bench, lambda config, *args: made.append(config))
    given = ["--config", "classify", "--config.model.name=resnet34", "--config.data.root="]
    assert main(["check-mesh", *given]) == 0
    for part in ("step", "input"):
        assert main(["bench", part, *given]) == 0
    assert len(made) == 3
    for config in made:
        assert (config.model.name, config.data.image_size) == ("resnet34", (96, 96))
        assert config.train.batch_size == 32


@pytest.mark.parametrize(
    ("part", "flags", "arguments"),
    [
        ("step", "", (False, None)),
        ("step", "--json --compare torch", (True, "torch")),
        ("input", "--compare torch", (False, "torch")),
        ("loop", "--steps 7", (7, False)),
        ("eval", "--json", (True,)),
        ("scale", "", (("--config.train.seed=3",), 300, False)),
    ],
)
def test_bench_passes_its_flags(recipe, monkeypatch, part, flags, arguments):
    made = []
    monkeypatch.setattr(f"convmesh.bench.{part}.bench_{part}", lambda *args: made.append(args))
    command = ["bench", part, "--config", recipe, *flags.split(), "--config.train.seed=3"]
    assert main(command) == 0
    [(first, *others)] = made
    assert (first if part == "scale" else first.train.seed) == (recipe if part == "scale" else 3)
    assert tuple(others) == arguments


def test_bench_refuses_what_a_part_does_not_take(failed, recipe):
    status, line = failed("bench", "loop", "--config", recipe, "--compare", "torch")
    assert (status, line) == (
        2,
        "convmesh: error: --compare: only bench step and bench input take it, not loop",
    )
    status, line = failed("bench", "laps", "--config", recipe)
    assert status == 2 and "invalid choice: 'laps'" in line
    for part in ("loop", "eval", "scale"):
        status, line = failed("bench", part, "--config", recipe, "--config.data.root=")
        assert status == 2 and "data.root: not set" in line


@pytest.mark.parametrize("part", ["step", "input"])
def test_bench_of_noise_needs_no_data(recipe, monkeypatch, part):
    made = []
    monkeypatch.setattr(f"convmesh.bench.{part}.bench_{part}", lambda *args: made.append(args))
    assert main(["bench", part, "--config", recipe, "--config.data.root="]) == 0
    assert [config.data.root for config, *_ in made] == [""]
