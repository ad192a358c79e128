"""Filling the image cache while the first step compiles."""

import time

import pytest
from sources import Scenes, config_for, shards_of, take

from convmesh.data import order
from convmesh.data.loading import background
from convmesh.data.loading import warm_cache as module
from convmesh.data.loading.cache import Cached
from convmesh.data.loading.warm_cache import warm_cache


class Noted(Scenes):
    """Notes which examples are read, in order; reading takes `seconds`."""

    def __init__(self, count, broken=(), seconds=0.0):
        super().__init__(count, broken=broken)
        self.read, self.seconds = [], seconds

    def __getitem__(self, index):
        self.read.append(index)
        time.sleep(self.seconds)
        return super().__getitem__(index)


def wait_until(condition):
    end = time.monotonic() + 30
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)


@pytest.mark.parametrize("broken", [(), (3,)])
def test_the_cache_is_filled_in_the_order_of_training(broken):
    source, config = Noted(10, broken), config_for()
    cached = Cached(source)
    with warm_cache(cached, config):
        wait_until(lambda: len(set(source.read)) == 10)
    wanted = [order.example_at(n, 10, config.train.seed)[1] for n in range(10)]
    # Positions 10 and 11 are of the next epoch: an image that another thread is reading may be read
    # twice.
    assert set(source.read) == set(range(10)) and len(source.read) <= 12
    # Several threads take turns, so that neighbours may change places.
    assert set(source.read[:2]) <= set(wanted[: 2 + background.THREADS])
    if not broken:
        count = len(source.read)
        take(cached, config, 3)
        assert len(source.read) == count


@pytest.mark.parametrize(
    "process, wanted",
    [
        # From position 2 x 4 on; examples read before come from the cache.
        (None, [5, 0, 9, 1, 2, 8, 4, 3, 6, 7]),
        # The last two of each batch: positions 10, 11, 14, 15, 18, 19.
        (1, [9, 1, 4, 5, 7, 0]),
    ],
)
def test_filling_begins_at_the_step_where_the_run_resumes(monkeypatch, process, wanted):
    monkeypatch.setattr(module, "THREADS", 1)  # several could change the order
    source, config = Noted(10), config_for()
    config.train.seed = 0  # that of PINNED in test_order
    shard = None if process is None else shards_of(2, batch_size=4)[process]
    with warm_cache(Cached(source), config, start_step=2, shard=shard):
        wait_until(lambda: len(source.read) == len(wanted))
    assert source.read == wanted


def test_filling_ends_with_the_context():
    source = Noted(1000, seconds=0.05)
    with warm_cache(Cached(source), config_for()):
        pass
    count = len(source.read)
    time.sleep(0.2)
    assert len(source.read) == count <= 2 * background.THREADS


def test_nothing_is_read_without_a_cache_or_where_workers_have_their_own():
    source = Noted(1000)
    with warm_cache(source, config_for()):
        time.sleep(0.05)
    with warm_cache(Cached(source), config_for(workers=1)):
        time.sleep(0.05)
    assert source.read == []
