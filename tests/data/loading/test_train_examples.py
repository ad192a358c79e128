"""Training examples: augmentation, truncation, mixing, and unreadable images."""

import cv2
import numpy as np
import pytest
from sources import (
    GreyImages,
    Scenes,
    arrays_of,
    assert_same,
    config_for,
    mixing_config,
    shards_of,
    take,
    without_augmentation,
)

from convmesh.data import images, order
from convmesh.data.augmentation.sizes import StepSizes
from convmesh.data.loading.cache import cached
from convmesh.data.loading.train_examples import TrainExamples
from convmesh.data.record import Record
from convmesh.data.splits import open_train
from convmesh.errors import DataError


def test_boxes_stay_with_their_image_and_are_sorted_by_size():
    config = without_augmentation(config_for(image_size=(40, 30)))
    batches, _ = take(Scenes(8), config, 2)
    for batch in batches:
        for row, index in enumerate(batch.index):
            n = index % 4
            record = Scenes(8)[index]
            assert np.array_equal(batch.image[row], record.image)
            assert batch.valid[row].tolist() == [True] * n + [False] * (5 - n)
            assert np.array_equal(batch.boxes[row, :n], record.boxes[::-1])
            assert np.array_equal(batch.labels[row, :n], record.labels[::-1])
            assert np.array_equal(batch.crowd[row, :n], record.crowd[::-1])
            for key in ("boxes", "labels", "crowd"):
                assert not getattr(batch, key)[row, n:].any()


class MarkedCorners(Scenes):
    """A box of grey level 50 * (label + 1) in each corner."""

    classes = ("a", "b", "c", "d")

    def __getitem__(self, index):
        image = np.zeros((80, 80, 3), np.uint8)
        corners = [(x, y) for y in (5, 55) for x in (5, 55)]
        for label, (x, y) in enumerate(corners):
            image[y : y + 20, x : x + 20] = 50 * (label + 1)
        boxes = np.array([[x, y, x + 20, y + 20] for x, y in corners], np.float32)
        labels, crowd = np.arange(4, dtype=np.int32), np.zeros(4, bool)
        return Record(image, index + 1, f"{index}.png", boxes=boxes, labels=labels, crowd=crowd)


def test_labels_stay_with_their_boxes_when_other_boxes_are_dropped():
    config = config_for(image_size=(80, 80))
    config.data.augment.update(scale=(1.6, 2.4), color=0.0)
    batches, _ = take(MarkedCorners(4), config, 3)
    count = 0
    for batch in batches:
        for row in range(4):
            for box, label in zip(
                batch.boxes[row, batch.valid[row]],
                batch.labels[row, batch.valid[row]],
                strict=True,
            ):
                x, y = ((box[:2] + box[2:]) / 2).astype(int)
                assert batch.image[row, y, x, 0] == 50 * (label + 1)
                count += 1
    assert 12 <= count < 48


def test_augmentation_depends_on_epoch_example_and_seed():
    source, config = Scenes(4), config_for()
    (first, second), _ = take(source, config, 2)
    for index in range(4):
        one = first.image[first.index.tolist().index(index)]
        two = second.image[second.index.tolist().index(index)]
        assert not np.array_equal(one, two)
    config.train.seed = 8
    (other,), _ = take(source, config, 1)
    assert not np.array_equal(other.image, first.image)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_raises_an_error_with_its_name(workers):
    config = config_for(workers=workers)
    with pytest.raises(DataError, match="^3.png: cut short"):
        take(Scenes(5, broken=(3,)), config, 2)


