"""Runs that are stopped, resume, end early or start from another."""

import errno
import json
import os
import shutil
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from loop_checks import assert_same_bits, final_state, lines, stop_at, with_hooks

import convmesh.training.run as run_module
from convmesh.cli import command_line
from convmesh.data.augmentation.sizes import StepSizes
from convmesh.distributed import stop_signals
from convmesh.errors import ConfigError, DataError, RunError, Stopped
from convmesh.inference.evaluation import evaluate
from convmesh.steps.setup import Setup
from convmesh.tasks.classify import Classify
from convmesh.training import advice, loop
from convmesh.training.example_log import ExampleLog
from convmesh.training.hooks import Hook
from convmesh.workdir import checksums
from convmesh.workdir.checkpoints import Checkpoints
from convmesh.workdir.layout import Workdir
from convmesh.workdir.lock import RunLock

pytestmark = pytest.mark.usefixtures("tiny_net")


@pytest.fixture(autouse=True)
def signals():
    """The handlers of this process, for a test that fails while they are exchanged."""
    before = {number: signal.getsignal(number) for number in stop_signals.to_ignore()}
    yield
    for number, handler in before.items():
        # A command line that was stopped hears no more signals until its process ends.
        assert signal.getsignal(number) in (handler, signal.SIG_IGN)
        signal.signal(number, handler)


# --- stopping and resuming ------------------------------------------------------------------------


def test_a_finished_run_says_so(photo_run, photos, tmp_path, capsys):
    recipe = runs.write_recipe(tmp_path / "recipe.py", runs.photo_config(photos))
    workdir = runs.copy(photo_run, tmp_path / "run")
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    assert command_line.main(["train", "--config", recipe, "--workdir", str(workdir)]) == 0
    assert f"{workdir}: this run has finished, at step 8" in capsys.readouterr().out
    assert {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()} == before
    # Its own numbers, though other weights were judged since.
    evaluate(workdir, step=4)
    metrics = loop.train(runs.photo_config(photos), workdir)
    assert metrics == json.loads((photo_run / "eval/val/metrics.json").read_text())


def test_advice_is_said_once(tmp_path, photos, monkeypatch, capsys):
    judged = []

    def of_curve(config, rows, steps):
        judged.append([(row["step"], row["split"]) for row in rows])
        return ["the loss is odd"]

    monkeypatch.setattr(advice, "of_curve", of_curve)
    runs.train(runs.photo_config(photos), tmp_path / "run")  # evaluated twice
    err = capsys.readouterr().err
    assert err.count("advice: ") == 2 and err.count("advice: the loss is odd") == 1
    assert "advice: 8 steps see each image 2.7 times" in err
    assert judged == [[(step, "train") for step in (1, 2, 3, 4)]]


@pytest.mark.parametrize("step", [3, 4], ids=["between", "where it evaluates"])
def test_a_stopped_run_resumes_as_if_never_stopped(tmp_path, photos, photo_run, step, capsys):
    recipe = runs.write_recipe(tmp_path / "recipe.py", runs.photo_config(photos))
    call = ["train", "--config", recipe, "--workdir", str(tmp_path / "run")]
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, step)
        assert command_line.main(call) == 75
    err = capsys.readouterr().err
    assert f"stopped by SIGTERM at step {step}, saved; run it again to resume" in err
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.steps() == [step]
    assert max(row["step"] for row in lines(tmp_path / "run")) == step

    assert command_line.main(call) == 0
    assert f"resuming from the checkpoint of step {step}" in capsys.readouterr().err
    ours, theirs = final_state(tmp_path / "run"), final_state(photo_run)
    assert_same_bits(ours[0], theirs[0])
    assert ours[1] == theirs[1]
    by_step = lambda row: (row["step"], row["split"])  # noqa: E731
    assert sorted(lines(tmp_path / "run"), key=by_step) == sorted(lines(photo_run), key=by_step)
    for name in ("metrics.json", "predictions.json"):
        written = (tmp_path / "run/eval/val" / name).read_bytes()
        assert written == (photo_run / "eval/val" / name).read_bytes()


class Compiles(Hook):
    """Notes the size of the images of each step that is compiled."""

    def __init__(self):
        self.sizes = []

    def on_compile(self, run, step, compiled):
        self.sizes.append(StepSizes.of(run.setup.config, run.setup.steps)(step))


