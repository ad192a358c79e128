import pytest

from convmesh.config import apply_overrides, defaults
from convmesh.models.registry import MODELS, OWN_CLASSIFIERS
from convmesh.weights.preprocessing import (
    KEYS,
    LITE_PACKAGE,
    OF_DETECTOR,
    OF_MODEL,
    of_timm,
    of_transformers,
    preprocessing_of,
)

CLASSIFIERS = [name for name, (task, *_) in MODELS.items() if task == "classify"]


def test_every_classifier_that_torchvision_or_timm_has_states_its_preprocessing():
    assert set(OF_MODEL) == set(CLASSIFIERS) - set(OWN_CLASSIFIERS)
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
            {"data.image_size": (224, 224), "data.eval_resize": 0},
        ),
        (
            {"input_size": [3, 160, 224], "crop_pct": 0.9},
            {"data.image_size": (160, 224), "data.eval_resize": 0},
        ),
        ({"interpolation": "lanczos", "std": [1, 1, 1]}, {"data.pixel_std": (1, 1, 1)}),
    ],
)
def test_what_timm_states_of_its_weights(stated, expected):
    assert of_timm(stated) == expected


def sized(size, resize, **more):
    return {"data.image_size": size, "data.eval_resize": resize} | more


CROPPED = {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}}


@pytest.mark.parametrize(
    "stated, expected",
    [
        ({}, {}),
        ({"size": 224, "crop_pct": 0.875}, sized((224, 224), 256)),
        ({"size": {"shortest_edge": 224}, "crop_pct": None}, sized((224, 224), 256)),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, sized((384, 384), 0)),
        ({"size": {"shortest_edge": 256}} | CROPPED, sized((224, 224), 256)),
        ({"size": 256, "do_center_crop": True, "crop_size": 224}, sized((224, 224), 256)),
        ({"size": {"height": 240, "width": 320}}, sized((240, 320), 0)),
        ({"size": {"height": 256, "width": 256}} | CROPPED, sized((224, 224), 0)),
        ({"size": 224, "do_center_crop": False, "crop_size": 200}, sized((224, 224), 0)),
        ({"size": 224, "do_resize": False}, {}),
        ({"resample": 2}, {"data.eval_interpolation": "bilinear"}),
        ({"resample": 3}, {"data.eval_interpolation": "bicubic"}),
        ({"resample": 1}, {}),
        (
            {
                "image_mean": [0.5, 0.4, 0.3],
                "image_std": None,
                "rescale_factor": 0.00392156862745098,
            },
            {"data.pixel_mean": (0.5, 0.4, 0.3)},
        ),
        (
            {"image_mean": [127.5, 0, 0], "image_std": [51, 51, 51], "do_rescale": False},
            {"data.pixel_mean": (0.5, 0, 0), "data.pixel_std": (0.2, 0.2, 0.2)},
        ),
        (
            {"image_mean": [1, 0, 0], "image_std": [1, 1, 1], "rescale_factor": 2 / 255},
            {"data.pixel_mean": (0.5, 0, 0), "data.pixel_std": (0.5, 0.5, 0.5)},
        ),
        (
            {"image_mean": [1, 0, 0], "image_std": [9, 9, 9], "do_normalize": False},
            {"data.pixel_mean": (0, 0, 0), "data.pixel_std": (1, 1, 1)},
        ),
    ],
)
def test_what_transformers_states_of_its_weights(stated, expected):
    assert of_transformers(stated) == expected
