"""Each operation by hand, at magnitudes of torchvision's tables; and what a policy draws."""

import numpy as np
import pytest
from PIL import Image

from convmesh.data.augmentation import policies
from convmesh.data.augmentation.policies import OPERATIONS, RANDAUGMENT, TRIVIALAUGMENT
from convmesh.data.augmentation.views import FILL


def apply(name, image, magnitude):
    return np.asarray(OPERATIONS[name](Image.fromarray(image), magnitude))


def grey(values):
    """An image uint8 [h, w, 3] of the grey levels `values` [h][w]."""
    return np.repeat(np.array(values, np.uint8)[:, :, None], 3, 2)


def dot(row, column, side=21):
    image = np.zeros((side, side, 3), np.uint8)
    image[row, column] = 255
    return image


def brightest(image):
    return np.unravel_index(image[..., 0].astype(int).argmax(), image.shape[:2])


def test_translations_move_by_whole_pixels():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    right = apply("TranslateX", image, 1.9)
    np.testing.assert_array_equal(right[:, 1:], image[:, :-1])
    assert (right[:, 0] == FILL).all()
    up = apply("TranslateY", image, -2)
    np.testing.assert_array_equal(up[:2], image[2:])
    assert (up[2:] == FILL).all()


def test_shears_move_a_row_or_column_by_its_distance():
    # Row 10 of 21 moves by 0.5 * 10 to the left (its content is looked up at the right), row 0 not.
    assert brightest(apply("ShearX", dot(10, 15), 0.5)) == (10, 10)
    assert brightest(apply("ShearX", dot(0, 15), 0.5)) == (0, 15)
    assert brightest(apply("ShearY", dot(15, 10), 0.5)) == (10, 10)


def test_a_quarter_turn_is_counterclockwise():
    assert brightest(apply("Rotate", dot(10, 18), 90)) == (2, 10)


def test_colours_by_hand():
    image = grey([[100, 200]])
    assert apply("Brightness", image, 0.5)[0, :, 0].tolist() == [150, 255]
    assert apply("Brightness", image, -0.5)[0, :, 0].tolist() == [50, 100]
    # About the mean grey level, 150.
    assert apply("Contrast", image, 0.5)[0, :, 0].tolist() == [75, 225]
    red = np.array([[[200, 100, 100]]], np.uint8)  # of luminance 0.299 * 100 + 100 = 130
    assert apply("Color", red, -1)[0, 0].tolist() == [130, 130, 130]
    assert apply("Color", red, 0.5)[0, 0].tolist() == [235, 85, 85]


def test_sharpness_by_hand():
    # The smoothed centre is (5 * 130 + 8 * 0) / 13 = 50; twice as far from it: 210.
    image = np.zeros((3, 3, 3), np.uint8)
    image[1, 1] = 130
    assert apply("Sharpness", image, -1)[1, 1, 0] == 50
    assert apply("Sharpness", image, 1)[1, 1, 0] == 210


def test_levels_by_hand():
    image = grey([[0, 100, 130, 255]])
    assert apply("Posterize", image, 2)[0, :, 0].tolist() == [0, 64, 128, 192]
    assert apply("Solarize", image, 128)[0, :, 0].tolist() == [0, 100, 125, 0]
    assert apply("AutoContrast", grey([[50, 100, 150]]), 0)[0, :, 0].tolist() == [0, 127, 255]
    equal = apply("Equalize", grey([[10, 20, 30, 40]] * 85), 0)
    # Each level has a quarter of the pixels, so they are spread evenly over what is left.
    assert equal[0, :, 0].tolist() == [0, 85, 170, 255]
    np.testing.assert_array_equal(apply("Identity", image, 0), image)


