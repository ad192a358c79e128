"""The sizes of a run's steps: which there are, and which step has which."""

import numpy as np
import pytest
from test_loader import Scenes, config_for

from convmesh.config import apply_overrides
from convmesh.data import loader
from convmesh.data.sizes import input_sizes, size_of_step


def sized(*factors, image_size=(96, 160)):
    return apply_overrides(config_for(), {"data.sizes": factors, "data.image_size": image_size})


def test_sizes_are_rounded_to_multiples_of_32_and_each_is_there_once():
    assert input_sizes(sized()) == ((96, 160),)
    assert input_sizes(sized(image_size=(50, 70))) == ((50, 70),)  # alone it is taken as it is
    assert input_sizes(sized(2, 1, 1.01)) == ((96, 160), (192, 320))
    assert input_sizes(sized(0.25, 0.3, image_size=(64, 64))) == ((32, 32),)


def test_the_size_of_a_step_depends_on_seed_and_step_alone():
    sizes = ((64, 64), (96, 96), (128, 128))
    drawn = [size_of_step(sizes, 7, step) for step in range(1, 301)]
    assert drawn == [size_of_step(sizes, 7, step) for step in range(1, 301)]
    assert drawn != [size_of_step(sizes, 8, step) for step in range(1, 301)]
    assert min(drawn.count(size) for size in sizes) > 70  # about a third each
    assert size_of_step(((5, 7),), 7, 3) == (5, 7)


@pytest.mark.parametrize("start", [0, 3])
def test_batches_have_the_sizes_of_their_steps_from_any_step_on(start):
    config = sized(0.5, 1, image_size=(64, 96))
    sizes, source = input_sizes(config), Scenes(9)
    with loader.train_batches(source, config, start) as batches:
        for step in range(start + 1, start + 8):
            batch = next(batches)
            size = size_of_step(sizes, config.train.seed, step)
            assert batch["image"].shape[1:3] == size
            boxes = batch["boxes"][batch["valid"]]
            assert (boxes[:, 2:] <= np.array(size[::-1])).all()
    assert len(sizes) == 2
