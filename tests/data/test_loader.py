import itertools
import os
import sys
import threading
import time

import numpy as np
import pytest

from convmesh.config import defaults
from convmesh.data import loader
from convmesh.data.cache import Cached
from convmesh.data.record import BadExample, Record
from convmesh.errors import DataError
from convmesh.share import Share

SIZE = (32, 48)
# Twenty positions over ten examples, seed 0.
PINNED = [3, 7, 4, 2, 9, 8, 1, 6, 5, 0, 9, 1, 2, 8, 4, 5, 3, 6, 7, 0]


class Scenes:
    """Images of noise with `index % 4` boxes; those in `broken` cannot be read."""

    classes, split = ("a", "b", "c"), "train"

    def __init__(self, count, task="detect", broken=(), bad_boxes=0, shape=(40, 30)):
        self.count, self.task, self.broken = count, task, broken
        self.bad_boxes, self.shape = bad_boxes, shape

    def __len__(self):
        return self.count

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


def config_for(task="detect", **changes):
    config = defaults(task)
    config.data.image_size = SIZE
    config.data.max_boxes = 5
    config.train.batch_size = 4
    config.train.seed = 7
    config.data.update(changes)
    return config


def still(config):
    """No augmentation but the place of the image in the view."""
    config.data.augment.update(flip=0.0, scale=(1.0, 1.0), crop=(1.0, 1.0), color=0.0)
    return config


def take(source, config, count, start=0):
    with loader.train_batches(source, config, start) as batches:
        return list(itertools.islice(batches, count)), batches.counts


def assert_same(one, two):
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].dtype == b[key].dtype and np.array_equal(a[key], b[key]), key


def test_each_epoch_is_a_permutation_of_its_own():
    size = 11
    epochs = [
        [loader.example_at(epoch * size + i, size, seed=3) for i in range(size)]
        for epoch in range(3)
    ]
    for epoch, found in enumerate(epochs):
        assert [e for e, _ in found] == [epoch] * size
        assert sorted(i for _, i in found) == list(range(size))
    orders = [[i for _, i in found] for found in epochs]
    other_seed = [loader.example_at(i, size, seed=4)[1] for i in range(size)]
    assert len({tuple(order) for order in [*orders, other_seed, sorted(orders[0])]}) == 5


def test_the_order_is_the_same_for_ever():
    """Pinned: another order would silently change every run that is gone on with."""
    assert [loader.example_at(i, 10, 0)[1] for i in range(20)] == PINNED


def test_batches_run_on_across_the_end_of_an_epoch():
    batches, _ = take(Scenes(6), config_for(), 3)
    seen = np.concatenate([batch["index"] for batch in batches])
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))
    assert seen.tolist() == [loader.example_at(i, 6, 7)[1] for i in range(12)]


def test_a_training_batch_has_the_agreed_shapes_and_types():
    (batch,), _ = take(Scenes(9), config_for(), 1)
    assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
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
    assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
        "image": ((4, *SIZE, 3), "uint8"),
        "index": ((4,), "int64"),
        "present": ((4,), "bool"),
        "label": ((4,), "int32"),
    }
    assert (batch["label"] == batch["index"] % 3).all()


def test_boxes_follow_their_image_and_come_largest_first():
    config = still(config_for(image_size=(40, 30)))
    batches, _ = take(Scenes(8), config, 2)
    for batch in batches:
        for row, index in enumerate(batch["index"]):
            n = index % 4
            record = Scenes(8)[index]
            assert np.array_equal(batch["image"][row], record.image)
            assert batch["valid"][row].tolist() == [True] * n + [False] * (5 - n)
            assert np.array_equal(batch["boxes"][row, :n], record.boxes[::-1])
            assert np.array_equal(batch["labels"][row, :n], record.labels[::-1])
            assert np.array_equal(batch["crowd"][row, :n], record.crowd[::-1])
            for key in ("boxes", "labels", "crowd"):
                assert not batch[key][row, n:].any()


class Marked(Scenes):
    """A box of its own grey level, 50 * (label + 1), in each corner."""

    classes = ("a", "b", "c", "d")

    def __getitem__(self, index):
        image = np.zeros((80, 80, 3), np.uint8)
        corners = [(x, y) for y in (5, 55) for x in (5, 55)]
        for label, (x, y) in enumerate(corners):
            image[y : y + 20, x : x + 20] = 50 * (label + 1)
        boxes = np.array([[x, y, x + 20, y + 20] for x, y in corners], np.float32)
        labels, crowd = np.arange(4, dtype=np.int32), np.zeros(4, bool)
        return Record(image, index + 1, f"{index}.png", boxes=boxes, labels=labels, crowd=crowd)


