"""The kept listing of a large set: found again, and made again if the set has changed."""

import json
import os
import pickle
import shutil
import threading
import time

import pytest

from convmesh.data.formats.folder import folder_index as index
from convmesh.data.formats.folder.folder_index import open_listing

HOUR = 3600


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Two splits of two classes, changed an hour ago; every set counts as a large one."""
    monkeypatch.setenv("CONVMESH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "LEAST_FILES", 1)
    root = tmp_path / "photos"
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(3):
                (root / split / name / f"{number}.png").touch()
    (root / "train" / "dog" / "notes.txt").touch()
    (root / "train" / "empty").mkdir()
    return aged(root)


def aged(root):
    for folder, _, _ in os.walk(root):
        os.utime(folder, (time.time() - HOUR,) * 2)
    return root


def opened(root, given=(), keys=("train", "val")):
    found = open_listing(root, given, keys)
    return {
        name: (split.classes, split.folders, split.counts, list(split.images), split.ignored)
        for name, split in found.splits.items()
    }, [str(problem) for problem in found.problems]


@pytest.fixture
def scans(monkeypatch):
    """Each time that a set is listed."""
    found, original = [], index.find_class_folders

    def find(*args):
        found.append(args)
        return original(*args)

    monkeypatch.setattr(index, "find_class_folders", find)
    return found


def test_a_second_start_reads_what_the_first_has_kept(photos, scans, capsys):
    first = opened(photos)
    assert "listed 12 files of" in capsys.readouterr().err
    assert opened(photos) == first
    assert len(scans) == 1
    splits, problems = first
    classes, folders, counts, images, ignored = splits["train"]
    assert (classes, folders) == (["cat", "dog", "empty"], [f"train/{n}" for n in classes])
    assert (counts, ignored[1]) == ([3, 3, 0], ["train/dog/notes.txt"])
    assert images == [f"train/{n}/{i}.png" for n in ("cat", "dog") for i in range(3)]


def add(root):
    (root / "train" / "cat" / "9.png").touch()


def add_to_an_empty_folder(root):
    (root / "train" / "empty" / "9.png").touch()


def remove(root):
    (root / "val" / "dog" / "0.png").unlink()


def rename(root):
    (root / "val" / "dog" / "0.png").rename(root / "val" / "dog" / "00.png")


def remove_a_class(root):
    shutil.rmtree(root / "val" / "dog")


def replace_by_another_folder_of_the_same_time(root):
    old = root / "val" / "dog"
    state = old.stat()
    old.rename(root.parent / "old")
    old.mkdir()
    (old / "another.png").touch()
    for folder in (old, root / "val"):
        os.utime(folder, ns=(state.st_atime_ns, state.st_mtime_ns))


def damage(root):
    for file in (root.parent / "cache").rglob("names.bin"):
        file.write_bytes(file.read_bytes()[:-1])


CHANGES = [add, add_to_an_empty_folder, remove, rename, remove_a_class, damage]
CHANGES += [replace_by_another_folder_of_the_same_time]


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_listed_again(photos, scans, change):
    opened(photos)
    change(photos)
    changed = opened(photos)
    assert len(scans) == 2
    shutil.rmtree(photos.parent / "cache")
    assert opened(photos) == changed


def test_a_run_keeps_the_listing_that_it_has_opened(photos):
    images = open_listing(photos, (), ("train", "val")).splits["train"].images
    pickled, before = pickle.dumps(images), list(images)
    remove_a_class(photos)
    aged(photos)
    assert len(opened(photos)[0]) == 2
    assert list(pickle.loads(pickled)) == list(images) == before


@pytest.mark.parametrize("fault", ["a broken link", "no times", "FUSE"])
def test_where_changes_may_go_unnoticed_nothing_is_kept(photos, scans, monkeypatch, fault):
    if fault == "a broken link":
        (photos / "train" / "cat" / "link").symlink_to(photos / "nothing")
        aged(photos)
    elif fault == "no times":
        os.utime(photos / "val", (0, 0))
    else:
        monkeypatch.setattr(index, "_is_in_user_space", lambda root: True)
    opened(photos)
    opened(photos)
    assert len(scans) == 2


def test_other_keys_have_a_listing_of_their_own(photos, scans):
    opened(photos)
    opened(photos, given=["cat", "dog", "empty"])
    opened(photos, keys=("val", "train"))
    assert len(scans) == 3


def test_a_set_that_is_just_being_written_is_not_kept(photos, scans):
    add(photos)
    opened(photos)
    opened(photos)
    assert len(scans) == 2


def test_small_sets_are_not_kept(photos, scans, monkeypatch):
    monkeypatch.setattr(index, "LEAST_FILES", 13)
    opened(photos)
    opened(photos)
    assert len(scans) == 2
    assert not list((photos.parent / "cache").rglob("names.bin"))


def test_without_a_cache_nothing_is_kept(photos, scans, monkeypatch):
    monkeypatch.setenv("CONVMESH_CACHE", "")
    opened(photos)
    opened(photos)
    assert len(scans) == 2


def test_a_folder_that_cannot_be_written_is_no_error(photos, monkeypatch, capsys):
    (photos.parent / "file").touch()
    monkeypatch.setenv("CONVMESH_CACHE", str(photos.parent / "file"))
    assert set(opened(photos)[0]) == {"train", "val"}
    assert "cannot be kept" in capsys.readouterr().err


def test_others_wait_for_the_one_that_lists(photos, scans, monkeypatch):
    original = index.list_set

    def slow(found):
        time.sleep(0.5)
        return original(found)

    monkeypatch.setattr(index, "list_set", slow)
    found = []
    threads = [threading.Thread(target=lambda: found.append(opened(photos))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(scans) == 1
    assert found[0] == found[1] == found[2]


def test_other_files_at_the_same_path_have_a_listing_of_their_own(photos, scans):
    # As two hosts with copies of their own, and one cache in a home that they share.
    opened(photos)
    photos.rename(photos.with_name("elsewhere"))
    for path in ("train/cow", "val/cow"):
        (photos / path).mkdir(parents=True)
        (photos / path / "1.png").touch()
    aged(photos)
    assert opened(photos)[0]["train"][0] == ["cow"] and len(scans) == 2
    kept = [json.loads(file.read_text()) for file in photos.parent.rglob("listing.json")]
    names = sorted(each["splits"]["train"]["classes"] for each in kept)
    assert names == [["cat", "dog", "empty"], ["cow"]]


def test_a_kept_listing_is_read_without_waiting(photos, scans):
    first = opened(photos)
    with index._only_one(index._place(photos, (), ("train", "val"))):
        assert opened(photos) == first


def test_listings_that_nobody_has_opened_for_long_are_removed(photos, monkeypatch):
    opened(photos)
    folder = photos.parent / "cache" / "listings"
    [place] = [path for path in folder.iterdir() if path.is_dir()]
    [old] = [path for path in place.iterdir() if path.is_dir()]
    (folder / "another" / "old").mkdir(parents=True)
    for path in (old, folder / "another" / "old"):
        os.utime(path, (0, 0))
    opened(photos)  # which counts as used again
    add(photos)
    aged(photos)
    opened(photos)
    assert old.is_dir() and not (folder / "another").exists()
