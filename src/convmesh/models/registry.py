"""The models by name: linen modules of `layers`, written as for one device.

To add a model, write a file with its linen module and add a line to `MODELS`. The module has the
attributes `classes` and `dtype`, and may have `norm_group` (with batch norm), `remat` (with
residual blocks), `stochastic_depth` and `dropout`. A classifier is called as `model(images, train)
-> logits [batch, classes]`; a detector returns a `detector.DetectorOutput` and has `strides`.
Layers named as in `depth` can be frozen. Names are torchvision's if it has the model.

A classifier `Family`, or a partial of it, can be a detector's backbone if its file also has
`FamilyBackbone`, with those of its attributes that it needs, called as `backbone(images, train) ->
[C3, C4, C5]`: features of strides 8, 16 and 32.
"""

import importlib
from functools import partial
from typing import Any

from convmesh.errors import ConfigError, nearest

# name: (task, module, attribute); modules are imported when needed
MODELS = {
    "small_cnn": ("classify", "convmesh.models.small_cnn", "SmallCNN"),
    "resnet9": ("classify", "convmesh.models.resnet9", "ResNet9"),
    "resnet9_quarter": ("classify", "convmesh.models.resnet9", "ResNet9Quarter"),
    "resnet20": ("classify", "convmesh.models.cifar_resnet", "ResNet20"),
    "resnet56": ("classify", "convmesh.models.cifar_resnet", "ResNet56"),
    "resnet18": ("classify", "convmesh.models.resnet", "ResNet18"),
    "resnet18_half": ("classify", "convmesh.models.resnet", "ResNet18Half"),
    "resnet34": ("classify", "convmesh.models.resnet", "ResNet34"),
    "resnet50": ("classify", "convmesh.models.resnet", "ResNet50"),
    "resnet101": ("classify", "convmesh.models.resnet", "ResNet101"),
    "resnet152": ("classify", "convmesh.models.resnet", "ResNet152"),
    "resnext50_32x4d": ("classify", "convmesh.models.resnet", "ResNeXt50_32x4d"),
    "resnext101_32x8d": ("classify", "convmesh.models.resnet", "ResNeXt101_32x8d"),
    "resnext101_64x4d": ("classify", "convmesh.models.resnet", "ResNeXt101_64x4d"),
    "wide_resnet50_2": ("classify", "convmesh.models.resnet", "WideResNet50_2"),
    "wide_resnet101_2": ("classify", "convmesh.models.resnet", "WideResNet101_2"),
    "regnet_y_400mf": ("classify", "convmesh.models.regnet", "RegNetY400MF"),
    "regnet_y_800mf": ("classify", "convmesh.models.regnet", "RegNetY800MF"),
    "regnet_y_1_6gf": ("classify", "convmesh.models.regnet", "RegNetY1_6GF"),
    "regnet_y_3_2gf": ("classify", "convmesh.models.regnet", "RegNetY3_2GF"),
    "regnet_y_8gf": ("classify", "convmesh.models.regnet", "RegNetY8GF"),
    "mobilenet_v2": ("classify", "convmesh.models.mobilenet_v2", "MobileNetV2"),
    "mobilenet_v3_small": ("classify", "convmesh.models.mobilenet_v3", "MobileNetV3Small"),
    "mobilenet_v3_large": ("classify", "convmesh.models.mobilenet_v3", "MobileNetV3Large"),
    "efficientnet_b0": ("classify", "convmesh.models.efficientnet", "EfficientNetB0"),
    "efficientnet_b1": ("classify", "convmesh.models.efficientnet", "EfficientNetB1"),
    "efficientnet_b2": ("classify", "convmesh.models.efficientnet", "EfficientNetB2"),
    "efficientnet_b3": ("classify", "convmesh.models.efficientnet", "EfficientNetB3"),
    "efficientnet_b4": ("classify", "convmesh.models.efficientnet", "EfficientNetB4"),
    "efficientnet_v2_s": ("classify", "convmesh.models.efficientnet", "EfficientNetV2S"),
    "efficientnet_v2_m": ("classify", "convmesh.models.efficientnet", "EfficientNetV2M"),
    "efficientnet_lite0": ("classify", "convmesh.models.efficientnet", "EfficientNetLite0"),
    "efficientnet_lite1": ("classify", "convmesh.models.efficientnet", "EfficientNetLite1"),
    "efficientnet_lite2": ("classify", "convmesh.models.efficientnet", "EfficientNetLite2"),
    "efficientnet_lite3": ("classify", "convmesh.models.efficientnet", "EfficientNetLite3"),
    "efficientnet_lite4": ("classify", "convmesh.models.efficientnet", "EfficientNetLite4"),
    "convnext_tiny": ("classify", "convmesh.models.convnext", "ConvNeXtTiny"),
    "convnext_small": ("classify", "convmesh.models.convnext", "ConvNeXtSmall"),
    "convnext_base": ("classify", "convmesh.models.convnext", "ConvNeXtBase"),
    "convnext_large": ("classify", "convmesh.models.convnext", "ConvNeXtLarge"),
    "detector_nano": ("detect", "convmesh.models.detector", "DetectorNano"),
    "detector_small": ("detect", "convmesh.models.detector", "DetectorSmall"),
    "detector_medium": ("detect", "convmesh.models.detector", "DetectorMedium"),
    "detector_large": ("detect", "convmesh.models.detector", "DetectorLarge"),
    "detector_resnet50": ("detect", "convmesh.models.detector", "DetectorResNet50"),
    "detector_resnet50_p7": ("detect", "convmesh.models.detector", "DetectorResNet50P7"),
    "fasterrcnn_resnet50_fpn": (
        "detect",
        "convmesh.models.faster_rcnn",
        "FasterRCNNResNet50",
    ),
    "ssdlite320_mobilenet_v3_large": (
        "detect",
        "convmesh.models.ssdlite",
        "SSDLite320MobileNetV3Large",
    ),
    "detector_tiny": ("detect", "convmesh.models.detector", "DetectorTiny"),
    "retinanet_resnet50_fpn": ("detect", "convmesh.models.retinanet", "RetinaNetResNet50"),
    "retinanet_resnet50_fpn_v2": ("detect", "convmesh.models.retinanet", "RetinaNetResNet50V2"),
    "fcos_resnet50_fpn": ("detect", "convmesh.models.fcos", "FCOSResNet50"),
}

