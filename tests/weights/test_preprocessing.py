import pytest

from convmesh.config import apply_overrides, defaults
from convmesh.models.registry import MODELS
from convmesh.weights.preprocessing import (
    KEYS,
    LITE_PACKAGE,
    OF_DETECTOR,
    OF_MODEL,
    of_timm,
    preprocessing_of,
)

CLASSIFIERS = [name for name, (task, *_) in MODELS.items() if task == "classify"]


def test_every_classifier_that_torchvision_or_timm_has_states_its_preprocessing():
    assert set(OF_MODEL) == set(CLASSIFIERS) - {"small_cnn"}
    assert preprocessing_of("small_cnn") == {}


@pytest.mark.parametrize("name", OF_MODEL)
def test_the_config_takes_it(name):
    values = preprocessing_of(name)
    assert set(values) == set(KEYS)
    config = apply_overrides(defaults("classify"), values)
    assert config.data.eval_resize >= config.data.image_size[0]


@pytest.mark.parametrize("name", OF_DETECTOR)
def test_the_config_of_a_detector_takes_it(name):
    assert MODELS[name][0] == "detect"
    config = apply_overrides(defaults("detect"), preprocessing_of(name))
    assert tuple(config.data.image_size) == OF_DETECTOR[name]["data.image_size"]


def test_some_of_it_as_it_is_published():
    assert preprocessing_of("resnet50")["data.eval_resize"] == 232
    assert preprocessing_of("efficientnet_b1")["data.image_size"] == (240, 240)
    lite = preprocessing_of("efficientnet_lite0")
    assert (lite["data.eval_interpolation"], lite["data.eval_resize"]) == ("bicubic", 256)
    # (RGB - 127) / 128 of white, by (RGB / 255 - mean) / std.
    [mean, *_], [std, *_] = LITE_PACKAGE["data.pixel_mean"], LITE_PACKAGE["data.pixel_std"]
    assert (1 - mean) / std == pytest.approx((255 - 127) / 128)


@pytest.mark.parametrize(
    "stated, expected",
    [
        ({}, {}),
        ({"input_size": [3, 224, 224]}, {"data.image_size": (224, 224), "data.eval_resize": 256}),
        (
            {"input_size": [3, 224, 224], "crop_pct": 1, "crop_mode": "squash"},
            {"data.image_size": (224, 224)},
        ),
        ({"input_size": [3, 160, 224], "crop_pct": 0.9}, {"data.image_size": (160, 224)}),
        ({"interpolation": "lanczos", "std": [1, 1, 1]}, {"data.pixel_std": (1, 1, 1)}),
    ],
)
def test_what_timm_states_of_its_weights(stated, expected):
    assert of_timm(stated) == expected
