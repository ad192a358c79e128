import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
from sources import Scenes, assert_same, config_for, take

from convmesh.config import defaults
from convmesh.data.loading import cache
from convmesh.data.loading.kept_records import OwnMemory
from convmesh.data.record import BadExample, Record, Source, Subset
from convmesh.data.splits import RunData


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
        image = np.full((100, 100, 3), index % 256, np.uint8)
        return Record(image, index + 1, f"{index}.png", boxes=np.ones((2, 4), np.float32))

    def name(self, index):
        return f"{index}.png"

    def stated_truth(self, index):
        return b"truth of %d" % index

    def stated_size(self, index):
        return b"size of %d" % index


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
    assert cache.Cached(source).stated_size(3) == b"size of 3"
    assert Subset(source, [4, 2], "part").stated_size(1) == b"size of 2"
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


def test_only_its_own_examples_are_read_from_a_cache_of_two_splits():
    kept = OwnMemory(6)
    first, second = cache.Cached(Counted(2), kept, 0), cache.Cached(Counted(4), kept, 2)
    assert [record.image_id for record in second] == [1, 2, 3, 4]
    assert [record.image_id for record in first] == [1, 2]
    for index in (-1, 2):
        with pytest.raises(IndexError):
            first[index]


# Which images are kept. An image of `Counted` takes 30,000 bytes and 1,000 for the rest.


def cached(monkeypatch, train, evaluated, free, wanted="auto", **data):
    """What `with_caches` makes of two splits; `free`: bytes of memory."""
    monkeypatch.setattr(cache, "free_memory", lambda: free)
    config = defaults("detect")
    config.data.update({"cache": wanted} | data)
    evaluated.split = "val"
    return cache.with_caches(RunData(train, evaluated), config)


def kept(data):
    return [isinstance(source, cache.Cached) for source in (data.train, data.eval)]


def test_what_fits_into_a_quarter_of_the_free_memory_is_kept(monkeypatch):
    for free, wanted in ((4 * 186_000, [True, True]), (4 * 186_000 - 4, [True, False])):
        data = cached(monkeypatch, Counted(4), Counted(2), free)
        assert kept(data) == wanted
    assert kept(cached(monkeypatch, Counted(4), Counted(2), 4 * 124_000 - 4)) == [False, True]
    assert kept(cached(monkeypatch, Counted(4), Counted(2), 0)) == [False, False]


def test_images_that_are_decoded_for_each_crop_are_not_kept(monkeypatch):
    config = defaults("classify")
    config.data.decode = "crop"
    monkeypatch.setattr(cache, "free_memory", lambda: 10**9)
    data = cache.with_caches(RunData(Counted(4), Counted(2)), config)
    assert kept(data) == [False, True]
    assert data.cached.startswith("2 of 2 decoded images stay in memory")
    end = "; images to train on are decoded for each crop (data.decode)"
    assert data.cached.endswith(end)


@pytest.mark.parametrize("wanted", ["true", True])
def test_true_keeps_all_and_false_none(monkeypatch, wanted):
    data = cached(monkeypatch, Counted(), Counted(), 0, wanted)
    assert kept(data) == [True, True]
    assert data.cached == "12 of 12 decoded images stay in memory, about 0.4 MB"
    data = cached(monkeypatch, Counted(), Counted(), 10**9, "false")
    assert kept(data) == [False, False] and data.cached == ""


def test_the_size_of_all_images_is_estimated_by_the_mean_of_a_sample(monkeypatch):
    class OneLarge(Counted):
        def __getitem__(self, index):
            side = 300 if index == 0 else 100
            return Record(np.zeros((side, 100, 3), np.uint8), index, str(index))

    # 90,000 + 3 x 30,000, and 4 x 1,000
    for free, wanted in ((4 * 184_000, True), (4 * 184_000 - 4, False)):
        assert kept(cached(monkeypatch, OneLarge(4), Counted(0), free))[0] is wanted


