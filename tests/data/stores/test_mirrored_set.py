"""A data set in an object store is read as on a disk; an image is copied when it is read."""

import errno
import fcntl
import io
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import object_stores
import pytest
import runs
import tensorflow_datasets as tfds
import tfds_sets
import yolo_sets

from convmesh.config import apply_overrides
from convmesh.data.checks.inspection import inspect
from convmesh.data.formats.registry import open_dataset
from convmesh.data.record import BadExample, identity
from convmesh.data.splits import open_data
from convmesh.data.stores import mirrored_set
from convmesh.data.stores.object_store import ObjectStore
from convmesh.errors import ConfigError, DataError, StoreError
from convmesh.training import loop
from convmesh.workdir.layout import Workdir


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("CONVMESH_CACHE", str(folder))
    opened_again()
    return folder


@pytest.fixture
def s3(servers):
    return object_stores.new_address("s3")


def opened_again():
    """What is opened from now on is opened as by another process."""
    mirrored_set._silent.clear()
    mirrored_set._opened.cache_clear()
    mirrored_set._url.cache_clear()


def put(root, address):
    names = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    ObjectStore(address).upload(root, names)
    return address


def copied(cache):
    """The names of the images that are copied."""
    found = (path for path in (cache / "data_sets").rglob("*.png"))
    return sorted(path.name for path in found if path.stat().st_mtime_ns)


def photos_of(config):
    return apply_overrides(config, {"data.cache": "false"})


def test_class_folders_are_those_of_the_disk(address, photos, cache):
    on_disk = open_data(photos_of(runs.photo_config(photos))).train
    stored = open_data(photos_of(runs.photo_config(put(photos, address)))).train
    assert identity(stored) == identity(on_disk)
    assert stored.classes == on_disk.classes
    assert not copied(cache)
    np.testing.assert_array_equal(stored[5].image, on_disk[5].image)
    assert len(copied(cache)) == 1
    np.testing.assert_array_equal(stored[5].image, on_disk[5].image)


def test_boxes_are_those_of_the_disk(tmp_path, s3):
    config = yolo_sets.simple(tmp_path / "set", yolo_sets.ROW)
    on_disk = open_dataset(config).source("train", training=False)
    config.data.root = put(tmp_path / "set", s3)
    stored = open_dataset(config).source("train", training=False)
    np.testing.assert_array_equal(stored[0].boxes, on_disk[0].boxes)
    assert stored.classes == on_disk.classes == ("cat", "dog")


def test_array_records_are_copied_whole(tmp_path, s3, monkeypatch):
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["a", "b"])}
    )
    examples = [{"image": io.BytesIO(tfds_sets.png(value=i)), "label": i % 2} for i in range(6)]
    tfds_sets.like(monkeypatch, tmp_path / "tfds", features, examples)
    put(tmp_path / "tfds", s3)
    config = tfds_sets.config_for(s3, "like", "classify")
    source = open_dataset(config).source("train", training=False)
    assert [source[i].image[0, 0, 0] for i in range(6)] == list(range(6))


def test_what_changed_in_the_store_is_seen_at_the_next_start(photos, s3, cache):
    config = photos_of(runs.photo_config(put(photos, s3)))
    first = open_data(config).train
    before, store = first[0].image, ObjectStore(s3)
    store.write("train/blue/0.png", store.read("train/red/0.png"))
    store.delete(["train/red/0.png"])
    opened_again()
    again = open_data(config).train
    assert len(again) == len(first) - 1
    assert not np.array_equal(again[0].image, before)


def kill(*_):
    raise KeyboardInterrupt


def test_a_start_that_was_killed_is_done_again(photos, s3, monkeypatch):
    config = photos_of(runs.photo_config(put(photos, s3)))
    with monkeypatch.context() as patch:
        patch.setattr(
            mirrored_set.os, "replace", lambda *_: (_ for _ in ()).throw(KeyError("kill"))
        )
        with pytest.raises(KeyError):
            open_data(config)
    assert len(open_data(config).train) == runs.TRAIN_PHOTOS


def test_a_full_disk_keeps_no_image_but_reads_it(photos, s3, monkeypatch, cache):
    source = open_data(photos_of(runs.photo_config(put(photos, s3)))).train

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mirrored_set, "_replace", full)
    assert source[0].image.any()
    assert not copied(cache)


def test_what_a_killed_process_left_half_written_is_removed(photos, s3, cache):
    open_data(photos_of(runs.photo_config(put(photos, s3))))
    [place] = (cache / "data_sets").iterdir()
    below = next(path for path in place.iterdir() if path.is_dir())
    (below / "list.txt").touch()
    ObjectStore(s3).write("list.txt", b"1")
    for name, age in (("old.new", 7200), ("young.new", 60), (f"{below.name}/.list.1.new", 7200)):
        (place / name).touch()
        os.utime(place / name, (time.time() - age,) * 2)
    mirrored_set._opened.cache_clear()
    open_data(photos_of(runs.photo_config(s3)))
    assert {path.name for path in place.rglob("*.new")} == {"young.new"}


