"""The names that timm, transformers, Facebook and older torchvision give to torchvision's layers.

Only nets that compute the same are listed: with torchvision's padding and epsilon. Not so timm's
MobileNetV3 (another epsilon) and EfficientNetV2 (TensorFlow's padding), nor the EfficientNet and
MobileNetV2 of transformers (TensorFlow's padding). The names of timm's `tf_efficientnet_b0` and
the like are those of `efficientnet_b0`: a file does not tell which it is. timm's ResNet, ResNeXt
and Wide ResNet have torchvision's names. Sources: timm 1.0.31, transformers 5.24,
github.com/facebookresearch/ConvNeXt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping

# What a prefix that the pattern matches as a whole is called: a template of `re.expand`, or a
# function of the match and all prefixes, which returns None where the scheme has no such layer.
_Name = str | Callable[[re.Match[str], Collection[str]], str | None]
_Rules = dict[str, _Name]


def in_scheme(scheme: str, torch_names: Mapping[str, str]) -> dict[str, str] | None:
    """A model's `torch_names()` with the names of a scheme, a key of `SCHEMES`.

    None if the scheme does not name such a net.
    """
    rules, prefixes = SCHEMES[scheme], frozenset(torch_names.values())
    found = {layer: _name(rules, prefix, prefixes) for layer, prefix in torch_names.items()}
    named = {layer: name for layer, name in found.items() if name is not None}
    return named if len(named) == len(found) else None


def _name(rules: _Rules, prefix: str, prefixes: Collection[str]) -> str | None:
    for pattern, to in rules.items():
        if match := re.fullmatch(pattern, prefix):
            return match.expand(to) if isinstance(to, str) else to(match, prefixes)
    return None


# --- timm -----------------------------------------------------------------------------------------

_KINDS = ("conv", "bn")


def _timm_regnet_layer(match: re.Match[str], _: Collection[str]) -> str:
    stage, block, layer, kind = match.groups()
    named = {"f.a": "conv1", "f.b": "conv2", "f.c": "conv3", "proj": "downsample"}[layer]
    return f"s{stage}.b{int(block) + 1}.{named}.{_KINDS[int(kind)]}"


def _timm_regnet_gate(match: re.Match[str], _: Collection[str]) -> str:
    stage, block, layer = match.groups()
    return f"s{stage}.b{int(block) + 1}.se.{layer}"


_REGNET_BLOCK = r"trunk_output\.block(\d+)\.block\d+-(\d+)\."
_TIMM_REGNET: _Rules = {
    r"stem\.0": "stem.conv",
    r"stem\.1": "stem.bn",
    _REGNET_BLOCK + r"(f\.[abc]|proj)\.([01])": _timm_regnet_layer,
    _REGNET_BLOCK + r"f\.se\.(fc[12])": _timm_regnet_gate,
    r"fc": "head.fc",
}


def _timm_efficientnet_layer(match: re.Match[str], prefixes: Collection[str]) -> str | None:
    stage, block, place, inside = match.groups()
    expands = f"features.{stage}.{block}.block.3.0" in prefixes
    layers = ("conv_pw", "conv_dw", "se", "conv_pwl") if expands else ("conv_dw", "se", "conv_pw")
    layer = layers[int(place)] if int(place) < len(layers) else ""
    convolutions = [name for name in layers if name != "se"]
    if layer == "se":
        name = {"fc1": "se.conv_reduce", "fc2": "se.conv_expand"}.get(inside)
    elif layer in convolutions:
        name = {"0": layer, "1": f"bn{convolutions.index(layer) + 1}"}.get(inside)
    else:
        name = None
    return None if name is None else f"blocks.{int(stage) - 1}.{block}.{name}"


_TIMM_ENDS: _Rules = {
    r"features\.0\.0": "conv_stem",
    r"features\.0\.1": "bn1",
    r"features\.\d+\.0": "conv_head",
    r"features\.\d+\.1": "bn2",
    r"classifier\.1": "classifier",
}
_TIMM_EFFICIENTNET: _Rules = {
    r"features\.(\d+)\.(\d+)\.block\.(\d)\.(0|1|fc1|fc2)": _timm_efficientnet_layer,
    **_TIMM_ENDS,
}

# Blocks of each stage of MobileNetV2 (arXiv 1801.04381, table 2), which torchvision counts through.
_MOBILENET_V2_STAGES = (1, 2, 3, 4, 3, 3, 1)


def _timm_mobilenet_v2_layer(match: re.Match[str], prefixes: Collection[str]) -> str | None:
    number, inside = match.groups()
    block, stage = int(number) - 1, 0
    while stage < len(_MOBILENET_V2_STAGES) and block >= _MOBILENET_V2_STAGES[stage]:
        block, stage = block - _MOBILENET_V2_STAGES[stage], stage + 1
    layers = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}
    if f"features.{number}.conv.3" in prefixes:
        layers = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2"}
        layers |= {"2": "conv_pwl", "3": "bn3"}
    return f"blocks.{stage}.{block}.{layers[inside]}" if inside in layers else None


_TIMM_MOBILENET_V2: _Rules = {
    r"features\.(\d+)\.conv\.([\d.]+)": _timm_mobilenet_v2_layer,
    **_TIMM_ENDS,
}

# --- ConvNeXt -------------------------------------------------------------------------------------


def _convnext(block: str, layers: Mapping[str, str], down: str, ends: _Rules) -> _Rules:
    """Rules of ConvNeXt: the prefixes of a block of a stage and of a downsampling.

    They have the fields {stage} and {block}. layers: what torchvision calls a layer of the block,
    and its name.
    """

    def in_block(match: re.Match[str], _: Collection[str]) -> str:
        stage = (int(match[1]) - 1) // 2
        return block.format(stage=stage, block=match[2]) + layers[match[3]]

    def between(match: re.Match[str], _: Collection[str]) -> str:
        return down.format(stage=int(match[1]) // 2) + match[2]

    return {
        **ends,
        r"features\.([1357])\.(\d+)\.(layer_scale|block\.[0235])": in_block,
        r"features\.([246])\.([01])": between,
    }


_TIMM_CONVNEXT = _convnext(
    "stages.{stage}.blocks.{block}.",
    {
        "layer_scale": "gamma",
        "block.0": "conv_dw",
        "block.2": "norm",
        "block.3": "mlp.fc1",
        "block.5": "mlp.fc2",
    },
    "stages.{stage}.downsample.",
    {
        r"features\.0\.([01])": r"stem.\1",
        r"classifier\.0": "head.norm",
        r"classifier\.2": "head.fc",
    },
)
_CONVNEXT_LAYERS = {
    "block.0": "dwconv",
    "block.3": "pwconv1",
    "block.5": "pwconv2",
}
_FACEBOOK_CONVNEXT = _convnext(
    "stages.{stage}.{block}.",
    {**_CONVNEXT_LAYERS, "layer_scale": "gamma", "block.2": "norm"},
    "downsample_layers.{stage}.",
    {
        r"features\.0\.([01])": r"downsample_layers.0.\1",
        r"classifier\.0": "norm",
        r"classifier\.2": "head",
    },
)
_TRANSFORMERS_CONVNEXT = _convnext(
    "convnext.encoder.stages.{stage}.layers.{block}.",
    {**_CONVNEXT_LAYERS, "layer_scale": "layer_scale_parameter", "block.2": "layernorm"},
    "convnext.encoder.stages.{stage}.downsampling_layer.",
    {
        r"features\.0\.0": "convnext.embeddings.patch_embeddings",
        r"features\.0\.1": "convnext.embeddings.layernorm",
        r"classifier\.0": "convnext.layernorm",
        r"classifier\.2": "classifier",
    },
)

# --- transformers ---------------------------------------------------------------------------------

_LONG_KINDS = ("convolution", "normalization")


def _transformers_resnet_layer(match: re.Match[str], _: Collection[str]) -> str:
    stage, block, kind, number = match.groups()
    within = f"resnet.encoder.stages.{int(stage) - 1}.layers.{block}"
    return f"{within}.layer.{int(number) - 1}.{_LONG_KINDS[kind == 'bn']}"


def _transformers_resnet_shortcut(match: re.Match[str], _: Collection[str]) -> str:
    stage, block, kind = match.groups()
    within = f"resnet.encoder.stages.{int(stage) - 1}.layers.{block}"
    return f"{within}.shortcut.{_LONG_KINDS[int(kind)]}"


_TRANSFORMERS_RESNET: _Rules = {
    r"conv1": "resnet.embedder.embedder.convolution",
    r"bn1": "resnet.embedder.embedder.normalization",
    r"layer(\d)\.(\d+)\.(conv|bn)([123])": _transformers_resnet_layer,
    r"layer(\d)\.(\d+)\.downsample\.([01])": _transformers_resnet_shortcut,
    r"fc": "classifier.1",
}


def _transformers_regnet_layer(match: re.Match[str], _: Collection[str]) -> str:
    stage, block, layer, kind = match.groups()
    place = {"f.a": "layer.0", "f.b": "layer.1", "f.c": "layer.3", "proj": "shortcut"}[layer]
    within = f"regnet.encoder.stages.{int(stage) - 1}.layers.{block}"
    return f"{within}.{place}.{_LONG_KINDS[int(kind)]}"


def _transformers_regnet_gate(match: re.Match[str], _: Collection[str]) -> str:
    stage, block, number = match.groups()
    within = f"regnet.encoder.stages.{int(stage) - 1}.layers.{block}"
    return f"{within}.layer.2.attention.{2 * (int(number) - 1)}"


_TRANSFORMERS_REGNET: _Rules = {
    r"stem\.0": "regnet.embedder.embedder.convolution",
    r"stem\.1": "regnet.embedder.embedder.normalization",
    _REGNET_BLOCK + r"(f\.[abc]|proj)\.([01])": _transformers_regnet_layer,
    _REGNET_BLOCK + r"f\.se\.fc([12])": _transformers_regnet_gate,
    r"fc": "classifier.1",
}

# --- torchvision before 0.13 ----------------------------------------------------------------------

# Its detectors: the layers of the pyramid, of Faster R-CNN's region proposals, and of RetinaNet's
# head without norms, in which a ReLU was a layer of its own.
_OLD_PYRAMID: _Rules = {
    r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.0": r"\1",
    r"(rpn\.head\.conv)\.0\.0": r"\1",
}


def _old_retinanet_layer(match: re.Match[str], prefixes: Collection[str]) -> str | None:
    return f"{match[1]}.{2 * int(match[2])}"


_OLD_DETECTOR: _Rules = {**_OLD_PYRAMID, r"(?:backbone|head|rpn|roi_heads)\..*": r"\g<0>"}
_OLD_RETINANET: _Rules = {
    r"(head\.(?:classification|regression)_head\.conv)\.(\d+)\.0": _old_retinanet_layer,
    **_OLD_DETECTOR,
}

# Of one family each; of a net of another family a layer matches no rule.
SCHEMES: dict[str, _Rules] = {
    "timm's RegNet": _TIMM_REGNET,
    "timm's EfficientNet": _TIMM_EFFICIENTNET,
    "timm's MobileNetV2": _TIMM_MOBILENET_V2,
    "timm's ConvNeXt": _TIMM_CONVNEXT,
    "Facebook's ConvNeXt": _FACEBOOK_CONVNEXT,
    "transformers' ConvNeXt": _TRANSFORMERS_CONVNEXT,
    "transformers' ResNet": _TRANSFORMERS_RESNET,
    "transformers' RegNet": _TRANSFORMERS_REGNET,
    "torchvision's detectors before 0.13": _OLD_DETECTOR,
    "torchvision's RetinaNet before 0.13": _OLD_RETINANET,
}
