"""Sources of small generated images for the tests of data loading, and batches of them."""

import dataclasses
import itertools

import numpy as np

from convmesh.config import defaults
from convmesh.data.loading import loader
from convmesh.data.record import BadExample, Record, Source
from convmesh.distributed.batch import ProcessShard

SIZE = (32, 48)


class Scenes(Source):
    """Images of noise with `index % 4` boxes; those in `broken` cannot be read."""

    classes, split = ("a", "b", "c"), "train"

    def __init__(self, count, task="detect", broken=(), bad_boxes=0, shape=(40, 30)):
        self.count, self.task, self.broken = count, task, broken
        self.bad_boxes, self.shape = bad_boxes, shape

    def __len__(self):
        return self.count

    def name(self, index):
        return f"{index}.png"

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(index)
        if index in self.broken:
            raise BadExample(f"{index}.png: cut short")
        h, w = self.shape
        image = np.random.default_rng(index).integers(0, 256, (h, w, 3), dtype=np.uint8)
        if self.task == "classify":
            return Record(image, index + 1, f"{index}.png", label=index % 3)
        n = index % 4
        boxes = np.array([[2 + j, 3, 12 + 4 * j, 20] for j in range(n)], np.float32)
        return Record(
            image,
            index + 1,
            f"{index}.png",
            boxes=boxes.reshape(-1, 4),
            labels=np.arange(n, dtype=np.int32) % 3,
            crowd=np.arange(n) == 2,
            bad_boxes=self.bad_boxes,
        )


class GreyImages(Scenes):
    """Images of one grey level, 10 (index + 1), each with one box around all of it."""

    classes = tuple("abcdefghij")

    def __getitem__(self, index):
        if index in self.broken:
            raise BadExample(f"{index}.png: cut short")
        return Record(
            np.full((40, 30, 3), 10 * (index + 1), np.uint8),
            index + 1,
            f"{index}.png",
            boxes=np.array([[0, 0, 30, 40]], np.float32),
            labels=np.array([index], np.int32),
            crowd=np.zeros(1, bool),
            bad_boxes=self.bad_boxes,
        )


def config_for(task="detect", **changes):
    config = defaults(task)
    config.data.image_size = SIZE
    config.data.max_boxes = 5
    config.train.batch_size = 4
    config.train.seed = 7
    config.data.update(changes)
    return config


def mixing_config(mosaic=0.0, mixup=0.0, **changes):
    config = config_for(**changes)
    config.data.augment.update(mosaic=mosaic, mixup=mixup)
    return config


def without_augmentation(config):
    """Switches off all augmentation except the random position of the image in the input."""
    config.data.augment.update(flip=0.0, scale=(1.0, 1.0), crop=(1.0, 1.0), color=0.0)
    return config


def take(source, config, count, start=0, **options):
    """The first `count` training batches, and the counts."""
    with loader.train_batches(source, config, start, **options) as batches:
        return list(itertools.islice(batches, count)), batches.counts


def arrays_of(batch):
    """The arrays of a batch by name; of its records the file names."""
    found = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    if "records" in found:
        names = [record and record.file_name for record in found.pop("records")]
        found["file_name"] = np.array(names, object)
    return {name: array for name, array in found.items() if array is not None}


def assert_same(one, other):
    """Compares two lists of batches: the names of their arrays, dtypes and values."""
    assert len(one) == len(other)
    for a, b in zip(map(arrays_of, one), map(arrays_of, other), strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype and np.array_equal(a[name], b[name]), name


def shards_of(processes, batch_size=8, micro_batches=1, rows=1, run=2):
    """The shards of processes that hold `run` examples in turn; `rows` of them share an image."""
    size, groups = batch_size // micro_batches, processes // rows
    every, shards = np.arange(batch_size), []
    for process in range(processes):
        group, part = divmod(process, rows)
        examples = every[every % size // run % groups == group]
        height = SIZE[0] // rows
        kept_rows = slice(part * height, (part + 1) * height)
        owned = np.full(len(examples), part == 0)
        shards.append(ProcessShard(batch_size, SIZE[0], micro_batches, examples, owned, kept_rows))
    return shards


def assert_joined(shards, parts, expected):
    """Checks that the batches `parts` of each process make the `expected` global batches."""
    for batches, batch in zip(zip(*parts, strict=True), expected, strict=True):
        joined, arrays = _join(shards, batches), arrays_of(batch)
        assert joined.keys() == arrays.keys()
        for name in arrays:
            assert joined[name].dtype == arrays[name].dtype, name
            assert np.array_equal(joined[name], arrays[name]), name


def _join(shards, batches):
    """The arrays of a global batch, from the batch of each process."""
    rows = {}  # by name and position in the global batch, of each process that holds it
    for shard, batch in zip(shards, batches, strict=True):
        for name, array in arrays_of(batch).items():
            assert len(array) == len(shard.examples)
            for position, row in zip(shard.examples.tolist(), array, strict=True):
                rows.setdefault(name, {}).setdefault(position, []).append(row)
    positions = range(shards[0].batch_size)
    joined = {}
    for name, column in rows.items():
        assert sorted(column) == list(positions)
        if name == "image":  # processes hold different rows of an image, below each other
            joined[name] = np.stack([np.concatenate(column[i]) for i in positions])
            continue
        assert all(np.array_equal(row, copies[0]) for copies in column.values() for row in copies)
        joined[name] = np.array(
            [column[i][0] for i in positions], arrays_of(batches[0])[name].dtype
        )
    return joined
