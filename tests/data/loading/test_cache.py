import pickle
from dataclasses import replace

import numpy as np
import pytest

from convmesh.data.loading import cache
from convmesh.data.record import BadExample, Record, Source, Subset


class Counted(Source):
    classes, split, task = ("a",), "train", "detect"

    def __init__(self, count=6, broken=()):
        self.reads, self.count, self.broken = [], count, broken

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.reads.append(index)
        if index in self.broken:
            raise BadExample(f"{index}.png: broken")
        image = np.full((100, 100, 3), index, np.uint8)
        return Record(image, index + 1, f"{index}.png", boxes=np.ones((2, 4), np.float32))

    def name(self, index):
        return f"{index}.png"

    def stated_truth(self, index):
        return b"truth of %d" % index


def test_each_example_is_read_once():
    source = Counted()
    kept = cache.Cached(source)
    for _ in range(3):
        assert [kept[i].image[0, 0, 0] for i in range(6)] == list(range(6))
    assert source.reads == list(range(6))
    assert (len(kept), kept.classes, kept.split, kept.task) == (6, ("a",), "train", "detect")


def test_what_the_files_state_is_that_of_the_source():
    source = Counted()
    assert cache.Cached(source).stated_truth(3) == source.stated_truth(3) == b"truth of 3"
    assert Subset(source, [4, 2], "part").stated_truth(1) == b"truth of 2"
    assert source.reads == []


def test_cached_arrays_are_read_only():
    kept = cache.Cached(Counted())
    for array in (kept[0].image, kept[0].boxes):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 9


def test_an_unreadable_example_raises_on_every_access():
    kept = cache.Cached(Counted(broken=(2,)))
    for _ in range(2):
        with pytest.raises(BadExample):
            kept[2]


def test_a_pickled_copy_starts_empty():
    kept = cache.Cached(Counted())
    kept[0]
    data = pickle.dumps(kept)
    assert len(data) < 5000  # one image has 30,000 bytes
    copy = pickle.loads(data)
    assert len(copy) == 6 and copy[4].image_id == 5


def test_auto_caches_what_fits_into_a_quarter_of_the_free_memory(monkeypatch):
    source = Counted(count=100, broken=(0,))  # 3,000,000 bytes
    monkeypatch.setattr(cache, "free_memory", lambda: 12_100_000)
    assert isinstance(cache.with_cache(source, "auto"), cache.Cached)
    assert cache.with_cache(source, "auto", copies=2) is source
    assert cache.with_cache(source, "false") is source
    monkeypatch.setattr(cache, "free_memory", lambda: 11_900_000)
    assert cache.with_cache(source, "auto") is source
    assert isinstance(cache.with_cache(source, "true"), cache.Cached)
    assert len(source.reads) < 100


def test_free_memory_respects_the_limit_of_a_container(monkeypatch):
    files = {"/proc/meminfo": ["MemTotal: 99 kB", "MemAvailable:   8000 kB"]}
    monkeypatch.setattr(cache, "_lines", lambda path: files.get(path, []))
    assert cache.free_memory() == 8000 * 1024
    files["/sys/fs/cgroup/memory.max"] = ["max"]
    files["/sys/fs/cgroup/memory.current"] = ["500"]
    assert cache.free_memory() == 8000 * 1024
    files["/sys/fs/cgroup/memory.max"] = ["1500"]
    assert cache.free_memory() == 1000
    files.clear()
    assert cache.free_memory() == 0


def test_arrays_of_every_kind_are_read_only():
    class Boxes(Counted):
        def __getitem__(self, index):
            found = {"labels": np.zeros(2, np.int32), "crowd": np.zeros(2, bool)}
            return replace(super().__getitem__(index), area=np.ones(2, np.float32), **found)

    record = cache.Cached(Boxes())[0]
    for name in ("image", "boxes", "labels", "crowd", "area"):
        assert not getattr(record, name).flags.writeable, name


def test_the_ids_of_the_classes_are_those_of_the_source():
    source = Counted()
    source.category_ids = (17,)
    assert cache.Cached(source).category_ids == (17,)


def test_images_that_fill_the_allowed_memory_exactly_are_cached(monkeypatch):
    source = Counted(count=4)  # 120,000 bytes, a quarter of 480,000
    monkeypatch.setattr(cache, "free_memory", lambda: 480_000)
    assert cache.fits(source)
    monkeypatch.setattr(cache, "free_memory", lambda: 479_999)
    assert not cache.fits(source)


def test_the_size_of_all_images_is_estimated_by_the_mean_of_a_sample(monkeypatch):
    class OneLarge(Counted):
        def __getitem__(self, index):
            side = 300 if index == 0 else 100
            return Record(np.zeros((side, 100, 3), np.uint8), index, str(index))

    monkeypatch.setattr(cache, "free_memory", lambda: 4 * 180_000)  # 90,000 + 3 x 30,000
    assert cache.fits(OneLarge(count=4))


def test_the_limit_of_an_older_container_is_respected_too(monkeypatch):
    folder = "/sys/fs/cgroup/memory/memory"
    files = {
        "/proc/meminfo": ["MemAvailable: 8 kB"],
        f"{folder}.limit_in_bytes": ["5000"],
        f"{folder}.usage_in_bytes": ["2000"],
    }
    monkeypatch.setattr(cache, "_lines", lambda path: files.get(path, []))
    assert cache.free_memory() == 3000
    files[f"{folder}.limit_in_bytes"] = ["9223372036854771712"]  # none
    assert cache.free_memory() == 8 * 1024
    files[f"{folder}.limit_in_bytes"] = ["1000"]  # already exceeded
    assert cache.free_memory() == 0
