import dataclasses

import numpy as np
import pytest

from convmesh.errors import DataError
from convmesh.weights.torch_names import (
    Misshaped,
    check_values,
    from_torch,
    to_torch,
    with_epsilon,
)

NAMES = {
    "block1/conv": "layer1.0.conv",
    "block1/norm": "layer1.0.bn",
    "block1/layer_scale": "layer1.0.layer_scale",
    "head": "fc",
}


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.fixture
def arrays():
    """A state dict of torch, with the layouts of its layers."""
    shapes = {
        "layer1.0.conv.weight": (6, 2, 3, 5),
        "layer1.0.bn.weight": (6,),
        "layer1.0.bn.bias": (6,),
        "layer1.0.bn.running_mean": (6,),
        "layer1.0.bn.running_var": (6,),
        "layer1.0.layer_scale": (6, 1, 1),
        "fc.weight": (7, 6),
        "fc.bias": (7,),
    }
    return {name: numbers(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}


@pytest.fixture
def abstract():
    block = {
        "conv": {"kernel": np.empty((3, 5, 2, 6))},
        "norm": {"scale": np.empty(6), "bias": np.empty(6)},
        "layer_scale": np.empty(6),
    }
    head = {"kernel": np.empty((6, 7)), "bias": np.empty(7)}
    stats = {"mean": np.empty(6), "var": np.empty(6)}
    return {
        "params": {"block1": block, "head": head},
        "batch_stats": {"block1": {"norm": stats}},
    }


def test_each_layer_is_put_into_our_layout(arrays, abstract):
    variables, fit = from_torch(NAMES, abstract, arrays)
    block, stats = variables["params"]["block1"], variables["batch_stats"]["block1"]["norm"]
    for row, column, c, out in [(0, 0, 0, 0), (2, 4, 1, 5), (1, 3, 0, 2)]:
        wanted = arrays["layer1.0.conv.weight"][out, c, row, column]
        assert block["conv"]["kernel"][row, column, c, out] == wanted
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], arrays["fc.weight"].T)
    np.testing.assert_array_equal(block["layer_scale"], arrays["layer1.0.layer_scale"][:, 0, 0])
    for got, name in [
        (block["norm"]["scale"], "layer1.0.bn.weight"),
        (block["norm"]["bias"], "layer1.0.bn.bias"),
        (stats["mean"], "layer1.0.bn.running_mean"),
        (stats["var"], "layer1.0.bn.running_var"),
        (variables["params"]["head"]["bias"], "fc.bias"),
    ]:
        np.testing.assert_array_equal(got, arrays[name])
    assert fit.complete and set(fit.taken) == set(arrays)


def test_back_gives_the_same_arrays_in_memory_order(arrays, abstract):
    variables, _ = from_torch(NAMES, abstract, arrays)
    back = to_torch(NAMES, variables)
    assert back.keys() == arrays.keys()
    for name, array in back.items():
        np.testing.assert_array_equal(array, arrays[name])
        assert array.flags.c_contiguous


def test_values_take_the_dtype_of_the_model(arrays, abstract):
    abstract["params"]["head"]["bias"] = np.empty(7, np.float32)
    variables, _ = from_torch(NAMES, abstract, arrays)
    head = variables["params"]["head"]
    assert (head["bias"].dtype, head["kernel"].dtype) == (np.float32, np.float64)


