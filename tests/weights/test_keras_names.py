"""Keras's ConvNeXt under torchvision's names; other applications are refused in one line."""

import numpy as np
import pytest
import weight_files

from convmesh.errors import DataError
from convmesh.inference.weight_files import WeightFile
from convmesh.weights.keras_names import from_keras

RNG = np.random.default_rng(0)


def conv(rows, inputs, outputs):
    return RNG.normal(size=(rows, rows, inputs, outputs)), RNG.normal(size=outputs)


def layers():
    """{Keras's layer, within its Sequential: its arrays, in Keras's layout}, of two stages."""
    return {
        "net_stem/net_stem_conv": conv(4, 3, 8),
        "net_stem/net_stem_layernorm": RNG.normal(size=(2, 8)),
        "net_downsampling_block_0/net_downsampling_layernorm_0": RNG.normal(size=(2, 8)),
        "net_downsampling_block_0/net_downsampling_conv_0": conv(2, 8, 12),
        **{
            f"net_stage_1_block_2_{name}": arrays
            for name, arrays in {
                "depthwise_conv": conv(7, 1, 12),
                "layernorm": RNG.normal(size=(2, 12)),
                "pointwise_conv_1": (RNG.normal(size=(12, 48)), RNG.normal(size=48)),
                "pointwise_conv_2": (RNG.normal(size=(48, 12)), RNG.normal(size=12)),
                "layer_scale": RNG.normal(size=(1, 12)),
            }.items()
        },
        "net_head_layernorm": RNG.normal(size=(2, 12)),
        "net_head_dense": (RNG.normal(size=(12, 5)), RNG.normal(size=5)),
        "net_prestem_normalization": RNG.normal(size=(2, 3)),
    }


def keras_2(found):
    """Names as in `.h5`: LAYER/LAYER/kernel:0, of a Sequential with the layer inside."""
    names = {}
    for layer, arrays in found.items():
        outer = layer.partition("/")[0]
        leaves = ("gamma", "beta") if "norm" in layer else ("kernel", "bias")
        leaves = ("variable_3",) if layer.endswith("scale") else leaves
        for leaf, array in zip(leaves, arrays, strict=True):
            names[f"{outer}/{layer}/{leaf}:0"] = array
    return names


def keras_3(found):
    """Names as in `.weights.h5` and `.keras`: layers/LAYER/vars/INDEX."""
    return {
        f"layers/{layer.replace('/', '/layers/')}/vars/{i}": array
        for layer, arrays in found.items()
        for i, array in enumerate(arrays)
    }


@pytest.mark.parametrize("form", [keras_2, keras_3])
def test_each_layer_has_torchvisions_name_and_layout(tmp_path, form):
    found = layers()
    path = tmp_path / "net.h5"

    def write(file):
        for name, array in form(found).items():
            file[name] = array

    path.write_bytes(weight_files.hdf5_file(write))
    file = WeightFile.read(path)
    assert file.whose == "Keras"
    wanted = {
        "net_stem/net_stem_conv": "features.0.0",
        "net_stem/net_stem_layernorm": "features.0.1",
        "net_downsampling_block_0/net_downsampling_layernorm_0": "features.2.0",
        "net_downsampling_block_0/net_downsampling_conv_0": "features.2.1",
        "net_stage_1_block_2_depthwise_conv": "features.3.2.block.0",
        "net_stage_1_block_2_layernorm": "features.3.2.block.2",
        "net_stage_1_block_2_pointwise_conv_1": "features.3.2.block.3",
        "net_stage_1_block_2_pointwise_conv_2": "features.3.2.block.5",
        "net_head_layernorm": "classifier.0",
        "net_head_dense": "classifier.2",
    }
    for layer, module in wanted.items():
        weight, bias = found[layer]
        weight = np.transpose(weight, (3, 2, 0, 1) if weight.ndim == 4 else None)
        np.testing.assert_array_equal(file.arrays[f"{module}.weight"], weight)
        np.testing.assert_array_equal(file.arrays[f"{module}.bias"], bias)
    [scale] = found["net_stage_1_block_2_layer_scale"]
    np.testing.assert_array_equal(file.arrays["features.3.2.layer_scale"], scale[:, None, None])
    assert len(file.arrays) == 2 * len(wanted) + 1


@pytest.mark.parametrize(
    "layer, what",
    [
        ("block1a_dwconv", "EfficientNet, which pads"),
        ("block1a_project_conv", "EfficientNet, which pads"),
        ("expanded_conv_depthwise", "MobileNet, which pads"),
        ("conv2_block1_1_conv", "ResNet, whose bottleneck"),
    ],
)
@pytest.mark.parametrize("form", [keras_2, keras_3])
def test_what_would_compute_something_else_is_refused(layer, what, form):
    arrays = form({layer: (np.zeros((3, 3, 4, 4)), np.zeros(4))})
    with pytest.raises(DataError, match=f"^net.h5: weights of Keras's {what} .*something else"):
        from_keras("net.h5", arrays)


@pytest.mark.parametrize("form", [keras_2, keras_3])
def test_what_is_not_of_the_application_keeps_its_name(form):
    own = form({"predictions": conv(1, 12, 5), "net_stem_conv": conv(4, 3, 8)})
    state = {"adam/vars/1": np.zeros(3), "layers/drop/seed_generator/vars/0": np.zeros(2)}
    known = from_keras("net.h5", form(layers()))
    found = from_keras("net.h5", {**form(layers()), **own, **state})
    assert set(found) - set(known) == set(own)
    assert all(found[name] is own[name] for name in own)


def test_names_of_others_are_left_alone():
    names = ("stem.conv.weight", "features.0.0.weight", "layer1.0.conv1.weight", "a/kernel")
    assert from_keras("net.pth", {name: np.zeros(3) for name in names}) is None
