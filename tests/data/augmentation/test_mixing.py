import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convmesh.data.augmentation import augment, mixing
from convmesh.data.augmentation.augment import AugmentSettings
from convmesh.data.augmentation.mixing import Partners
from convmesh.data.augmentation.views import FILL, View
from convmesh.data.record import Record

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)
STILL = AugmentSettings(flip=0.0, scale=(1.0, 1.0), color=0.0)


def generators(seed):
    return np.random.default_rng((seed, 1)), np.random.default_rng((seed, 2))


def painted(colour, box, height=60, width=80):
    """A black image with one box in a colour; the label is the index in COLOURS."""
    image = np.zeros((height, width, 3), np.uint8)
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = COLOURS[colour]
    return Record(
        image,
        colour + 1,
        f"{colour}.png",
        boxes=np.array([box], np.float32),
        labels=np.array([colour], np.int32),
        crowd=np.zeros(1, bool),
    )


def flat(level, height=60, width=60):
    image = np.full((height, width, 3), level, np.uint8)
    box = np.array([[0, 0, width, height]], np.float32)
    return Record(
        image, 1, "a", boxes=box, labels=np.array([level], np.int32), crowd=np.zeros(1, bool)
    )


def bounds(image, colour):
    """The bounding box of pixels nearer to the colour than to black or grey."""
    bright = image > 127
    ys, xs = np.nonzero((bright == (COLOURS[colour] > 0)).all(-1))
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


@st.composite
def records(draw):
    found = []
    for colour in range(4):
        height, width = draw(st.integers(30, 120)), draw(st.integers(30, 120))
        x0, y0 = draw(st.integers(0, width - 20)), draw(st.integers(0, height - 20))
        box = x0, y0, draw(st.integers(x0 + 16, width)), draw(st.integers(y0 + 16, height))
        found.append(painted(colour, box, height, width))
    return found


@settings(deadline=None, max_examples=50)
@given(
    records(),
    st.tuples(st.integers(40, 120), st.integers(40, 120)),
    st.floats(0.5, 2.0),
    st.integers(0, 2**32 - 1),
)
def test_boxes_bound_their_objects_in_every_quarter_of_a_mosaic(found, size, zoom, seed):
    chosen = AugmentSettings(
        scale=(zoom, zoom * 1.2), color=0.0, vertical_flip=0.5, quarter_turn=0.5
    )
    image, (boxes, labels, crowd) = mixing.mix(
        found[0], Partners(found[1:]), size, chosen, *generators(seed)
    )
    assert image.shape == (*size, 3)
    assert boxes.dtype == np.float32 and labels.dtype == np.int32 and crowd.dtype == bool
    assert len(boxes) == len(labels) == len(crowd)
    for box, label in zip(boxes, labels, strict=True):
        if (box[2:] - box[:2] >= 3).all():
            assert np.abs(bounds(image, label) - box).max() <= 1.02


@settings(deadline=None, max_examples=30)
@given(records(), st.integers(0, 2**32 - 1))
def test_boxes_of_a_rotated_mosaic_contain_their_objects(found, seed):
    chosen = AugmentSettings(color=0.0, rotate=20.0, shear=10.0, stretch=0.2)
    image, (boxes, labels, _) = mixing.mix(
        found[0], Partners(found[1:]), (90, 110), chosen, *generators(seed)
    )
    for box, label in zip(boxes, labels, strict=True):
        bright = (image > 127) == (COLOURS[label] > 0)
        if not bright.all(-1).any():
            continue  # only a corner of its box is visible, not the object
        visible = bounds(image, label)
        assert (visible[:2] >= box[:2] - 1.02).all() and (visible[2:] <= box[2:] + 1.02).all()


def test_each_of_four_images_has_a_quarter_around_a_random_point():
    levels = [10, 60, 180, 240]
    first, middles = set(), []
    for seed in range(60):
        parts = [flat(level) for level in levels]
        # Twice as large as the input, so that each image fills its quarter.
        chosen = AugmentSettings(flip=0.0, scale=(2.0, 2.0), color=0.0)
        image, (boxes, labels, _) = mixing.mix(
            parts[0], Partners(parts[1:]), (80, 120), chosen, *generators(seed)
        )
        quarters = [image[y, x, 0] for y, x in ((0, 0), (0, -1), (-1, -1), (-1, 0))]
        assert sorted(quarters) == levels
        first.add(quarters.index(10))
        x, y = (image[0, :, 0] == quarters[0]).sum(), (image[:, 0, 0] == quarters[0]).sum()
        middles.append((x / 120, y / 80))
        expected = {
            quarters[0]: [0, 0, x, y],
            quarters[1]: [x, 0, 120, y],
            quarters[2]: [x, y, 120, 80],
            quarters[3]: [0, y, x, 80],
        }
        for (x0, y0, x1, y1), level in zip(boxes.astype(int), labels, strict=True):
            assert (image[y0:y1, x0:x1] == level).all()
            assert [x0, y0, x1, y1] == expected[level]
    assert first == {0, 1, 2, 3}
    assert 0.25 <= np.min(middles) < 0.35 and 0.65 < np.max(middles) <= 0.75


