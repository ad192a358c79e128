"""Where only examples are sharded, a train step sums once: gradients and totals, at its end."""

import equality
import pytest

from convmesh.config import apply_overrides, defaults
from convmesh.programs.collectives import find_collectives
from convmesh.steps.noise import abstract_step, noise_setup


def sums(shape, **changes):
    """How many collectives, and of how many arrays, the step of a ResNet-18 has on a mesh."""
    found = collectives(shape, **changes)
    return len(found), sum(len(each.shapes) for each in found)


def collectives(shape, **changes):
    """The collectives of that step."""
    names = ("data", "spatial", "model")
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    changes |= {f"mesh.{name}": size for name, size in zip(names, shape, strict=False)}
    changes |= {"model.name": "resnet18", "data.image_size": (32, 32), "train.batch_size": 16}
    mesh = equality.make_mesh(shape)
    setup = noise_setup(apply_overrides(defaults("classify"), changes), mesh)
    step, state, batch = abstract_step(setup)
    return find_collectives(step.lower(state, batch).compile().as_text(), mesh)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_with_groups_that_lie_on_one_device_there_is_one_sum(accumulate):
    collectives, arrays = sums((4, 1, 1), model__norm_group=2, train__accumulate=accumulate)
    # All small arrays as one, and the kernels of 3x3x256x512 and 3x3x512x512.
    assert collectives <= 2 and arrays <= 6


def test_norms_over_the_batch_sum_once_forward_and_once_backward():
    _, arrays = sums((4, 1, 1), model__norm_group=0)
    assert 20 * 2 <= arrays <= 20 * 2 + 6  # 20 norms


def test_groups_that_span_devices_and_other_axes_are_left_to_the_partitioner():
    assert sums((8, 1, 1), model__norm_group=4)[1] > 60
    assert sums((4, 2, 1), model__norm_group=2)[1] > 60


def test_gradients_of_what_is_frozen_are_not_summed():
    whole, frozen = (
        sum(each.bytes for each in collectives((4, 1, 1), train__frozen_stages=stages))
        for stages in (0, 4)
    )
    assert whole > 44e6 and frozen < 2.2e6  # the head, 512 x 1,000, is left
