"""Which nets of timm and of transformers compute the same as ours.

Many have the names and shapes of another one, and differ in padding, epsilon or pooling. Compared
with timm 1.0.31 and transformers 5.24; `other_names` has the names of their layers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from convmesh.weights.binary_file import printable

_LITE = tuple(f"efficientnet_lite{number}" for number in range(5))
# By our models the architecture of timm that computes the same; "" where none does. timm's
# MobileNetV3 has another epsilon, its EfficientNetV2 another epsilon or TensorFlow's padding, its
# RegNetY of 0.8 and 8 GF other widths but for those called `tv`.
OF_TIMM = {
    **{
        name: name
        for name in (
            *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
            *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
            *("wide_resnet50_2", "wide_resnet101_2"),
            *("efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3"),
            *("efficientnet_b4", "convnext_tiny", "convnext_small", "convnext_base"),
            "convnext_large",
        )
    },
    **{name: f"tf_{name}" for name in _LITE},
    "regnet_y_400mf": "regnety_004",
    "regnet_y_800mf": "regnety_008_tv",
    "regnet_y_1_6gf": "regnety_016",
    "regnet_y_3_2gf": "regnety_032",
    "regnet_y_8gf": "regnety_080_tv",
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v3_small": "",
    "mobilenet_v3_large": "",
    "efficientnet_v2_s": "",
    "efficientnet_v2_m": "",
}
# Arguments of timm's models (`model_args`) that change nothing of what a classifier computes.
_HARMLESS = (
    *("drop_block_rate", "drop_path_rate", "drop_rate", "img_size", "in_chans", "num_classes"),
    *("pretrained", "proj_drop_rate", "scriptable"),
)
# By the `model_type` of transformers the options that make it torchvision's net.
_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "resnet": {
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    },
    "regnet": {"layer_type": "y", "hidden_act": "relu", "downsample_in_first_stage": True},
    "convnext": {"hidden_act": "gelu", "patch_size": 4},
}


def other_net(config: Mapping[str, Any], models: Sequence[str]) -> str:
    """What a `config.json` states that none of `models` computes, for a message; "" for nothing.

    Models that are not in `OF_TIMM` have no published weights there, and say nothing.
    """
    known = [name for name in models if name in OF_TIMM]
    if not known:
        return ""
    if isinstance(config.get("architecture"), str):
        return _other_of_timm(config["architecture"], config.get("model_args"), known)
    wanted = _TRANSFORMERS.get(str(config.get("model_type")), {})
    for option, value in wanted.items():
        if option in config and config[option] != value:
            return (
                f"{option}={_shown(config[option])} of transformers' {config['model_type']}, which "
                f"computes something else than {known[0]}: that has {_shown(value)}"
            )
    return ""


def assumed_net(model: str, whose: str) -> str:
    """Which net the weights of a file are taken for, where its names are those of another too.

    whose: the names that the file has, see `schemes.Naming`. "" where no other is known.
    """
    padding = {"efficientnet_lite": ("TensorFlow's", "torch's")}
    padding["efficientnet_b"] = ("torch's", "TensorFlow's")
    for family, (taken, other) in padding.items():
        if model.startswith(family) and whose == "timm":
            another = model if model in _LITE else f"tf_{model}"
            return (
                f"assumed to be timm's {OF_TIMM[model]} ({taken} padding): the file does not tell "
                f"it from {another} ({other} padding), which computes something else"
            )
    return ""


def _other_of_timm(stated: str, arguments: Any, known: Sequence[str]) -> str:
    """The same for an architecture of timm, and the arguments that it was made with."""
    shown = printable(stated)
    # A name of ours alone is torchvision's; timm has nets of Lite's names that are others.
    same = [n for n in known if stated == OF_TIMM[n] or (stated == n and n not in _LITE)]
    if not same:
        here = [name for name, theirs in OF_TIMM.items() if stated == theirs]
        theirs = OF_TIMM[known[0]]
        return (
            f"timm's architecture {shown}, which computes something else than {known[0]} here; "
            + (f"take weights of timm's {theirs}" if theirs else "timm has none that is the same")
            + (f", or for {shown} name the model {here[0]}" if here else "")
        )
    arguments = arguments if isinstance(arguments, Mapping) else {}
    changed = [name for name in arguments if name not in _HARMLESS]
    if changed:
        value = _shown(arguments[changed[0]])
        return f"{printable(changed[0])}={value} of {shown}, with which it is not {same[0]}"
    return ""


def _shown(value: Any) -> str:
    return printable(json.dumps(value))
