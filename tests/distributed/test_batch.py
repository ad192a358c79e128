"""Batches, and the part of a batch that a process holds."""

import numpy as np
import pytest

from convmesh.distributed.batch import Batch, ProcessShard


@pytest.fixture
def batch():
    image = np.arange(4 * 6 * 2 * 3).reshape(4, 6, 2, 3)
    return Batch(image=image, label=np.array([7, 8, 9, 10]))


def test_arrays_and_map_leave_out_unused_fields(batch):
    assert [name for name, _ in batch.arrays()] == ["image", "label"]
    names = []
    doubled = batch.map(lambda name, array: names.append(name) or 2 * array)
    assert names == ["image", "label"]
    np.testing.assert_array_equal(doubled.label, [14, 16, 18, 20])
    assert doubled.boxes is None


def test_take_selects_examples_and_rows(batch):
    shard = ProcessShard(4, 6, 1, np.array([1, 3]), np.array([True, False]), slice(2, 5))
    taken = shard.take(batch)
    np.testing.assert_array_equal(taken.image, batch.image[[1, 3], 2:5])
    np.testing.assert_array_equal(taken.label, [8, 10])


def test_a_resized_shard_holds_all_rows():
    shard = ProcessShard(4, 6, 2, np.array([1, 3]), np.array([True, False]), slice(0, 3))
    assert not shard.has_all_rows
    resized = shard.resized(10)
    assert resized.has_all_rows and (resized.height, resized.rows) == (10, slice(0, 10))
    assert resized.examples.tolist() == [1, 3] and resized.micro_batches == 2


def test_the_whole_batch_is_owned():
    shard = ProcessShard.whole_batch(3, 6)
    assert shard.examples.tolist() == [0, 1, 2] and shard.owned.tolist() == [True] * 3
    assert (shard.batch_size, shard.micro_batches, shard.rows) == (3, 1, slice(0, 6))


def test_a_resized_shard_owns_what_it_owned():
    shard = ProcessShard(4, 6, 2, np.array([1, 3]), np.array([True, False]), slice(0, 3))
    assert shard.resized(10).owned.tolist() == [True, False]
