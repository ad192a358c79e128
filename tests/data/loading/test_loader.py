"""`train_batches` and `eval_batches`: order, shapes, restarts, and shards of several processes."""

import numpy as np
import pytest
from sources import (
    SIZE,
    Scenes,
    arrays_of,
    assert_joined,
    assert_same,
    config_for,
    mixing_config,
    shards_of,
    take,
)

from convmesh.config import apply_overrides
from convmesh.data import order
from convmesh.data.augmentation.sizes import StepSizes
from convmesh.data.loading import loader
from convmesh.data.loading.batches import DataCounts


def evaluate(source, config, batch_size, shard=None):
    """All evaluation batches, and the counts."""
    with loader.eval_batches(source, config, batch_size, shard) as batches:
        return list(batches), batches.counts


def test_batches_continue_across_the_end_of_an_epoch():
    batches, _ = take(Scenes(6), config_for(), 3)
    indices = np.concatenate([batch.index for batch in batches])
    assert sorted(indices[:6]) == sorted(indices[6:]) == list(range(6))
    assert indices.tolist() == [order.example_at(i, 6, 7)[1] for i in range(12)]


def test_a_training_batch_has_the_documented_shapes_and_dtypes():
    (batch,), _ = take(Scenes(9), config_for(), 1)
    assert {name: (array.shape, array.dtype.name) for name, array in arrays_of(batch).items()} == {
        "image": ((4, *SIZE, 3), "uint8"),
        "index": ((4,), "int64"),
        "present": ((4,), "bool"),
        "boxes": ((4, 5, 4), "float32"),
        "labels": ((4, 5), "int32"),
        "valid": ((4, 5), "bool"),
        "crowd": ((4, 5), "bool"),
        "truncated": ((4,), "int32"),
    }
    (batch,), _ = take(Scenes(9, "classify"), config_for("classify"), 1)
    assert {name: (array.shape, array.dtype.name) for name, array in arrays_of(batch).items()} == {
        "image": ((4, *SIZE, 3), "uint8"),
        "index": ((4,), "int64"),
        "present": ((4,), "bool"),
        "label": ((4,), "int32"),
    }
    assert (batch.label == batch.index % 3).all()


@pytest.mark.parametrize("mosaic, mixup", [(0, 0), (0.6, 0.5)])
def test_batches_do_not_depend_on_restarts(mosaic, mixup):
    source, config = Scenes(10), mixing_config(mosaic, mixup)
    expected, _ = take(source, config, 7, steps=8)
    resumed, counts = take(source, config, 4, start=3, steps=8)
    assert_same(resumed, expected[3:])
    assert counts.images == 16


def test_batches_do_not_depend_on_workers():
    source, config = Scenes(10), mixing_config(0.6, 0.5, max_boxes=20)
    config.data.augment.update(rotate=5.0, quarter_turn=0.5)
    expected, _ = take(source, config, 7, steps=8)
    config.data.workers = 2
    by_workers, counts = take(source, config, 5, start=2, steps=8)
    assert_same(by_workers, expected[2:])
    assert counts.images == 20
    mixed = np.concatenate([(batch.partners >= 0).any(1) for batch in expected])
    assert mixed.any() and not mixed.all()


def test_starting_at_a_late_step_is_immediate():
    (batch,), _ = take(Scenes(5), config_for(), 1, start=10**9)
    expected = [order.example_at(4 * 10**9 + i, 5, 7)[1] for i in range(4)]
    assert batch.index.tolist() == expected


@pytest.mark.parametrize("start", [0, 3])
def test_batches_have_the_input_size_of_their_step(start):
    config = apply_overrides(config_for(), {"data.sizes": (0.5, 1), "data.image_size": (64, 96)})
    sizes = StepSizes.of(config, None)
    batches, _ = take(Scenes(9), config, 7, start)
    for step, batch in enumerate(batches, start + 1):
        size = sizes(step)
        assert batch.image.shape[1:3] == size
        assert (batch.boxes[batch.valid][:, 2:] <= np.array(size[::-1])).all()
    assert len(sizes.sizes) == 2


def test_growing_sizes_are_those_of_the_run(start=2):
    changes = {"data.sizes": (0.5, 1), "data.image_size": (64, 96), "data.size_order": "growing"}
    config = apply_overrides(config_for(), changes)
    batches, _ = take(Scenes(9), config, 4, start, steps=6)
    assert [batch.image.shape[1] for batch in batches] == [32, 64, 64, 64]