def test_labels_follow_their_boxes_when_others_leave_the_view():
    config = config_for(image_size=(80, 80))
    config.data.augment.update(scale=(1.6, 2.4), color=0.0)
    batches, _ = take(Marked(4), config, 3)
    seen = 0
    for batch in batches:
        for row in range(4):
            for box, label in zip(
                batch["boxes"][row, batch["valid"][row]],
                batch["labels"][row, batch["valid"][row]],
                strict=True,
            ):
                x, y = ((box[:2] + box[2:]) / 2).astype(int)
                assert batch["image"][row, y, x, 0] == 50 * (label + 1)
                seen += 1
    assert 12 <= seen < 48


def test_batches_do_not_depend_on_workers_or_restarts():
    source, config = Scenes(10), config_for()
    straight, _ = take(source, config, 7)
    resumed, _ = take(source, config, 4, start=3)
    assert_same(resumed, straight[3:])
    config.data.workers = 2
    apart, counts = take(source, config, 5, start=2)
    assert_same(apart, straight[2:])
    assert counts["images"] == 20


def test_augmentation_differs_between_epochs_and_examples_and_follows_the_seed():
    source, config = Scenes(4), config_for()
    (first, second), _ = take(source, config, 2)
    for index in range(4):
        one = first["image"][first["index"].tolist().index(index)]
        two = second["image"][second["index"].tolist().index(index)]
        assert not np.array_equal(one, two)
    config.train.seed = 8
    (other,), _ = take(source, config, 1)
    assert not np.array_equal(other["image"], first["image"])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_stops_the_run_by_name(workers):
    config = config_for(workers=workers)
    with pytest.raises(DataError, match="^3.png: cut short"):
        take(Scenes(5, broken=(3,)), config, 2)


@pytest.mark.parametrize("task", ["detect", "classify"])
def test_an_unreadable_image_can_be_passed_by_with_weight_zero(task):
    config = config_for(task, on_bad_example="skip")
    batches, counts = take(Scenes(5, task, broken=(3, 4)), config, 5)
    whole, _ = take(Scenes(5, task), config, 5)
    for batch, sound in zip(batches, whole, strict=True):
        assert np.array_equal(batch["index"], sound["index"])
        bad = np.isin(batch["index"], (3, 4))
        assert np.array_equal(batch["present"], ~bad)
        assert not batch["image"][bad].any()
        assert np.array_equal(batch["image"][~bad], sound["image"][~bad])
        if task == "detect":
            assert not batch["valid"][bad].any()
    assert counts["unreadable"] == 8 and counts["images"] == 12


def test_boxes_beyond_the_limit_are_counted_and_the_smallest():
    config = still(config_for(image_size=(40, 30), max_boxes=2))
    batches, counts = take(Scenes(4), config, 1)
    (batch,) = batches
    row = batch["index"].tolist().index(3)
    assert batch["truncated"].tolist() == [max(0, i - 2) for i in batch["index"] % 4]
    assert batch["valid"].shape == (4, 2)
    assert np.array_equal(batch["boxes"][row], Scenes(4)[3].boxes[:0:-1])
    assert counts["truncated"] == 1


def test_bad_boxes_of_the_source_are_counted():
    _, counts = take(Scenes(4, bad_boxes=2), config_for(), 3)
    assert counts["bad_boxes"] == 24