def test_objects_are_as_large_in_a_mosaic_as_without():
    record = painted(0, (30, 20, 50, 40))
    found = []
    for seed in range(40):
        _, (boxes, labels, crowd) = mixing.mix(
            record, Partners([None] * 3), (120, 160), STILL, *generators(seed)
        )
        found += [tuple(box[2:] - box[:2]) for box, ignored in zip(boxes, crowd, strict=True)]
    # 60 x 80 is enlarged twice to 120 x 160; some boxes are clipped, none is larger, except for
    # the rounding of a view to whole pixels.
    uncut = [sides for sides in found if min(sides) > 39]
    assert len(uncut) > 5 and np.allclose(uncut, 40, atol=1) and np.max(found) < 41


def test_the_quarter_of_an_unreadable_image_is_grey():
    for seed in range(10):
        chosen = AugmentSettings(flip=0.0, scale=(2.0, 2.0), color=0.0)
        parts = [flat(200), None, flat(60), None]
        image, (boxes, labels, _) = mixing.mix(
            parts[0], Partners(parts[1:]), (80, 80), chosen, *generators(seed)
        )
        corners = [image[y, x, 0] for y, x in ((0, 0), (0, -1), (-1, -1), (-1, 0))]
        assert sorted(corners) == [60, FILL, FILL, 200]
        assert sorted(labels) == [60, 200] and len(boxes) == 2


def test_boxes_hardly_visible_in_their_quarter_are_crowd_regions():
    record, ignored, plain = painted(0, (0, 0, 80, 60)), 0, 0
    for seed in range(40):
        _, (boxes, _, crowd) = mixing.mix(
            record, Partners([None] * 3), (60, 80), STILL, *generators(seed)
        )
        [box], [crowded] = boxes, crowd
        part = (box[2:] - box[:2]).prod() / (80 * 60)
        assert crowded == (part < augment.MIN_VISIBLE)
        ignored, plain = ignored + crowded, plain + (not crowded)
    assert ignored > 5 and plain > 5


def test_labels_stay_with_their_boxes_when_other_boxes_are_dropped():
    image, boxes = np.zeros((80, 80, 3), np.uint8), []
    for label, (x, y) in enumerate([(5, 5), (55, 5), (5, 55), (55, 55)]):
        image[y : y + 20, x : x + 20] = COLOURS[label]
        boxes.append([x, y, x + 20, y + 20])
    crowd, labels = np.array([True, False, False, False]), np.arange(4, dtype=np.int32)
    record = Record(image, 1, "a", boxes=np.array(boxes, np.float32), labels=labels, crowd=crowd)
    counts = set()
    for seed in range(20):
        mixed, (found, named, ignored) = mixing.mix(
            record, Partners([record] * 3), (80, 80), STILL, *generators(seed)
        )
        for (x0, y0, x1, y1), label, crowded in zip(found, named, ignored, strict=True):
            pixel = mixed[int((y0 + y1) / 2), int((x0 + x1) / 2)]
            if min(x1 - x0, y1 - y0) > 2:
                assert np.array_equal(pixel > 127, COLOURS[label] > 0)
            assert crowded or label != 0
        counts.add(len(named))
    assert max(counts) < 16 and len(counts) > 3


def test_mixup_blends_the_pixels_and_keeps_the_boxes_of_both():
    weights = []
    for seed in range(300):
        image, (boxes, labels, crowd) = mixing.mix(
            flat(200), Partners(mixup=flat(40)), (60, 60), STILL, *generators(seed)
        )
        assert labels.tolist() == [200, 40] and not crowd.any()
        assert boxes.tolist() == [[0, 0, 60, 60]] * 2
        assert np.ptp(image) == 0
        weights.append((int(image[0, 0, 0]) - 40) / 160)
    # Beta(8, 8): mean 1/2, variance 1 / (4 x 17).
    assert np.mean(weights) == pytest.approx(0.5, abs=0.02)
    assert np.std(weights) == pytest.approx(0.1213, abs=0.015)


def test_mixup_of_a_mosaic_keeps_the_boxes_of_all_five():
    parts = [flat(level) for level in (10, 60, 180, 240)]
    image, (boxes, labels, _) = mixing.mix(
        parts[0], Partners(parts[1:], flat(100)), (60, 60), STILL, *generators(1)
    )
    assert sorted(labels) == [10, 60, 100, 180, 240] and len(boxes) == 5
    assert len(np.unique(image)) >= 4