@pytest.mark.parametrize("task", ["detect", "classify"])
def test_the_next_readable_image_takes_the_place_of_an_unreadable_one(task):
    config = config_for(task, on_bad_example="skip", image_size=(40, 30))
    config.data.augment.flip = 0.5
    batches, counts = take(Scenes(6, task, broken=(2, 3, 5)), config, 6)
    readable, _ = take(Scenes(6, task), config, 6)
    for batch, sound in zip(batches, readable, strict=True):
        assert batch.present.all()
        assert batch.index.tolist() == [{2: 4, 3: 4, 5: 0}.get(i, i) for i in sound.index]
        drawn = np.isin(sound.index, (2, 3, 5))
        assert np.array_equal(batch.image[~drawn], sound.image[~drawn])
        if task == "classify":
            assert (batch.label == batch.index % 3).all()
    assert counts.unreadable == counts.images == 12  # of four epochs

    # It is another crop than its own: three examples of one epoch are image 4.
    first_epoch = np.concatenate([batch.image for batch in batches])[:6]
    copies = first_epoch[np.concatenate([batch.index for batch in batches])[:6] == 4]
    assert len(copies) == 3 == len(np.unique(copies, axis=0))


def test_bad_boxes_of_a_replacement_are_not_counted_again():
    config = config_for(on_bad_example="skip")
    _, counts = take(Scenes(4, broken=(2,), bad_boxes=1), config, 3)
    assert (counts.images, counts.unreadable, counts.bad_boxes) == (9, 3, 9)
    assert counts.source_boxes == 3 * (0 + 1 + 3)


def test_if_no_image_can_be_read_the_error_names_the_first_and_the_count():
    config = config_for(on_bad_example="skip")
    with pytest.raises(DataError, match="^0.png: cannot be read, .* any other of the 5 images"):
        take(Scenes(5, broken=range(5)), config, 1)


@pytest.mark.parametrize(
    "options",
    [{"workers": 1, "cache": "false"}, {"cache": "true"}, {"workers": 1, "cache": "true"}],
    ids=str,
)
def test_replacements_are_the_same_in_workers_and_with_a_cache(options):
    source = Scenes(7, broken=(1, 2, 6))
    expected, counts = take(source, config_for(on_bad_example="skip"), 4)
    config = config_for(on_bad_example="skip", **options)
    (kept,), _ = cached([source], config)
    found, found_counts = take(kept, config, 4)
    assert_same(found, expected)
    assert found_counts == counts


def test_the_smallest_boxes_beyond_the_limit_are_truncated_and_counted():
    config = without_augmentation(config_for(image_size=(40, 30), max_boxes=2))
    batches, counts = take(Scenes(4), config, 1)
    (batch,) = batches
    row = batch.index.tolist().index(3)
    assert batch.truncated.tolist() == [max(0, i - 2) for i in batch.index % 4]
    assert batch.valid.shape == (4, 2)
    assert np.array_equal(batch.boxes[row], Scenes(4)[3].boxes[:0:-1])
    assert counts.truncated == 1


def test_bad_boxes_of_the_source_are_counted():
    _, counts = take(Scenes(4, bad_boxes=2), config_for(), 3)
    assert counts.bad_boxes == 24


def test_partners_are_the_images_mixed_in():
    source, config = GreyImages(10), without_augmentation(mixing_config(1.0, image_size=(40, 40)))
    batches, _ = take(source, config, 6)
    for batch in batches:
        assert batch.partners.dtype == np.int64 and batch.partners.shape == (4, 4)
        unmixed = take(source, config_for(), 1)[0][0]
        assert set(arrays_of(batch)) == {*arrays_of(unmixed), "partners"}
        for row, index in enumerate(batch.index):
            *in_mosaic, blended = batch.partners[row].tolist()
            assert blended == -1 and all(0 <= partner < 10 for partner in in_mosaic)
            levels = {10 * (i + 1) for i in (index, *in_mosaic)}
            assert set(np.unique(batch.image[row])) - {114} == levels
            labels = batch.labels[row, batch.valid[row]].tolist()
            assert sorted(labels) == sorted([index, *in_mosaic])

    config.data.augment.update(mosaic=0.0, mixup=1.0)
    batches, _ = take(source, config, 4)
    for batch in batches:
        assert (batch.partners[:, :3] == -1).all() and (batch.partners[:, 3] >= 0).all()
        for row, index in enumerate(batch.index):
            labels = batch.labels[row, batch.valid[row]].tolist()
            assert sorted(labels) == sorted([index, batch.partners[row, 3]])


