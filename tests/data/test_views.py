import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convmesh.data import views
from convmesh.data.views import FILL, SlantedView, TurnedView, View

HEIGHT, WIDTH = 24, 36


def whole(size=(HEIGHT, WIDTH), mirror=False):
    """A view that shows an image of HEIGHT x WIDTH as it is, in the corner of an input."""
    return View((0, 0, WIDTH, HEIGHT), (0, 0, WIDTH, HEIGHT), (1, 1), size, mirror)


def noise(height=HEIGHT, width=WIDTH):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def marked(height, width, box):
    """An image as grey as what lies outside of it, with a white box."""
    image = views.blank((height, width))
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = 255
    return image


def bounds(view):
    """The box around what is brighter than FILL, were it by a seventh of what white is."""
    ys, xs = np.nonzero(view[..., 0] > FILL + 20)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
@pytest.mark.parametrize("upside_down", [False, True])
@pytest.mark.parametrize("mirror", [False, True])
def test_a_quarter_turn_moves_every_pixel_and_every_box_exactly(quarters, upside_down, mirror):
    image = noise()
    expected = np.rot90(image[:, ::-1] if mirror else image, -quarters)
    expected = expected[::-1] if upside_down else expected
    size = views.turned_size((HEIGHT, WIDTH), quarters)
    assert size == expected.shape[:2]
    view = TurnedView(whole(mirror=mirror), quarters, upside_down, size)
    assert np.array_equal(view.pixels(image), expected)
    boxes = np.array([[0, 0, 1, 1], [3, 5, 20, 9], [30, 20, 36, 24], [35, 0, 36, 24]], np.float32)
    moved = view.boxes(boxes)
    assert moved.dtype == np.float32 and view.boxes(boxes[:0]).shape == (0, 4)
    for box, found in zip(boxes.astype(int), moved, strict=True):
        assert bounds(view.pixels(marked(HEIGHT, WIDTH, box))).tolist() == found.tolist()


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_view_can_be_written_into_a_part_of_another(quarters):
    size = views.turned_size((HEIGHT, WIDTH), quarters)
    view = TurnedView(whole(), quarters, True, size)
    canvas = views.blank((60, 60))
    view.write(noise(), canvas[10 : 10 + size[0], 20 : 20 + size[1]])
    assert np.array_equal(canvas[10 : 10 + size[0], 20 : 20 + size[1]], view.pixels(noise()))
    canvas[10 : 10 + size[0], 20 : 20 + size[1]] = FILL
    assert (canvas == FILL).all()


@pytest.mark.parametrize("mirror", [False, True])
def test_slanted_by_nothing_a_view_is_what_it_was(mirror):
    image = noise(80, 110)
    # Twice and three times as large, so that no block is averaged.
    view = View((10, 20, 40, 60), (5, 3, 65, 123), (1, 1), (130, 90), mirror)
    slanted = view.slanted(np.eye(2))
    box = np.array([[12, 25, 30, 50]], np.float32)
    assert np.allclose(slanted.boxes(box), view.boxes(box), atol=1e-4)
    # A slanted view also shows what lies around the part, so compare inside of it.
    inside = np.s_[8:118, 26:80] if mirror else np.s_[8:118, 10:60]
    apart = slanted.pixels(image)[inside].astype(int) - view.pixels(image)[inside]
    assert np.abs(apart).max() <= 5 and np.abs(apart).mean() < 1


def test_a_slanted_view_turns_clockwise_about_the_middle_of_what_is_in_view():
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    view = View((0, 0, 40, 40), (10, 0, 50, 40), (1, 1), (40, 60))
    slanted = view.slanted(turn)
    image = noise(40, 40)
    assert np.array_equal(slanted.pixels(image)[:, 10:50], np.rot90(image, -1))
    assert (slanted.pixels(image)[:, :9] == FILL).all()
    # (x, y) -> (40 - y, x), and 10 to the right.
    moved = slanted.boxes(np.array([[2, 3, 12, 30]], np.float32))
    assert np.allclose(moved, [[10 + 40 - 30, 2, 10 + 40 - 3, 12]], atol=1e-4)


@settings(deadline=None, max_examples=60)
@given(
    st.floats(-180, 180),
    st.floats(-15, 15),
    st.floats(0.3, 2.5),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_the_box_of_a_slanted_rectangle_bounds_it(angle, shear, scale, mirror, seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(60, 200, 2)
    x0, y0 = rng.integers(0, [width - 30, height - 30])
    box = (x0, y0, x0 + rng.integers(15, 30), y0 + rng.integers(15, 30))
    size = tuple(rng.integers(60, 160, 2).tolist())
    view = views.random_view((height, width), size, (scale, scale), rng, float(mirror))
    a = np.radians(angle)
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    slanted = view.slanted(turn @ [[1, np.tan(np.radians(shear))], [0, 1]])
    [moved] = slanted.boxes(np.array([box], np.float32))
    if (moved[:2] < 1).any() or (moved[2:] > np.array(size[::-1]) - 1).any():
        return  # its corners are out of view
    found = bounds(slanted.pixels(marked(height, width, box)))
    # Where pixels are averaged first, or drawn large, an edge is as wide as they are.
    assert np.abs(found - moved).max() <= (1.02 if 0.5 < scale < 1.2 else 1.35)


def test_fine_detail_fades_in_a_slanted_view_too():
    checks = np.zeros((200, 200, 3), np.uint8)
    checks[::2, ::2] = checks[1::2, 1::2] = 255
    view = View((0, 0, 200, 200), (0, 0, 50, 50), (4, 4), (50, 50))
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    middle = view.slanted(turn).pixels(checks)[15:35, 15:35]
    assert abs(middle.mean() - 127.5) < 3 and middle.std() < 25


def test_what_a_slanted_view_does_not_reach_is_grey():
    view = SlantedView(np.array([[1.0, 0, 500], [0, 1, 0]]), (30, 40))
    assert (view.pixels(noise()) == FILL).all()
    near = SlantedView(np.array([[1.0, 0, 10], [0, 1, 5]]), (30, 40)).pixels(noise())
    assert (near[:5] == FILL).all() and (near[:, :10] == FILL).all()
    assert np.array_equal(near[5:29, 10:40], noise()[:, :30])
    thin = SlantedView(np.array([[0.1, -0.1, 5], [0.1, 0.1, 5]]), (30, 40))
    for shape in ((1, 1), (1, 300), (300, 1)):
        assert thin.pixels(noise(*shape)).shape == (30, 40, 3)


def test_averages_over_blocks_are_means():
    image = np.random.default_rng(0).integers(0, 256, (24, 36, 3), np.uint8)
    for x, y in ((2, 1), (1, 2), (2, 2), (3, 1), (3, 2), (4, 4)):
        blocks = image.reshape(24 // y, y, 36 // x, x, 3).mean((1, 3))
        assert np.abs(views.average(image, (x, y)) - blocks).max() <= 0.51, (x, y)
