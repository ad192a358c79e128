"""Checking and reading the values of config keys."""

import json
import math
import pathlib
import re

import numpy as np
import pytest

from convmesh import config as cfg
from convmesh.errors import ConfigError


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.steps=5", 5),
        ("--config.train.steps=5", 5),
        ("mesh.data=-1", -1),
        ("optimizer.learning_rate=1e-3", 1e-3),
        ("optimizer.learning_rate=2", 2.0),
        ("mesh.fsdp=false", False),
        ("mesh.fsdp=true", True),
        ("mesh.fsdp=True", True),
        ("mesh.fsdp= FALSE ", False),
        ("data.augment.scale=1,1", (1.0, 1.0)),
        ("train.accumulate=4", 4),
        ("model.remat=true", True),
        ("model.name=resnet18", "resnet18"),
        ("data.root=/a b/c=d,e", "/a b/c=d,e"),
        ("data.root=", ""),
        ("data.image_size=(192,256)", (192, 256)),
        ("data.image_size=192,256", (192, 256)),
        ("data.image_size=[192, 256]", (192, 256)),
        ("data.augment.scale=0.7,1", (0.7, 1.0)),
        ("data.classes=cat,dog", ("cat", "dog")),
        ("data.classes=('cat',)", ("cat",)),
        ("data.classes=(cat, traffic light)", ("cat", "traffic light")),
        ('data.classes=["a, b","c"]', ("a, b", "c")),
        ("data.classes=1,2", ("1", "2")),
        ("data.classes=()", ()),
        ("data.cache=True", "true"),
        ("data.cache=auto", "auto"),
    ],
)
def test_an_override_is_read_as_the_type_of_its_key(recipe, override, value):
    config = cfg.load_config(recipe(), [override])
    name = override.removeprefix("--config.").partition("=")[0]
    found = dict(cfg.flatten(config))[name]
    assert found == value
    assert type(found) is type(value)


WRONG = {  # for each kind, what it is not, as Python has it and as a command line has it
    "int": ([1.5, "x", None, True, (1, 2), {}], ["1.5", "x", "", "1,2", "inf"]),
    "float": (["x", None, True, (1.0,), {}, math.nan, math.inf], ["x", "", "1,2", "nan", "-inf"]),
    "bool": ([1, "yes", None, (), {}], ["yes", "1", ""]),
    "str": ([1, None, (), {}, True], []),
    "auto_bool": ([1, "maybe", None, ()], ["maybe", "", "1"]),
    "ints": ([1, (1,), (1, 2, 3), (1, 2.5), "1x2", None, {}], ["1", "1,2,3", "a,b", "1.5,2", ""]),
    "interval": ([1.0, (1,), (2, 1), ("a", 1), None, (0, math.nan)], ["1", "2,1", "a,1", "nan,1"]),
    "triple": (
        [1.0, (1, 2), ("a", 1, 2), None, (0, 1, math.nan)],
        ["1", "1,2", "a,1,2", "1,2,nan"],
    ),
    "floats": ([1.0, ("a", 1), None, (0.5, math.nan), "1,2"], ["a,b", "1,nan", "x"]),
    "strs": ([1, "name", None, (1, 2), {"a": 1}], []),
}


@pytest.mark.parametrize("name", cfg.KEYS)
def test_every_key_refuses_wrong_values_by_name(name):
    key, config = cfg.KEYS[name], cfg.defaults("detect")
    values, texts = WRONG[key.kind]
    values, texts = list(values), list(texts)
    if key.choices:
        values.append("no such choice")
        texts.append("no such choice")
    if key.within:
        ends = (key.within.low, key.within.high)
        beyond = [end + way for end, way in zip(ends, (-1, 1), strict=True) if math.isfinite(end)]
        opens = (key.within.open_low, key.within.open_high)
        beyond += [end for end, is_open in zip(ends, opens, strict=True) if is_open]
        beyond = [number for number in beyond if number not in key.within.also]
        for number in beyond:
            number = int(number) if key.kind in ("int", "ints") else float(number)
            pair = key.kind in ("ints", "interval")
            values.append((number, number) if pair else number)
            texts.append(f"{number},{number}" if pair else str(number))
    for value in values:
        with pytest.raises(ConfigError, match=re.escape(name)):
            cfg.apply_overrides(config, {name: value})
    for text in texts:
        with pytest.raises(ConfigError, match=re.escape(name)):
            cfg.apply_overrides(config, [f"--config.{name}={text}"])
    misspelt = name[:-1] + ("y" if name[-1] != "y" else "x")
    with pytest.raises(ConfigError, match=f"did you mean {re.escape(name)}|no such key"):
        cfg.apply_overrides(config, [f"--config.{misspelt}=1"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data.image_size", (64, 3)),  # at least 4
        ("data.sizes", (1.0, 4.5)),  # 0.25 to 4
        ("data.sizes", (0.2, 1.0)),
        ("data.augment.crop", (0.5, 1.5)),  # at most 1
    ],
)
def test_every_number_of_a_list_must_be_in_range(name, value):
    with pytest.raises(ConfigError, match=f"{name}: got "):
        cfg.parse_overrides({name: value})


@pytest.mark.parametrize(
    ("name", "value", "converted"),
    [
        ("data.root", pathlib.Path("/data/boats"), "/data/boats"),
        ("optimizer.learning_rate", np.float32(0.25), 0.25),
        ("train.steps", np.uint8(5), 5),
        ("data.augment.crop", np.array([0.5, 1.0], np.float32), (0.5, 1.0)),
    ],
)
def test_paths_and_numpy_numbers_become_plain_values(name, value, converted):
    found = cfg.parse_overrides({name: value})[name]
    assert found == converted and type(found) is type(converted)
    json.dumps(found)


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("data.val_fraction", 0.0, 1.0),
        ("data.augment.flip", 1.0, 1.01),
        ("checkpoint.keep", 1, 0),
        ("train.batch_size", 0, -1),
        ("data.max_boxes", 1, 0),
        ("ema.decay", 0.0, 1.0),
        ("optimizer.learning_rate", 1e-9, 0.0),
        ("mesh.model", 1, 0),
        ("data.workers", 0, -1),
    ],
)
def test_the_ends_of_a_range(name, inside, outside):
    assert cfg.parse_overrides({name: inside}) == {name: inside}
    with pytest.raises(ConfigError, match=f"{name}: got {outside}, wanted"):
        cfg.parse_overrides({name: outside})
