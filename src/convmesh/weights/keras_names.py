"""Keras's applications under torchvision's names and in its layout, where both compute the same.

That is ConvNeXt. Keras's EfficientNet, EfficientNetV2, MobileNetV2 and V3 pad as TensorFlow does,
and its ResNets are of the first version: with the same weights they are other functions than
torchvision's models of these names, so their files are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from convmesh.errors import DataError

# The end of a layer's name in Keras, and torchvision's module.
_CONVNEXT = (
    (r"stem_conv", "features.0.0"),
    (r"stem_layernorm", "features.0.1"),
    (r"downsampling_layernorm_(\d+)", "features.{2}.0"),
    (r"downsampling_conv_(\d+)", "features.{2}.1"),
    (r"stage_(\d+)_block_(\d+)_depthwise_conv", "features.{1}.{block}.block.0"),
    (r"stage_(\d+)_block_(\d+)_layernorm", "features.{1}.{block}.block.2"),
    (r"stage_(\d+)_block_(\d+)_pointwise_conv_1", "features.{1}.{block}.block.3"),
    (r"stage_(\d+)_block_(\d+)_pointwise_conv_2", "features.{1}.{block}.block.5"),
    (r"stage_(\d+)_block_(\d+)_layer_scale", "features.{1}.{block}.layer_scale"),
    (r"head_layernorm", "classifier.0"),
    (r"head_dense", "classifier.2"),
)
# A layer of an application that is another function than ours, and what it is.
_OTHERS = (
    (r"(?:^|/)block1a_(?:dwconv|project_conv)/", "EfficientNet, which pads as TensorFlow does"),
    (r"(?:^|/)expanded_conv_(?:depthwise|project)/", "MobileNet, which pads as TensorFlow does"),
    (r"(?:^|/)conv2_block1_1_conv/", "ResNet, whose bottleneck has its stride in the first 1x1"),
)
_LEAVES = {
    "kernel": "weight",
    "gamma": "weight",
    "bias": "bias",
    "beta": "bias",
    "vars/0": "weight",
    "vars/1": "bias",
}
_SCALE = "layer_scale"
# What is no weight of a layer: the input's normalization, which the config has; the state of
# dropout; and in Keras 3 what stands beside all layers, as the optimizer does.
_NO_WEIGHTS = (r"prestem_normalization/", r"(?:^|/)seed_generator/", r"^[^/]+/vars/\d+$")


def from_keras(path: object, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """The arrays of a Keras application as torchvision's state dict; None if they are none.

    Layers that are not of the application, as a head of one's own, keep their names.

    Raises DataError, with the file `path`, for an application that is another function than the
    model of its name here.
    """
    for pattern, what in _OTHERS:
        if any(re.search(pattern, name) for name in arrays):
            raise DataError(
                f"{path}: weights of Keras's {what}: torchvision's model of that name, which "
                "convmesh has, would compute something else with them"
            )
    found, others = {}, {}
    for name, array in arrays.items():
        if any(re.search(pattern, name) for pattern in _NO_WEIGHTS):
            continue
        torch_name = _torch_name(name)
        if torch_name is None or torch_name in found:
            others[name] = array
        elif torch_name.endswith(_SCALE):
            found[torch_name] = array.reshape(-1, 1, 1)
        else:
            found[torch_name] = _in_torchs_layout(array)
    return {**found, **others} if found else None


def _torch_name(name: str) -> str | None:
    """Torchvision's name of an array; None of one that is not of the application."""
    module = _module(name)
    if module is None or module.endswith(_SCALE):
        return module
    leaf = next((to for leaf, to in _LEAVES.items() if name.endswith(f"/{leaf}")), None)
    return None if leaf is None else f"{module}.{leaf}"


def _module(name: str) -> str | None:
    """Torchvision's module of the layer of an array; None of another layer."""
    for pattern, module in _CONVNEXT:
        match = re.search(rf"(?:^|[/_]){pattern}/", name)
        if match:
            stage, block = (*map(int, match.groups()), 0, 0)[:2]
            # Stages are features.1, 3, 5, 7; what halves the size before the next is between them.
            return (
                module.replace("{1}", str(2 * stage + 1))
                .replace("{2}", str(2 * stage + 2))
                .replace("{block}", str(block))
            )
    return None


def _in_torchs_layout(array: np.ndarray) -> np.ndarray:
    """Kernels [rows, columns, in, out] as [out, in, rows, columns], [in, out] as [out, in]."""
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    return array.T