# Those that neither torchvision nor timm has.
OWN_CLASSIFIERS = (
    "small_cnn",
    "resnet18_half",
    "resnet9",
    "resnet9_quarter",
    "resnet20",
    "resnet56",
)


def check_model(name: str, task: str, backbone: str = "") -> None:
    """Raises ConfigError if there is no model `name` for `task`, or none with `backbone`."""
    names = [n for n, (its_task, *_) in MODELS.items() if its_task == task]
    if name not in names:
        raise ConfigError(
            f"model.name={name!r}: no such model for task {task!r}{nearest(name, names)}; "
            f"the models are {', '.join(names)}"
        )
    if not backbone:
        return
    if "backbone" not in _family(name).__dataclass_fields__:
        raise ConfigError(f"model.backbone={backbone!r}: {name} has no other; leave it empty")
    if make_backbone(backbone) is None:
        known = [n for n, (its_task, *_) in MODELS.items() if its_task == "classify"]
        known = [n for n in known if make_backbone(n) is not None]
        hint = nearest(backbone, known) or f"; the backbones are {', '.join(known)}"
        raise ConfigError(f"model.backbone={backbone!r}: no such backbone{hint}")


def make_model(
    name: str,
    task: str,
    classes: int,
    dtype: Any,
    norm_group: int = 0,
    remat: bool = False,
    backbone: str = "",
    **rates: float,
) -> Any:
    """The model `name` for `classes` classes, with compute dtype `dtype`.

    `norm_group` is the number of examples that batch norm normalises together, 0 for the global
    batch; `remat` recomputes the activations of its blocks in the backward pass; `backbone` is a
    classifier whose backbone a detector has in place of its own; `rates` are `stochastic_depth` and
    `dropout`. Raises ConfigError as `check_model`, and if the model has nothing for these options.
    """
    check_model(name, task, backbone)
    options = {"backbone": make_backbone(backbone)} if backbone else {}
    model = _attribute(name)(classes=classes, dtype=dtype, **options)
    for key, value, missing in (
        ("norm_group", norm_group, "batch norm; leave it at 0"),
        ("remat", remat, "blocks; leave it at false"),
        ("stochastic_depth", rates.get("stochastic_depth", 0.0), "blocks for it; leave it at 0"),
        ("dropout", rates.get("dropout", 0.0), "dropout; leave it at 0"),
    ):
        if value and not hasattr(model, key):
            raise ConfigError(f"model.{key}={value}: {name} has no {missing}")
        if value:
            model = model.clone(**{key: value})
    return model


def make_backbone(name: str) -> Any:
    """A partial of the backbone of the classifier `name`: callable with `dtype` and such options.

    None if there is no such classifier, or it has none.
    """
    if name not in MODELS or MODELS[name][0] != "classify":
        return None
    return backbone_of(_attribute(name))


def backbone_of(classifier: Any) -> Any:
    """The same for the module class of a classifier, or a partial of one."""
    family = getattr(classifier, "func", classifier)
    module = importlib.import_module(family.__module__)
    backbone = getattr(module, f"{family.__name__}Backbone", None)
    if backbone is None:
        return None
    options, fields = getattr(classifier, "keywords", {}), backbone.__dataclass_fields__
    return partial(backbone, **{key: value for key, value in options.items() if key in fields})


def classifier_inside(detector: str) -> str:
    """The classifier whose weights fit a detector's own backbone; '' if there is none."""
    family, options = _family(detector), getattr(_attribute(detector), "keywords", {})
    field = family.__dataclass_fields__.get("backbone")
    backbone = options.get("backbone", field and field.default)
    found = {}
    for name, (task, *_) in MODELS.items():
        own = make_backbone(name) if task == "classify" else None
        if own is not None and own.func is getattr(backbone, "func", None):
            if own.keywords.items() <= backbone.keywords.items():
                found[name] = len(own.keywords)
    return max(found, key=found.__getitem__, default="")


def _attribute(name: str) -> Any:
    """What makes the model `name`: a linen module class, or a partial of one."""
    _, module, attribute = MODELS[name]
    return getattr(importlib.import_module(module), attribute)


def _family(name: str) -> Any:
    """The linen module class of the model `name`."""
    made = _attribute(name)
    return getattr(made, "func", made)
