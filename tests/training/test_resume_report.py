"""What a resumption changes is said, and a finished run keeps its files."""

import json
import shlex
import shutil
import types

import pytest
import runs
from loop_checks import final_state, lines

from convmesh.cli import command_line
from convmesh.config import apply_overrides, to_json
from convmesh.errors import ConfigError, DataError
from convmesh.steps.optimizer import make_schedule
from convmesh.steps.setup import ema_decay_for
from convmesh.training import loop
from convmesh.training.resume_report import notes_on_restart, notes_on_resume
from convmesh.workdir import run_files
from convmesh.workdir.json_lines import read_json_lines
from convmesh.workdir.layout import Workdir
from convmesh.workdir.step_folders import newest_meta

pytestmark = pytest.mark.usefixtures("tiny_net")


def notes(photos, steps, now, step, **more):
    """The lines about a run of `steps` steps that resumes at `step` with `now` steps.

    photos: of the photo recipe; None: a detector's.
    """
    more = {name.replace("__", "."): value for name, value in more.items()} | {"train.steps": steps}
    make = runs.scene_config if photos is None else runs.photo_config
    config = make(photos or "none", more)
    meta = {"config": json.loads(to_json(config))}
    config = apply_overrides(config, {"train.steps": now, "train.epochs": 0.0})
    setup = types.SimpleNamespace(
        config=config,
        steps=now,
        schedule=make_schedule(config, now),
        ema_decay=ema_decay_for(now),
    )
    state = types.SimpleNamespace(step=step, nonfinite_steps=0)
    return notes_on_resume(meta, setup, state, Workdir("a run"), runs.TRAIN_PHOTOS)


def test_a_jump_of_the_learning_rate_is_said_with_a_way_around(photos):
    [line] = notes(photos, 20, 40, 20)
    assert line == (
        "learning rate: the run now has 40 steps instead of 20, so it rises from 1.7e-05 at step 20"
        " to 0.00055; to go on low, stop this run and train in a new --workdir with "
        "--config.init_from='a run/checkpoints/20' "
        "--config.optimizer.learning_rate=1.7e-05 --config.schedule.name=constant "
        "--config.schedule.warmup_steps=0"
    )
    [line] = notes(photos, 400, 100, 80)
    assert (
        "the run now has 100 steps instead of 400, so it falls from 0.00094 at step 80 to 0.00011"
        in line
    )


def test_a_run_that_is_as_long_or_whose_rate_hardly_changes_says_nothing(photos):
    assert notes(photos, 20, 20, 10) == []
    assert notes(photos, 1000, 1010, 500) == []
    assert notes(photos, 20, 40, 20, schedule__name="constant") == []


def test_a_warm_up_that_begins_again_or_is_cut_short(photos):
    begins, rate = notes(photos, 20, 4000, 20)
    assert begins == (
        "warm-up: it begins again, since it takes 200 of 4000 steps now, and took 1 of 20"
    )
    assert rate.startswith("learning rate: the run now has 4000 steps instead of 20, so it rises")
    cut, rate = notes(photos, 4000, 1000, 100)
    assert cut == (
        "warm-up: cut short after 100 steps, since it takes 50 of 1000 steps now, and took 200 of "
        "4000"
    )
    assert "so it rises from 0.0005 at step 100 to 0.00099" in rate


def test_the_highest_rate_ahead_is_said(photos):
    _, rate = notes(photos, 40, 200000, 40)
    assert "so it falls from 1.2e-05 at step 40 to 4.1e-06, and then rises to 0.001 at step" in rate
    assert "rises to 0.001 at step 10000; to go on low" in rate


def test_mixing_that_comes_back_or_ends_early_and_another_ema_are_said(photos):
    more = {"data__augment__mosaic": 1.0, "schedule__name": "constant"}
    [line] = notes(None, 20, 40, 20, **more)
    assert line == "mosaic and mixup: they begin again, until step 28; they had ended at 14"
    [line] = notes(None, 40, 20, 16, **more)
    assert line == "mosaic and mixup: they end now instead of at step 28"
    assert notes(None, 20, 40, 10, **more) == []
    cutmix = {"data__augment__cutmix": 1.0, "schedule__name": "constant"}
    [line] = notes(photos, 20, 40, 20, **cutmix)
    assert line == "mixup and cutmix: they begin again, until step 28; they had ended at 14"
    _, _, line, _ = notes(None, 20, 40000, 20, **more, ema__decay=-1.0)
    assert line == (
        "ema.decay: the run now has 40000 steps instead of 20, so it changes from 0.998 to 0.9995"
    )


def test_images_that_become_smaller_again_are_said(photos):
    grows = {"data__sizes": (0.5, 1.0), "data__size_order": "growing", "schedule__name": "constant"}
    [line] = notes(photos, 20, 40, 15, **grows, data__image_size=(64, 64))
    assert line.startswith("data.sizes: images of 32 x 32 from here on, and not of 64 x 64")
    assert notes(photos, 20, 40, 5, **grows, data__image_size=(64, 64)) == []


def test_epochs_count_too_and_a_checkpoint_without_config_says_nothing(photos):
    [line] = notes(photos, 0, 48, 24, train__epochs=8.0)
    assert "the run now has 48 steps instead of 24" in line
    setup = types.SimpleNamespace(steps=9)
    state = types.SimpleNamespace(step=5)
    assert notes_on_resume({}, setup, state, Workdir("run"), 24) == []


