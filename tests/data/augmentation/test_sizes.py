"""The input sizes of a run, and the size of each step."""

from convmesh.config import apply_overrides, defaults
from convmesh.data.augmentation.sizes import StepSizes, input_sizes


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
    steps = range(1, 301)
    drawn = list(map(StepSizes(sizes, 7), steps))
    assert drawn == list(map(StepSizes(sizes, 7), steps))
    assert drawn != list(map(StepSizes(sizes, 8), steps))
    assert min(drawn.count(size) for size in sizes) > 70  # about a third each
    assert StepSizes(((5, 7),), 7)(3) == (5, 7)


def test_growing_sizes_have_equal_parts_of_the_run():
    sizes = ((64, 64), (96, 96), (128, 128))
    config = sized(0.5, 0.75, 1, image_size=(128, 128))
    config.data.size_order = "growing"
    grown = StepSizes.of(config, 8)
    # Steps 1 to 8 are at 0/8, 3/8, ... 21/8 of the three sizes.
    assert [grown(step)[0] for step in range(1, 9)] == [64, 64, 64, 96, 96, 96, 128, 128]
    assert grown(9) == sizes[-1]  # a finished run that is looked at
    assert StepSizes.of(config, None)(1) == sizes[-1]
    assert StepSizes.of(config, 2)(1) == sizes[0] and StepSizes.of(config, 2)(2) == sizes[1]


def test_images_that_are_too_small_to_grow_have_one_size():
    config = sized(0.5, 0.75, 1, image_size=(40, 36))
    assert input_sizes(config) == ((32, 32),)
    config.data.size_order = "growing"
    assert input_sizes(config) == ((40, 36),)
    assert StepSizes.of(config, 9)(1) == (40, 36)


def test_the_mean_number_of_pixels():
    sizes = ((10, 10), (10, 30))
    assert StepSizes(sizes, 0, 10).pixels(1, 10) == 200
    assert StepSizes(sizes, 0, 10).pixels(1, 5) == 100
    assert StepSizes(sizes, 0, 10).pixels(11, 10) == 300  # no step is left
    assert StepSizes(sizes, 0, 100_000).pixels(1, 100_000) == 200
