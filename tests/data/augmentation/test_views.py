import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convmesh.data.augmentation import views
from convmesh.data.augmentation.views import FILL, AffineView, RotatedView, View

HEIGHT, WIDTH = 24, 36


def full_view(size=(HEIGHT, WIDTH), flip=False):
    """A view that copies an image of HEIGHT x WIDTH into the corner of an input."""
    return View((0, 0, WIDTH, HEIGHT), (0, 0, WIDTH, HEIGHT), (1, 1), size, flip)


def noise(height=HEIGHT, width=WIDTH):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def marked(height, width, box):
    """An image of the grey level FILL with a white box."""
    image = views.blank((height, width))
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = 255
    return image


def bounds(view):
    """The bounding box of pixels clearly brighter than FILL."""
    ys, xs = np.nonzero(view[..., 0] > FILL + 20)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


@pytest.mark.parametrize("quarter_turns", [0, 1, 2, 3])
@pytest.mark.parametrize("vertical_flip", [False, True])
@pytest.mark.parametrize("flip", [False, True])
def test_a_quarter_turn_maps_pixels_and_boxes_exactly(quarter_turns, vertical_flip, flip):
    image = noise()
    expected = np.rot90(image[:, ::-1] if flip else image, -quarter_turns)
    expected = expected[::-1] if vertical_flip else expected
    size = views.rotated_size((HEIGHT, WIDTH), quarter_turns)
    assert size == expected.shape[:2]
    view = RotatedView(full_view(flip=flip), quarter_turns, vertical_flip, size)
    assert np.array_equal(view.pixels(image), expected)
    boxes = np.array([[0, 0, 1, 1], [3, 5, 20, 9], [30, 20, 36, 24], [35, 0, 36, 24]], np.float32)
    moved = view.boxes(boxes)
    assert moved.dtype == np.float32 and view.boxes(boxes[:0]).shape == (0, 4)
    for box, found in zip(boxes.astype(int), moved, strict=True):
        assert bounds(view.pixels(marked(HEIGHT, WIDTH, box))).tolist() == found.tolist()


@pytest.mark.parametrize("quarter_turns", [0, 1, 2, 3])
def test_a_view_can_be_written_into_a_part_of_a_canvas(quarter_turns):
    size = views.rotated_size((HEIGHT, WIDTH), quarter_turns)
    view = RotatedView(full_view(), quarter_turns, True, size)
    canvas = views.blank((60, 60))
    view.write(noise(), canvas[10 : 10 + size[0], 20 : 20 + size[1]])
    assert np.array_equal(canvas[10 : 10 + size[0], 20 : 20 + size[1]], view.pixels(noise()))
    canvas[10 : 10 + size[0], 20 : 20 + size[1]] = FILL
    assert (canvas == FILL).all()


@pytest.mark.parametrize("flip", [False, True])
def test_a_view_deformed_by_the_identity_is_unchanged(flip):
    image = noise(80, 110)
    # Enlarged two and three times, so that no block is averaged.
    view = View((10, 20, 40, 60), (5, 3, 65, 123), (1, 1), (130, 90), flip)
    deformed = view.deformed(np.eye(2))
    box = np.array([[12, 25, 30, 50]], np.float32)
    assert np.allclose(deformed.boxes(box), view.boxes(box), atol=1e-4)
    # A deformed view also shows pixels around the crop: compare inside.
    inside = np.s_[8:118, 26:80] if flip else np.s_[8:118, 10:60]
    apart = deformed.pixels(image)[inside].astype(int) - view.pixels(image)[inside]
    assert np.abs(apart).max() <= 5 and np.abs(apart).mean() < 1


