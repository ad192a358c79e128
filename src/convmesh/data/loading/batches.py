"""Batches for training and evaluation, and counts of the examples in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

import grain
import numpy as np

from convmesh.data.loading.background import (
    forget_unstarted_workers,
    iterate_in_background,
    kill_workers,
)
from convmesh.data.loading.worker_errors import check_main_script, explain
from convmesh.data.placement import Placement
from convmesh.data.record import Record
from convmesh.distributed import stop_signals
from convmesh.distributed.batch import Batch, ProcessShard

AnyBatch = TypeVar("AnyBatch", bound=Batch)
# The arrays that `DataCounts.of` reads.
_COUNTED = frozenset(
    ("present", "index", "bad_boxes", "truncated", "bad_partners", "valid", "crowd", "replaced")
) | {"source_boxes", "left_out_boxes"}


@dataclass(frozen=True)
class TrainBatch(Batch):
    """A batch for training.

    partners: int64 [batch, mixing.PARTNERS], the indices in the source of the images mixed into
    each example, -1 for none; None if the run mixes no images.
    """

    partners: np.ndarray | None = None


@dataclass(frozen=True)
class EvalBatch(Batch):
    """A batch for evaluation, and how to map results back to the original images.

    scale float32 [batch] and offset float32 [batch, 2] (x, y): input = original * scale + offset.
    original_size: int32 [batch, 2] (height, width). records: of the source, without pixels; None
    for padding and unreadable images.
    """

    scale: Any = None
    offset: Any = None
    original_size: Any = None
    records: Sequence[Record | None] = ()

    def placement(self, i: int) -> Placement:
        """Return the placement of image `i` in the input."""
        return Placement(self.scale[i], self.offset[i], self.original_size[i])


@dataclass
class DataCounts:
    """Counts over examples.

    images: that were read, each for itself. unreadable: images that could not be read; in training
    another took the place of each, in evaluation they have weight 0. bad_boxes: boxes of the source
    that were dropped or clipped. truncated: boxes beyond `data.max_boxes`. bad_partners: unreadable
    images that were to be mixed into another. boxes: objects to detect, without regions to ignore.
    source_boxes: all boxes of the source. left_out_boxes: of the bad ones, those whose class
    `data.classes` leaves out. The last two are counted in training only.
    """

    images: int = 0
    unreadable: int = 0
    bad_boxes: int = 0
    truncated: int = 0
    bad_partners: int = 0
    boxes: int = 0
    source_boxes: int = 0
    left_out_boxes: int = 0

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> DataCounts:
        """Count the examples in `arrays` [batch, ...]; padding, with index -1, counts nowhere."""
        present = arrays["present"]

        def total(name: str) -> int:
            return int(arrays[name].sum()) if name in arrays else 0

        return cls(
            images=int(present.sum()) - total("replaced"),
            unreadable=int(((arrays["index"] >= 0) & ~present).sum()) + total("replaced"),
            bad_boxes=total("bad_boxes"),
            truncated=total("truncated"),
            bad_partners=total("bad_partners"),
            boxes=int((arrays["valid"] & ~arrays["crowd"]).sum()) if "valid" in arrays else 0,
            source_boxes=total("source_boxes"),
            left_out_boxes=total("left_out_boxes"),
        )

    def __add__(self, other: DataCounts) -> DataCounts:
        return DataCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


class Batches(Generic[AnyBatch]):
    """An iterator over batches, prefetched in the background; close it after use.

    Raises, while iterating, what the source does, and RunError if a worker process has ended.

    counts: DataCounts of the examples so far that this process owns, so that the sum over processes
    counts each example once.
    """

    def __init__(
        self,
        batches: grain.MapDataset,
        to_batch: Callable[[dict[str, Any]], AnyBatch],
        workers: int,
        shard: ProcessShard | None,
        batch_bytes: int = 0,
    ):
        """Prefetch `batches`, dicts of arrays, in threads or in `workers` processes.

        to_batch: converts such a dict. shard: the examples that this process holds; None: all.
        batch_bytes: the size of a batch, for the message of too little shared memory. Raises
        RunError if the workers cannot be started.
        """
        self._to_batch, self._workers, self._batch_bytes = to_batch, workers, batch_bytes
        check_main_script(workers)
        # Grain starts each worker when its first batch is due, one after another.
        self._may_start = 2 * workers
        self._batches = self._call(lambda: iter(iterate_in_background(batches, workers)))
        self._owned = slice(None) if shard is None else shard.owned
        self.counts = DataCounts()

    def __iter__(self) -> Batches[AnyBatch]:
        return self

    def __next__(self) -> AnyBatch:
        arrays = self._call(lambda: next(self._batches))
        self._may_start -= 1
        if self._workers:
            # The shared memory of the workers must not be used after they end.
            arrays = {key: np.array(value) for key, value in arrays.items()}
        self.counts += DataCounts.of(
            {key: value[self._owned] for key, value in arrays.items() if key in _COUNTED}
        )
        return self._to_batch(arrays)

    def close(self) -> None:
        """End the threads and worker processes."""
        self._batches.close()
        # Grain's iterators complain if they are deleted as late as when Python exits.
        self._batches = iter(())
        if self._workers:
            kill_workers()

    def _call(self, grain_call: Callable[[], Any]) -> Any:
        """Calls Grain; raises RunError if workers have ended or cannot be started."""
        try:
            if self._may_start > 0:
                with stop_signals.blocked_for_helpers():
                    return grain_call()
            return grain_call()
        except Exception as error:
            if not self._workers or isinstance(error, StopIteration):
                raise
            forget_unstarted_workers()
            starting = self._may_start > 0
            explained = explain(error, self._workers, self._batch_bytes, starting)
            if explained is error:
                raise
            raise explained from None

    def __enter__(self) -> Batches[AnyBatch]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