@pytest.mark.parametrize("order", ["random", "growing"])
def test_a_run_at_several_sizes_stops_and_resumes_alike(order, tmp_path, photos, capsys):
    compiles = Compiles()
    changes = {"data.sizes": (1, 2), "data.image_size": (32, 32), "data.size_order": order}
    config = runs.photo_config(photos, changes)
    whole = tmp_path / "whole"
    loop.train(config, whole, [compiles])
    assert sorted(compiles.sizes) == [(32, 32), (64, 64)]
    how = {"random": ",", "growing": ", smallest first,"}[order]
    said = capsys.readouterr().err
    assert f"images of 32 x 32, 64 x 64 (height x width){how} each compiled" in said
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        stop_at(patch, 3)
        runs.train(config, tmp_path / "parts")
    parts = runs.train(config, tmp_path / "parts")
    assert_same_bits(final_state(parts)[0], final_state(whole)[0])


def test_a_run_stopped_in_its_last_step_is_still_evaluated(tmp_path, photos, photo_run):
    config = runs.photo_config(photos)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 8)
        with pytest.raises(Stopped):
            loop.train(config, tmp_path / "run")
    metrics = loop.train(config, tmp_path / "run")
    assert metrics == json.loads((photo_run / "eval/val/metrics.json").read_text())
    assert lines(tmp_path / "run")[-1] == lines(photo_run)[-1]


def test_only_evaluations_decide_which_is_best(tmp_path, photos):
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 8)
        with pytest.raises(Stopped):
            loop.train(runs.photo_config(photos), tmp_path / "run")
    scores = Workdir(tmp_path / "run").scores("top1")
    with Checkpoints(tmp_path / "run", scores=scores) as checkpoints:
        assert checkpoints.steps() == [4, 8]
        assert checkpoints.choose(best=True) == 4


# --- a run that ends early, and one that starts from another --------------------------------------


def test_a_run_out_of_patience_has_finished(tmp_path, photos, capsys):
    # It learns nothing, so the second evaluation is no better than the first, and is one too many.
    changes = {"optimizer.learning_rate": 1e-12, "eval.every_steps": 1, "train.patience": 1}
    config, workdir = runs.photo_config(photos, changes), tmp_path / "run"
    recipe = runs.write_recipe(tmp_path / "recipe.py", config)
    call = ["train", "--config", recipe, "--workdir", str(workdir)]
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(Stopped):
            loop.train(config, workdir)
    # The evaluation that the signal has prevented comes first, and ends the run.
    assert command_line.main(call) == 0
    without = "2 of 8, after 1 evaluation without a better top1 (train.patience=1)"
    assert f"the run ends at step {without}" in capsys.readouterr().err
    assert [row["step"] for row in lines(workdir) if row["split"] == "val"] == [1, 2]
    before = (workdir / "metrics.jsonl").read_bytes()
    assert command_line.main(call) == 0
    without = "at step 2, after 1 evaluation without a better top1 (train.patience=1)"
    assert f"{workdir}: this run has finished, {without}" in capsys.readouterr().out
    assert (workdir / "metrics.jsonl").read_bytes() == before
    # With more patience it goes on, and ends by itself.
    assert command_line.main([*call, "--config.train.patience=2"]) == 0
    assert [row["step"] for row in lines(workdir) if row["split"] == "val"] == [1, 2, 3]
    assert "the run ends at step 3 of 8, after 2 evaluations" in capsys.readouterr().err


class FinishAt(Hook):
    """Finishes the run from one of its events."""

    def __init__(self, event):
        setattr(self, event, lambda run, step, *_: step == 3 and run.finish("since I said so"))


@pytest.mark.parametrize("event", ["before_step", "on_batch", "after_step"])
def test_a_hook_that_finishes_the_run_leaves_it_saved_and_evaluated(
    tmp_path, photos, capsys, event
):
    metrics = loop.train(runs.photo_config(photos), tmp_path / "run", [FinishAt(event)])
    assert [row["step"] for row in lines(tmp_path / "run")] == [1, 2, 3, 3]
    assert metrics == json.loads((tmp_path / "run/eval/val/metrics.json").read_text())
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.steps() == [3]


