"""Batches for training and evaluation; the order of the data is a function, not a state.

The content of batch k depends on (seed, k) alone: it is the same for any number of threads, worker
processes and restarts, and resuming at step k means asking for batch k.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import grain
from ml_collections import ConfigDict

from convmesh.data.augmentation.eval_view import EvalView
from convmesh.data.augmentation.sizes import input_sizes
from convmesh.data.loading.batches import Batches, EvalBatch, TrainBatch
from convmesh.data.loading.eval_examples import EvalExamples
from convmesh.data.loading.example_format import ExampleFormat, stack_examples
from convmesh.data.loading.positions import ShardPositions
from convmesh.data.loading.train_examples import TrainExamples
from convmesh.data.loading.worker_errors import Portable
from convmesh.data.record import Source
from convmesh.distributed.batch import ProcessShard

# Grain needs a length: more steps than any run has.
_MAX_STEPS = 2**40


def train_batches(
    source: Source,
    config: ConfigDict,
    start_step: int = 0,
    shard: ProcessShard | None = None,
    steps: int | None = None,
) -> Batches[TrainBatch]:
    """Return the batches of a run from step `start_step` on, without end.

    shard: the examples of each batch to read, and the rows of their images to keep; None: all.
    steps: the length of the run, in whose last part, `data.augment.last_plain`, no images are
    mixed; None: unknown, and images are mixed throughout.

    A batch with B = `config.train.batch_size` and M = `config.data.max_boxes` holds
    image uint8 [B, H, W, 3], H and W those of the step (`sizes.StepSizes`); index int64 [B], in
    `source`; present bool [B], all True: if `on_bad_example` skips an image that cannot be read,
    the next one in the source (of its class, with `data.balance`) takes its place, and has its
    index.
    Classification: label int32 [B].
    Detection: boxes float32 [B, M, 4], x0 y0 x1 y1 in pixels of the input, largest first;
    labels int32 [B, M]; valid bool [B, M]; crowd bool [B, M], True for a region to ignore (also
    valid); truncated int32 [B], the number of boxes beyond M.

    Raises DataError, while iterating, where the source does, and if no image can be read; RunError
    if a worker process (`data.workers`) ends or cannot be started.
    """
    examples = TrainExamples.of(source, config, shard, steps)
    positions = ShardPositions.of(config.train.batch_size, shard)
    count = len(positions.in_batch)
    batches = grain.MapDataset.range(0, _MAX_STEPS).map(positions.of_batch)[start_step:]
    batches = batches.map(Portable(examples.batch))
    height, width = input_sizes(config)[-1]
    batch_bytes = count * height * width * 3
    return Batches(batches, _train_batch, config.data.workers, shard, batch_bytes)


def eval_batches(
    source: Source, config: ConfigDict, batch_size: int, shard: ProcessShard | None = None
) -> Batches[EvalBatch]:
    """Return every example of `source` once, in order, letterboxed or centre-cropped.

    batch_size: of the global batch; shard: as in `train_batches`. Besides the arrays of a training
    batch, see EvalBatch. Records have no pixels, and the labels of the source with no box clipped.
    The last batch is padded with rows that are not present, with index -1 and without a record.
    """
    view = EvalView.of(config)
    fmt = dataclasses.replace(ExampleFormat.of(source, config, shard), size=view.size)
    examples = EvalExamples(source, fmt, view)
    positions = ShardPositions.of(batch_size, shard)
    count, steps = len(positions.in_batch), -(-len(source) // batch_size)
    dataset = grain.MapDataset.range(0, steps * count).map(positions).map(examples)
    # Always in threads: worker processes take seconds to start.
    return Batches(dataset.batch(count, batch_fn=stack_examples), _eval_batch, 0, shard)


def _train_batch(arrays: dict[str, Any]) -> TrainBatch:
    counted_only = ("bad_boxes", "bad_partners", "replaced", "source_boxes", "left_out_boxes")
    return TrainBatch(**{key: a for key, a in arrays.items() if key not in counted_only})


def _eval_batch(arrays: dict[str, Any]) -> EvalBatch:
    arrays = {key: a for key, a in arrays.items() if key != "bad_boxes"}
    return EvalBatch(records=arrays.pop("record"), **arrays)
