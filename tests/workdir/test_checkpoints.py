"""Checkpoints: what is kept, what comes back, and onto which devices."""

import errno
import logging
import math
import os
import shutil
import threading
import time

import disk_calls
import equality
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_states import META, abstract, assert_same_bits, damage, make_state, names
from jax.sharding import PartitionSpec as P

from convmesh.errors import ConfigError, DataError, RunError
from convmesh.workdir import checkpoints as checkpoint_module
from convmesh.workdir import checksums, saving
from convmesh.workdir.checkpoints import Checkpoints
from convmesh.workdir.lock import RunLock

SCORES = [0.1, 0.9, float("nan"), 0.2, None]


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    """Five checkpoints, of which the second was the best; 2 newest are kept. Only to be read."""
    workdir = tmp_path_factory.mktemp("five")
    with Checkpoints(workdir, keep=2) as checkpoints:
        for step, ap in enumerate(SCORES, start=1):
            checkpoints.save(make_state(step), META)
            checkpoints.note_score(step, ap)
        checkpoints.wait()
        yield checkpoints


# --- which ones are kept --------------------------------------------------------------------------


def test_the_newest_and_the_best_are_kept(five):
    assert five.steps() == [2, 4, 5]
    on_disk = {path.name for path in (five.workdir / "checkpoints").iterdir() if path.is_dir()}
    assert on_disk == {"2", "4", "5"}


def test_choosing(five):
    assert five.choose() == 5
    assert five.choose(best=True) == 2
    assert five.choose(step=4) == five.choose(step=4, best=True) == 4


def test_a_step_that_is_not_there_is_refused_with_those_that_are(five):
    with pytest.raises(ConfigError, match="--step 3: .* 2, 4, 5"):
        five.choose(step=3)


def test_a_new_opening_finds_the_same(five):
    with Checkpoints(five.workdir, keep=2, scores={2: 0.9, 3: 1.0, 4: 0.2}) as again:
        assert again.steps() == [2, 4, 5]
        assert (again.choose(), again.choose(best=True)) == (5, 2)