def test_what_does_not_fit_is_listed_and_left_out(arrays, abstract):
    del arrays["fc.bias"]
    arrays["fc.weight"] = numbers(1000, 6)
    arrays["aux.weight"] = numbers(2)
    arrays["layer1.0.bn.num_batches_tracked"] = np.array(5)
    variables, fit = from_torch(NAMES, abstract, arrays)
    assert "head" not in variables["params"] and "block1" in variables["params"]
    assert not fit.complete and len(fit.taken) == 6
    assert fit.lines() == [
        "fc.bias: missing",
        "aux.weight: not in the model",
        "fc.weight: [1000, 6], the model's is [7, 6]",
    ]
    with pytest.raises(DataError) as refused:
        fit.require_complete("a.pth", "resnet18")
    assert str(refused.value) == (
        "a.pth: 6 weights fit resnet18, but 1 missing: fc.bias; 1 not in the model: aux.weight; "
        "1 misshaped: fc.weight [1000, 6] for [7, 6]"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"missing": ("fc.bias",)},
        {"extra": ("fc.bias",)},
        {"misshaped": (Misshaped("fc.bias", (1,), (2,)),)},
    ],
)
def test_anything_that_does_not_fit_is_refused(arrays, abstract, change):
    _, fit = from_torch(NAMES, abstract, arrays)
    fit.require_complete("a.pth", "resnet18")
    changed = dataclasses.replace(fit, **change)
    assert not changed.complete
    with pytest.raises(DataError, match=r"fc\.bias"):
        changed.require_complete("a.pth", "resnet18")


def test_a_kernel_of_another_layout_with_as_many_numbers_is_misshaped(arrays, abstract):
    arrays["layer1.0.conv.weight"] = arrays["layer1.0.conv.weight"].transpose(0, 1, 3, 2)
    _, fit = from_torch(NAMES, abstract, arrays)
    assert [tuple(each) for each in fit.misshaped] == [
        ("layer1.0.conv.weight", (6, 2, 5, 3), (6, 2, 3, 5))
    ]


def test_a_linear_and_a_1x1_convolution_are_the_same(arrays, abstract):
    wanted, _ = from_torch(NAMES, abstract, arrays)
    bare = arrays | {"layer1.0.layer_scale": arrays["layer1.0.layer_scale"][:, 0, 0]}
    got, fit = from_torch(
        NAMES, abstract, bare | {"fc.weight": arrays["fc.weight"][..., None, None]}
    )
    assert fit.complete
    np.testing.assert_equal(got, wanted)
    abstract["params"]["head"]["kernel"] = np.empty((1, 1, 6, 7))
    got, fit = from_torch(NAMES, abstract, arrays)
    assert fit.complete
    kernel = got["params"]["head"]["kernel"]
    np.testing.assert_array_equal(kernel[0, 0], wanted["params"]["head"]["kernel"])


@pytest.mark.parametrize(
    "names, message",
    [
        ({"head": "fc", "block1/conv": "c", "block1/norm": "n"}, "no name for block1/layer_scale"),
        (NAMES | {"tail": "tail"}, "the model has no tail"),
        (NAMES | {"head": "layer1.0.bn"}, r"layer1\.0\.bn\.\w+ is named twice"),
    ],
)
def test_names_that_are_not_those_of_the_model_are_an_error(arrays, abstract, names, message):
    with pytest.raises(ValueError, match=message):
        from_torch(names, abstract, arrays)


def test_another_epsilon_changes_the_running_variances_alone(arrays):
    changed = with_epsilon(arrays, 1e-3)
    for name, array in arrays.items():
        shift = 1e-3 - 1e-5 if name.endswith("running_var") else 0
        np.testing.assert_allclose(changed[name], array + shift, rtol=1e-12)


def test_values_that_no_trained_net_has_are_refused(arrays):
    variances = {"layer1.0.bn.running_var": np.zeros(6), "count": np.array(7)}
    good = {**arrays, **variances}
    check_values("net.pth", good)
    check_values("net.pth", with_epsilon(good, 0.0))
    arrays["fc.bias"][[1, 4]] = np.nan, np.inf
    arrays["fc.weight"][0, 0] = -np.inf
    with pytest.raises(DataError) as error:
        check_values("net.pth", arrays | variances)
    assert str(error.value) == (
        "net.pth: 2 of its arrays have values that are not finite, first fc.weight, 1 of its 42 "
        "values: it is damaged, or its training failed"
    )
    negative = {"bn.running_var": np.array([1, -0.5, -2]), "bn.running_mean": np.array([-1.0])}
    said = "1 of its arrays have negative variances, first bn.running_var, 2 of its 3 values"
    with pytest.raises(DataError, match=said):
        check_values("net.pth", negative)