def test_the_training_split_can_be_evaluated(tmp_path, photos, capsys):
    changes = {"data.eval_split": "train", "train.patience": 9}
    config, workdir = runs.photo_config(photos, changes), tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(Stopped):
            loop.train(config, workdir)
    # Line 4 of the training does not stand for the evaluation that the signal has prevented.
    loop.train(config, workdir)
    assert list(Workdir(workdir).scores("top1")) == [4, 8]
    best = evaluate(workdir, best=True)
    assert best["top1"] == max(Workdir(workdir).scores("top1").values())


def test_advice_counts_the_steps_of_a_run_that_ends_early(tmp_path, photos):
    told = []
    changes = {"optimizer.learning_rate": 1e-12, "eval.every_steps": 1, "train.patience": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(advice, "at_end", lambda *given: told.append(given[-1]) or [])
        loop.train(runs.photo_config(photos, changes), tmp_path / "run")
    assert told == [2]


def test_a_run_from_anothers_weights_with_frozen_stages(tmp_path, photos, photo_run, capsys):
    source = runs.copy(photo_run, tmp_path / "source")
    changes = {"init_from": str(source), "train.frozen_stages": 1, "eval.every_steps": 0}
    config = runs.photo_config(photos, changes | {"train.steps": 2})
    workdir = runs.train(config, tmp_path / "run")
    said = capsys.readouterr().err
    assert f"init_from: weights of {source}, step 8, EMA" in said
    assert "init_from: 32 of this model's 32 arrays start from them" in said

    # Only at the start: it goes on without it.
    shutil.rmtree(source)
    runs.train(runs.photo_config(photos, changes | {"train.steps": 3}), workdir)
    assert "init_from: " not in capsys.readouterr().err
    state, _ = final_state(workdir)
    wanted = final_state(photo_run)[0].ema
    for found in (state.ema, state.variables()):
        for name in ("params", "batch_stats"):
            for layer in ("stem", "stage1_block1"):
                assert_same_bits(found[name][layer], wanted[name][layer])
        moved = found["params"]["head"]["kernel"] != wanted["params"]["head"]["kernel"]
        assert np.asarray(moved).any()


def test_missing_weights_are_refused_before_anything_is_written(tmp_path, photos):
    config = runs.photo_config(photos, {"init_from": str(tmp_path / "gone")})
    with pytest.raises(ConfigError, match="init_from=.*gone: no checkpoints there"):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_ctrl_c_stops_the_same_way(tmp_path, photos):
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 1, signal.SIGINT)
        with pytest.raises(Stopped, match="stopped by SIGINT at step 1"):
            loop.train(runs.photo_config(photos), tmp_path / "run")


def test_a_signal_in_an_evaluation_ends_it_and_the_next_call_makes_up_for_it(
    tmp_path, photos, photo_run
):
    config = runs.photo_config(photos)

    def signalled(*arguments, **more):
        signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "evaluate_variables", signalled)
        with pytest.raises(Stopped, match="stopped by SIGTERM at step 4, saved"):
            loop.train(config, tmp_path / "run")
    assert [row["step"] for row in lines(tmp_path / "run")] == [1, 2, 3, 4]
    loop.train(config, tmp_path / "run")
    assert lines(tmp_path / "run") == lines(photo_run)
    assert_same_bits(final_state(tmp_path / "run")[0], final_state(photo_run)[0])


@pytest.mark.parametrize("event", ["on_end", "close"])
def test_a_signal_while_a_run_closes_waits_for_its_last_save(
    tmp_path, photos, photo_run, monkeypatch, event
):
    write_checksums = checksums.write_checksums

    def slowly(folder):
        if folder.name.startswith("8"):
            time.sleep(1)
        write_checksums(folder)

    late = Hook()
    setattr(late, event, lambda *given, **named: signal.raise_signal(signal.SIGTERM))
    monkeypatch.setattr(checksums, "write_checksums", slowly)
    loop.train(runs.photo_config(photos), tmp_path / "run", [late])
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.steps() == [4, 8]
    assert lines(tmp_path / "run") == lines(photo_run)


def test_a_signal_before_the_first_step_leaves_nothing_to_go_on_from(tmp_path, photos, photo_run):
    def signalled(*arguments, **more):
        signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Setup, "create_state", signalled)
        with pytest.raises(Stopped, match="stopped by SIGINT before the first step; run it again"):
            loop.train(runs.photo_config(photos), tmp_path / "run")
    assert lines(runs.train(runs.photo_config(photos), tmp_path / "run")) == lines(photo_run)


