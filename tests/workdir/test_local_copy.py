"""What is written into a local copy reaches the store, whole or not at all, and comes back."""

import shutil

import object_stores
import pytest

from convmesh.data.stores.object_store import ObjectStore
from convmesh.errors import RunError
from convmesh.workdir.checksums import CHECKSUMS, verify_checksums, write_checksums
from convmesh.workdir.local_copy import COMMITTED, LocalCopy

ARRAYS = "model/arrays"


def open_copy(address, tmp_path, name, monkeypatch):
    """A local copy as another process has it."""
    monkeypatch.setattr("convmesh.workdir.local_copy.local_folder", lambda *_: tmp_path / name)
    copy = LocalCopy(ObjectStore(address))
    copy.pull()
    return copy


@pytest.fixture
def opened(address, tmp_path, monkeypatch):
    return lambda name: open_copy(address, tmp_path, name, monkeypatch)


@pytest.fixture
def opened_s3(servers, tmp_path, monkeypatch):
    address = object_stores.new_address("s3")
    return lambda name: open_copy(address, tmp_path, name, monkeypatch)


def write(copy, name, content):
    path = copy.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def write_checkpoint(copy, step):
    folder = f"checkpoints/{step}"
    write(copy, f"{folder}/meta/metadata", "{}")
    for name in (ARRAYS, "model/more", "training/arrays"):
        write(copy, f"{folder}/{name}", f"{name} of {step}")
    write_checksums(copy.folder / folder)


def test_files_reach_another_copy(opened):
    one = opened("one")
    write(one, "metrics.jsonl", "1")
    write(one, "eval/val/metrics.json", "{}")
    write(one, ".lock", "not this")
    write(one, "profile/trace", "large")
    one.push()
    write(one, "metrics.jsonl", "12")
    one.push()
    two = opened("two")
    assert (two.folder / "metrics.jsonl").read_text() == "12"
    assert (two.folder / "eval/val/metrics.json").exists()
    assert not (two.folder / "profile").exists()  # only written
    assert "profile/trace" in two.store.entries() and ".lock" not in two.store.entries()
    (one.folder / "eval/val/metrics.json").unlink()
    one.push()
    assert "eval/val/metrics.json" in two.store.entries()  # it may be lost here, not deleted
    one.delete("eval/val/metrics.json")
    one.push()
    two.pull()
    assert not (two.folder / "eval/val/metrics.json").exists()


def test_only_what_changed_is_written(opened_s3, monkeypatch):
    one, written = opened_s3("one"), []
    monkeypatch.setattr(one.store, "upload", lambda folder, names: written.extend(names))
    write(one, "a", "1")
    write(one, "b", "1")
    one.push()
    write(one, "b", "12")
    one.push()
    one.push()
    assert sorted(written) == ["a", "b", "b"]


def test_objects_of_others_are_left_alone(opened_s3):
    one = opened_s3("one")
    one.store.write("notes/mine.txt", b"1")
    one.store.write("checkpoints/README", b"1")
    write(one, "a", "1")
    one.push()
    assert {"notes/mine.txt", "checkpoints/README"} <= one.store.entries().keys()


def test_a_checkpoint_is_fetched_when_it_is_needed(opened):
    one = opened("one")
    write_checkpoint(one, 3)
    one.push()
    two = opened("two")
    folder = two.folder / "checkpoints/3"
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {CHECKSUMS, "metadata"}
    two.fetch(3)
    assert not verify_checksums(folder)
    assert not (folder / COMMITTED).exists()


def test_a_checkpoint_is_written_in_the_order_that_makes_it_complete(opened_s3, monkeypatch):
    one, order = opened_s3("one"), []
    monkeypatch.setattr(one.store, "upload", lambda folder, names: order.append([*names]))
    monkeypatch.setattr(one.store, "write", lambda name, data: order.append(name))
    write_checkpoint(one, 3)
    write(one, "metrics.jsonl", "1")
    one.push()
    metrics, sums, files, committed = order
    assert (metrics, sums) == (["metrics.jsonl"], [f"checkpoints/3/{CHECKSUMS}"])
    assert len(files) == 4
    assert committed == f"checkpoints/3/{COMMITTED}"


