"""Batches for training and evaluation: the order of the data is a function, not a state.

Batch k of a run is the same for any number of threads, worker processes or restarts, because what
it holds follows from (seed, k) alone. Going on at step k is therefore asking for batch k.
"""

from __future__ import annotations

import contextlib
import functools
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags
from ml_collections import ConfigDict
from numpy.typing import ArrayLike

from convmesh.data import augment, mixing
from convmesh.data.cache import Cached
from convmesh.data.record import BadExample, Record, Source, check_label
from convmesh.data.sizes import input_sizes, size_of_step
from convmesh.errors import DataError
from convmesh.share import Share

# Arrays, and in evaluation a list of records.
Batch = dict[str, Any]

# Keep the streams that one seed feeds apart.
_ORDER, _AUGMENT, _MIX = 1, 2, 3
_THREADS = min(8, os.cpu_count() or 1)
_LOW_PRIORITY = 10  # of -20 (first) to 19


def example_at(position: int, size: int, seed: int) -> tuple[int, int]:
    """Return (epoch, index) of the example at global `position` of a run over `size` examples.

    Each epoch is a permutation of its own; positions run on across the epoch's end, so no example
    is dropped or repeated where the batch size does not divide `size`.
    """
    epoch, place = divmod(position, size)
    return epoch, int(_permutation(size, seed, epoch)[place])


@functools.lru_cache(maxsize=4)  # a batch touches two epochs at most, prefetching a few batches
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    return permutation(size, (seed, _ORDER, epoch))


def permutation(size: int, key: tuple[int, ...]) -> np.ndarray:
    """Return a permutation of `size` things, int64 [size]: a function of `size` and `key` alone.

    Made by sorting raw words, because numpy keeps the stream of a bit generator for ever, but not
    what `Generator.permutation` makes of it.
    """
    words = np.random.Philox(np.random.SeedSequence(key)).random_raw(size)
    return np.argsort(words, kind="stable")


class Batches:
    """An iterator over batches that counts what was not as it should be; close it after use.

    counts: over the batches handed out so far: `images`; `unreadable` images passed by with weight
    0; `bad_boxes` of the source dropped or clipped; `truncated` boxes beyond `data.max_boxes`;
    `bad_partners`, unreadable images that were to be mixed into another; `boxes` that are there to
    be found. Only of the examples that
    are this process's own, so that the sum over processes counts each once.

    partners: int64 [B, mixing.PARTNERS], the places in `source` of the images mixed into each
    example of the batch handed out last, -1 for none; None where nothing is ever mixed.
    """

    partners: np.ndarray | None = None

    def __init__(self, batches: grain.MapDataset, workers: int, share: Share | None):
        """Make `batches` ahead of time: in threads, or in `workers` processes."""
        self._batches = iter(_in_background(batches, workers))
        self._shared = workers > 0
        self._owned = slice(None) if share is None else share.owned
        names = ("images", "unreadable", "bad_boxes", "truncated", "bad_partners", "boxes")
        self.counts = dict.fromkeys(names, 0)

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        batch = next(self._batches)
        if self._shared:
            # Out of the workers' shared memory, which must not outlive them.
            batch = {key: np.array(value) for key, value in batch.items()}
        own, present = self._owned, batch["present"]
        self.counts["images"] += int(present[own].sum())
        self.counts["unreadable"] += int(((batch["index"] >= 0) & ~present)[own].sum())
        self.counts["bad_boxes"] += int(batch.pop("bad_boxes")[own].sum())
        if "truncated" in batch:
            self.counts["truncated"] += int(batch["truncated"][own].sum())
            self.counts["boxes"] += int((batch["valid"] & ~batch["crowd"])[own].sum())
        if "bad_partners" in batch:
            self.counts["bad_partners"] += int(batch.pop("bad_partners")[own].sum())
        # Beside the batch: no device needs it.
        self.partners = batch.pop("partners", None)
        return batch

    def close(self) -> None:
        """End the threads and worker processes."""
        self._batches.close()

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def train_batches(
    source: Source,
    config: ConfigDict,
    start_step: int = 0,
    share: Share | None = None,
    steps: int | None = None,
) -> Batches:
    """Return the batches of a run from step `start_step` on, without end.

    steps: the run's length, of which the last part, `data.augment.last_plain`, mixes no images;
    None: it is not known, and images are mixed throughout.

    Of each batch only the examples of `share` are read, and of their images only its rows kept;
    None is the whole batch. A batch, B = `config.train.batch_size` and M = `config.data.max_boxes`:
    image uint8 [B, H, W, 3], H and W those of the step (`sizes.size_of_step`); index int64 [B], the
    place in `source`; present bool [B], False for an image that could not be read (weight 0).
    Classification: label int32 [B]. Detection: boxes
    float32 [B, M, 4], x0 y0 x1 y1 in pixels of the input, largest first; labels int32 [B, M];
    valid bool [B, M]; crowd bool [B, M], True for a region to ignore (then valid, too); truncated
    int32 [B], boxes beyond M.

    Raises DataError, while iterating, where the source does.
    """
    form = _Form.of(source, config, share)
    batch_size = config.train.batch_size
    mixed = math.inf
    if steps is not None:
        mixed = (1 - config.data.augment.last_plain) * steps * batch_size
    seed, sizes = config.train.seed, input_sizes(config)
    example = _TrainExample(source, form, _settings(config), seed, mixed, sizes, batch_size)
    places = _Places.of(batch_size, share)
    # A step count that no run reaches; grain wants an end.
    positions = grain.MapDataset.range(0, len(places.held) * 2**40).map(places)
    batches = positions.map(example).batch(len(places.held), batch_fn=_stack)[start_step:]
    return Batches(batches, config.data.workers, share)


