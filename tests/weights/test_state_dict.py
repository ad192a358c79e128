"""Which of a checkpoint's dictionaries holds the weights."""

import pytest

from convmesh.weights.binary_file import Refused
from convmesh.weights.state_dict import state_dict, without_prefix
from convmesh.weights.torch_objects import Storage, Tensor

A, B, C = (Tensor(Storage(key, "float32", 1), "float32", 0, (1,), (1,)) for key in "abc")


@pytest.mark.parametrize(
    "checkpoint",
    [
        {"w": A, "epoch": 3},
        {"state_dict": {"w": A}, "best": C, "optimizer": {"state": {0: {"m": B}}}},
        {"model": {"w": A}, "optimizer": {"m": B}},
        {"model": {"w": B}, "model_ema": {"w": A}},
        {"state_dict_ema": {"w": A}, "state_dict": {"w": B}},
        {"model": {"state_dict": {"w": A}}, "epoch": 3},
        {"model_ema": {}, "model": {"w": A}},
        {"other": {"w": A}, "epoch": 3},
    ],
)
def test_the_weights_of_a_checkpoint(checkpoint):
    assert state_dict(checkpoint) == {"w": A}


def test_names_of_nested_dictionaries_are_joined():
    assert state_dict({"params": {"conv": {"kernel": A, "bias": B}, "head": {0: C}}}) == {
        "conv.kernel": A,
        "conv.bias": B,
        "head.0": C,
    }


def test_what_is_not_clear_is_refused():
    with pytest.raises(Refused, match="two arrays of the name a.b"):
        state_dict({"a.b": A, "a": {"b": B}})
    with pytest.raises(Refused, match="its keys: epoch, note"):
        state_dict({"epoch": 3, "note": "x"})
    with pytest.raises(Refused, match="holds one tensor"):
        state_dict(A)


def test_prefixes_of_all_names():
    assert without_prefix({"module.module.a": 1, "module.module.b": 2}) == {"a": 1, "b": 2}
    assert without_prefix({"n_averaged": 3, "module.a": 1}) == {"a": 1}
    assert without_prefix({"module.a": 1, "b": 2}) == {"module.a": 1, "b": 2}
    assert without_prefix({"n_averaged": 3}) == {"n_averaged": 3}
    assert without_prefix({}) == {}