def test_nothing_there(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == []
        assert checkpoints.newest() is None
        for asked in ({}, {"step": 1}, {"best": True}):
            with pytest.raises(DataError, match="no checkpoint yet"):
                checkpoints.choose(**asked)


def test_no_best_where_none_was_evaluated(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(1), META)
        checkpoints.wait()
        with pytest.raises(DataError, match="checkpoint has a score .none was evaluated"):
            checkpoints.choose(best=True)


def test_a_number_that_is_not_finite_is_never_the_best(tmp_path):
    with Checkpoints(tmp_path, keep=5) as checkpoints:
        for step, ap in enumerate([0.0, float("nan"), float("inf")], start=1):
            checkpoints.save(make_state(step), META)
            checkpoints.note_score(step, ap)
        checkpoints.wait()
        assert checkpoints.choose(best=True) == 1


def test_a_step_is_saved_once(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        first, other = make_state(1), make_state(2).replace(step=make_state(1).step)
        checkpoints.save(first, META)
        checkpoints.save(other, META)
        restored, _ = checkpoints.restore(1, abstract(first, (2, 2, 2)))
        assert_same_bits(restored, first)


def test_a_score_that_comes_after_the_save_keeps_the_step(tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        for step, ap in ((1, 0.2), (2, 0.5), (3, 0.4), (4, 0.6), (5, 0.6)):
            checkpoints.save(make_state(step), META)
            checkpoints.note_score(step, ap)
    # Of equal ones the newer is the best.
    assert checkpoints.steps() == [5]


# --- what is damaged, or cannot be written --------------------------------------------------------


def test_the_newest_whole_one_is_used_and_a_damaged_one_set_aside(two):
    told = []
    damage(two, 2)
    with Checkpoints(two, log=told.append) as checkpoints:
        assert checkpoints.newest() == 1
        restored, _ = checkpoints.restore(1, abstract(make_state(1), (8, 1, 1)))
        assert_same_bits(restored, make_state(1))
        # The place is free again, and what is set aside counts for nothing.
        checkpoints.save(make_state(2), META)
    assert names(two) == ["1", "2", "2.damaged"]
    [line] = told
    assert "step 2 is damaged (model/manifest.ocdbt: its content has changed)" in line
    assert "2.damaged; step 1 is used instead" in line
    damage(two, 2)
    with Checkpoints(two, log=told.append) as checkpoints:
        assert checkpoints.newest() == 1
    assert names(two) == ["1", "2.damaged", "2.damaged-2"]


def test_who_only_reads_sets_nothing_aside(two):
    damage(two, 2)
    told = []
    with Checkpoints(two, read_only=True, log=told.append) as checkpoints:
        assert checkpoints.choose() == 1
        assert checkpoints.choose(step=1) == 1
        with pytest.raises(DataError, match="step 2 is damaged .*manifest"):
            checkpoints.choose(step=2)
    assert names(two) == ["1", "2"] and len(told) == 1


def test_without_a_whole_one_nothing_is_touched(two):
    for step in (1, 2):
        damage(two, step)
    with (
        Checkpoints(two) as checkpoints,
        pytest.raises(DataError, match="no checkpoint can be used .*step 2 is damaged .*backup"),
    ):
        checkpoints.newest()
    assert names(two) == ["1", "2"]


def test_a_checkpoint_under_another_name_is_set_aside(two):
    shutil.copytree(two / "checkpoints" / "2", two / "checkpoints" / "7")
    told = []
    with Checkpoints(two, read_only=True, log=told.append) as checkpoints:
        assert checkpoints.choose() == 2
        with pytest.raises(DataError, match="the folder 7 holds the checkpoint of step 2; choose"):
            checkpoints.choose(step=7)
    with Checkpoints(two, log=told.append) as checkpoints:
        assert checkpoints.newest() == 2
    reason = "the folder 7 holds the checkpoint of step 2"
    assert told == [
        f"{reason}; step 2 is used instead",
        f"{reason}; renamed to {two}/checkpoints/7.copy; step 2 is used instead",
    ]


def test_a_checkpoint_of_an_earlier_version_under_another_name_is_refused(two, monkeypatch):
    # Its meta does not say which step it is.
    monkeypatch.setattr(checkpoint_module, "held_step", lambda folder: None)
    (two / "checkpoints" / "2").rename(two / "checkpoints" / "7")
    with Checkpoints(two, read_only=True) as checkpoints:
        assert checkpoints.choose() == 7
        with pytest.raises(DataError, match="holds step 2"):
            checkpoints.restore(7, abstract(make_state(1), (8, 1, 1)))


def test_what_a_crash_left_half_done_is_cleared_away_by_the_next_run_alone(two):
    folder = two / "checkpoints"
    for name in ("3.orbax-checkpoint-tmp", "1.deleted"):
        (folder / name).mkdir()
        (folder / name / "file").write_text("x")
    with Checkpoints(two, read_only=True) as checkpoints:
        assert checkpoints.steps() == [1, 2]
    assert len(names(two)) == 4
    with Checkpoints(two) as checkpoints:
        checkpoints.save(make_state(3), META)
    assert names(two) == ["2", "3"]


def test_a_save_that_fails_is_told_by_the_next_check(two, monkeypatch):
    def full(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checksums, "write_checksums", full)
    said = "checkpoint of step 3 could not be written: No space left on device; .* of step 2"
    checkpoints = Checkpoints(two)
    checkpoints.save(make_state(3), META)
    while any(thread.name == "async_save" for thread in threading.enumerate()):
        time.sleep(0.01)
    with pytest.raises(RunError, match=said):
        checkpoints.check()
    checkpoints.check()  # told once
    # Neither room nor a name is lost to it: the next attempt finds both.
    assert names(two) == ["1", "2"]
    monkeypatch.undo()
    checkpoints.save(make_state(3), META)
    checkpoints.close()
    assert names(two) == ["2", "3"]


def test_a_save_that_fails_is_told_at_the_end(two, monkeypatch):
    monkeypatch.setattr(checksums, "write_checksums", lambda folder: 1 / 0)
    with pytest.raises(RunError, match="step 3 could not be written: division by zero"):
        with Checkpoints(two) as checkpoints:
            checkpoints.save(make_state(3), META)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_workdir_that_is_gone_or_anothers(tmp_path, replaced):
    workdir = tmp_path / "run"
    with RunLock(workdir) as lock, Checkpoints(workdir, guard=lock.check) as checkpoints:
        checkpoints.save(make_state(1), META)
        checkpoints.wait()
        shutil.rmtree(workdir)
        if replaced:
            with RunLock(workdir):
                pass
        with pytest.raises(RunError, match="run: the folder was removed or replaced"):
            checkpoints.save(make_state(2), META)
        assert not (workdir / "checkpoints").exists()


def test_an_error_deletes_no_checkpoint(tmp_path):
    with Checkpoints(tmp_path, keep=4) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(make_state(step), META)
    with pytest.raises(KeyError), Checkpoints(tmp_path, keep=1):
        raise KeyError
    assert names(tmp_path) == ["1", "2", "3"]


def test_orbax_does_not_print_its_stack_over_the_message(two, monkeypatch, caplog):
    before = logging.getLogger("absl").level
    monkeypatch.setattr(checksums, "write_checksums", lambda folder: 1 / 0)
    with pytest.raises(RunError), Checkpoints(two) as checkpoints:
        checkpoints.save(make_state(3), META)
    assert not caplog.records
    assert logging.getLogger("absl").level == before


def test_a_crash_in_any_phase_leaves_a_checkpoint_whole_or_absent(two, monkeypatch):
    reached = []

    def crash(phase):
        reached.append(phase)
        # What is on the disk now is what a crash would leave.
        at = two / "checkpoints" / "3"
        assert not at.exists() or checksums.verify_checksums(at) == ""
        assert at.exists() == (phase not in ("copied", "written", "checksummed"))

    monkeypatch.setattr(saving, "at_phase", crash)
    with Checkpoints(two) as checkpoints:
        checkpoints.save(make_state(3), META)
        checkpoints.wait()
        assert tuple(reached) == saving.PHASES


def test_what_is_on_the_disk_before_a_checkpoint_gets_its_name_and_before_another_is_deleted(
    tmp_path, monkeypatch
):
    calls = disk_calls.record(monkeypatch, tmp_path)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        for step in (1, 2):
            checkpoints.save(make_state(step), META)
    [named] = [at for at, call in enumerate(calls) if call[2:] == ("checkpoints/2",)]
    beside = calls[named][1]
    before = disk_calls.synced(calls[:named])
    paths = [tmp_path / "checkpoints" / "2", *(tmp_path / "checkpoints" / "2").rglob("*")]
    assert len(paths) > 10
    for path in paths:
        at = os.path.normpath(f"{beside}/{path.relative_to(paths[0])}")
        assert before[at] == (None if path.is_dir() else path.read_bytes()), at
    [deleted] = [at for at, call in enumerate(calls) if call[:2] == ("rename", "checkpoints/1")]
    assert ("fsync", "checkpoints", None) in calls[named:deleted]


def test_a_save_is_known_to_signals_by_the_name_of_its_thread(tmp_path, monkeypatch):
    by = {}
    monkeypatch.setattr(
        saving,
        "at_phase",
        lambda phase: by.setdefault(phase, {thread.name for thread in threading.enumerate()}),
    )
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(1), META)
        checkpoints.wait()
    for phase in ("written", "checksummed", "committed"):
        assert "async_save" in by[phase]


# --- what comes back ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 2, 2), (8, 1, 1), (1, 1, 8), (1, 1, 1)], ids=str)
def test_restored_onto_any_mesh_bit_by_bit(five, shape):
    saved = make_state(4)
    target = abstract(saved, shape)
    restored, meta = five.restore(4, target)
    assert_same_bits(restored, saved)
    wanted = jax.tree.map(lambda leaf: leaf.sharding, target)
    assert jax.tree.map(lambda leaf: leaf.sharding, restored) == wanted
    assert meta == {**META, "step": 4}
    model = equality.make_mesh(shape).shape["model"]
    assert restored.params["conv"]["bias"].addressable_shards[0].data.shape == (16 // model,)


def test_evaluation_gets_the_average(five):
    saved = make_state(5)
    variables = five.restore_variables(5, abstract(saved, (8, 1, 1)))
    assert_same_bits(variables, saved.ema)


def test_evaluation_gets_the_weights_where_there_is_no_average(tmp_path):
    saved = make_state(1, ema=False)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(saved, META)
        variables = checkpoints.restore_variables(1, abstract(saved, (1, 1, 1)))
    assert_same_bits(variables, {"params": saved.params, "batch_stats": saved.batch_stats})


def test_later_donated_steps_do_not_change_what_is_being_saved(tmp_path):
    state = make_state(1, size=8192)
    at = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = jax.jit(
        lambda state: jax.tree.map(lambda leaf: leaf * 0 + 7, state),
        out_shardings=at,
        donate_argnums=0,
    )
    step(make_state(1, size=8192))  # compiled before, so that the race is a close one
    before = jax.tree.map(np.array, state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, META)
        for _ in range(5):
            state = step(state)
        jax.block_until_ready(state)
        checkpoints.wait()
        restored, _ = checkpoints.restore(1, abstract(state, (2, 2, 2)))
    assert_same_bits(restored, before)
    assert float(jnp.nanmax(state.params["conv"]["kernel"])) == 7.0


def test_the_layout_of_the_test_states_is_that_of_real_ones():
    kernel = make_state(1).params["conv"]["kernel"]
    assert kernel.sharding.spec == P(None, None, None, "model")


def test_scores_of_the_log_that_are_not_finite_are_left_out(tmp_path):
    scores = {1: 0.25, 2: math.nan, 3: math.inf, 4: None}
    with Checkpoints(tmp_path, scores=scores) as checkpoints:
        assert checkpoints.scores == {1: 0.25}


def test_a_step_that_cannot_be_deleted_is_told_and_stays(tmp_path, monkeypatch):
    for step in (1, 2, 3):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    told = []

    def refuse(source, target):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "rename", refuse)
    with Checkpoints(tmp_path, keep=1, log=told.append):
        pass
    assert told == [f"{tmp_path}/checkpoints/1: cannot be deleted: Permission denied"]
    assert names(tmp_path) == ["1", "2", "3"]


def test_a_store_that_fails_after_a_save_does_not_undo_it(tmp_path, monkeypatch):
    pushes, said = [], []

    def push(self):
        pushes.append(names(tmp_path))
        if len(pushes) % 2 == 0:  # the first of a save writes the checkpoint, the second deletes
            raise OSError(errno.EIO, "no answer", "s3://bucket/run")

    monkeypatch.setattr(Checkpoints, "_push", push)
    with Checkpoints(tmp_path, keep=1, log=said.append) as checkpoints:
        for step in (1, 2):
            checkpoints.save(make_state(step), META)
        checkpoints.wait()
        assert checkpoints.steps() == [2]
    assert said == ["s3://bucket/run: cannot be brought up to date: no answer"] * 2
    with pytest.raises(RunError, match="what was logged after the last checkpoint is not in the"):
        with Checkpoints(tmp_path, keep=1, log=said.append):
            pass


def test_who_only_reads_deletes_nothing_at_the_end(tmp_path):
    for step in (1, 2, 3):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    with Checkpoints(tmp_path, keep=1, read_only=True):
        pass
    assert names(tmp_path) == ["1", "2", "3"]


def test_a_first_save_that_fails_says_that_there_is_none(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints._saving = 4
        error = checkpoints._not_written(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert str(error).endswith(
        "checkpoint of step 4 could not be written: No space left on device; there is none yet; "
        "fix that and run again to resume"
    )


def test_a_restored_step_is_not_saved_again(five):
    saved = make_state(4)
    five.restore(4, abstract(saved, (8, 1, 1)))
    five.save(saved, META)
    assert five._saving is None


def test_an_error_of_a_step_that_is_still_there_is_not_called_deleted(five, monkeypatch):
    def failing(*_, **__):
        raise ValueError("another shape")

    monkeypatch.setattr(five._checkpointer, "restore", failing)
    target = abstract(make_state(4), (8, 1, 1))
    with pytest.raises(DataError, match="4: cannot be restored: another shape"):
        five.restore_variables(4, target)
    with pytest.raises(DataError, match="3: was deleted by a run that is training there; try"):
        five.restore_variables(3, target)