@contextlib.contextmanager
def reading_ahead(
    source: Source, config: ConfigDict, start_step: int = 0, share: Share | None = None
) -> Iterator[None]:
    """While open, fill the cache of `source`, if it has one, in the order of `train_batches`.

    For the time that XLA compiles, which leaves a part of the machine idle. Images to be mixed into
    others are among the same examples, and have no turn of their own here.
    """
    places = _Places.of(config.train.batch_size, share)
    first = start_step * len(places.held)
    batches_an_epoch = -(-len(source) // config.train.batch_size)
    wanted = iter(range(first, first + batches_an_epoch * len(places.held)))
    ended = not isinstance(source, Cached) or config.data.workers > 0

    def read() -> None:
        _give_way()
        for n in wanted:  # shared by all threads
            if ended:
                return
            _, index = example_at(places(n), len(source), config.train.seed)
            with contextlib.suppress(DataError):  # told when its batch is made
                source[index]

    threads = [threading.Thread(target=read, daemon=True) for _ in range(0 if ended else _THREADS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended = True
        for thread in threads:
            thread.join()


def eval_batches(
    source: Source, config: ConfigDict, batch_size: int, share: Share | None = None
) -> Batches:
    """Return every example of `source` once, in order, whole: letterboxed, or centre-cropped.

    Of each batch of `batch_size` only the examples of `share`, as in `train_batches`, and:
    scale float32 [B] and offset float32 [B, 2] (x, y) with input = original * scale + offset;
    original_size int32 [B, 2] (height, width); record, a list of B
    Records without pixels: the labels as the source has them, no box cut off. The last batch is
    filled up with rows that are not present, have index -1 and None for a record.
    """
    form = _Form.of(source, config, share)
    places = _Places.of(batch_size, share)
    steps = -(-len(source) // batch_size)
    positions = grain.MapDataset.range(0, steps * len(places.held)).map(places)
    batches = positions.map(_EvalExample(source, form)).batch(len(places.held), batch_fn=_stack)
    # Threads also where training has worker processes: those take seconds to start.
    return Batches(batches, 0, share)


def _settings(config: ConfigDict) -> augment.Settings:
    given = config.data.augment
    return augment.Settings(
        flip=given.flip,
        scale=tuple(given.scale),
        crop=tuple(given.crop),
        color=given.color,
        vertical_flip=given.vertical_flip,
        quarter_turn=given.quarter_turn,
        rotate=given.rotate,
        shear=given.shear,
        stretch=given.stretch,
        mosaic=given.mosaic,
        mixup=given.mixup,
    )


@dataclass(frozen=True)
class _Places:
    """From the n-th example that this process reads to its position in the run."""

    batch_size: int
    held: tuple[int, ...]  # places in each batch

    @classmethod
    def of(cls, batch_size: int, share: Share | None) -> _Places:
        held = range(batch_size) if share is None else share.examples.tolist()
        return cls(batch_size, tuple(held))

    def __call__(self, n: int) -> int:
        batch, i = divmod(int(n), len(self.held))
        return batch * self.batch_size + self.held[i]


@dataclass(frozen=True)
class _Form:
    """The fixed shapes of an example, and how to fill them."""

    task: str
    size: tuple[int, int]
    max_boxes: int
    skip_bad: bool
    rows: slice | None = None  # of the image that are kept; None: all

    @classmethod
    def of(cls, source: Source, config: ConfigDict, share: Share | None = None) -> _Form:
        data = config.data
        return cls(
            task=source.task,
            size=tuple(data.image_size),
            max_boxes=data.max_boxes,
            skip_bad=data.on_bad_example == "skip",
            rows=None if share is None else share.rows,
        )

    def resized(self, size: tuple[int, int]) -> _Form:
        """Return the same for an input of `size`, whose rows are all kept."""
        return replace(self, size=size, rows=None)

    def read(self, source: Source, index: int) -> Record | None:
        """Return the record, or None if it is bad and such are passed by."""
        _give_way()
        try:
            record = source[index]
            _check(record, source)
            return record
        except BadExample:
            if self.skip_bad:
                return None
            raise

    def absent(self, index: int) -> Batch:
        """Return an example of weight 0."""
        image = np.zeros((*self.size, 3), np.uint8)
        example = self.labelled(image, index, 0)
        if self.task == "detect":
            no_boxes = np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, bool)
            example = self.boxed(image, index, 0, *no_boxes)
        return example | {"present": np.array(False)}

    def labelled(self, image: np.ndarray, index: int, label: int) -> Batch:
        """Return an example for classification."""
        return {
            "image": image if self.rows is None else image[self.rows],
            "index": np.array(index, np.int64),
            "present": np.array(True),
            "label": np.array(label, np.int32),
            "bad_boxes": np.array(0, np.int32),
        }

    def boxed(
        self,
        image: np.ndarray,
        index: int,
        bad_boxes: int,
        boxes: np.ndarray,
        labels: np.ndarray,
        crowd: np.ndarray,
    ) -> Batch:
        """Return an example for detection: the `max_boxes` largest of its boxes, padded."""
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        order = np.argsort(-area, kind="stable")[: self.max_boxes]
        n = len(order)
        example = {
            "image": image if self.rows is None else image[self.rows],
            "index": np.array(index, np.int64),
            "present": np.array(True),
            "boxes": np.zeros((self.max_boxes, 4), np.float32),
            "labels": np.zeros(self.max_boxes, np.int32),
            "valid": np.arange(self.max_boxes) < n,
            "crowd": np.zeros(self.max_boxes, bool),
            "truncated": np.array(len(boxes) - n, np.int32),
            "bad_boxes": np.array(bad_boxes, np.int32),
        }
        example["boxes"][:n] = boxes[order]
        example["labels"][:n] = labels[order]
        example["crowd"][:n] = crowd[order]
        return example


def _check(record: Record, source: Source) -> None:
    """Raises for what no source may let through: the loss would take it for something else.

    An integer cross-entropy takes -1 as the last class, and gives NaN for an id too large.
    """
    if source.task == "classify":
        check_label(record.label, source.classes, record.file_name)
        return
    boxes, labels = record.boxes, record.labels
    fine = np.isfinite(boxes).all() and (boxes[:, 2:] > boxes[:, :2]).all()
    if not (fine and (labels >= 0).all() and (labels < len(source.classes)).all()):
        raise DataError(f"{record.file_name}: a box without area or class reached the loader")


@dataclass(frozen=True)
class _TrainExample:
    """From a position in the run to an augmented example. From `mixed` on none is mixed."""

    source: Source
    form: _Form
    settings: augment.Settings
    seed: int
    mixed: float
    sizes: tuple[tuple[int, int], ...]
    batch_size: int

    def __call__(self, position: int) -> Batch:
        epoch, index = example_at(int(position), len(self.source), self.seed)
        form = self.form
        if self.sizes != (form.size,):
            step = int(position) // self.batch_size + 1
            form = form.resized(size_of_step(self.sizes, self.seed, step))
        record = form.read(self.source, index)
        # What every example of a run has, one that is mixed or not.
        told = _mixed_with(_NOBODY, 0) if self.settings.mixes else {}
        if record is None:
            return form.absent(index) | told
        # Keyed by the example, never by who makes it.
        rng = np.random.default_rng((self.seed, _AUGMENT, epoch, index))
        if form.task == "classify":
            image = augment.augment_for_classification(record.image, form.size, self.settings, rng)
            return form.labelled(image, index, record.label)
        if self.settings.mixes and position < self.mixed:
            return self._mixed(record, form, epoch, index, rng)
        image, boxes, crowd, kept = augment.augment_for_detection(
            record.image, record.boxes, record.crowd, form.size, self.settings, rng
        )
        labels = record.labels[kept]
        return form.boxed(image, index, record.bad_boxes, boxes, labels, crowd) | told

    def _mixed(
        self, record: Record, form: _Form, epoch: int, index: int, rng: np.random.Generator
    ) -> Batch:
        # A stream of its own, so that what is not mixed is what it would be without mixing.
        more = np.random.default_rng((self.seed, _MIX, epoch, index))
        wanted = mixing.draw_partners(len(self.source), self.settings, more)
        read = [form.read(self.source, i) if i >= 0 else None for i in wanted.tolist()]
        bad = np.array([partner is None for partner in read]) & (wanted >= 0)
        *quarters, blended = read
        image, labelled = mixing.mix(
            record,
            quarters if wanted[0] >= 0 else None,
            blended,
            form.size,
            self.settings,
            rng,
            more,
        )
        # The bad boxes of partners are counted when their turn comes: once an epoch.
        example = form.boxed(image, index, record.bad_boxes, *labelled)
        return example | _mixed_with(np.where(bad, -1, wanted), int(bad.sum()))


def _mixed_with(partners: np.ndarray, bad: int) -> Batch:
    return {"partners": partners, "bad_partners": np.array(bad, np.int32)}


_NOBODY = np.full(mixing.PARTNERS, -1, np.int64)


@dataclass(frozen=True)
class _EvalExample:
    """From an index to the whole example, and how to map results back to it."""

    source: Source
    form: _Form

    def __call__(self, index: int) -> Batch:
        index, form = int(index), self.form
        if index >= len(self.source):  # the last batch is filled up
            return form.absent(-1) | _NOWHERE
        record = form.read(self.source, index)
        if record is None:
            return form.absent(index) | _NOWHERE
        if form.task == "classify":
            image, scale, offset = augment.centre_crop(record.image, form.size)
            example = form.labelled(image, index, record.label)
        else:
            image, scale, offset = augment.letterbox(record.image, form.size)
            boxes = record.boxes * np.float32(scale) + np.tile(offset, 2)
            example = form.boxed(image, index, record.bad_boxes, boxes, record.labels, record.crowd)
        # Not a slice of the image: that would keep all of it in memory.
        labels_only = replace(record, image=np.zeros((0, 0, 3), np.uint8))
        return example | _placement(scale, offset, record.image.shape[:2]) | {"record": labels_only}


def _placement(scale: float, offset: ArrayLike, size: ArrayLike) -> Batch:
    return {
        "scale": np.array(scale, np.float32),
        "offset": np.array(offset, np.float32),
        "original_size": np.array(size, np.int32),
    }


# What evaluation says of an image that is not there.
_NOWHERE: Batch = _placement(1.0, (0, 0), (0, 0)) | {"record": None}


def _stack(examples: Sequence[Batch]) -> Batch:
    columns = {key: [example[key] for example in examples] for key in examples[0]}
    return {k: column if k == "record" else np.stack(column) for k, column in columns.items()}


def _in_background(batches: grain.MapDataset, workers: int) -> grain.IterDataset:
    # Each example is one thread's work; OpenCV's own threads would only get in the way.
    cv2.setNumThreads(0)
    if workers == 0:
        # Decoding and resizing release Python's lock.
        return batches.to_iter_dataset(
            grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_THREADS)
        )
    # Grain reads its absl flags to hand them to the workers, parsed or not.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    in_each = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    return batches.to_iter_dataset(in_each).mp_prefetch(
        grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2),
        worker_init_fn=_start_worker,
    )


_this_thread = threading.local()


def _give_way() -> None:
    """Lets this thread, which makes batches ahead of time, run only where nothing else would.

    Devices that are CPUs wait for each other many times in a step: one that is held up holds up
    all, while the gaps have time enough for the next batch. Linux alone has priorities of threads.
    """
    if not hasattr(_this_thread, "gives_way"):
        _this_thread.gives_way = True
        if sys.platform == "linux" and threading.current_thread() is not threading.main_thread():
            thread = threading.get_native_id()
            lower = max(_LOW_PRIORITY, os.getpriority(os.PRIO_PROCESS, thread))
            os.setpriority(os.PRIO_PROCESS, thread, lower)


def _start_worker(index: int, count: int) -> None:
    cv2.setNumThreads(0)
    # A terminal signals all processes; the run may still need what this one reads.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this worker when who reads from it is gone, killed perhaps: nobody else would."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