def stop_after(store, monkeypatch, requests):
    """Lets the store fail after so many more requests that change it."""
    left = [requests]

    def limited(function):
        def call(*args):
            if not left[0]:
                raise OSError(5, "cut")
            left[0] -= 1
            return function(*args)

        return call

    for name in ("_upload", "_delete", "write"):
        monkeypatch.setattr(store, name, limited(getattr(store, name)))


@pytest.mark.parametrize("requests", range(7))
def test_a_save_that_ends_anywhere_leaves_the_checkpoint_complete_or_absent(
    opened_s3, monkeypatch, requests
):
    one = opened_s3("one")
    write_checkpoint(one, 3)
    one.push()
    write_checkpoint(one, 6)
    with monkeypatch.context() as patch:
        stop_after(one.store, patch, requests)
        if requests < 6:  # five files and the sign
            with pytest.raises(OSError, match="cut"):
                one.push()
        else:
            one.push()
    two = opened_s3("two")
    found = sorted(int(path.name) for path in (two.folder / "checkpoints").iterdir())
    assert found == ([3, 6] if requests >= 5 else [3])  # the files are enough
    for step in found:
        two.fetch(step)
        assert not verify_checksums(two.folder / "checkpoints" / str(step))
    assert two.remove_unfinished() == ([6] if 0 < requests < 5 else [])
    assert sorted({name.split("/")[1] for name in two.store.entries("checkpoints")}) == [
        str(step) for step in found
    ]


@pytest.mark.parametrize("requests", range(7))
def test_a_deletion_that_ends_anywhere_leaves_no_damaged_checkpoint(
    opened_s3, monkeypatch, requests
):
    one = opened_s3("one")
    for step in (3, 6):
        write_checkpoint(one, step)
    one.push()
    shutil.rmtree(one.folder / "checkpoints/3")
    one.delete("checkpoints/3/")
    with monkeypatch.context() as patch:
        stop_after(one.store, patch, requests)
        if requests < 6:
            with pytest.raises(OSError, match="cut"):
                one.push()
    two = opened_s3("two")
    for path in (two.folder / "checkpoints").iterdir():
        two.fetch(int(path.name))
        assert not verify_checksums(path)
    two.remove_unfinished()
    assert any(name.startswith("checkpoints/6/") for name in two.store.entries())
    assert (
        not any(name.startswith("checkpoints/3/") for name in two.store.entries())
        or (two.folder / "checkpoints/3").is_dir()
    )


@pytest.mark.parametrize("lost", [ARRAYS, CHECKSUMS, "meta/metadata"])
def test_a_lost_object_of_a_checkpoint_is_noticed(opened, lost):
    one = opened("one")
    write_checkpoint(one, 3)
    one.push()
    one.store.delete([f"checkpoints/3/{lost}"])
    two = opened("two")
    two.fetch(3)
    assert verify_checksums(two.folder / "checkpoints/3") == f"{lost}: missing" or lost == CHECKSUMS
    assert verify_checksums(two.folder / "checkpoints/3")
    assert two.remove_unfinished() == []


def test_a_changed_object_of_a_checkpoint_is_noticed(opened):
    one = opened("one")
    write_checkpoint(one, 3)
    one.push()
    one.store.write(f"checkpoints/3/{ARRAYS}", b"other")
    two = opened("two")
    two.fetch(3)
    assert verify_checksums(two.folder / "checkpoints/3") == f"{ARRAYS}: its content has changed"


def test_a_checkpoint_that_lost_its_sign_is_complete(opened_s3):
    one = opened_s3("one")
    write_checkpoint(one, 3)
    one.push()
    one.store.delete([f"checkpoints/3/{COMMITTED}"])
    two = opened_s3("two")
    two.fetch(3)
    assert not verify_checksums(two.folder / "checkpoints/3")
    assert two.remove_unfinished() == []


