"""The FLOPs of a train step, and its time at the devices' peak."""

import equality
import pytest

from convmesh.config import apply_overrides, defaults
from convmesh.programs import accelerators
from convmesh.steps import cost
from convmesh.steps.noise import noise_setup


def setup(**changes):
    given = {"model.name": "resnet50", "train.batch_size": 16, "data.image_size": (224, 224)}
    config = apply_overrides(defaults("classify"), given | changes)
    return noise_setup(config, equality.make_mesh((2, 1, 1)))


def test_the_flops_of_resnet50_are_torchvisions():
    # 4.09 billion multiply-adds per image forward (torchvision's figure), twice that backward.
    assert cost.step_flops(setup()) == pytest.approx(16 * 3 * 2 * 4.09e9, rel=0.01)


@pytest.fixture
def known_cpu(monkeypatch):
    """CPUs of 1 TFLOP/s in float32 and 8 in bfloat16."""
    chip = accelerators.Chip("cpu", "cpu", bfloat16=8e12, float32=1e12, bandwidth=1e11)
    monkeypatch.setattr(accelerators, "CHIPS", (*accelerators.CHIPS, chip))


def test_the_time_of_devices_whose_peak_is_unknown_is_unknown():
    assert cost.ideal_seconds(setup()) is None


def test_the_time_at_the_peak_of_all_devices(known_cpu):
    two = setup()
    assert cost.ideal_seconds(two) == cost.step_flops(two) / 2e12


def test_the_peak_is_that_of_the_precision(known_cpu):
    wide, narrow = (cost.ideal_seconds(setup(precision=p)) for p in ("float32", "bfloat16"))
    assert wide == 8 * narrow > 0
