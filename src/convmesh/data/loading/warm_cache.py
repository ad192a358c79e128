"""Fills the image cache while XLA compiles the first step."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from ml_collections import ConfigDict

from convmesh.data.loading.background import THREADS, lower_thread_priority
from convmesh.data.loading.cache import Cached
from convmesh.data.loading.positions import ShardPositions
from convmesh.data.order import DataOrder
from convmesh.data.record import Source
from convmesh.distributed.batch import ProcessShard
from convmesh.errors import DataError


@contextlib.contextmanager
def warm_cache(
    source: Source, config: ConfigDict, start_step: int = 0, shard: ProcessShard | None = None
) -> Iterator[None]:
    """While open, read examples into the cache of `source` in the order of `train_batches`.

    Does nothing if `source` has no cache, or data workers have caches of their own. Images to be
    mixed into others are among the same examples, and are not read separately.
    """
    positions, order = (
        ShardPositions.of(config.train.batch_size, shard),
        DataOrder.of(source, config),
    )
    first = start_step * len(positions.in_batch)
    batches_per_epoch = -(-len(source) // config.train.batch_size)
    remaining = iter(range(first, first + batches_per_epoch * len(positions.in_batch)))
    ended = not isinstance(source, Cached) or (config.data.workers > 0 and not source.shared)

    def read() -> None:
        lower_thread_priority()
        for n in remaining:  # one iterator for all threads
            if ended:
                return
            _, index = order(positions(n))
            with contextlib.suppress(DataError):  # raised when the batch is prepared
                source[index]

    threads = [threading.Thread(target=read, daemon=True) for _ in range(0 if ended else THREADS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended = True
        for thread in threads:
            thread.join()