@pytest.mark.parametrize(
    ("ranges", "operation", "step", "wanted"),
    [
        (RANDAUGMENT, "ShearX", 30, 0.3),
        (RANDAUGMENT, "ShearY", 9, 0.09),
        (RANDAUGMENT, "TranslateX", 30, 150 / 331 * 200),
        (RANDAUGMENT, "TranslateY", 15, 75 / 331 * 100),
        (RANDAUGMENT, "Rotate", 9, 9),
        (RANDAUGMENT, "Brightness", 10, 0.3),
        (RANDAUGMENT, "Posterize", 0, 8),
        (RANDAUGMENT, "Posterize", 9, 7),  # 8 - round(1.2)
        (RANDAUGMENT, "Posterize", 30, 4),
        (RANDAUGMENT, "Solarize", 9, 178.5),
        (RANDAUGMENT, "AutoContrast", 9, 0),
        (TRIVIALAUGMENT, "ShearX", 30, 0.99),
        (TRIVIALAUGMENT, "TranslateX", 15, 16),
        (TRIVIALAUGMENT, "TranslateY", 30, 32),
        (TRIVIALAUGMENT, "Rotate", 10, 45),
        (TRIVIALAUGMENT, "Color", 30, 0.99),
        (TRIVIALAUGMENT, "Posterize", 30, 2),
        (TRIVIALAUGMENT, "Solarize", 30, 0),
    ],
)
def test_magnitudes_of_the_tables(ranges, operation, step, wanted):
    assert ranges.magnitude(operation, step, (100, 200)) == pytest.approx(wanted)


def test_a_policy_draws_all_operations_evenly_and_both_signs(monkeypatch):
    seen = []
    for name in OPERATIONS:
        monkeypatch.setitem(
            OPERATIONS, name, lambda image, m, name=name: seen.append((name, m)) or image
        )
    rng, image = np.random.default_rng(0), grey([[1, 2], [3, 4]])
    policy = policies.make_policy("randaugment", 3, 30)
    for _ in range(1000):
        np.testing.assert_array_equal(policy(image, rng), image)
    assert len(seen) == 3000
    counts = {name: sum(n == name for n, _ in seen) for name in OPERATIONS}
    assert max(abs(count - 3000 / 14) for count in counts.values()) < 60
    assert {m for n, m in seen if n == "Rotate"} == {-30.0, 30.0}
    assert {m for n, m in seen if n == "Posterize"} == {4}
    seen.clear()
    trivial = policies.make_policy("trivialaugment", 3, 30)
    for _ in range(1000):
        trivial(image, rng)
    assert len(seen) == 1000  # one each
    degrees = [abs(m) for n, m in seen if n == "Rotate"]
    assert min(degrees) < 15 and max(degrees) > 120
    assert policies.make_policy("", 2, 9) is None


def test_the_same_generator_makes_the_same_image():
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    policy = policies.make_policy("trivialaugment", 1, 0)
    found = [[policy(image, np.random.default_rng(i)) for i in range(20)] for _ in range(2)]
    np.testing.assert_array_equal(*found)
    assert len({each.tobytes() for each in found[0]}) > 10
    assert image.flags.writeable and policy(image, np.random.default_rng(0)).shape == image.shape


def test_erased_rectangles_and_how_often():
    image, fill = np.full((60, 80, 3), 7, np.uint8), (1, 2, 3)
    rng, areas = np.random.default_rng(0), []
    for _ in range(600):
        found = policies.erase(image, 0.5, fill, rng)
        erased = (found == fill).all(-1)
        assert (found[~erased] == 7).all()
        if erased.any():
            rows, columns = erased.any(1).nonzero()[0], erased.any(0).nonzero()[0]
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert height * width == erased.sum()
            assert 0.25 < height / width < 4
            areas.append(erased.mean())
    assert len(areas) == pytest.approx(300, abs=40)
    assert 0.015 < min(areas) and max(areas) < 0.35
    assert (image == 7).all()  # it is not changed in place


def test_magnitudes_have_the_bits_of_torch_linspace():
    # torch 2.14.1: torch.linspace(0, 32, 31)[15], of which TranslateX takes 15 pixels and not 16.
    assert TRIVIALAUGMENT.magnitude("TranslateX", 15, (64, 64)) == 15.999999046325684
    assert TRIVIALAUGMENT.magnitude("Color", 20, (64, 64)) == 0.6600000262260437
    assert RANDAUGMENT.magnitude("Color", 20, (64, 64)) == 0.5999999642372131