def test_other_examples_are_refused(tmp_path, photos):
    root = runs.copy(photos, tmp_path / "photos")
    config = runs.photo_config(root)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(Stopped):
            loop.train(config, tmp_path / "run")
    image = root / "train" / "red" / "0.png"
    image.rename(image.with_name("00.png"))
    with pytest.raises(DataError, match="split train is not .* other examples or another order"):
        loop.train(config, tmp_path / "run")
    image.with_name("00.png").unlink()
    with pytest.raises(DataError, match="split train is not .* has 23 examples instead of 24"):
        loop.train(config, tmp_path / "run")


def test_a_damaged_checkpoint_is_skipped_and_the_end_is_the_same(
    tmp_path, photos, photo_run, capsys
):
    workdir = runs.copy(photo_run, tmp_path / "run")
    path = workdir / "checkpoints" / "8" / "training" / "manifest.ocdbt"
    path.write_bytes(path.read_bytes()[:-1])
    loop.train(runs.photo_config(photos), workdir)
    told = capsys.readouterr()
    assert "step 8 is damaged (training/manifest.ocdbt" in told.err
    assert "resuming from the checkpoint of step 4" in told.err
    assert_same_bits(final_state(workdir)[0], final_state(photo_run)[0])
    assert lines(workdir) == lines(photo_run)


def test_a_run_without_finite_steps_ends_with_its_last_checkpoint_whole(
    tmp_path, photos, monkeypatch, capsys
):
    sums = Classify.sums

    def no_number(self, logits, batch):
        # From the fifth step on; the parameters of a step that is skipped stay as they were.
        return sums(self, logits * jnp.where(spoilt(), jnp.nan, 1.0), batch)

    step = {"now": 0}
    spoilt = lambda: jax.pure_callback(  # noqa: E731
        lambda: np.bool_(step["now"] >= 5), jax.ShapeDtypeStruct((), bool)
    )

    class Count(Hook):
        def on_batch(self, run, number, batch):
            jax.block_until_ready(run.state)  # the step before it must not see the number
            step["now"] = number

    monkeypatch.setattr(Classify, "sums", no_number)
    with_hooks(monkeypatch, Count())
    recipe = runs.write_recipe(tmp_path / "recipe.py", runs.photo_config(photos))
    call = ["train", "--config", recipe, "--workdir", str(tmp_path / "run")]
    call += ["--config.train.max_nonfinite_steps=2", "--config.train.steps=20"]
    assert command_line.main(call) == 1
    err = capsys.readouterr().err
    assert "loss not finite at step 5, update skipped; examples train/" in err
    assert "loss not finite at step 7, the last of 3 in a row (train.max_nonfinite_steps=2)" in err
    state, _ = final_state(tmp_path / "run")
    assert int(state.step) == 4 and int(state.nonfinite_steps) == 0
    rows = [row for row in lines(tmp_path / "run") if row["split"] == "train"]
    assert [row["nonfinite_steps"] for row in rows] == [0, 0, 0, 0, 1, 2]
    # The schedule counts updates, and so does the rate that is told.
    assert rows[4]["learning_rate"] == rows[5]["learning_rate"] > 0


