"""Predictions for every image of a split, on any mesh and any number of processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from convmesh import mesh as meshes
from convmesh.data.augmentation.eval_view import eval_size
from convmesh.data.loading.loader import EvalBatch, eval_batches
from convmesh.data.record import Record, Source
from convmesh.distributed import processes
from convmesh.distributed.batch import Batch, ProcessShard
from convmesh.steps.setup import Setup
from convmesh.steps.step import jit_predict_step


@dataclass(frozen=True)
class SplitPredictions:
    """Truth and predictions of the readable images of a split, in its order.

    truth: for each image, see `image_truth`.
    predictions: for each image, what the task's `to_host` returns, `image_id` and `file_name`.
    unreadable: number of images that could not be read. bad_boxes: number of boxes that were
    dropped or clipped, so that they are not in `truth` as the files state them. left_out_boxes:
    number of boxes that are not in it because their class is none of `data.classes`.
    """

    truth: list[dict[str, Any]]
    predictions: list[dict[str, Any]]
    unreadable: int
    bad_boxes: int = 0
    left_out_boxes: int = 0


# Index in the split, truth and prediction of an image.
_Pair = tuple[int, dict[str, Any], dict[str, Any]]


def predict_all(
    setup: Setup,
    variables: Any,
    source: Source,
    each_batch: Callable[[], None] = lambda: None,
) -> SplitPredictions:
    """Return truth and prediction of each image of `source`; the same on every process.

    Each process reads its own images. `each_batch` is called before each batch is predicted; an
    exception that it raises ends the evaluation.
    """
    mesh, config = setup.mesh, setup.config
    batch_size = eval_batch_size(setup)
    shard = meshes.process_shard(mesh, batch_size, eval_size(config)[0])
    predict = jit_predict_step(mesh, model=setup.model, task=setup.task)

    own: list[_Pair] = []
    bad = left_out = 0
    running: tuple[EvalBatch, Any] | None = None

    def finish(batch: EvalBatch, outputs: dict[str, np.ndarray]) -> None:
        nonlocal bad, left_out
        own.extend(_pairs(setup.task, batch, outputs, shard))
        for record in _owned_records(batch, shard):
            bad += record.bad_boxes - record.left_out_boxes
            left_out += record.left_out_boxes

    with eval_batches(source, config, batch_size, shard) as batches:
        for batch in batches:  # it is read and placed while the one before is predicted
            each_batch()
            image = meshes.make_global_batch(mesh, Batch(image=batch.image), shard).image
            # One step at a time: several would block each other on simulated devices.
            done = running and (running[0], jax.device_get(running[1]))
            running = batch, predict(variables, image)
            if done:
                finish(*done)  # meanwhile
        if running:
            finish(running[0], jax.device_get(running[1]))
        unreadable = batches.counts.unreadable
    gathered, numbers = processes.gather(own), processes.gather((unreadable, bad, left_out))
    pairs = sorted((pair for part in gathered for pair in part), key=lambda pair: pair[0])
    unreadable, bad, left_out = (sum(column) for column in zip(*numbers, strict=True))
    return SplitPredictions(
        truth=[truth for _, truth, _ in pairs],
        predictions=[predicted for _, _, predicted in pairs],
        unreadable=unreadable,
        bad_boxes=bad,
        left_out_boxes=left_out,
    )


def eval_batch_size(setup: Setup) -> int:
    """Return the images of an evaluation step: the config's, rounded up to a multiple of `data`."""
    shards, config = setup.mesh.shape[meshes.DATA], setup.config
    return -(-(config.eval.batch_size or config.train.batch_size) // shards) * shards


def image_truth(record: Record, size: Any, index: int) -> dict[str, Any]:
    """Return the annotations of an image in the form that the metrics expect.

    Args:
      record: without pixels.
      size: (height, width) of the image.
      index: of the record in its split.
    """
    return {
        "index": index,
        "image_id": record.image_id,
        "file_name": record.file_name,
        "height": int(size[0]),
        "width": int(size[1]),
        "label": record.label,
        "boxes": record.boxes,
        "labels": record.labels,
        "crowd": record.crowd,
        "area": record.area,
    }


def _owned_records(batch: EvalBatch, shard: ProcessShard) -> list[Record]:
    """The records of the images of a batch that are present and owned by this process."""
    owned = np.flatnonzero(batch.present & shard.owned).tolist()
    return [record for record in (batch.records[i] for i in owned) if record is not None]


def _pairs(
    task: Any, batch: EvalBatch, outputs: dict[str, np.ndarray], shard: ProcessShard
) -> list[_Pair]:
    """The images of a batch that are present and owned by this process.

    `outputs` hold the global batch.
    """
    pairs = []
    for i in np.flatnonzero(batch.present & shard.owned).tolist():
        record = batch.records[i]
        assert record is not None  # the image is present
        output = {name: value[shard.examples[i]] for name, value in outputs.items()}
        placement = batch.placement(i)
        index = int(batch.index[i])
        truth = image_truth(record, placement.original_size, index)
        identity = {name: truth[name] for name in ("image_id", "file_name")}
        found = task.kept(task.to_host(output, placement), truth)
        pairs.append((index, truth, found | identity))
    return pairs
