import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convmesh.data import augment
from convmesh.data.augment import Settings, boxes_in_view

PIXEL = 1.02  # one, and the rounding of grey levels
PLAIN = Settings(flip=0.0, scale=(1.0, 1.0), crop=(1.0, 1.0), color=0.0)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def bright_box(height, width, box):
    image = np.zeros((height, width, 3), np.uint8)
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = 255
    return image


def bounds(view):
    """The box around what is brighter than half, and so than FILL."""
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
def test_a_box_still_bounds_its_object_after_any_training_view(drawn, zoom, flip, seed):
    (height, width), box, size = drawn
    image = bright_box(height, width, box)
    chosen = Settings(flip=flip, scale=(zoom, zoom * 1.3), color=0.0)
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
        return  # less of it is in view than can be measured
    assert np.abs(bounds(view) - boxes[0]).max() <= PIXEL


@settings(deadline=None, max_examples=100)
@given(drawn_boxes(), st.sampled_from(["letterbox", "centre_crop"]))
def test_scale_and_offset_say_where_evaluation_puts_a_box(drawn, how):
    (height, width), box, size = drawn
    image = bright_box(height, width, box)
    view, scale, offset = getattr(augment, how)(image, size)
    assert view.shape == (*size, 3)
    placed = np.array(box) * scale + np.tile(offset, 2)
    seen = np.clip(placed, 0, [size[1], size[0], size[1], size[0]])
    if ((seen[2:] - seen[:2]) < 3).any():
        return
    assert np.abs(bounds(view) - seen).max() <= PIXEL
    back = (placed - np.tile(offset, 2)) / scale
    assert np.allclose(back, box, atol=1e-3)


@pytest.mark.parametrize("how", ["letterbox", "centre_crop"])
@pytest.mark.parametrize(
    "shape, size", [((50, 103), (33, 34)), ((203, 90), (90, 60)), ((40, 31), (64, 60))]
)
def test_evaluation_puts_every_pixel_where_scale_and_offset_say(how, shape, size):
    """A ramp shows each place: pixel i has the value 2 i, and its centre lies at i + 0.5."""
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
        chosen = Settings(flip=0.0, scale=(zoom, zoom), color=0.0)
        view, *_ = augment.augment_for_detection(
            image,
            np.zeros((0, 4), np.float32),
            np.zeros(0, bool),
            (80, 60),
            chosen,
            np.random.default_rng(0),
        )
        assert (view[..., 0] == 255).sum() == pytest.approx(area, rel=0.07)


def test_letterbox_keeps_the_aspect_and_centres():
    image = np.full((50, 100, 3), 255, np.uint8)
    view, scale, offset = augment.letterbox(image, (80, 60))
    assert scale == pytest.approx(0.6) and offset.tolist() == [0, 25]
    assert (view[25:55] == 255).all()
    assert (view[:25] == augment.FILL).all() and (view[55:] == augment.FILL).all()


def test_letterbox_of_the_right_size_is_the_image_itself():
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


def test_a_mirror_takes_x_to_width_minus_x():
    image, boxes = noise(60, 90), np.array([[5, 6, 30, 40], [50, 10, 88, 59]], np.float32)
    views = []
    for flip in (0.0, 1.0):
        chosen = Settings(flip=flip, scale=(0.6, 0.9), color=0.0)
        views.append(
            augment.augment_for_detection(
                image, boxes, np.zeros(2, bool), (64, 64), chosen, np.random.default_rng(3)
            )
        )
    (plain, found, _, _), (mirrored, turned, _, _) = views
    assert np.array_equal(mirrored, plain[:, ::-1])
    assert np.allclose(turned[:, [0, 2]], 64 - found[:, [2, 0]], atol=1e-4)
    assert np.array_equal(turned[:, [1, 3]], found[:, [1, 3]])