def test_on_a_file_system_without_locks_it_is_copied_all_the_same(photos, s3, monkeypatch, capsys):
    def no_locks(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert len(open_data(photos_of(runs.photo_config(put(photos, s3)))).train) == runs.TRAIN_PHOTOS
    assert "this file system has no locks (Function not implemented)" in capsys.readouterr().err


def test_threads_that_read_at_once_keep_each_its_own_image(photos, s3, cache):
    source = open_data(photos_of(runs.photo_config(put(photos, s3)))).train
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: source[i], range(len(source))))
    [folder] = {path.parents[2] for path in (cache / "data_sets").rglob("*.png")}
    for path in (photos / "train").rglob("*.png"):
        assert (folder / path.relative_to(photos)).read_bytes() == path.read_bytes()


def test_an_image_that_cannot_be_fetched_is_a_bad_example(photos, s3):
    source = open_data(photos_of(runs.photo_config(put(photos, s3)))).train
    ObjectStore(s3).delete(list(ObjectStore(s3).entries()))
    with pytest.raises(BadExample, match=r"\.png: no such object or bucket"):
        source[0]


def test_an_address_without_a_data_set_is_said(s3):
    with pytest.raises(DataError, match=f"data.root {s3}: nothing is there"):
        open_data(runs.photo_config(s3))
    with pytest.raises(DataError, match="data.root s3://none/set: no such object or bucket"):
        open_data(runs.photo_config("s3://none/set"))
    with pytest.raises(ConfigError, match="http://host/set: http:// is not supported"):
        open_data(runs.photo_config("http://host/set"))


def test_other_files_are_read_as_ever(tmp_path, photos):
    assert mirrored_set.content(next(photos.rglob("*.png")), 10**9) is None
    path = tmp_path / "old"
    path.write_bytes(b"1")
    os.utime(path, ns=(0, 0))
    assert mirrored_set.content(path, 10**9) is None


def test_a_run_on_data_in_a_store_is_the_run_on_a_disk(photos, s3, tmp_path, monkeypatch):
    runs.register_tiny_net(monkeypatch)
    changes = {"train.steps": 2, "eval.every_steps": 0, "data.workers": 1}
    losses = []
    for i, root in enumerate((photos, put(photos, s3))):
        loop.train(runs.photo_config(root, changes), tmp_path / f"run{i}")
        losses.append([row["loss"] for row in Workdir(tmp_path / f"run{i}").training_rows()])
    assert losses[0] == losses[1]


def fail(monkeypatch, times):
    """Lets the next reads fail; returns the pauses between them."""
    pauses, original, left = [], ObjectStore.read, [times]

    def read(store, name):
        if left[0]:
            left[0] -= 1
            raise OSError(5, "no answer", f"{store}/{name}")
        return original(store, name)

    monkeypatch.setattr(ObjectStore, "read", read)
    monkeypatch.setattr(mirrored_set.time, "sleep", pauses.append)
    return pauses


def test_a_store_that_does_not_answer_for_a_moment_costs_no_image(photos, s3, monkeypatch):
    source = open_data(photos_of(runs.photo_config(put(photos, s3)))).train
    pauses = fail(monkeypatch, 3)
    assert source[0].image.shape[2] == 3
    assert pauses == [0.5, 1.0, 2.0]


def test_a_store_that_stays_away_is_no_fault_of_an_image(photos, s3, monkeypatch):
    changes = {"data.on_bad_example": "skip", "data.cache": "false"}
    config = apply_overrides(runs.photo_config(put(photos, s3)), changes)
    source = open_data(config).train
    fail(monkeypatch, 10**9)
    monkeypatch.setattr(mirrored_set, "STORE_PATIENCE", 0.0)
    with pytest.raises(StoreError, match="cannot be read: no answer; run it again once the store"):
        source[0]
    # The next image does not wait: checking a large set would take for ever.
    monkeypatch.setattr(mirrored_set, "STORE_PATIENCE", 1e9)
    with pytest.raises(StoreError):
        source[1]
    with pytest.raises(StoreError):
        inspect(config)
    monkeypatch.undo()


def test_permissions_that_expire_are_no_fault_of_an_image(photos, s3, monkeypatch):
    source = open_data(photos_of(runs.photo_config(put(photos, s3)))).train

    def read(store, name):
        raise PermissionError(13, "ExpiredToken", f"{store}/{name}")

    monkeypatch.setattr(ObjectStore, "read", read)
    with pytest.raises(StoreError, match="ExpiredToken; run it again once the store permits it"):
        source[0]


def test_what_somebody_removes_from_the_cache_is_brought_again(photos, s3, cache):
    config = photos_of(runs.photo_config(put(photos, s3)))
    source = open_data(config).train
    before = [record.file_name for record in source]
    for path in (cache / "data_sets").rglob("*.png"):
        path.unlink()
    opened_again()
    again = open_data(config).train
    assert [record.file_name for record in again] == before
