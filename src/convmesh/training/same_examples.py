"""Checks that processes which hold the same examples of a batch have read the same images.

With image rows or channels sharded over processes, several of them read each image. If one cannot
be read on one of them only, and `data.on_bad_example` skips it, another image takes its place
there: the model would see a part of each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from convmesh.data.loading.batches import TrainBatch
from convmesh.data.record import Source
from convmesh.distributed import processes
from convmesh.distributed.batch import ProcessShard
from convmesh.errors import DataError, first_line

# Of a process: the batch that it has read, and why it has not.
Check = Callable[[TrainBatch | None, Exception | None], Exception | None]


def example_check(config: ConfigDict, shard: ProcessShard, source: Source) -> Check | None:
    """A function that compares a batch between processes; None where they cannot differ.

    Each process calls it for each batch, also for one that it could not read. It returns the error
    that ends the run, on all processes, or None. Every process must call `example_check`, too.
    """
    if processes.count() == 1 or config.data.on_bad_example != "skip":
        return None
    held = [set(examples) for examples in processes.gather(shard.examples.tolist())]
    if sum(map(len, held)) == len(set().union(*held)):
        return None

    def check(batch: TrainBatch | None, error: Exception | None) -> Exception | None:
        images = [] if batch is None else _images(batch)
        read = {} if batch is None else dict(zip(shard.examples.tolist(), images, strict=True))
        said = "" if error is None else f"{type(error).__name__}: {first_line(error)}"
        everyone = processes.gather((read, said))
        for process, (_, failure) in enumerate(everyone):
            if failure:
                return error or DataError(f"{processes.named([process])}: {failure}")
        by_example: dict[int, tuple[int, list[int]]] = {}
        for process, (theirs_read, _) in enumerate(everyone):
            for example, own in theirs_read.items():
                first, theirs = by_example.setdefault(example, (process, own))
                if own != theirs:
                    which = next(max(a, b) for a, b in zip(own, theirs, strict=True) if a != b)
                    return DataError(
                        f"{source.name(which)}: {processes.named([first, process])} hold the same "
                        "examples, but one of them has skipped an image that the other can read; "
                        "give both the same files"
                    )
        return None

    return check


def _images(batch: TrainBatch) -> list[list[int]]:
    """The indices in the source of the images of each example, with those mixed into it."""
    partners: Any = [[]] * len(batch.index) if batch.partners is None else batch.partners.tolist()
    return [[int(i), *map(int, more)] for i, more in zip(batch.index, partners, strict=True)]