def test_an_example_without_partners_is_the_same_as_without_mixing():
    source = Scenes(10)
    batches, _ = take(source, mixing_config(0.4, 0.2), 6)
    plain, _ = take(source, config_for(), 6)
    unmixed = 0
    for batch, expected in zip(batches, plain, strict=True):
        assert np.array_equal(batch.index, expected.index)
        for row in range(4):
            same = all(
                np.array_equal(getattr(batch, name)[row], array[row])
                for name, array in arrays_of(expected).items()
            )
            assert same == (batch.partners[row] == -1).all()
            unmixed += same
    assert 4 <= unmixed <= 20


def test_partners_depend_on_epoch_and_seed():
    source, config = Scenes(4), mixing_config(1.0)
    (first, second), _ = take(source, config, 2)
    order = np.argsort(first.index), np.argsort(second.index)
    assert not np.array_equal(first.partners[order[0]], second.partners[order[1]])
    config.train.seed = 8
    (other,), _ = take(source, config, 1)
    assert not np.array_equal(other.partners[np.argsort(other.index)], first.partners[order[0]])


@pytest.mark.parametrize("last_plain, steps, mixed", [(0.3, 10, 28), (0.5, 3, 6), (1.0, 5, 0)])
def test_the_last_part_of_a_run_is_not_mixed(last_plain, steps, mixed):
    source, config = Scenes(10), mixing_config(1.0, 1.0)
    config.data.augment.last_plain = last_plain
    batches, _ = take(source, config, steps, steps=steps)
    plain, _ = take(source, config_for(), steps)
    partners = np.concatenate([batch.partners for batch in batches])
    assert (partners[:mixed] >= 0).all() and (partners[mixed:] == -1).all()
    for key in ("image", "boxes", "labels", "crowd", "valid", "truncated"):
        one, two = (np.concatenate([getattr(batch, key) for batch in b]) for b in (batches, plain))
        assert np.array_equal(one[mixed:], two[mixed:]), key
    # Without the number of steps everything is mixed.
    endless, _ = take(source, config, steps)
    assert all((batch.partners >= 0).all() for batch in endless)


def test_batches_of_a_run_without_mixing_have_no_partners():
    (batch,), _ = take(Scenes(9), config_for(), 1)
    assert batch.partners is None


def test_an_unreadable_partner_is_counted_and_left_out():
    source = GreyImages(6, broken=(2, 5), bad_boxes=1)
    config = without_augmentation(
        mixing_config(1.0, 1.0, on_bad_example="skip", image_size=(40, 40))
    )
    batches, counts = take(source, config, 6)
    bad = 0
    for batch in batches:
        for row, index in enumerate(batch.index):
            partners = batch.partners[row]
            assert not np.isin(partners, (2, 5)).any()
            assert batch.present[row] and index not in (2, 5)
            bad += int((partners == -1).sum())
            labels = batch.labels[row, batch.valid[row]].tolist()
            assert sorted(labels) == sorted([index, *partners[partners >= 0]])
    assert counts.bad_partners == bad > 0
    # In each of four epochs every example is counted once, even if it is also a partner.
    assert counts.unreadable == 8 and counts.images == 16 and counts.bad_boxes == 16


def test_an_unreadable_partner_raises_an_error():
    config = mixing_config(1.0)
    examples = [order.example_at(n, 400, config.train.seed)[1] for n in range(40)]
    # All examples of the first ten batches can be read: only partners fail.
    broken = tuple(set(range(400)) - set(examples))
    with pytest.raises(DataError, match="cut short"):
        take(Scenes(400, broken=broken), config, 5)


# --- images decoded for their crop (data.decode) --------------------------------------------------