@pytest.mark.parametrize("task", ["detect", "classify"])
@pytest.mark.parametrize("count", [1, 4, 6, 8])
def test_evaluation_sees_each_image_once(task, count):
    with loader.eval_batches(Scenes(count, task), config_for(task), 4) as found:
        batches = list(found)
    assert [len(batch["index"]) for batch in batches] == [4] * -(-count // 4)
    index = np.concatenate([batch["index"] for batch in batches])
    present = np.concatenate([batch["present"] for batch in batches])
    assert index[present].tolist() == list(range(count))
    assert (index[~present] == -1).all()
    assert found.counts["images"] == count and found.counts["unreadable"] == 0
    assert len({tuple(sorted(batch)) for batch in batches}) == 1


def test_an_evaluation_batch_says_where_each_image_lies():
    source = Scenes(4, shape=(40, 30))
    with loader.eval_batches(source, config_for(), 4) as found:
        (batch,) = found
    assert batch["scale"].dtype == batch["offset"].dtype == np.float32
    assert batch["original_size"].tolist() == [[40, 30]] * 4
    assert batch["original_size"].dtype == np.int32
    assert np.allclose(batch["scale"], 32 / 40) and batch["offset"].tolist() == [[12, 0]] * 4
    assert [record.image_id for record in batch["record"]] == [1, 2, 3, 4]
    assert np.array_equal(batch["record"][3].boxes, source[3].boxes)
    assert batch["record"][3].image.base is None and not batch["record"][3].image.size
    n = 3
    back = (batch["boxes"][3, :n] - np.tile(batch["offset"][3], 2)) / batch["scale"][3]
    assert np.allclose(back, source[3].boxes[::-1], atol=1e-4)
    assert batch["labels"][3, :n].tolist() == [2, 1, 0]


def test_evaluation_without_crop_or_flip_is_the_same_every_time():
    source, config = Scenes(5, "classify"), config_for("classify")
    runs = []
    for _ in range(2):
        with loader.eval_batches(source, config, 3) as found:
            runs.append(list(found))
    for batch in [*runs[0], *runs[1]]:
        batch.pop("record")
    assert_same(*runs)


def test_an_unreadable_image_in_evaluation_is_counted_apart_from_padding():
    config = config_for(on_bad_example="skip")
    with loader.eval_batches(Scenes(5, broken=(1,)), config, 4) as found:
        batches = list(found)
    assert found.counts["unreadable"] == 1 and found.counts["images"] == 4
    assert [batch["index"].tolist() for batch in batches] == [[0, 1, 2, 3], [4, -1, -1, -1]]
    assert batches[0]["present"].tolist() == [True, False, True, True]
    assert batches[0]["record"][1] is None and batches[1]["record"][1:] == [None] * 3


def test_closing_ends_the_threads():
    before = {thread.ident for thread in threading.enumerate()}
    batches = loader.train_batches(Scenes(9), config_for())
    next(batches)
    batches.close()
    for thread in threading.enumerate():
        if thread.ident not in before:
            thread.join(timeout=10)
            assert not thread.is_alive()


def test_a_step_far_ahead_costs_nothing():
    (batch,), _ = take(Scenes(5), config_for(), 1, start=10**9)
    expected = [loader.example_at(4 * 10**9 + i, 5, 7)[1] for i in range(4)]
    assert batch["index"].tolist() == expected


# --- mixed examples -------------------------------------------------------------------------------


class Flat(Scenes):
    """Each image all of one grey, 10 (index + 1), with a box around it."""

    def __getitem__(self, index):
        if index in self.broken:
            raise BadExample(f"{index}.png: cut short")
        image = np.full((40, 30, 3), 10 * (index + 1), np.uint8)
        box = np.array([[0, 0, 30, 40]], np.float32)
        return Record(
            image,
            index + 1,
            f"{index}.png",
            boxes=box,
            labels=np.array([index], np.int32),
            crowd=np.zeros(1, bool),
            bad_boxes=self.bad_boxes,
        )

    @property
    def classes(self):
        return tuple("abcdefghij")


def mixing_config(mosaic=0.0, mixup=0.0, **changes):
    config = config_for(**changes)
    config.data.augment.update(mosaic=mosaic, mixup=mixup)
    return config


def take_mixed(source, config, count, start=0, **options):
    """Batches with the partners that the loader tells of beside them."""
    with loader.train_batches(source, config, start, **options) as batches:
        found = [dict(next(batches), partners=batches.partners) for _ in range(count)]
    return found, batches.counts


def test_mixed_batches_do_not_depend_on_workers_or_restarts():
    source, config = Scenes(10), mixing_config(0.6, 0.5, max_boxes=20)
    config.data.augment.update(rotate=5.0, quarter_turn=0.5)
    straight, _ = take_mixed(source, config, 7, steps=8)
    resumed, _ = take_mixed(source, config, 4, start=3, steps=8)
    assert_same(resumed, straight[3:])
    config.data.workers = 2
    apart, _ = take_mixed(source, config, 5, start=2, steps=8)
    assert_same(apart, straight[2:])
    mixed = np.concatenate([(batch["partners"] >= 0).any(1) for batch in straight])
    assert mixed.any() and not mixed.all()


def test_the_partners_told_are_those_in_view():
    source, config = Flat(10), still(mixing_config(1.0, image_size=(40, 40)))
    batches, _ = take_mixed(source, config, 6)
    for batch in batches:
        assert batch["partners"].dtype == np.int64 and batch["partners"].shape == (4, 4)
        assert set(batch) == {*take(source, config_for(), 1)[0][0], "partners"}
        for row, index in enumerate(batch["index"]):
            *in_mosaic, blended = batch["partners"][row].tolist()
            assert blended == -1 and all(0 <= partner < 10 for partner in in_mosaic)
            there = {10 * (i + 1) for i in (index, *in_mosaic)}
            assert set(np.unique(batch["image"][row])) - {114} == there
            labels = batch["labels"][row, batch["valid"][row]].tolist()
            assert sorted(labels) == sorted([index, *in_mosaic])

    config.data.augment.update(mosaic=0.0, mixup=1.0)
    batches, _ = take_mixed(source, config, 4)
    for batch in batches:
        assert (batch["partners"][:, :3] == -1).all() and (batch["partners"][:, 3] >= 0).all()
        for row, index in enumerate(batch["index"]):
            labels = batch["labels"][row, batch["valid"][row]].tolist()
            assert sorted(labels) == sorted([index, batch["partners"][row, 3]])


def test_an_example_that_is_not_mixed_is_what_it_would_be_without_mixing():
    source, config = Scenes(10), mixing_config(0.4, 0.2)
    mixed, _ = take_mixed(source, config, 6)
    plain, _ = take(source, config_for(), 6)
    alone = 0
    for one, two in zip(mixed, plain, strict=True):
        partners = one.pop("partners")
        assert one.keys() == two.keys()
        assert np.array_equal(one["index"], two["index"])
        for row in range(4):
            same = all(np.array_equal(one[key][row], two[key][row]) for key in two)
            assert same == (partners[row] == -1).all()
            alone += same
    assert 4 <= alone <= 20


def test_mixing_differs_between_epochs_and_follows_the_seed():
    source, config = Scenes(4), mixing_config(1.0)
    (first, second), _ = take_mixed(source, config, 2)
    order = np.argsort(first["index"]), np.argsort(second["index"])
    assert not np.array_equal(first["partners"][order[0]], second["partners"][order[1]])
    config.train.seed = 8
    (other,), _ = take_mixed(source, config, 1)
    assert not np.array_equal(
        other["partners"][np.argsort(other["index"])], first["partners"][order[0]]
    )


@pytest.mark.parametrize("last_plain, steps, mixed", [(0.3, 10, 28), (0.5, 3, 6), (1.0, 5, 0)])
def test_the_last_part_of_a_run_is_plain(last_plain, steps, mixed):
    source, config = Scenes(10), mixing_config(1.0, 1.0)
    config.data.augment.last_plain = last_plain
    batches, _ = take_mixed(source, config, steps, steps=steps)
    plain, _ = take(source, config_for(), steps)
    partners = np.concatenate([batch["partners"] for batch in batches])
    assert (partners[:mixed] >= 0).all() and (partners[mixed:] == -1).all()
    for key in ("image", "boxes", "labels", "crowd", "valid", "truncated"):
        one, two = (np.concatenate([batch[key] for batch in b]) for b in (batches, plain))
        assert np.array_equal(one[mixed:], two[mixed:]), key
    # Of a run whose length nobody tells all is mixed.
    endless, _ = take_mixed(source, config, steps)
    assert all((batch["partners"] >= 0).all() for batch in endless)


def test_where_nothing_is_mixed_no_partners_are_told():
    with loader.train_batches(Scenes(9), config_for()) as batches:
        next(batches)
        assert batches.partners is None


def test_a_partner_that_cannot_be_read_is_counted_and_left_out():
    source = Flat(6, broken=(2, 5), bad_boxes=1)
    config = still(mixing_config(1.0, 1.0, on_bad_example="skip", image_size=(40, 40)))
    batches, counts = take_mixed(source, config, 6)
    bad = 0
    for batch in batches:
        for row, index in enumerate(batch["index"]):
            partners = batch["partners"][row]
            assert not np.isin(partners, (2, 5)).any()
            if index in (2, 5):
                assert not batch["present"][row] and (partners == -1).all()
                continue
            bad += int((partners == -1).sum())
            labels = batch["labels"][row, batch["valid"][row]].tolist()
            assert sorted(labels) == sorted([index, *partners[partners >= 0]])
    assert counts["bad_partners"] == bad > 0
    # Four epochs: each example's own count once in each, whoever else it was mixed into.
    assert counts["unreadable"] == 8 and counts["images"] == 16 and counts["bad_boxes"] == 16


def test_a_partner_that_cannot_be_read_stops_the_run_by_name():
    config = mixing_config(1.0)
    order = [loader.example_at(n, 400, config.train.seed)[1] for n in range(40)]
    # Those whose own turn comes can all be read, and so can the ones read ahead.
    broken = tuple(set(range(400)) - set(order))
    with pytest.raises(DataError, match="cut short"):
        take_mixed(Scenes(400, broken=broken), config, 5)


def test_processes_read_the_same_mixed_batch():
    source, config = Scenes(11, bad_boxes=1, broken=(3,)), mixing_config(0.7, 0.5)
    config.data.on_bad_example = "skip"
    config.train.batch_size = 8
    whole, counts = take_mixed(source, config, 3, start=2, steps=7)
    for options in (dict(run=4), dict(rows=2)):
        shares = split(2, **options)
        parts = [take_mixed(source, config, 3, 2, share=share, steps=7) for share in shares]
        rows = [joined(shares, both) for both in zip(*(p for p, _ in parts), strict=True)]
        assert_same(rows, whole)
        assert {key: sum(c[key] for _, c in parts) for key in counts} == counts
    assert counts["bad_partners"] > 0


# --- shares of several processes ------------------------------------------------------------------


def split(processes, batch_size=8, micro_batches=1, rows=1, run=2):
    """Shares of processes that hold `run` examples by turns, each one's rows in `rows` of them."""
    size, groups = batch_size // micro_batches, processes // rows
    every, found = np.arange(batch_size), []
    for process in range(processes):
        group, part = divmod(process, rows)
        examples = every[every % size // run % groups == group]
        height = SIZE[0] // rows
        cut = slice(part * height, (part + 1) * height)
        owned = np.full(len(examples), part == 0)
        found.append(Share(batch_size, SIZE[0], micro_batches, examples, owned, cut))
    return found


def joined(shares, batches):
    """The global batch, from what each process has of it."""
    whole = {key: {} for key in batches[0]}
    for share, batch in zip(shares, batches, strict=True):
        assert all(len(value) == len(share.examples) for value in batch.values())
        for i, place in enumerate(share.examples.tolist()):
            for key, value in batch.items():
                whole[key].setdefault(place, []).append(value[i])
    places = range(shares[0].batch_size)
    assert all(sorted(column) == list(places) for column in whole.values())
    # Rows one under another; the rest is the same wherever it is (records are objects).
    same = lambda a, b: repr(a) == repr(b)  # noqa: E731
    image = whole.pop("image")
    for column in whole.values():
        for copies in column.values():
            assert all(same(copies[0], copy) for copy in copies)
    return {"image": np.stack([np.concatenate(image[i]) for i in places])} | {
        key: np.stack([column[i][0] for i in places]) for key, column in whole.items()
    }


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
def test_what_the_processes_read_is_the_whole_batch(task, options, first):
    source, config = Scenes(11, task, bad_boxes=1), config_for(task, max_boxes=2)
    config.train.batch_size = 8
    shares = split(2, **options)
    assert shares[0].examples.tolist() == first
    whole, counts = take(source, config, 3, start=2)
    parts = []
    for share in shares:
        with loader.train_batches(source, config, 2, share) as batches:
            parts.append((list(itertools.islice(batches, 3)), batches.counts))
    assert all(
        batch["image"].shape[1] == SIZE[0] // options.get("rows", 1) for batch in parts[1][0]
    )
    assert_same([joined(shares, both) for both in zip(*(p for p, _ in parts), strict=True)], whole)
    # Each example counts once, with the first process that has it.
    assert {key: sum(c[key] for _, c in parts) for key in counts} == counts
    assert parts[1][1]["images"] == (0 if "rows" in options else 12)
    assert counts["images"] == 24 and (task == "classify" or counts["bad_boxes"] == 24)


@pytest.mark.parametrize("rows", [1, 2])
def test_processes_evaluate_each_image_once(rows):
    source, config = Scenes(11, broken=(9,)), config_for(on_bad_example="skip")
    with loader.eval_batches(source, config, 8) as batches:
        whole, counts = list(batches), batches.counts
    shares, parts, sums = split(2, rows=rows), [], []
    for share in shares:
        with loader.eval_batches(source, config, 8, share) as batches:
            parts.append(list(batches))
            sums.append(batches.counts)
    # Both have as many batches: the last is filled up with what is not present.
    found = [joined(shares, both) for both in zip(*parts, strict=True)]
    assert [batch["index"].tolist() for batch in found] == [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [8, 9, 10, -1, -1, -1, -1, -1],
    ]
    assert found[1]["present"].tolist() == [True, False, True] + [False] * 5
    for mine, theirs in zip(found, whole, strict=True):
        names = [[r and r.file_name for r in batch.pop("record")] for batch in (mine, theirs)]
        assert names[0] == names[1]
    assert_same(found, whole)
    assert {key: sum(c[key] for c in sums) for key in counts} == counts
    assert counts["images"] == 10 and counts["unreadable"] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_threads_that_make_batches_give_way_and_never_rise(monkeypatch):
    def own():
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    class Watched(Scenes):
        def __init__(self, *args):
            super().__init__(*args)
            self.seen = set()  # its own: threads of an earlier one may still read ahead

        def __getitem__(self, index):
            self.seen.add(own())
            return super().__getitem__(index)

    watched, before = Watched(10), own()
    take(watched, config_for(), 3)
    assert watched.seen == {max(before, loader._LOW_PRIORITY)} and own() == before
    # Where the whole run has a low priority already, only root could raise it.
    monkeypatch.setattr(loader, "_LOW_PRIORITY", before - 1)
    watched = Watched(10)
    take(watched, config_for(), 3)
    assert watched.seen == {before}


@pytest.mark.parametrize("bad", [None, 3])
def test_reading_ahead_fills_the_cache_in_the_order_of_training(bad):
    class Noted(Scenes):
        def __init__(self, *args):
            super().__init__(*args)
            self.read = []

        def __getitem__(self, index):
            self.read.append(index)
            if index == bad:
                raise BadExample("bad")
            return super().__getitem__(index)

    noted, config = Noted(10), config_for()
    source = Cached(noted)
    with loader.reading_ahead(source, config):
        while len(set(noted.read)) < 10:
            time.sleep(0.001)
    wanted = [loader.example_at(n, 10, config.train.seed)[1] for n in range(10)]
    # Several threads take turns, so that neighbours may change places.
    assert set(noted.read[:2]) <= set(wanted[: 2 + loader._THREADS])
    before = len(noted.read)
    if bad is None:
        take(source, config, 3)
        assert len(noted.read) == before


@pytest.mark.parametrize(
    "half, wanted",
    [
        # From position 2 x 4 on; what was read already is in the cache.
        (None, [5, 0, 9, 1, 2, 8, 4, 3, 6, 7]),
        # Of each batch the last two: positions 10, 11, 14, 15, 18, 19.
        (1, [9, 1, 4, 5, 7, 0]),
    ],
)
def test_reading_ahead_begins_where_the_run_goes_on(monkeypatch, half, wanted):
    class Noted(Scenes):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    monkeypatch.setattr(loader, "_THREADS", 1)  # several would change places
    config, read = config_for(), []
    config.train.seed = 0  # that of PINNED
    share = None if half is None else split(2, batch_size=4)[half]
    with loader.reading_ahead(Cached(Noted(10)), config, start_step=2, share=share):
        end = time.monotonic() + 30
        while len(read) < len(wanted) and time.monotonic() < end:
            time.sleep(0.001)
    assert read == wanted


def test_reading_ahead_ends_when_it_is_told_to_and_needs_a_cache():
    class Slow(Scenes):
        def __getitem__(self, index):
            read.append(index)
            time.sleep(0.05)
            return super().__getitem__(index)

    read = []
    with loader.reading_ahead(Cached(Slow(1000)), config_for()):
        pass
    count = len(read)
    time.sleep(0.2)
    assert len(read) == count <= 2 * loader._THREADS
    with loader.reading_ahead(Slow(1000), config_for()):
        time.sleep(0.1)
    assert len(read) == count