@pytest.mark.parametrize("scale", [2.0, 1.0, 0.75, 0.25])
def test_the_edges_of_an_input_inside_the_image_are_not_mixed_with_fill(scale):
    # The input shows 20 .. 60 of an image of 100 x 100 pixels of one colour.
    matrix = np.array([[scale, 0, -20 * scale], [0, scale, -20 * scale]])
    side = int(40 * scale)
    shown = AffineView(matrix, (side, side)).pixels(np.full((100, 100, 3), 200, np.uint8))
    assert shown.shape == (side, side, 3) and (shown == 200).all()


def test_a_deformed_view_rotates_clockwise_about_the_centre_of_the_target():
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    view = View((0, 0, 40, 40), (10, 0, 50, 40), (1, 1), (40, 60))
    deformed = view.deformed(turn)
    image = noise(40, 40)
    assert np.array_equal(deformed.pixels(image)[:, 10:50], np.rot90(image, -1))
    assert (deformed.pixels(image)[:, :9] == FILL).all()
    # (x, y) -> (40 - y, x), and 10 to the right.
    moved = deformed.boxes(np.array([[2, 3, 12, 30]], np.float32))
    assert np.allclose(moved, [[10 + 40 - 30, 2, 10 + 40 - 3, 12]], atol=1e-4)


@settings(deadline=None, max_examples=60)
@given(
    st.floats(-180, 180),
    st.floats(-15, 15),
    st.floats(0.3, 2.5),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_the_box_of_a_deformed_rectangle_bounds_it(angle, shear, scale, flip, seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(60, 200, 2)
    x0, y0 = rng.integers(0, [width - 30, height - 30])
    box = (x0, y0, x0 + rng.integers(15, 30), y0 + rng.integers(15, 30))
    size = tuple(rng.integers(60, 160, 2).tolist())
    view = views.random_view((height, width), size, (scale, scale), rng, float(flip))
    a = np.radians(angle)
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    deformed = view.deformed(turn @ [[1, np.tan(np.radians(shear))], [0, 1]])
    [moved] = deformed.boxes(np.array([box], np.float32))
    if (moved[:2] < 1).any() or (moved[2:] > np.array(size[::-1]) - 1).any():
        return  # its corners are outside the input
    found = bounds(deformed.pixels(marked(height, width, box)))
    # Averaged or enlarged pixels make edges as wide as they are.
    assert np.abs(found - moved).max() <= (1.02 if 0.5 < scale < 1.2 else 1.35)


def test_a_deformed_view_averages_fine_detail():
    checks = np.zeros((200, 200, 3), np.uint8)
    checks[::2, ::2] = checks[1::2, 1::2] = 255
    view = View((0, 0, 200, 200), (0, 0, 50, 50), (4, 4), (50, 50))
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    middle = view.deformed(turn).pixels(checks)[15:35, 15:35]
    assert abs(middle.mean() - 127.5) < 3 and middle.std() < 25


def test_pixels_outside_the_image_are_grey_in_an_affine_view():
    view = AffineView(np.array([[1.0, 0, 500], [0, 1, 0]]), (30, 40))
    assert (view.pixels(noise()) == FILL).all()
    near = AffineView(np.array([[1.0, 0, 10], [0, 1, 5]]), (30, 40)).pixels(noise())
    assert (near[:5] == FILL).all() and (near[:, :10] == FILL).all()
    assert np.array_equal(near[5:29, 10:40], noise()[:, :30])
    thin = AffineView(np.array([[0.1, -0.1, 5], [0.1, 0.1, 5]]), (30, 40))
    for shape in ((1, 1), (1, 300), (300, 1)):
        assert thin.pixels(noise(*shape)).shape == (30, 40, 3)


def test_block_averages_are_means():
    image = np.random.default_rng(0).integers(0, 256, (24, 36, 3), np.uint8)
    for x, y in ((2, 1), (1, 2), (2, 2), (3, 1), (3, 2), (4, 4)):
        blocks = image.reshape(24 // y, y, 36 // x, x, 3).mean((1, 3))
        assert np.abs(views.block_average(image, (x, y)) - blocks).max() <= 0.51, (x, y)