@pytest.fixture
def large_photos(tmp_path):
    """A folder of 6 smooth JPEGs of 600 x 900 pixels in two classes."""
    y, x = np.mgrid[:600, :900]
    for i in range(6):
        image = np.stack([x * 255 // 899, y * 255 // 599, 40 * i + 0 * x], -1).astype(np.uint8)
        path = tmp_path / "train" / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    return tmp_path


def crops_of(folder, monkeypatch, decode, **changes):
    """The first four batches, and by how much smaller each of their images is decoded."""
    factors, original = [], images._with_cv2

    def with_cv2(data, size, times):
        factors.append(times)
        return original(data, size, times)

    config = config_for("classify", root=str(folder), decode=decode, **changes)
    config.data.augment.update(color=0.0, crop=(0.05, 1.0))
    batches, _ = take(open_train(config), config, 4)
    examples = TrainExamples.of(open_train(config), config, None, None)
    with monkeypatch.context() as patch:  # not around the loader, whose threads read on
        patch.setattr(images, "_with_cv2", with_cv2)
        for position in range(4 * config.train.batch_size):
            examples.batch([position])
    return batches, factors


def test_an_image_is_decoded_as_small_as_its_crop_allows(large_photos, monkeypatch):
    whole, factors = crops_of(large_photos, monkeypatch, "image")
    assert set(factors) == {2}  # the smallest crop, 0.05 of the area, has 134 x 201 pixels
    cropped, factors = crops_of(large_photos, monkeypatch, "crop")
    assert set(factors) == {4, 8}
    for one, other in zip(whole, cropped, strict=True):
        assert one.index.tolist() == other.index.tolist()
        assert one.label.tolist() == other.label.tolist()
        difference = np.abs(one.image.astype(int) - other.image.astype(int))
        # The same crops, up to whole pixels of what was decoded: 8 of 900 are 2 levels of 255.
        assert difference.mean() < 1.5 and not np.array_equal(one.image, other.image)


def test_crops_are_the_same_in_workers_and_of_a_subset(large_photos, monkeypatch):
    here, factors = crops_of(large_photos, monkeypatch, "crop", first=4)
    assert len(set(factors)) > 1
    assert max(int(batch.index.max()) for batch in here) < 4
    with_workers, _ = crops_of(large_photos, monkeypatch, "crop", first=4, workers=2)
    assert_same(here, with_workers)


def test_crops_are_decoded_for_the_size_of_their_step(large_photos, monkeypatch):
    small, factors = crops_of(large_photos, monkeypatch, "crop", image_size=(64, 64))
    monkeypatch.setattr(StepSizes, "__call__", lambda sizes, step: sizes.sizes[step % 2])
    both, more = crops_of(large_photos, monkeypatch, "crop", image_size=(64, 64), sizes=(1.0, 4.0))
    assert {batch.image.shape[1] for batch in both} == {64, 256}
    assert np.mean(more) < np.mean(factors)
    for one, other in zip(small, both, strict=True):
        if other.image.shape[1] == 64:
            assert np.array_equal(one.image, other.image)


@pytest.mark.parametrize("task", ["classify", "detect"])
@pytest.mark.parametrize(
    "shard", [None, *shards_of(1), shards_of(2, rows=2)[1]], ids=["none", "whole", "rows"]
)
def test_a_batch_is_its_examples_stacked(task, shard, large_photos):
    """In any order: what is drawn first for all does not depend on the other images."""
    source, changes = Scenes(8), {"mosaic": 0.5}
    config = config_for(task, root=str(large_photos), image_size=(40, 32))
    if task == "classify":
        source, changes = open_train(config), {"policy": "trivialaugment", "erase": 0.5}
    config.data.augment.update(changes)
    examples = TrainExamples.of(source, config, shard, 10)
    batch = examples.batch(range(8))
    alone = {n: examples.batch([n]) for n in reversed(range(8))}
    assert batch["image"].shape[0] == 8 and set(batch) == set(alone[0])
    for n, example in alone.items():
        for key, array in example.items():
            assert np.array_equal(batch[key][n], array[0]), key