def test_a_longer_run_says_it_once_and_the_way_around_works(
    photos, photo_run, tmp_path, capsys, monkeypatch
):
    workdir = runs.copy(photo_run, tmp_path / "a run")
    loop.train(runs.photo_config(photos, {"train.steps": 12}), workdir)
    said = capsys.readouterr().err
    [line] = [line for line in said.splitlines() if line.startswith("learning rate:")]
    advised = [word for word in shlex.split(line) if word.startswith("--config.")]
    recipe = runs.write_recipe(tmp_path / "recipe.py", runs.photo_config(photos))
    call = ["train", "--config", recipe, "--workdir", str(tmp_path / "new"), *advised]
    assert command_line.main([*call, "--config.train.steps=2"]) == 0
    low = float(next(w for w in advised if "learning_rate" in w).partition("=")[2])
    rates = [row["learning_rate"] for row in lines(tmp_path / "new") if "loss" in row]
    assert rates == pytest.approx([low, low])
    assert "init_from: weights of" in capsys.readouterr().err


# --- files of a finished run ----------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"train.steps": 8}, {"train.steps": 5}, {"data.workers": 1}])
def test_a_finished_run_keeps_every_file(photos, photo_run, tmp_path, changes, capsys):
    workdir = runs.copy(photo_run, tmp_path / "run")
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    loop.train(runs.photo_config(photos, changes), workdir)
    assert "has finished, at step 8" in capsys.readouterr().out
    assert {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()} == before


def test_a_run_out_of_patience_keeps_every_file(photos, tmp_path, capsys):
    changes = {"eval.every_steps": 1, "train.patience": 1, "optimizer.learning_rate": 1e-12}
    workdir = runs.train(runs.photo_config(photos, changes), tmp_path / "run")
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    for steps in (8, 4, 20):
        loop.train(runs.photo_config(photos, changes | {"train.steps": steps}), workdir)
        told = capsys.readouterr()
        assert "has finished" in told.out and "learning rate:" not in told.err
    assert {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()} == before


# --- a run that was killed before its first checkpoint --------------------------------------------


def test_a_run_without_a_checkpoint_says_that_it_begins_again(photos, photo_run, tmp_path, capsys):
    workdir = runs.copy(photo_run, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints")
    loop.train(runs.photo_config(photos), workdir)
    said = (
        f"{workdir}: the run was begun before, but no checkpoint was saved (step 8 was logged): it "
        "begins again at step 1"
    )
    assert said in capsys.readouterr().err.splitlines()
    assert lines(workdir) == lines(photo_run)


def test_a_new_run_and_one_that_logged_nothing(photos, tmp_path):
    workdir = Workdir(tmp_path)
    assert notes_on_restart(workdir) == []
    workdir.write_run(runs.photo_config(photos), runs.CLASSES)
    [line] = notes_on_restart(workdir)
    assert "(no step was logged)" in line


# --- files that were edited -----------------------------------------------------------------------


def test_a_checkpoint_knows_the_version_and_the_step(photo_run):
    meta = newest_meta(photo_run / "checkpoints")
    assert (meta["convmesh"], meta["step"]) == (run_files.version(), 8)


def test_an_edited_config_is_told_from_a_changed_call(photos, photo_run, tmp_path):
    workdir = runs.copy(photo_run, tmp_path / "run")
    path = workdir / "config.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 5'))
    said = "config.json: train.seed is 5, but the newest checkpoint was trained with 0"
    for seed in (0, 5):
        with pytest.raises(DataError, match=said):
            loop.train(runs.photo_config(photos, {"train.seed": seed}), workdir)


# --- steps that are not finite --------------------------------------------------------------------


@pytest.mark.parametrize("every", [0, 1])
def test_the_advice_about_steps_that_are_not_finite_works(photos, tmp_path, capsys, every):
    options = {
        "optimizer.name": "sgd",
        "optimizer.clip_norm": 0.0,
        "optimizer.learning_rate": 1e30,
        "schedule.warmup_steps": 0,
        "train.max_nonfinite_steps": 2,
        "checkpoint.every_steps": every,
    }
    recipe = runs.write_recipe(tmp_path / "recipe.py", runs.photo_config(photos, options))
    call = ["train", "--config", recipe, "--workdir", str(tmp_path / "run")]
    assert command_line.main(call) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    stated = "no checkpoint yet;" if not every else ", after which no step was finite;"
    assert (
        f"{stated} train in a new --workdir with a lower optimizer.learning_rate than 1e+30" in said
    )
    advised = [word for word in shlex.split(said) if word.startswith("--config.")]
    call = ["train", "--config", recipe, "--workdir", str(tmp_path / "new"), *advised]
    assert command_line.main([*call, "--config.optimizer.learning_rate=0.001"]) == 0
    assert not (tmp_path / "new" / "nonfinite.jsonl").exists()
    rows = read_json_lines(tmp_path / "run" / "nonfinite.jsonl")
    assert [row["step"] for row in rows] == [2, 3, 4]


# --- a run whose config.json is lost --------------------------------------------------------------


def test_without_config_json_the_run_is_that_of_its_checkpoints(
    photos, photo_run, tmp_path, capsys
):
    workdir = runs.copy(photo_run, tmp_path / "run")
    for name in ("config.json", "classes.json"):
        (workdir / name).unlink()
    with pytest.raises(ConfigError, match="holds another run: train.seed .0 -> 7. changed"):
        loop.train(runs.photo_config(photos, {"train.seed": 7}), workdir)
    renamed = runs.photo_config(photos)
    renamed.data.classes = tuple(reversed(final_state(photo_run)[1]["classes"]))
    with pytest.raises((ConfigError, DataError), match="classes"):
        loop.train(renamed, workdir)
    assert not (workdir / "config.json").exists()
    capsys.readouterr()
    loop.train(runs.photo_config(photos, {"train.steps": 9}), workdir)
    assert "config.json: missing; it is taken from the newest checkpoint" in capsys.readouterr().err
    assert json.loads((workdir / "config.json").read_text())["train"]["steps"] == 9
