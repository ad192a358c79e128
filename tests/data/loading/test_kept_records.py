"""Records in the memory of one process."""

import pickle

import numpy as np

from convmesh.data.loading.kept_records import RECORD_BYTES, OwnMemory
from convmesh.data.record import Record


def record(number):
    return Record(np.full((100, 100, 3), number, np.uint8), number, f"{number}.png")


def test_records_are_kept_up_to_the_limit():
    kept = OwnMemory(4, limit=2 * (30_000 + RECORD_BYTES))
    for number in range(4):
        assert kept.get(number) is None
        kept.add(number, record(number))
    assert [kept.get(n) and kept.get(n).image_id for n in range(4)] == [0, 1, None, None]


def test_the_first_of_two_equal_records_is_kept_and_counted_once():
    kept, first = OwnMemory(2, limit=2 * (30_000 + RECORD_BYTES)), record(0)
    kept.add(0, first)
    kept.add(0, record(0))
    assert kept.get(0) is first
    kept.add(1, record(1))
    assert kept.get(1).image_id == 1


def test_a_copy_starts_empty_with_the_same_limit():
    kept = OwnMemory(2, limit=70_000)
    kept.add(0, record(0))
    data = pickle.dumps(kept)
    assert len(data) < 1000
    copy = pickle.loads(data)
    assert copy.get(0) is copy.get(1) is None and copy.limit == 70_000