def test_what_lies_outside_of_the_image_is_grey():
    image = np.full((40, 40, 3), 255, np.uint8)
    chosen = Settings(flip=0.0, scale=(0.5, 0.5), color=0.0)
    view, *_ = augment.augment_for_detection(
        image,
        np.zeros((0, 4), np.float32),
        np.zeros(0, bool),
        (40, 40),
        chosen,
        np.random.default_rng(1),
    )
    assert (view == 255).all(-1).sum() == 400 and (view == augment.FILL).all(-1).sum() == 1200


@pytest.mark.parametrize("zoom", [0.25, 0.3])
def test_fine_detail_fades_when_it_shrinks(zoom):
    checks = np.zeros((200, 200, 3), np.uint8)
    checks[::2, ::2] = checks[1::2, 1::2] = 255
    size = (int(200 * zoom),) * 2
    letterboxed, _, _ = augment.letterbox(checks, size)
    view = augment.augment_for_classification(checks, size, PLAIN, np.random.default_rng(0))
    for found in (letterboxed, view):
        assert abs(found.mean() - 127.5) < 3 and found.std() < 25


def test_boxes_on_the_edge_of_the_view():
    boxes = np.array(
        [
            [10, 10, 30, 30],  # inside
            [-6.9, 0, 3.1, 10],  # 31% in view
            [-7.1, 0, 2.9, 10],  # 29% in view
            [-20, 0, 0, 10],  # touches the edge: nothing in view
            [98.5, 50, 101, 60],  # 60% in view, 1.5 px wide
            [40, 40, 41.5, 60],  # whole, but thin
            [0, 0, 20, 20],  # a crowd region already
        ],
        np.float32,
    )
    crowd = np.array([False] * 6 + [True])
    found, ignored, kept = boxes_in_view(boxes, crowd, (100, 100))
    assert kept.tolist() == [0, 1, 2, 4, 5, 6]
    assert ignored.tolist() == [False, False, True, True, True, True]
    assert found[1].tolist() == pytest.approx([0, 0, 3.1, 10])
    assert found[3].tolist() == [98.5, 50, 100, 60]


def crop_of(view, size):
    """Where a crop lies in an image whose red is x and whose green is y: its sides."""
    red, green = view[..., 0].astype(float), view[..., 1].astype(float)
    across = (red[:, -1] - red[:, 0]).mean() * size[1] / (size[1] - 1)
    down = (green[-1] - green[0]).mean() * size[0] / (size[0] - 1)
    return across, down


@pytest.mark.parametrize("shape, size", [((200, 200), (64, 64)), ((120, 240), (48, 96))])
def test_a_random_crop_takes_the_asked_part_of_the_area(shape, size):
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.stack([x, y, x], -1).astype(np.uint8)
    chosen = Settings(flip=0.0, crop=(0.2, 0.5), color=0.0)
    parts, aspects = [], []
    for seed in range(60):
        view = augment.augment_for_classification(image, size, chosen, np.random.default_rng(seed))
        across, down = crop_of(view, size)
        parts.append(across * down / (shape[0] * shape[1]))
        aspects.append(across / down * size[0] / size[1])
    assert 0.17 < min(parts) < 0.26 and 0.42 < max(parts) < 0.53
    assert 0.7 < min(aspects) < 0.85 and 1.2 < max(aspects) < 1.43


def test_a_crop_of_everything_is_the_whole_image():
    image = noise(64, 64)
    view = augment.augment_for_classification(image, (64, 64), PLAIN, np.random.default_rng(0))
    assert np.array_equal(view, image)
    larger = augment.augment_for_classification(image, (96, 96), PLAIN, np.random.default_rng(0))
    assert np.array_equal(larger, cv2.resize(image, (96, 96)))