@pytest.mark.parametrize("task", ["detect", "classify"])
@pytest.mark.parametrize("count", [1, 4, 6, 8])
def test_evaluation_covers_each_image_once(task, count):
    batches, counts = evaluate(Scenes(count, task), config_for(task), 4)
    assert [len(batch.index) for batch in batches] == [4] * -(-count // 4)
    index = np.concatenate([batch.index for batch in batches])
    present = np.concatenate([batch.present for batch in batches])
    assert index[present].tolist() == list(range(count))
    assert (index[~present] == -1).all()
    assert counts.images == count and counts.unreadable == 0
    assert len({tuple(arrays_of(batch)) for batch in batches}) == 1


def test_an_unreadable_image_in_evaluation_is_counted_and_padding_is_not():
    config = config_for(on_bad_example="skip")
    batches, counts = evaluate(Scenes(5, broken=(1,)), config, 4)
    assert counts.unreadable == 1 and counts.images == 4
    assert [batch.index.tolist() for batch in batches] == [[0, 1, 2, 3], [4, -1, -1, -1]]
    assert batches[0].present.tolist() == [True, False, True, True]
    assert batches[0].records[1] is None and list(batches[1].records[1:]) == [None] * 3


def test_evaluation_is_deterministic():
    source, config = Scenes(5, "classify"), config_for("classify")
    assert_same(evaluate(source, config, 3)[0], evaluate(source, config, 3)[0])


# --- shards of several processes ------------------------------------------------------------------


@pytest.mark.parametrize("task", ["detect", "classify"])
@pytest.mark.parametrize(
    "options, first",
    [
        (dict(run=4), [0, 1, 2, 3]),
        (dict(run=1), [0, 2, 4, 6]),
        (dict(micro_batches=2), [0, 1, 4, 5]),
        (dict(rows=2), [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
    ids=str,
)
@pytest.mark.parametrize("broken", [(), (2, 3, 8)])
def test_the_batches_of_all_processes_make_the_global_batch(task, options, first, broken):
    source = Scenes(11, task, bad_boxes=1, broken=broken)
    config = config_for(task, max_boxes=2, on_bad_example="skip")
    config.train.batch_size = 8
    shards = shards_of(2, **options)
    assert shards[0].examples.tolist() == first
    expected, counts = take(source, config, 3, start=2)
    parts, part_counts = zip(
        *(take(source, config, 3, 2, shard=shard) for shard in shards), strict=True
    )
    assert all(batch.image.shape[1] == SIZE[0] // options.get("rows", 1) for batch in parts[1])
    assert_joined(shards, parts, expected)
    # Each example is counted once, by the first process that holds it.
    assert sum(part_counts, DataCounts()) == counts
    second = part_counts[1].images + part_counts[1].unreadable
    assert second == (0 if "rows" in options else 12)
    assert counts.images + counts.unreadable == 24 and (counts.unreadable > 0) == bool(broken)
    assert task == "classify" or counts.bad_boxes == counts.images


def test_the_mixed_batches_of_all_processes_make_the_global_batch():
    source, config = Scenes(11, bad_boxes=1, broken=(3,)), mixing_config(0.7, 0.5)
    config.data.on_bad_example = "skip"
    config.train.batch_size = 8
    expected, counts = take(source, config, 3, start=2, steps=7)
    for options in (dict(run=4), dict(rows=2)):
        shards = shards_of(2, **options)
        parts, part_counts = zip(
            *(take(source, config, 3, 2, shard=shard, steps=7) for shard in shards), strict=True
        )
        assert_joined(shards, parts, expected)
        assert sum(part_counts, DataCounts()) == counts
    assert counts.bad_partners > 0


@pytest.mark.parametrize("rows", [1, 2])
def test_processes_together_evaluate_each_image_once(rows):
    source, config = Scenes(11, broken=(9,)), config_for(on_bad_example="skip")
    expected, counts = evaluate(source, config, 8)
    shards = shards_of(2, rows=rows)
    parts, part_counts = zip(*(evaluate(source, config, 8, shard) for shard in shards), strict=True)
    # All processes have the same number of batches: the last one is padded.
    assert [batch.index.tolist() for batch in expected] == [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [8, 9, 10, -1, -1, -1, -1, -1],
    ]
    assert expected[1].present.tolist() == [True, False, True] + [False] * 5
    assert_joined(shards, parts, expected)
    assert sum(part_counts, DataCounts()) == counts
    assert counts.images == 10 and counts.unreadable == 1
