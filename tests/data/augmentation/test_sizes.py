"""The input sizes of a run, and the size of each step."""

from convmesh.config import apply_overrides, defaults
from convmesh.data.augmentation.sizes import input_sizes, size_of_step


def sized(*factors, image_size=(96, 160)):
    return apply_overrides(
        defaults("detect"), {"data.sizes": factors, "data.image_size": image_size}
    )


def test_sizes_are_rounded_to_multiples_of_32_and_distinct():
    assert input_sizes(sized()) == ((96, 160),)
    assert input_sizes(sized(image_size=(50, 70))) == ((50, 70),)  # a single size is not rounded
    assert input_sizes(sized(2, 1, 1.01)) == ((96, 160), (192, 320))
    assert input_sizes(sized(0.25, 0.3, image_size=(64, 64))) == ((32, 32),)


def test_the_size_of_a_step_depends_on_seed_and_step_only():
    sizes = ((64, 64), (96, 96), (128, 128))
    drawn = [size_of_step(sizes, 7, step) for step in range(1, 301)]
    assert drawn == [size_of_step(sizes, 7, step) for step in range(1, 301)]
    assert drawn != [size_of_step(sizes, 8, step) for step in range(1, 301)]
    assert min(drawn.count(size) for size in sizes) > 70  # about a third each
    assert size_of_step(((5, 7),), 7, 3) == (5, 7)