def test_no_image_is_read_if_they_could_not_fit(monkeypatch):
    train, evaluated = Counted(100), Counted(5000)
    assert kept(cached(monkeypatch, train, evaluated, 4 * 4_000_000)) == [True, False]
    assert 0 < len(train.reads) <= 16 and evaluated.reads == []


def test_beyond_the_memory_allowed_images_are_decoded_each_time(monkeypatch):
    class Growing(Counted):
        """The images of the sample are small."""

        def __getitem__(self, index):
            record = super().__getitem__(index)
            return record if index in {*range(0, 31, 2)} else replace(record, image=LARGE)

    LARGE = np.zeros((300, 300, 3), np.uint8)
    source = Growing(31)  # of which 16 are the sample
    data = cached(monkeypatch, source, Counted(0), 4 * 1_300_000)
    for _ in range(2):
        for index in range(31):
            assert data.train[index].image.shape[0] == (300 if index % 2 else 100)
    # Four of 271,000 bytes and six of 31,000 are kept; the others are read a second time.
    assert len(source.reads) == 16 + 31 + 21


def test_what_stays_in_memory_is_said(monkeypatch):
    said = cached(monkeypatch, Counted(400), Counted(200), 10**9).cached
    assert said == "600 of 600 decoded images stay in memory, about 19 MB"
    said = cached(monkeypatch, Counted(400), Counted(200), 4 * 15_000_000).cached
    assert said == (
        "400 of 600 decoded images stay in memory, about 12 MB; those of val (about 6.2 MB) do not "
        "fit into 15 MB, 25% of the free memory, and are decoded each time (data.cache)"
    )
    said = cached(monkeypatch, Counted(60, range(60)), Counted(200), 4_000_000).cached
    assert said == (
        "0 of 260 decoded images stay in memory; those of train (of unknown size) and val (about "
        "6.2 MB) do not fit into 1.0 MB, 25% of the free memory, and are decoded each time "
        "(data.cache)"
    )


# Data workers, which are processes.


def test_workers_share_the_cache_of_their_process(monkeypatch, tmp_path):
    source = Logged(12, tmp_path / "log")
    expected, _ = take(source, config_for(), 12)
    monkeypatch.setattr(cache, "free_memory", lambda: 10**9)
    config = config_for(workers=2, cache="auto")
    data = cache.with_caches(RunData(source, Logged(2, tmp_path / "val")), config)
    assert data.cached.endswith(", in one cache for this process and its 2 data workers")
    source.log.unlink()
    found, _ = take(data.train, config, 12)
    assert_same(found, expected)
    # 12 batches of 4 are 4 epochs: each worker reads an image at most once, and twice is one read
    # only by both at the same time. What they have read, this process and other workers find.
    count = len(source.decoded())
    assert set(source.decoded()) == set(range(12)) and count <= 24
    for index in range(12):
        data.train[index]
    found, _ = take(data.train, config, 12)
    assert_same(found, expected)
    assert len(source.decoded()) == count


def test_without_shared_memory_workers_have_parts_of_the_budget(monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    free = 4 * 3 * 100_000  # for this process and 2 workers
    data = cached(monkeypatch, Counted(3), Counted(1), free, workers=2)
    assert kept(data) == [True, False]
    assert ", in each of 3 processes, which cannot share them; those of val" in data.cached
    assert pickle.loads(pickle.dumps(data.train))._kept.limit == 100_000
    data = cached(monkeypatch, Counted(4), Counted(1), free, workers=2)
    assert kept(data) == [False, True]


class Logged(Scenes):
    """Notes in a file which examples are decoded, by whichever process."""

    def __init__(self, count, log):
        super().__init__(count)
        self.log = log

    def __getitem__(self, index):
        with open(self.log, "a") as file:
            file.write(f"{index}\n")
        return super().__getitem__(index)

    def decoded(self):
        return [int(line) for line in self.log.read_text().split()]