def test_a_save_that_fails_ends_the_run_at_once(tmp_path, photos, photo_run, monkeypatch):
    write_checksums = checksums.write_checksums

    def full_at_the_second(folder):
        if folder.name.startswith("4"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_checksums(folder)

    slow = Hook()
    slow.after_step = lambda run, step: time.sleep(0.2)
    monkeypatch.setattr(checksums, "write_checksums", full_at_the_second)
    changes = {"checkpoint.every_steps": 2, "eval.every_steps": 0, "train.steps": 100}
    config = runs.photo_config(photos, changes)
    said = "checkpoint of step 4 could not be written: No space left on device; the newest is of st"
    with pytest.raises(RunError, match=said):
        loop.train(config, tmp_path / "run", [slow])
    assert max(row["step"] for row in lines(tmp_path / "run")) < 10
    state, _ = final_state(tmp_path / "run")
    assert int(state.step) == 2


def test_an_example_log_without_a_folder_is_refused_with_nothing_written(tmp_path, photos):
    with pytest.raises(ConfigError, match="--example-log .*none/l: its folder does not exist"):
        loop.train(runs.photo_config(photos), tmp_path / "run", [ExampleLog(tmp_path / "none/l")])
    assert not (tmp_path / "run").exists()


def test_a_second_run_in_the_directory_is_refused(tmp_path, photos, photo_run, capsys):
    recipe = runs.write_recipe(tmp_path / "recipe.py", runs.photo_config(photos))
    workdir = runs.copy(photo_run, tmp_path / "run")
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file() and p.name != ".lock"}
    with RunLock(workdir):
        assert command_line.main(["train", "--config", recipe, "--workdir", str(workdir)]) == 2
    assert f"another run is using it, process {os.getpid()} on" in capsys.readouterr().err
    after = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file() and p.name != ".lock"}
    assert after == before


def test_a_run_resumes_on_another_mesh(tmp_path, photos, photo_run):
    config = runs.photo_config(photos)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(Stopped):
            loop.train(config, tmp_path / "run")
    config.mesh.data, config.mesh.spatial, config.mesh.model = 2, 2, 2
    loop.train(config, tmp_path / "run")
    ours, theirs = lines(tmp_path / "run"), lines(photo_run)
    assert {row["step"] for row in ours} == set(range(1, 9))
    first = lambda rows: next(row for row in rows if row["step"] == 5)  # noqa: E731
    assert first(ours)["loss"] == pytest.approx(first(theirs)["loss"], rel=1e-3)
    assert Workdir(tmp_path / "run").read_run()[0].mesh.spatial == 2


def test_more_steps_continue_from_the_end(tmp_path, photos, photo_run):
    workdir = runs.copy(photo_run, tmp_path / "run")
    loop.train(runs.photo_config(photos, {"train.steps": 9}), workdir)
    assert [row["step"] for row in lines(workdir) if row["split"] == "train"] == list(range(1, 10))


@pytest.mark.parametrize(
    "key, value",
    [("optimizer.learning_rate", 0.5), ("train.seed", 1), ("data.image_size", (32, 32))],
)
def test_a_change_that_makes_another_run_is_refused_by_name(
    tmp_path, photos, photo_run, key, value
):
    before = (photo_run / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=f"another run: {key}") as refused:
        loop.train(runs.photo_config(photos, {key: value}), photo_run)
    assert refused.value.exit_code == 2
    assert (photo_run / "config.json").read_bytes() == before


def test_a_run_keeps_its_precision_unless_told_otherwise(tmp_path, photos, photo_run):
    workdir = Workdir(tmp_path / "run")
    began = runs.photo_config(photos, {"precision": "bfloat16"})
    workdir.root.mkdir()
    workdir.write_run(began, ("a", "b"))
    auto = runs.photo_config(photos, {"precision": "auto"})
    assert loop.check_earlier_run(auto, workdir).precision == "bfloat16"
    told = runs.photo_config(photos, {"precision": "float32"})
    with pytest.raises(ConfigError, match="another run: precision"):
        loop.check_earlier_run(told, workdir)


def test_a_run_keeps_the_resize_of_its_weights_where_its_size_was_chosen(tmp_path, photos):
    workdir = Workdir(tmp_path / "run")
    weights = {"init_from": "weights.safetensors", "data.eval_resize": 20}
    workdir.root.mkdir()
    workdir.write_run(runs.photo_config(photos, weights), ("a", "b"))
    left_open = {"data.image_size": (0, 0), "train.batch_size": 0}
    config = runs.photo_config(photos, left_open | {"init_from": "weights.safetensors"})
    kept = loop.check_earlier_run(config, workdir)
    assert (kept.data.image_size, kept.train.batch_size) == ((16, 16), 8)
    assert kept.data.eval_resize == 20


def test_other_classes_are_refused(tmp_path, photo_run, photos):
    other = runs.make_photos(tmp_path / "photos")
    for split in ("train", "val"):
        (other / split / "red").rename(other / split / "rose")
    workdir = runs.copy(photo_run, tmp_path / "run")
    with pytest.raises(DataError, match="classes.json: the data now has other classes.*rose"):
        loop.train(runs.photo_config(other), workdir)