def test_a_checkpoint_deleted_meanwhile_is_deleted_here(opened):
    one = opened("one")
    for step in (3, 6):
        write_checkpoint(one, step)
    one.push()
    two = opened("two")
    shutil.rmtree(one.folder / "checkpoints/3")
    one.delete("checkpoints/3/")
    one.push()
    two.fetch(3)
    assert not (two.folder / "checkpoints/3").exists()
    assert (two.folder / "checkpoints/6").exists()


def test_one_that_reads_does_not_delete_what_is_being_written(opened_s3, monkeypatch):
    one = opened_s3("one")
    write_checkpoint(one, 3)
    with monkeypatch.context() as patch:
        stop_after(one.store, patch, 2)
        with pytest.raises(OSError, match="cut"):
            one.push()
    two = opened_s3("two")
    write(two, "eval/val/metrics.json", "{}")
    two.push()
    one.push()
    three = opened_s3("three")
    three.fetch(3)
    assert not verify_checksums(three.folder / "checkpoints/3")


def test_one_set_aside_is_set_aside_in_the_store(opened):
    one = opened("one")
    write_checkpoint(one, 3)
    one.push()
    (one.folder / "checkpoints/3").rename(one.folder / "checkpoints/3.damaged")
    one.delete("checkpoints/3/")
    write_checkpoint(one, 6)
    one.push()
    two = opened("two")
    found = sorted(path.name for path in (two.folder / "checkpoints").iterdir())
    assert found == ["3.damaged", "6"]
    assert f"checkpoints/3.damaged/{ARRAYS}" in two.store.entries()


def test_another_checkpoint_of_a_step_replaces_the_first(opened):
    one = opened("one")
    write_checkpoint(one, 3)
    write(one, "checkpoints/3/old", "1")
    one.push()
    (one.folder / "checkpoints/3").rename(one.folder / "checkpoints/3.copy")
    one.delete("checkpoints/3/")
    write_checkpoint(one, 3)
    one.push()
    two = opened("two")
    two.fetch(3)
    assert not verify_checksums(two.folder / "checkpoints/3")
    assert "checkpoints/3/old" not in two.store.entries()
    assert f"checkpoints/3/{COMMITTED}" in two.store.entries()


def test_a_cache_that_somebody_clears_costs_nothing_in_the_store(opened):
    one = opened("one")
    write_checkpoint(one, 3)
    write(one, "metrics.jsonl", "1")
    one.push()
    before = one.store.entries()
    shutil.rmtree(one.folder)
    one.push()
    assert one.store.entries() == before


def test_a_checkpoint_that_vanishes_while_it_is_written_is_not_complete(opened_s3, monkeypatch):
    one = opened_s3("one")
    write_checkpoint(one, 3)
    upload = one.store.upload

    def vanishes(folder, names):
        shutil.rmtree(one.folder / "checkpoints/3/training", ignore_errors=True)
        upload(folder, names)

    monkeypatch.setattr(one.store, "upload", vanishes)
    with pytest.raises(FileNotFoundError):
        one.push()
    assert f"checkpoints/3/{COMMITTED}" not in one.store.entries()


def test_a_reader_writes_only_what_it_is_asked_to(opened):
    one = opened("one")
    write(one, "eval/val/metrics.json", "{}")
    write(one, "eval/test/metrics.json", "{}")
    write(one, "other", "1")
    one.push("eval/val/")
    assert list(one.store.entries()) == ["eval/val/metrics.json"]


def test_what_is_below_the_address_and_no_file_of_a_run_is_not_brought(opened):
    one = opened("one")
    for name in ("inner/config.json", "inner/checkpoints/3/SHA256SUMS", "plots/a.png"):
        one.store.write(name, b"1")
    one.pull()
    found = {path.name for path in one.folder.rglob("*") if path.is_file()}
    assert found == {"a.png"}


def test_a_copy_that_has_lost_its_lock_writes_nothing(opened_s3):
    one = opened_s3("one")

    def lost():
        raise RunError("lost")

    one.before_push = lost
    write(one, "a", "1")
    with pytest.raises(RunError):
        one.push()
    assert not one.store.entries()
