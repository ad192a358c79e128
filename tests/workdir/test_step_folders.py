"""What other programs leave among checkpoints, and what a run that is training there deletes."""

import shutil

import pytest
from checkpoint_states import META, abstract, assert_same_bits, damage, make_state, names

from convmesh.errors import DataError
from convmesh.workdir import checksums
from convmesh.workdir.checkpoints import Checkpoints
from convmesh.workdir.step_folders import names_step, newest_meta, saved_steps

# --- what other programs leave there --------------------------------------------------------------


@pytest.mark.parametrize("name", [".DS_Store", ".nfs00000001", "x (copy)", "process_9", "\udc80\n"])
def test_added_files_are_named_and_never_read(two, name):
    folders = [path for path in (two / "checkpoints" / "2").rglob("*") if path.is_dir()]
    for folder in [two / "checkpoints", two / "checkpoints" / "2", *folders]:
        (folder / name).write_text("not of the checkpoint")
    told = []
    with Checkpoints(two, read_only=True, log=told.append) as checkpoints:
        assert checkpoints.choose() == checkpoints.choose(step=2) == 2
        restored, _ = checkpoints.restore(2, abstract(make_state(2), (2, 2, 2)))
        assert_same_bits(restored, make_state(2))
        variables = checkpoints.restore_variables(2, abstract(make_state(2), (2, 2, 2)))
        assert_same_bits(variables, make_state(2).ema)
    [line] = told
    shown = name if name.isprintable() else ascii(name)
    assert line.startswith(f"{two}/checkpoints/2: ") and shown.strip("'") in line
    assert line.isprintable()
    assert line.endswith(f"({len(folders) + 1} in all): not part of the checkpoint; ignored")


def test_every_file_and_folder_of_a_checkpoint_may_have_a_copy_beside_it(two):
    parts = list((two / "checkpoints" / "2").rglob("*"))
    for path in parts:
        copy = path.with_name(f"{path.name} (copy)")
        shutil.copytree(path, copy) if path.is_dir() else shutil.copy(path, copy)
    with Checkpoints(two, log=lambda line: None) as checkpoints:
        assert checkpoints.newest() == 2
        restored, _ = checkpoints.restore(2, abstract(make_state(2), (8, 1, 1)))
        assert_same_bits(restored, make_state(2))
    damage(two, 2)
    with Checkpoints(two, log=lambda line: None) as checkpoints:
        assert checkpoints.newest() == 1


def test_only_a_folder_named_by_its_step_is_a_checkpoint(two):
    folder = two / "checkpoints"
    for name in ("0002", "2 (copy)", "best", "2.backup"):
        shutil.copytree(folder / "2", folder / name)
    (folder / "15").write_text("a file")
    (folder / "notes.txt").write_text("")
    (folder / "plots").mkdir()
    told = []
    with Checkpoints(two, log=told.append) as checkpoints:
        assert checkpoints.steps() == [1, 2]
        assert checkpoints.newest() == checkpoints.newest() == 2
    assert told == [
        f"{folder}: 0002, 15, 2 (copy), ... (5 in all): ignored, since only a folder that "
        "is named by its step is a checkpoint"
    ]
    assert len(names(two)) == 9


@pytest.mark.parametrize("step", [2, 3])
def test_an_empty_folder_is_reported_and_the_newest_intact_one_is_used(two, step):
    shutil.rmtree(two / "checkpoints" / "2")
    (two / "checkpoints" / str(step)).mkdir()
    told = []
    with Checkpoints(two, log=told.append) as checkpoints:
        assert checkpoints.newest() == 1
    assert f"step {step} is damaged (SHA256SUMS: No such file or directory); renamed" in told[0]


def test_a_file_in_the_way_of_a_new_checkpoint_is_set_aside(two):
    (two / "checkpoints" / "3").write_text("mine")
    told = []
    with Checkpoints(two, log=told.append) as checkpoints:
        checkpoints.save(make_state(3), META)
    assert checkpoints.steps() == [2, 3]
    assert (two / "checkpoints" / "3.copy").read_text() == "mine"
    assert "3: is no checkpoint of this run; renamed to" in told[0]


# --- what a run that is training there deletes meanwhile ------------------------------------------


@pytest.fixture
def three(two):
    """Checkpoints of steps 1 to 3, of which a reader has chosen the newest."""
    with Checkpoints(two, keep=5) as checkpoints:
        checkpoints.save(make_state(3), META)
    return two


def deleting(workdir, step, function):
    """`function`, before whose first call the folder of `step` is deleted as pruning does."""

    def call(*arguments, **keywords):
        folder = workdir / "checkpoints" / str(step)
        if folder.is_dir():
            folder.rename(folder.with_name(f"{step}.deleted"))
        return function(*arguments, **keywords)

    return call


@pytest.mark.parametrize("at", ["sha256", "verify_checksums", "added_files"])
def test_a_reader_takes_the_next_one_if_the_newest_is_deleted(three, monkeypatch, at):
    target = abstract(make_state(1), (8, 1, 1))
    monkeypatch.setattr(checksums, at, deleting(three, 3, getattr(checksums, at)))
    told = []
    with Checkpoints(three, read_only=True, log=told.append) as checkpoints:
        variables, step = checkpoints.choose_variables(target)
    assert step == 2 and told == []
    assert_same_bits(variables, make_state(2).ema)


def test_a_reader_takes_the_next_one_if_the_newest_is_deleted_while_orbax_reads(three, monkeypatch):
    target = abstract(make_state(1), (8, 1, 1))
    with Checkpoints(three, read_only=True) as checkpoints:
        restore = deleting(three, 3, checkpoints._checkpointer.restore)
        monkeypatch.setattr(checkpoints._checkpointer, "restore", restore)
        variables, step = checkpoints.choose_variables(target)
    assert step == 2
    assert_same_bits(variables, make_state(2).ema)


@pytest.mark.parametrize("at", ["sha256", "added_files"])
@pytest.mark.parametrize("asked", [{"step": 3}, {"best": True}], ids=str)
def test_a_reader_of_a_given_one_says_that_it_was_deleted(three, monkeypatch, at, asked):
    target = abstract(make_state(1), (8, 1, 1))
    monkeypatch.setattr(checksums, at, deleting(three, 3, getattr(checksums, at)))
    with (
        Checkpoints(three, scores={3: 1.0}, read_only=True) as checkpoints,
        pytest.raises(DataError, match="checkpoints/3: was deleted by a run that is training"),
    ):
        checkpoints.choose_variables(target, **asked)


def test_a_reader_of_a_run_that_is_removed_says_so(two, monkeypatch):
    verify = checksums.verify_checksums

    def removing(folder):
        shutil.rmtree(two / "checkpoints")
        return verify(folder)

    monkeypatch.setattr(checksums, "verify_checksums", removing)
    with (
        Checkpoints(two, read_only=True) as checkpoints,
        pytest.raises(DataError, match="no checkpoint any more"),
    ):
        checkpoints.choose()


# --- without reading checkpoints ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["007", "1.0", "-1", "+1", " 1", "1 ", "١", "²", "", "9.damaged"])
def test_what_is_no_name_of_a_step(name):
    assert not names_step(name)


def test_the_newest_meta_that_can_be_read(two, tmp_path):
    folder = two / "checkpoints"
    assert newest_meta(folder)["step"] == 2
    (folder / "2" / "meta" / "metadata").write_text("{")
    (folder / "3").mkdir()
    (folder / "4").write_text("a file")
    assert newest_meta(folder)["step"] == 1
    assert newest_meta(tmp_path / "none") == {} and saved_steps(tmp_path / "none") == []
