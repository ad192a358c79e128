import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convmesh.data.augmentation import augment, views
from convmesh.data.augmentation.augment import AugmentSettings, clip_boxes

PIXEL = 1.02  # one pixel, and the rounding of grey levels
PLAIN = AugmentSettings(flip=0.0, scale=(1.0, 1.0), crop=(1.0, 1.0), color=0.0)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def bright_box(height, width, box):
    image = np.zeros((height, width, 3), np.uint8)
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = 255
    return image


def bounds(view):
    """The bounding box of pixels brighter than half, and so than FILL."""
    ys, xs = np.nonzero(view[..., 0] > 127)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


@st.composite
def drawn_boxes(draw):
    height, width = draw(st.integers(20, 200)), draw(st.integers(20, 200))
    x0, y0 = draw(st.integers(0, width - 12)), draw(st.integers(0, height - 12))
    x1, y1 = draw(st.integers(x0 + 12, width)), draw(st.integers(y0 + 12, height))
    size = draw(st.integers(32, 160)), draw(st.integers(32, 160))
    return (height, width), (x0, y0, x1, y1), size


@settings(deadline=None, max_examples=200)
@given(drawn_boxes(), st.floats(0.3, 3.0), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_a_box_bounds_its_object_after_augmentation(drawn, zoom, flip, seed):
    (height, width), box, size = drawn
    image = bright_box(height, width, box)
    chosen = AugmentSettings(flip=flip, scale=(zoom, zoom * 1.3), color=0.0)
    view, boxes, crowd, kept = augment.augment_for_detection(
        image,
        np.array([box], np.float32),
        np.zeros(1, bool),
        size,
        chosen,
        np.random.default_rng(seed),
    )
    assert view.shape == (*size, 3)
    if not len(kept) or ((boxes[0, 2:] - boxes[0, :2]) < 3).any():
        return  # too little is visible to be measured
    assert np.abs(bounds(view) - boxes[0]).max() <= PIXEL


@settings(deadline=None, max_examples=100)
@given(drawn_boxes(), st.sampled_from(["letterbox", "centre_crop"]))
def test_scale_and_offset_map_boxes_to_the_evaluation_input(drawn, how):
    (height, width), box, size = drawn
    image = bright_box(height, width, box)
    view, scale, offset = getattr(augment, how)(image, size)
    assert view.shape == (*size, 3)
    placed = np.array(box) * scale + np.tile(offset, 2)
    visible = np.clip(placed, 0, [size[1], size[0], size[1], size[0]])
    if ((visible[2:] - visible[:2]) < 3).any():
        return
    assert np.abs(bounds(view) - visible).max() <= PIXEL
    back = (placed - np.tile(offset, 2)) / scale
    assert np.allclose(back, box, atol=1e-3)


@pytest.mark.parametrize("how", ["letterbox", "centre_crop"])
@pytest.mark.parametrize(
    "shape, size", [((50, 103), (33, 34)), ((203, 90), (90, 60)), ((40, 31), (64, 60))]
)
def test_scale_and_offset_map_pixels_to_the_evaluation_input(how, shape, size):
    """The ramp has the value 2 i in pixel i, whose centre is at i + 0.5."""
    ramp = np.repeat(np.arange(0, 2 * shape[1], 2, dtype=np.uint8)[None], shape[0], 0)
    view, scale, offset = getattr(augment, how)(np.repeat(ramp[..., None], 3, 2), size)
    at = (np.arange(size[1]) + 0.5 - offset[0]) / scale - 0.5
    inside = (at > 2) & (at < shape[1] - 3)
    row = view[size[0] // 2, :, 0] / 2
    assert inside.sum() > 15
    assert np.abs(row - at)[inside].max() < 0.6


def test_zoom_is_relative_to_the_letterboxed_size():
    image = np.full((50, 100, 3), 255, np.uint8)
    for zoom, area in ((1.0, 60 * 30), (0.5, 30 * 15), (2.0, 60 * 60)):
        chosen = AugmentSettings(flip=0.0, scale=(zoom, zoom), color=0.0)
        view, *_ = augment.augment_for_detection(
            image,
            np.zeros((0, 4), np.float32),
            np.zeros(0, bool),
            (80, 60),
            chosen,
            np.random.default_rng(0),
        )
        assert (view[..., 0] == 255).sum() == pytest.approx(area, rel=0.07)


def test_letterbox_keeps_the_aspect_ratio_and_centres():
    image = np.full((50, 100, 3), 255, np.uint8)
    view, scale, offset = augment.letterbox(image, (80, 60))
    assert scale == pytest.approx(0.6) and offset.tolist() == [0, 25]
    assert (view[25:55] == 255).all()
    assert (view[:25] == views.FILL).all() and (view[55:] == views.FILL).all()


def test_letterbox_of_an_image_of_the_input_size_copies_it():
    image = noise(30, 40)
    view, scale, offset = augment.letterbox(image, (30, 40))
    assert np.array_equal(view, image) and scale == 1 and offset.tolist() == [0, 0]
    framed, scale, offset = augment.letterbox(image, (30, 50))
    assert np.array_equal(framed[:, 5:45], image) and scale == 1 and offset.tolist() == [5, 0]


def test_centre_crop_fills_the_input():
    image = np.zeros((40, 100, 3), np.uint8)
    image[:, 40:60] = 255
    view, scale, offset = augment.centre_crop(image, (20, 10))
    assert scale == 0.5 and offset.tolist() == [-20, 0]
    assert (view == 255).all()


def test_a_zoom_of_one_copies_pixels():
    image = noise(32, 48)
    boxes = np.array([[1, 2, 30, 20]], np.float32)
    view, found, _, _ = augment.augment_for_detection(
        image, boxes, np.zeros(1, bool), (32, 48), PLAIN, np.random.default_rng(0)
    )
    assert np.array_equal(view, image) and found.tolist() == boxes.tolist()
    assert not np.shares_memory(view, image)


def test_a_flip_maps_x_to_width_minus_x():
    image, boxes = noise(60, 90), np.array([[5, 6, 30, 40], [50, 10, 88, 59]], np.float32)
    found_in = []
    for flip in (0.0, 1.0):
        chosen = AugmentSettings(flip=flip, scale=(0.6, 0.9), color=0.0)
        found_in.append(
            augment.augment_for_detection(
                image, boxes, np.zeros(2, bool), (64, 64), chosen, np.random.default_rng(3)
            )
        )
    (plain, found, _, _), (mirrored, turned, _, _) = found_in
    assert np.array_equal(mirrored, plain[:, ::-1])
    assert np.allclose(turned[:, [0, 2]], 64 - found[:, [2, 0]], atol=1e-4)
    assert np.array_equal(turned[:, [1, 3]], found[:, [1, 3]])


def test_pixels_outside_the_image_are_grey():
    image = np.full((40, 40, 3), 255, np.uint8)
    chosen = AugmentSettings(flip=0.0, scale=(0.5, 0.5), color=0.0)
    view, *_ = augment.augment_for_detection(
        image,
        np.zeros((0, 4), np.float32),
        np.zeros(0, bool),
        (40, 40),
        chosen,
        np.random.default_rng(1),
    )
    assert (view == 255).all(-1).sum() == 400 and (view == views.FILL).all(-1).sum() == 1200


@pytest.mark.parametrize("zoom", [0.25, 0.3])
def test_shrinking_averages_fine_detail(zoom):
    checks = np.zeros((200, 200, 3), np.uint8)
    checks[::2, ::2] = checks[1::2, 1::2] = 255
    size = (int(200 * zoom),) * 2
    letterboxed, _, _ = augment.letterbox(checks, size)
    view = augment.augment_for_classification(checks, size, PLAIN, np.random.default_rng(0))
    for found in (letterboxed, view):
        assert abs(found.mean() - 127.5) < 3 and found.std() < 25


def test_clipped_boxes_with_little_visible_are_crowd_regions():
    boxes = np.array(
        [
            [10, 10, 30, 30],  # inside
            [-6.9, 0, 3.1, 10],  # 31% visible
            [-7.1, 0, 2.9, 10],  # 29% visible
            [-20, 0, 0, 10],  # touches the edge: nothing visible
            [98.5, 50, 101, 60],  # 60% visible, 1.5 px wide
            [40, 40, 41.5, 60],  # fully visible, but thin
            [0, 0, 20, 20],  # a crowd region already
        ],
        np.float32,
    )
    crowd = np.array([False] * 6 + [True])
    found, ignored, kept = clip_boxes(boxes, crowd, (100, 100))
    assert kept.tolist() == [0, 1, 2, 4, 5, 6]
    assert ignored.tolist() == [False, False, True, True, True, True]
    assert found[1].tolist() == pytest.approx([0, 0, 3.1, 10])
    assert found[3].tolist() == [98.5, 50, 100, 60]


def crop_of(view, size):
    """Width and height of a crop of an image whose red is x and whose green is y."""
    red, green = view[..., 0].astype(float), view[..., 1].astype(float)
    across = (red[:, -1] - red[:, 0]).mean() * size[1] / (size[1] - 1)
    down = (green[-1] - green[0]).mean() * size[0] / (size[0] - 1)
    return across, down


@pytest.mark.parametrize("shape, size", [((200, 200), (64, 64)), ((120, 240), (48, 96))])
def test_a_random_crop_covers_the_configured_fraction_of_the_area(shape, size):
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.stack([x, y, x], -1).astype(np.uint8)
    chosen = AugmentSettings(flip=0.0, crop=(0.2, 0.5), color=0.0)
    parts, aspects = [], []
    for seed in range(60):
        view = augment.augment_for_classification(image, size, chosen, np.random.default_rng(seed))
        across, down = crop_of(view, size)
        parts.append(across * down / (shape[0] * shape[1]))
        aspects.append(across / down * size[0] / size[1])
    assert 0.17 < min(parts) < 0.26 and 0.42 < max(parts) < 0.53
    assert 0.7 < min(aspects) < 0.85 and 1.2 < max(aspects) < 1.43


def test_a_crop_of_the_full_area_is_the_image():
    image = noise(64, 64)
    view = augment.augment_for_classification(image, (64, 64), PLAIN, np.random.default_rng(0))
    assert np.array_equal(view, image)
    larger = augment.augment_for_classification(image, (96, 96), PLAIN, np.random.default_rng(0))
    assert np.array_equal(larger, cv2.resize(image, (96, 96)))


@given(h=st.integers(33, 700), w=st.integers(33, 700), seed=st.integers(0, 99))
def test_a_crop_has_no_border(h, w, seed):
    config = AugmentSettings(flip=0.5, scale=(1, 1), crop=(0.35, 1.0), color=0)
    image = np.full((h, w, 3), 255, np.uint8)
    size = (64, 64)
    rng = np.random.default_rng(seed)
    assert (augment.augment_for_classification(image, size, config, rng) == 255).all()


def test_extreme_aspect_ratios_work():
    for shape in ((4, 1600), (1600, 4), (1, 1)):
        image = noise(*shape)
        for view in (
            augment.letterbox(image, (64, 64))[0],
            augment.centre_crop(image, (64, 64))[0],
            augment.augment_for_classification(
                image, (64, 64), AugmentSettings(), np.random.default_rng(0)
            ),
            augment.augment_for_detection(
                image,
                np.array([[0, 0, shape[1], shape[0]]], np.float32),
                np.zeros(1, bool),
                (64, 64),
                AugmentSettings(),
                np.random.default_rng(0),
            )[0],
        ):
            assert view.shape == (64, 64, 3)


def test_the_source_image_is_not_modified():
    image = noise(40, 40)
    image.flags.writeable = False
    before = image.copy()
    boxes = np.array([[1, 2, 30, 20]], np.float32)
    boxes.flags.writeable = False
    for seed in range(5):
        rng = np.random.default_rng(seed)
        augment.augment_for_detection(image, boxes, np.zeros(1, bool), (40, 40), PLAIN, rng)
        augment.augment_for_detection(
            image, boxes, np.zeros(1, bool), (40, 40), AugmentSettings(), rng
        )
        augment.augment_for_classification(image, (40, 40), AugmentSettings(), rng)
        augment.augment_for_classification(image, (40, 40), PLAIN, rng)
    assert np.array_equal(image, before)


def test_the_same_generator_gives_the_same_view():
    image, boxes = noise(50, 70), np.array([[1, 2, 30, 20]], np.float32)
    runs = [
        augment.augment_for_detection(
            image, boxes, np.zeros(1, bool), (64, 64), AugmentSettings(), np.random.default_rng(9)
        )
        for _ in range(2)
    ]
    for one, two in zip(*runs, strict=True):
        assert np.array_equal(one, two)


@given(
    h=st.integers(1, 3000),
    w=st.integers(1, 3000),
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    low=st.floats(0.05, 1.0),
    turned=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_no_crop_of_an_image_decoded_smaller_lacks_pixels(h, w, size, low, turned, seed):
    times = augment.Shrink(size, (low, 1.0), turned)(h, w)
    views_drawn = []
    crops = AugmentSettings(crop=(low, low), color=0.0, quarter_turn=float(turned))

    class Recorded(views.View):
        def write(self, image, canvas):
            views_drawn.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views, "View", Recorded)
        image = np.broadcast_to(np.zeros(1, np.uint8), (h, w, 3))
        augment.augment_for_classification(image, size, crops, np.random.default_rng(seed))
    [view] = views_drawn
    x0, y0, x1, y1 = view.source
    # Rounding to whole pixels and blocks makes a crop a little smaller than drawn.
    for length, room, block in zip((x1 - x0, y1 - y0), view.size[::-1], view.blocks, strict=True):
        assert (length + block + 1) / times >= room


@given(
    h=st.integers(1, 3000),
    w=st.integers(1, 3000),
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    turned=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_a_crop_drawn_before_the_image_is_read_is_the_one_that_is_taken(h, w, size, turned, seed):
    settings = AugmentSettings(crop=(0.1, 1.0), color=0.0, quarter_turn=float(turned))
    rng = np.random.default_rng(seed)
    crop = augment.RandomCrop.draw(settings, rng)
    crop_h, crop_w = crop.sides(size, h, w)
    assert 0 < crop_h <= h * (1 + 1e-9) and 0 < crop_w <= w * (1 + 1e-9)
    # Decoded so much smaller, its narrower side has just the pixels of the input.
    before = views.rotated_size(size, crop.deformation.quarter_turns)
    times = crop.shrink(size, h, w)
    assert min(crop_h / times / before[0], crop_w / times / before[1]) == pytest.approx(1)
    drawn = []

    def record(image_size, input_size, scale, *place):
        drawn.append(scale)
        return views.placed_view(image_size, input_size, scale, *place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augment, "placed_view", record)
        patch.setattr(views.View, "write", lambda view, image, canvas: None)
        image = np.broadcast_to(np.zeros(1, np.uint8), (h, w, 3))
        augment.augment_for_classification(image, size, settings, rng, crop)
    assert drawn == [(before[1] / crop_w, before[0] / crop_h)]
    again = np.random.default_rng(seed)
    whole = augment.augment_for_classification
    small = np.zeros((9, 9, 3), np.uint8)
    whole(small, size, settings, again)  # one call draws the same numbers
    assert again.random() == rng.random()


# --- rotations, flips and shears ------------------------------------------------------------------


def detection(image, boxes, size, chosen, seed=0):
    boxes = np.array(boxes, np.float32)
    crowd = np.zeros(len(boxes), bool)
    rng = np.random.default_rng(seed)
    return augment.augment_for_detection(image, boxes, crowd, size, chosen, rng)


@settings(deadline=None, max_examples=60)
@given(drawn_boxes(), st.floats(0.3, 3.0), st.integers(0, 2**32 - 1))
def test_a_box_bounds_its_object_after_quarter_turns_flips_and_stretches(drawn, zoom, seed):
    (height, width), box, size = drawn
    chosen = AugmentSettings(
        scale=(zoom, zoom), color=0.0, vertical_flip=0.5, quarter_turn=0.75, stretch=0.5
    )
    image = bright_box(height, width, box)
    view, boxes, _, kept = detection(image, [box], size, chosen, seed)
    assert view.shape == (*size, 3)
    if not len(kept) or ((boxes[0, 2:] - boxes[0, :2]) < 3).any():
        return
    assert np.abs(bounds(view) - boxes[0]).max() <= PIXEL


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["rotate", "shear", "both"]))
def test_a_box_bounds_its_object_after_rotations_and_shears(seed, what):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(80, 160, 2)
    x0, y0 = rng.integers(0, [width - 40, height - 40])
    box = [x0, y0, x0 + 30, y0 + 40]
    image = np.full((height, width, 3), views.FILL, np.uint8)
    image[y0 : y0 + 40, x0 : x0 + 30] = 255
    angles = {"rotate": 25.0 * (what != "shear"), "shear": 15.0 * (what != "rotate")}
    chosen = AugmentSettings(
        color=0.0, scale=(0.6, 1.5), vertical_flip=0.5, quarter_turn=0.5, stretch=0.2, **angles
    )
    size = tuple(rng.integers(80, 160, 2).tolist())
    view, boxes, _, kept = detection(image, [box], size, chosen, seed)
    if not len(kept):
        return
    ends = np.array([*size[::-1]] * 2)
    if (boxes[0] <= 1).any() or (boxes[0] >= ends - 1).any():
        return  # a corner outside the input may have been the outermost one
    ys, xs = np.nonzero(view[..., 0] > views.FILL + 20)
    found = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    assert np.abs(found - boxes[0]).max() <= 1.4


def test_the_box_of_a_rotated_box_is_its_bounding_box():
    """30 degrees: 20 x 10 becomes 20 cos + 10 sin = 22.32 wide, 20 sin + 10 cos = 18.66 high."""
    a = np.radians(30)
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    plain = views.View((0, 0, 100, 100), (0, 0, 100, 100), (1, 1), (100, 100))
    [[x0, y0, x1, y1]] = plain.deformed(turn).boxes(np.array([[40, 45, 60, 55]], np.float32))
    assert (x1 - x0, y1 - y0) == pytest.approx((22.3205, 18.6603), abs=1e-3)
    assert (x0 + x1, y0 + y1) == pytest.approx((100, 100), abs=1e-3)


@pytest.mark.parametrize("task", ["detect", "classify"])
def test_vertical_flips_and_quarter_turns_do_not_change_other_random_values(task):
    image = noise(60, 60)
    old = dict(flip=0.5, scale=(0.6, 1.4), crop=(0.4, 0.9), color=0.7)

    def of(seed, **new):
        chosen = AugmentSettings(**old, **new)
        if task == "detect":
            return detection(image, [[5, 6, 30, 40]], (48, 48), chosen, seed)[0]
        rng = np.random.default_rng(seed)
        return augment.augment_for_classification(image, (48, 48), chosen, rng)

    turns = set()
    for seed in range(20):
        plain = of(seed)
        assert np.array_equal(of(seed, vertical_flip=1.0), plain[::-1])
        turned = of(seed, quarter_turn=1.0)
        [quarters] = [k for k in (1, 2, 3) if np.array_equal(np.rot90(plain, -k), turned)]
        turns.add(quarters)
        # Both at once give each as it is alone.
        both = of(seed, vertical_flip=1.0, quarter_turn=1.0)
        assert np.array_equal(both, turned[::-1])
        # A setting that is on but never applied changes nothing either.
        assert np.array_equal(of(seed, vertical_flip=1e-12, quarter_turn=1e-12), plain)
    assert turns == {1, 2, 3}


def test_a_quarter_turn_fits_the_rotated_image_into_the_input():
    image = np.full((30, 60, 3), 255, np.uint8)
    chosen = AugmentSettings(flip=0.0, scale=(1.0, 1.0), color=0.0, quarter_turn=1.0)
    shapes = set()
    for seed in range(20):
        view, boxes, _, _ = detection(image, [[0, 0, 60, 30]], (80, 60), chosen, seed)
        assert bounds(view).tolist() == boxes[0].tolist()
        shapes.add(tuple((boxes[0, 2:] - boxes[0, :2]).tolist()))
    assert shapes == {(60.0, 30.0), (40.0, 80.0)}


def test_quarter_turns_and_vertical_flips_have_their_probabilities():
    chosen = AugmentSettings(quarter_turn=0.6, vertical_flip=0.25)
    deformations = [
        augment.draw_deformation(chosen, np.random.default_rng(seed)) for seed in range(2000)
    ]
    turns = (
        np.bincount([deformation.quarter_turns for deformation in deformations], minlength=4) / 2000
    )
    assert np.allclose(turns, [0.4, 0.2, 0.2, 0.2], atol=0.04)
    assert np.mean([deformation.vertical_flip for deformation in deformations]) == pytest.approx(
        0.25, abs=0.04
    )


def test_rotations_stretches_and_shears_cover_their_ranges():
    chosen = AugmentSettings(rotate=20.0, stretch=0.5)
    deformations = [
        augment.draw_deformation(chosen, np.random.default_rng(seed)) for seed in range(500)
    ]
    angles = np.degrees([np.arctan2(*deformation.shape[::-1, 0]) for deformation in deformations])
    assert -20 <= angles.min() < -19 and 19 < angles.max() <= 20
    aspects = np.array(
        [deformation.stretch**2 for deformation in deformations]
    )  # of the width, and its inverse of the height
    assert 1 / 1.5 <= aspects.min() < 0.7 and 1.45 < aspects.max() <= 1.5
    assert np.median(aspects) == pytest.approx(1, abs=0.05)

    only = AugmentSettings(shear=10.0)
    shapes = [
        augment.draw_deformation(only, np.random.default_rng(seed)).shape for seed in range(500)
    ]
    assert np.allclose([np.linalg.det(shape) for shape in shapes], 1)
    across, down = (np.degrees(np.arctan([shape[i] for shape in shapes])) for i in ((0, 1), (1, 0)))
    for sheared in (across, down):
        assert -10 <= sheared.min() < -9.5 and 9.5 < sheared.max() <= 10
    assert abs(np.corrcoef(across, down)[0, 1]) < 0.2


def test_a_stretch_changes_the_aspect_ratio_and_not_the_area():
    image = np.full((80, 80, 3), 255, np.uint8)
    chosen = AugmentSettings(flip=0.0, scale=(0.5, 0.5), color=0.0, stretch=0.44)
    for seed in range(10):
        view, boxes, _, _ = detection(image, [[0, 0, 80, 80]], (80, 80), chosen, seed)
        stretch = augment.draw_deformation(chosen, np.random.default_rng(seed)).stretch
        width, height = boxes[0, 2:] - boxes[0, :2]
        assert (width, height) == pytest.approx((40 * stretch, 40 / stretch), abs=0.51)
        assert np.array_equal(bounds(view), boxes[0])


def test_a_crop_is_rotated_about_its_centre():
    image = np.zeros((90, 90, 3), np.uint8)
    image[30:60, 30:60] = 255
    chosen = AugmentSettings(flip=0.0, crop=(1.0, 1.0), color=0.0, rotate=180.0)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        view = augment.augment_for_classification(image, (90, 90), chosen, rng)
        assert (view[35:55, 35:55] == 255).all()  # inside the incircle of the square
        white = view[20:70, 20:70, 0] / 255
        assert white.sum() == pytest.approx(900, rel=0.01)
        middle = (
            white.sum(0) @ np.arange(50) / white.sum(),
            white.sum(1) @ np.arange(50) / white.sum(),
        )
        assert middle == pytest.approx((24.5, 24.5), abs=0.1)


def test_boxes_exactly_at_the_limits_of_visibility_stay_objects():
    # 3 of 10 columns are visible, 2 pixels high; one pixel less of either makes a region.
    boxes = np.array([[-7, 0, 3, 2], [-8, 0, 3, 2], [0, 0, 9, 1]], np.float32)
    _, crowd, kept = clip_boxes(boxes, np.zeros(3, bool), (20, 20))
    assert crowd.tolist() == [False, True, True] and kept.tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["vertical_flip", "quarter_turn", "rotate", "shear", "stretch"])
def test_each_setting_alone_deforms(name):
    assert not PLAIN.deforms and AugmentSettings(**{name: 0.1}).deforms


@pytest.mark.parametrize("name", ["mosaic", "mixup"])
def test_each_setting_alone_mixes(name):
    assert not PLAIN.mixes and AugmentSettings(**{name: 0.1}).mixes