@pytest.mark.parametrize("color", [0.0, 0.8])
def test_an_example_without_partners_is_augmented_as_without_mixing(color):
    record = painted(2, (10, 10, 50, 40))
    chosen = AugmentSettings(color=color, vertical_flip=0.5, rotate=10.0)
    for seed in range(10):
        rng, partner_rng = generators(seed)
        image, (boxes, labels, crowd) = mixing.mix(
            record, Partners(), (64, 64), chosen, rng, partner_rng
        )
        plain, found, ignored, kept = augment.augment_for_detection(
            record.image, record.boxes, record.crowd, (64, 64), chosen, generators(seed)[0]
        )
        assert np.array_equal(image, plain) and np.array_equal(boxes, found)
        assert np.array_equal(crowd, ignored) and np.array_equal(labels, record.labels[kept])


def test_colours_are_jittered_once_and_last(monkeypatch):
    jittered = []

    def noted(image, strength, rng):
        jittered.append(image.copy())

    parts = [flat(level) for level in (10, 60, 180, 240)]
    monkeypatch.setattr(mixing, "jitter_colour", noted)
    image, _ = mixing.mix(parts[0], Partners(parts[1:], flat(100)), (60, 60), STILL, *generators(0))
    assert len(jittered) == 1 and np.array_equal(jittered[0], image)


def test_partners_do_not_change_the_random_values_of_the_example(monkeypatch):
    """Its view in the mosaic and its colours come from its own generator."""
    own, views = painted(0, (10, 10, 50, 40)), []
    written = View.write

    def noted(self, image, canvas):
        if image is own.image:
            views.append(self)
        written(self, image, canvas)

    monkeypatch.setattr(View, "write", noted)
    after = []
    for others in ([None] * 3, [painted(i, (5, 5, 30, 30)) for i in (1, 2, 3)]):
        rng, partner_rng = generators(4)
        mixing.mix(own, Partners(others, others[0]), (64, 64), AugmentSettings(), rng, partner_rng)
        after.append(rng.uniform())
    assert views[0] == views[1] and after[0] == after[1]


def test_the_view_of_an_example_in_a_mosaic_does_not_depend_on_its_partners():
    # Small enough to be clipped in no quarter.
    record, chosen = flat(200), AugmentSettings(scale=(0.05, 0.25), color=0.0)
    for seed in range(5):
        alone = np.random.default_rng((seed, 1))
        augment.augment_for_detection(
            record.image, record.boxes, record.crowd, (400, 400), chosen, alone
        )
        after = alone.uniform()
        # Its first random value is the logarithm of the zoom.
        side = 400 * np.exp(np.random.default_rng((seed, 1)).uniform(np.log(0.05), np.log(0.25)))
        for other in range(5):
            rng, partner_rng = np.random.default_rng((seed, 1)), np.random.default_rng((other, 2))
            _, (boxes, _, _) = mixing.mix(
                record, Partners([None] * 3), (400, 400), chosen, rng, partner_rng
            )
            np.testing.assert_allclose(boxes[:, 2:] - boxes[:, :2], [[side] * 2], atol=1)
            assert rng.uniform() == after


def test_inputs_of_a_few_pixels_can_be_mosaics():
    parts = [painted(i, (5, 5, 30, 30)) for i in range(4)]
    for size in ((1, 1), (1, 5), (2, 2), (3, 40)):
        for seed in range(5):
            image, (boxes, _, _) = mixing.mix(
                parts[0],
                Partners(parts[1:], parts[1]),
                size,
                AugmentSettings(rotate=5.0),
                *generators(seed),
            )
            assert image.shape == (*size, 3)
            assert (boxes >= 0).all() and (boxes <= [*size[::-1]] * 2).all()


def test_partners_are_drawn_uniformly_with_their_probabilities():
    both = AugmentSettings(mosaic=0.3, mixup=0.6)
    drawn = np.array(
        [mixing.draw_partners(7, both, np.random.default_rng(seed)) for seed in range(2000)]
    )
    assert drawn.shape == (2000, mixing.PARTNERS) and drawn.dtype == np.int64
    in_mosaic = drawn[:, :3] >= 0
    assert (in_mosaic.all(1) == in_mosaic.any(1)).all()
    assert in_mosaic[:, 0].mean() == pytest.approx(0.3, abs=0.04)
    assert (drawn[:, 3] >= 0).mean() == pytest.approx(0.6, abs=0.04)
    for column in drawn.T:
        assert np.allclose(
            np.bincount(column[column >= 0], minlength=7) * 7, (column >= 0).sum(), rtol=0.35
        )
    # One setting does not change the values of the other.
    alone = np.array(
        [
            mixing.draw_partners(7, AugmentSettings(mixup=0.6), np.random.default_rng(s))
            for s in range(99)
        ]
    )
    assert np.array_equal(alone[:, 3], drawn[:99, 3]) and (alone[:, :3] == -1).all()