def test_very_long_images_work():
    for shape in ((4, 1600), (1600, 4), (1, 1)):
        image = noise(*shape)
        for view in (
            augment.letterbox(image, (64, 64))[0],
            augment.centre_crop(image, (64, 64))[0],
            augment.augment_for_classification(
                image, (64, 64), Settings(), np.random.default_rng(0)
            ),
            augment.augment_for_detection(
                image,
                np.array([[0, 0, shape[1], shape[0]]], np.float32),
                np.zeros(1, bool),
                (64, 64),
                Settings(),
                np.random.default_rng(0),
            )[0],
        ):
            assert view.shape == (64, 64, 3)


def test_colour_jitter_moves_colours_but_keeps_grey_grey():
    rng = np.random.default_rng(0)
    grey = np.repeat(np.arange(60, 190, dtype=np.uint8)[None, :, None], 3, 2).repeat(4, 0)
    shifted = grey.copy()
    augment.jitter_colour(shifted, 1.0, rng)
    assert np.ptp(shifted.astype(int), axis=-1).max() <= 1
    assert not np.array_equal(shifted, grey)

    red = np.full((4, 4, 3), (200, 40, 40), np.uint8)
    means = []
    for seed in range(200):
        view = red.copy()
        augment.jitter_colour(view, 1.0, np.random.default_rng(seed))
        means.append(view.mean((0, 1)))
    spread = np.std(means, axis=0)
    assert (spread > 10).all()


def test_strength_zero_leaves_colours_alone_and_shifts_no_other_draw():
    image = noise(8, 8)
    still = image.copy()
    one, two = np.random.default_rng(5), np.random.default_rng(5)
    augment.jitter_colour(still, 0.0, one)
    assert np.array_equal(still, image)
    augment.jitter_colour(still, 1.0, two)
    assert one.uniform() == two.uniform()


def test_the_image_given_is_never_changed():
    image = noise(40, 40)
    image.flags.writeable = False
    before = image.copy()
    boxes = np.array([[1, 2, 30, 20]], np.float32)
    boxes.flags.writeable = False
    for seed in range(5):
        rng = np.random.default_rng(seed)
        augment.augment_for_detection(image, boxes, np.zeros(1, bool), (40, 40), PLAIN, rng)
        augment.augment_for_detection(image, boxes, np.zeros(1, bool), (40, 40), Settings(), rng)
        augment.augment_for_classification(image, (40, 40), Settings(), rng)
        augment.augment_for_classification(image, (40, 40), PLAIN, rng)
    assert np.array_equal(image, before)


def test_the_same_generator_gives_the_same_view():
    image, boxes = noise(50, 70), np.array([[1, 2, 30, 20]], np.float32)
    runs = [
        augment.augment_for_detection(
            image, boxes, np.zeros(1, bool), (64, 64), Settings(), np.random.default_rng(9)
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
    seed=st.integers(0, 2**32),
)
def test_no_crop_of_what_was_decoded_smaller_lacks_pixels(h, w, size, low, seed):
    times = augment.Shrink(size, (low, 1.0))(h, w)
    views = []
    crops = Settings(crop=(low, low), color=0.0)

    class Recorded(augment.View):
        def pixels(self, image):
            views.append(self)
            return np.zeros((*self.size, 3), np.uint8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augment, "View", Recorded)
        image = np.broadcast_to(np.zeros(1, np.uint8), (h, w, 3))
        augment.augment_for_classification(image, size, crops, np.random.default_rng(seed))
    [view] = views
    x0, y0, x1, y1 = view.source
    # Whole pixels, and blocks of them, make a crop a little smaller than was drawn.
    for length, room, block in zip((x1 - x0, y1 - y0), size[::-1], view.blocks, strict=True):
        assert (length + block + 1) / times >= room


def test_averages_over_blocks_are_means():
    image = np.random.default_rng(0).integers(0, 256, (24, 36, 3), np.uint8)
    for x, y in ((2, 1), (1, 2), (2, 2), (3, 1), (3, 2), (4, 4)):
        blocks = image.reshape(24 // y, y, 36 // x, x, 3).mean((1, 3))
        assert np.abs(augment._average(image, (x, y)) - blocks).max() <= 0.51, (x, y)
