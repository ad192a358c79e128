"""The config: one table of documented keys, and how recipes, overrides and JSON become a config.

A recipe is a Python file with `get_config()`. It states only what differs from the defaults:

    from convmesh.config import defaults

    def get_config():
        config = defaults("detect")
        config.data.root = "/data/boats"
        return config

Every key, its type, its range and its meaning stand in `KEYS`. A key that is not there, a wrong
type or a value out of range is a ConfigError that names the key. Nothing here imports JAX, so all
of it is refused before any device is touched.
"""

import ast
import difflib
import functools
import json
import linecache
import math
import numbers
import os
import re
import textwrap
import traceback
import types
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from convmesh.errors import ConfigError, nearest

TASKS = ("detect", "classify")
DETECT_METRICS = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large", "F1"),
)
CLASSIFY_METRICS = ("top1", "top5")


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, and those in `also`. An open end is not in the range."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    also: tuple[int, ...] = ()

    def __contains__(self, number: float) -> bool:
        above = number > self.low if self.open_low else number >= self.low
        below = number < self.high if self.open_high else number <= self.high
        return (above and below) or number in self.also

    def __str__(self) -> str:
        words = [str(number) for number in self.also]
        ends = []
        if self.low > -math.inf:
            ends.append(f"{'above' if self.open_low else 'at least'} {self.low:.12g}")
        if self.high < math.inf:
            ends.append(f"{'below' if self.open_high else 'at most'} {self.high:.12g}")
        return " or ".join([*words, " and ".join(ends)])


def _at_least(low: float, also: tuple[int, ...] = ()) -> Range:
    return Range(low=low, also=also)


POSITIVE = Range(low=0, open_low=True)
FRACTION = Range(low=0, high=1)
FRACTION_BELOW_1 = Range(low=0, high=1, open_high=True)


@dataclass(frozen=True)
class Key:
    """One key of the config.

    kind: a name in `KINDS`. choices: the only texts allowed. within: the range of the number, or
    of both numbers of a pair. task: the only task that uses the key.
    """

    default: Any
    kind: str
    doc: str
    choices: tuple[str, ...] = ()
    within: Range | None = None
    task: str = ""


# fmt: off
KEYS: dict[str, Key] = {
    "task": Key("", "str", "what is trained; every recipe states it", choices=TASKS),
    "precision": Key("float32", "str", "type of the convolutions; float64 on the CPU only, "
                     "for proofs", choices=("float32", "bfloat16", "float64")),
    "init_from": Key("", "str", "workdir, or WORKDIR/checkpoints/STEP, whose weights a fresh run "
                     "starts from (of a workdir, the newest); '' = random ones"),

    "model.name": Key("", "str", "the model, by its name"),
    "model.norm_group": Key(0, "int", "examples that batch norm takes its statistics over (ghost "
                            "groups, which need no communication); 0 = the whole batch",
                            within=_at_least(0)),

    "model.remat": Key(False, "bool", "compute the inside of the blocks again in the backward "
                       "pass: less memory, about a third more arithmetic"),

    "data.format": Key("auto", "str", "how the data is laid out; auto looks at data.root",
                       choices=("auto", "tfds", "folder", "coco", "voc", "yolo")),
    "data.root": Key("", "str", "folder of the data set"),
    "data.name": Key("", "str", "name of a TFDS data set"),
    "data.train_split": Key("train", "str", "split that is trained on"),
    "data.eval_split": Key("", "str", "split that is evaluated; '' = the one found"),
    "data.train_annotations": Key("", "str", "COCO file of the training split, from data.root; '' "
                                  "= found"),
    "data.train_images": Key("", "str", "folder of its images, from data.root; '' = found"),
    "data.eval_annotations": Key("", "str", "COCO file of the split that is evaluated, from "
                                 "data.root; '' = found"),
    "data.eval_images": Key("", "str", "folder of its images, from data.root; '' = found"),
    "data.first": Key(0, "int", "use only so many examples of the training split: the first that "
                      "hold an object, or class by class in turn; 0 = all", within=_at_least(0)),
    "data.val_fraction": Key(0.1, "float", "part of the training split held out for evaluation "
                             "where there is no other split", within=FRACTION_BELOW_1),
    "data.classes": Key((), "strs", "class names in the order of their ids; () = read from the "
                        "data"),
    "data.image_size": Key((224, 224), "ints", "(height, width) of the network's input in pixels",
                           within=_at_least(4)),
    "data.sizes": Key((), "floats", "factors on data.image_size, as in (0.75, 1, 1.25): each "
                      "training step takes one of these sizes, to multiples of 32; each is "
                      "compiled; () = image_size alone", within=Range(low=0.25, high=4)),
    "data.cache": Key("auto", "auto_bool", "keep the decoded images in memory; auto = if they "
                      "fit"),
    "data.workers": Key(0, "int", "processes that read and augment; 0 = in this process",
                        within=_at_least(0)),
    "data.on_bad_example": Key("fail", "str", "what to do with an image that cannot be read",
                               choices=("fail", "skip")),
    "data.on_bad_box": Key("fail", "str", "what to do with a box that is empty or outside its "
                           "image", choices=("fail", "drop", "clip")),
    "data.max_boxes": Key(100, "int", "boxes kept of an image; those beyond it are counted",
                          within=_at_least(1)),
    "data.image_key": Key("", "str", "TFDS feature that holds the image; '' = found"),
    "data.boxes_key": Key("", "str", "TFDS feature that holds the boxes; '' = found"),
    "data.label_key": Key("", "str", "TFDS feature that holds the labels; '' = found"),
    "data.augment.flip": Key(0.5, "float", "probability of a horizontal mirror", within=FRACTION),
    "data.augment.scale": Key((0.5, 1.5), "interval", "random zoom (low, high), relative to the "
                              "image fitted to the input", within=POSITIVE, task="detect"),
    "data.augment.crop": Key((0.35, 1.0), "interval", "random crop (low, high), as a part of the "
                             "image's area", within=Range(low=0, high=1, open_low=True),
                             task="classify"),
    "data.augment.color": Key(0.5, "float", "strength of the random brightness, contrast, "
                              "saturation and hue", within=FRACTION),
    "data.augment.vertical_flip": Key(0.0, "float", "probability of a mirror top to bottom",
                                      within=FRACTION),
    "data.augment.quarter_turn": Key(0.0, "float", "probability of a turn by 90, 180 or 270 "
                                     "degrees, for images that have no up (cells, aerial)",
                                     within=FRACTION),
    "data.augment.rotate": Key(0.0, "float", "degrees, at most this, of a random turn to either "
                               "side; the boxes around turned boxes are larger than their objects",
                               within=Range(low=0, high=180)),
    "data.augment.shear": Key(0.0, "float", "degrees, at most this, of a random shear across and "
                              "down; boxes grow as with rotate", within=Range(low=0, high=45)),
    "data.augment.stretch": Key(0.0, "float", "largest random change of the aspect ratio: 0.2 = "
                                "width / height up to 1.2 times, or 1 / 1.2 times, what it is",
                                within=FRACTION, task="detect"),
    "data.augment.mosaic": Key(0.0, "float", "probability that an example shares its view with "
                               "three others, one in each quarter; the boxes of all must fit in "
                               "data.max_boxes", within=FRACTION, task="detect"),
    "data.augment.mixup": Key(0.0, "float", "probability that another example is blended in, "
                              "boxes and all", within=FRACTION, task="detect"),
    "data.augment.last_plain": Key(0.3, "float", "last part of the run, in which mosaic and mixup "
                                   "are off", within=FRACTION, task="detect"),

    "train.batch_size": Key(16, "int", "images in a step, over all devices", within=_at_least(1)),
    "train.steps": Key(0, "int", "length of the run in steps; 0 with train.epochs 0 = chosen from "
                       "the number of images", within=Range(low=0, high=2**31 - 1)),
    "train.epochs": Key(0.0, "float", "length of the run in passes over the data, instead of "
                        "train.steps", within=_at_least(0)),
    "train.seed": Key(0, "int", "seed of the weights, the data order and the augmentation",
                      within=Range(low=0, high=2**31 - 1)),
    "train.log_every_steps": Key(20, "int", "steps between two log lines", within=_at_least(1)),
    "train.accumulate": Key(1, "int", "equal parts of the batch that go one after another, their "
                            "gradients summed; batch norm sees one part at a time",
                            within=_at_least(1)),
    "train.max_nonfinite_steps": Key(10, "int", "steps in a row whose loss or gradient may be no "
                                     "finite number; more end the run; 0 = any number",
                                     within=_at_least(0)),
    "train.frozen_stages": Key(0, "int", "the stem and so many stages of the backbone are not "
                               "updated, and their batch norms keep their running statistics and "
                               "use them; 0 = nothing is frozen", within=_at_least(0)),
    "train.patience": Key(0, "int", "evaluations in a row without a new best of "
                          "checkpoint.best_metric after which the run has finished; 0 = off",
                          within=_at_least(0)),

    "loss.class_weight": Key(1.0, "float", "weight of the class loss; where runs are short and the "
                             "classes are hard to tell apart, 3 to 5 learn faster",
                             within=POSITIVE, task="detect"),
    "loss.distribution_weight": Key(0.5, "float", "weight of the loss of the distances' "
                                    "distributions; 0 = boxes learn by their overlap alone",
                                    within=_at_least(0), task="detect"),
    "loss.box_confidence": Key(True, "bool", "learn a box confidence, and let it be half of the "
                               "score; else the score is the class confidence", task="detect"),
    "loss.assignment": Key("aligned", "str", "which points learn a box: by what is predicted now, "
                           "or those about its centre", choices=("aligned", "centres"),
                           task="detect"),

    "optimizer.name": Key("adamw", "str", "the optimiser", choices=("adamw", "sgd")),
    "optimizer.learning_rate": Key(1e-3, "float", "peak learning rate", within=POSITIVE),
    "optimizer.momentum": Key(0.9, "float", "momentum of sgd", within=FRACTION_BELOW_1),
    "optimizer.nesterov": Key(False, "bool", "Nesterov's momentum; sgd only"),
    "optimizer.weight_decay": Key(0.05, "float", "weight decay; 0 = off", within=_at_least(0)),
    "optimizer.clip_norm": Key(10.0, "float", "largest norm of the whole gradient; 0 = off",
                               within=_at_least(0)),
    "optimizer.backbone_rate": Key(1.0, "float", "learning rate of the backbone, relative to that "
                                   "of the rest", within=POSITIVE),
    "optimizer.layer_decay": Key(1.0, "float", "learning rate of each stage of the backbone, "
                                 "relative to what follows it; the stem, which is first, has the "
                                 "least", within=Range(low=0, high=1, open_low=True)),

    "schedule.name": Key("cosine", "str", "learning rate after the warm-up; flat_cosine keeps the "
                         "peak for a while before it falls",
                         choices=("cosine", "flat_cosine", "constant")),
    "schedule.flat": Key(0.5, "float", "part of the run that flat_cosine keeps the peak for",
                         within=FRACTION),
    "schedule.floor": Key(0.01, "float", "learning rate at the end of a cosine, relative to the "
                          "peak", within=FRACTION),
    "schedule.warmup_steps": Key(-1, "int", "steps of linear warm-up; -1 = 5% of the run",
                                 within=_at_least(0, also=(-1,))),

    "ema.decay": Key(0.998, "float", "decay of the averaged weights; 0 = off; -1 = by the length "
                     "of the run: 0.998 up to 10,000 steps, 0.9998 from 100,000",
                     within=Range(low=0, high=1, open_high=True, also=(-1,))),

    "mesh.data": Key(-1, "int", "devices over the examples; -1 = all that are left",
                     within=_at_least(1, also=(-1,))),
    "mesh.spatial": Key(1, "int", "devices over the image rows; -1 = all that are left",
                        within=_at_least(1, also=(-1,))),
    "mesh.model": Key(1, "int", "devices over the channels; -1 = all that are left",
                      within=_at_least(1, also=(-1,))),
    "mesh.fsdp": Key(False, "bool", "shard parameters, optimiser and average over mesh.data too"),

    "eval.every_steps": Key(0, "int", "steps between two evaluations; 0 = once, at the end; -1 = a "
                            "tenth of the run", within=_at_least(0, also=(-1,))),
    "eval.batch_size": Key(0, "int", "images in an evaluation step; 0 = train.batch_size",
                           within=_at_least(0)),

    "checkpoint.every_steps": Key(0, "int", "steps between two checkpoints; 0 = with every "
                                  "evaluation", within=_at_least(0)),
    "checkpoint.keep": Key(2, "int", "newest checkpoints that are kept, besides the best",
                           within=_at_least(1)),
    "checkpoint.best_metric": Key("", "str", "metric that names the best checkpoint; '' = AP or "
                                  "top1", choices=("", *DETECT_METRICS, *CLASSIFY_METRICS)),
}
# fmt: on

# A run may go on with other values of these; anything else would make it another run.
RESUME_MAY_CHANGE = (
    "train.steps",
    "train.epochs",
    "train.log_every_steps",
    "train.max_nonfinite_steps",
    "train.patience",
    "mesh",
    "data.root",
    "data.train_annotations",
    "data.train_images",
    "data.eval_annotations",
    "data.eval_images",
    "data.workers",
    "data.cache",
    "eval",
    "checkpoint.every_steps",
    "checkpoint.keep",
)


# Kinds of value: what a Python value or the text of an override becomes.


def _int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError
    return int(value)


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError
    if not math.isfinite(value):
        raise ValueError
    return float(value)


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _str(value: Any) -> str:
    if not isinstance(value, str | os.PathLike):
        raise TypeError
    return os.fspath(value)


def _auto_bool(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool | str) else ""
    if text not in ("auto", "true", "false"):
        raise TypeError
    return text


def _sequence(value: Any) -> list:
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise TypeError
    return list(value)


def _ints(value: Any) -> tuple[int, int]:
    first, second = map(_int, _sequence(value))
    return first, second


def _interval(value: Any) -> tuple[float, float]:
    low, high = map(_float, _sequence(value))
    if low > high:
        raise ValueError
    return low, high


def _floats(value: Any) -> tuple[float, ...]:
    return tuple(map(_float, _sequence(value)))


def _strs(value: Any) -> tuple[str, ...]:
    return tuple(map(_str, _sequence(value)))


def _parse_bool(text: str) -> bool:
    return {"true": True, "false": False}[text.strip().lower()]


def _parse_list(text: str) -> list[str]:
    """The items of '(192, 256)' or '192,256'; names with commas inside need quotes."""
    try:
        quoted = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        quoted = None
    if isinstance(quoted, list | tuple) and all(isinstance(item, str) for item in quoted):
        return list(quoted)
    inner = re.sub(r"^\s*[(\[]|[)\]]\s*$", "", text).rstrip().removesuffix(",")
    return [item.strip().strip("'\"") for item in inner.split(",")] if inner.strip() else []


def _parse_numbers(text: str, number: type) -> list:
    return [number(item) for item in _parse_list(text)]


@dataclass(frozen=True)
class Kind:
    """A type of value: how an error calls it, the check of a value, and the reading of a text."""

    words: str
    convert: Callable[[Any], Any]
    parse: Callable[[str], Any]


KINDS: dict[str, Kind] = {
    "int": Kind("an integer", _int, int),
    "float": Kind("a number", _float, float),
    "bool": Kind("true or false", _bool, _parse_bool),
    "str": Kind("text", _str, str),
    "auto_bool": Kind("auto, true or false", _auto_bool, str),
    "ints": Kind("two integers, as in (192, 256)", _ints, lambda text: _parse_numbers(text, int)),
    "interval": Kind(
        "(low, high), two numbers with low <= high",
        _interval,
        lambda text: _parse_numbers(text, float),
    ),
    "floats": Kind(
        "a list of numbers, as in (0.75, 1, 1.25)",
        _floats,
        lambda text: _parse_numbers(text, float),
    ),
    "strs": Kind("a list of names, as in cat,dog", _strs, _parse_list),
}


def _wanted(key: Key) -> str:
    if key.choices:
        return "one of " + ", ".join(choice or "''" for choice in key.choices)
    words = KINDS[key.kind].words
    if key.within is None:
        return words
    return f"{words}{', each' if isinstance(key.default, tuple) else ','} {key.within}"


def _refused(name: str, value: Any) -> ConfigError:
    key = KEYS[name]
    hint = nearest(value, key.choices) if isinstance(value, str) else ""
    return ConfigError(f"{name}: got {value!r}, wanted {_wanted(key)}{hint}")


def _value(name: str, value: Any) -> Any:
    """`value` in the form that the table gives the key `name`, or a ConfigError."""
    if name not in KEYS:
        raise ConfigError(no_such_key(name))
    key = KEYS[name]
    try:
        converted = KINDS[key.kind].convert(value)
    except (TypeError, ValueError):
        raise _refused(name, value) from None
    if key.choices and converted not in key.choices:
        raise _refused(name, value)
    if key.within is not None:
        members = converted if isinstance(converted, tuple) else (converted,)
        if not all(number in key.within for number in members):
            raise _refused(name, value)
    return converted


def no_such_key(name: str) -> str:
    """What to tell a user who wrote a key that is not in the table; the nearest one is named."""
    members = [key for key in KEYS if key.startswith(name + ".")]
    if members:
        return f"{name}: a group of keys, not a value; set one of {', '.join(members)}"
    group, _, leaf = name.rpartition(".")
    leaves: dict[str, str] = {}  # last part of a key -> the first key that ends so
    for key in KEYS:
        leaves.setdefault(key.rpartition(".")[2], key)
    siblings = [key.rpartition(".")[2] for key in KEYS if key.rpartition(".")[0] == group]
    near = None
    if group and siblings:
        found = difflib.get_close_matches(leaf, siblings, 1)
        near = f"{group}.{found[0]}" if found else leaves.get(leaf)
        if near is None:
            return f"{name}: no such key; {group} has {', '.join(siblings)}"
    else:
        found = difflib.get_close_matches(name, KEYS, 1)
        found_leaf = difflib.get_close_matches(leaf, leaves, 1)
        near = found[0] if found else leaves[found_leaf[0]] if found_leaf else None
    if near is None:
        return f"{name}: no such key; `convmesh train --help-config` lists all keys"
    return f"{name}: no such key; did you mean {near}?"


def flatten(config: Mapping | ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The (dotted key, value) pairs of a nested config or dict."""
    for name, value in config.items():
        if isinstance(value, Mapping | ConfigDict) and (value or f"{prefix}{name}" not in KEYS):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _nest(values: Mapping[str, Any]) -> dict:
    tree: dict = {}
    for name, value in values.items():
        *groups, leaf = name.split(".")
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[leaf] = value
    return tree


def _locked(values: Mapping[str, Any]) -> ConfigDict:
    # The table checks types, with better words than ConfigDict has; see `check`.
    return ConfigDict(_nest(values), type_safe=False).lock()


def _all_defaults() -> dict[str, Any]:
    return {name: key.default for name, key in KEYS.items()}


def defaults(task: str) -> ConfigDict:
    """A config with every key at its default, locked: a key that is not in the table is refused.

    Raises ConfigError if `task` is neither 'detect' nor 'classify'.
    """
    return _locked(_all_defaults() | {"task": _value("task", task)})


def parse_overrides(overrides: Iterable[str] | Mapping[str, Any] = ()) -> dict[str, Any]:
    """Overrides as {dotted key: checked value}; a later one wins.

    Each is 'train.steps=5' or '--config.train.steps=5'; a dict (flat or nested) gives Python
    values. Raises ConfigError that names the key.
    """
    if isinstance(overrides, Mapping | ConfigDict):
        return {name: _value(name, value) for name, value in flatten(overrides)}
    if isinstance(overrides, str):
        overrides = (overrides,)
    values = {}
    for override in overrides:
        name, equals, text = override.removeprefix("--").removeprefix("config.").partition("=")
        if name not in KEYS:
            raise ConfigError(no_such_key(name))
        if not equals:
            raise ConfigError(f"{name}: no value given; write {name}=VALUE")
        try:
            value = KINDS[KEYS[name].kind].parse(text)
        except (ValueError, KeyError):
            raise _refused(name, text) from None
        values[name] = _value(name, value)
    return values


def apply_overrides(
    config: ConfigDict, overrides: Iterable[str] | Mapping[str, Any] = ()
) -> ConfigDict:
    """A new checked config: `config` with `overrides` (see `parse_overrides`) put on top."""
    return check(_locked(dict(flatten(config)) | parse_overrides(overrides)))


def load_config(
    path: str | os.PathLike, overrides: Iterable[str] | Mapping[str, Any] = ()
) -> ConfigDict:
    """The checked config of the recipe file `path`, with `overrides` on top.

    overrides: 'train.steps=5' or '--config.train.steps=5' each, or a dict of Python values.
    Raises ConfigError if the recipe is missing or raises, or if a key or a value is wrong.
    """
    path = Path(path)
    stated = _run_recipe(path)
    values = _all_defaults()
    for name, value in stated.items():
        # An unstated task may still come from the overrides; `check` asks for it.
        if name == "task" and value == "":
            continue
        try:
            values[name] = _value(name, value)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
    return check(_locked(values | parse_overrides(overrides)))


def _run_recipe(path: Path) -> dict[str, Any]:
    """What the recipe's `get_config()` states, by dotted key."""
    if not path.is_file():
        beside = [str(other) for other in path.parent.glob("*.py")]
        raise ConfigError(f"{path}: no such recipe file{nearest(str(path), beside)}")
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        raise _recipe_failed(path, error) from error
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise ConfigError(f"{path}: has no get_config(); a recipe defines it and returns a config")
    try:
        config = get_config()
        if isinstance(config, Mapping | ConfigDict):
            return dict(flatten(config))
    except (Exception, SystemExit) as error:
        raise _recipe_failed(path, error) from error
    raise ConfigError(
        f"{path}: get_config() returned {type(config).__name__}, wanted a config; "
        "start it from convmesh.config.defaults(task) and return it"
    )


def _recipe_failed(path: Path, error: BaseException) -> ConfigError:
    """Names the recipe's line that raised, and the key if that line wrote one that is not there."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else None
    line = line or (lines[-1] if lines else None)
    where = f"{path}:{line}" if line else str(path)
    if isinstance(error, ConfigError):
        return ConfigError(f"{where}: {error}")
    # ConfigDict wraps one error in another, and so escapes the quotes.
    misspelt = re.search(r"""Key "(\w+)"|'(\w+)'""", str(error).replace("\\", ""))
    from_config_dict = frames and "ml_collections" in Path(frames[-1].filename).parts
    if isinstance(error, AttributeError | KeyError) and from_config_dict and misspelt and line:
        # ConfigDict knows only the last part of the key; the recipe's line has it whole.
        leaf = misspelt[1] or misspelt[2]
        linecache.checkcache(str(path))
        source = linecache.getline(str(path), line)
        dotted = re.search(rf"\w[\w.]*\.{leaf}\b[\w.]*", source)
        name = dotted[0].partition(".")[2] if dotted else leaf
        return ConfigError(f"{where}: {no_such_key(name)}")
    text = str(getattr(error, "msg", error)).strip().partition("\n")[0]
    return ConfigError(f"{where}: {type(error).__name__}: {text}")


def check(config: ConfigDict) -> ConfigDict:
    """Checks every value and how they fit together; returns the same config.

    A value in another form of its type (a list for a tuple, an int for a float) is put into the
    table's form. Raises ConfigError that names the key.
    """
    given = dict(flatten(config))
    for name in given:
        if name not in KEYS:
            raise ConfigError(no_such_key(name))
    for name, value in given.items():
        if name == "task" and value == "":
            raise ConfigError(f"task: not set; the recipe must say {' or '.join(TASKS)}")
        converted = _value(name, value)
        if repr(converted) != repr(value):
            *groups, leaf = name.split(".")
            target = functools.reduce(lambda branch, group: branch[group], groups, config)
            with target.ignore_type():
                target[leaf] = None  # else ConfigDict casts a tuple back to the list it replaces
                target[leaf] = converted
            given[name] = converted
    missing = [name for name in KEYS if name not in given]
    if missing:
        raise ConfigError(f"{missing[0]}: missing; start the config from defaults(task)")

    task = given["task"]
    for name, key in KEYS.items():
        if key.task and key.task != task and given[name] != key.default:
            raise ConfigError(f"{name}: only task {key.task} uses it, and this task is {task}")
    free = [name for name in ("mesh.data", "mesh.spatial", "mesh.model") if given[name] == -1]
    if len(free) > 1:
        raise ConfigError(f"{free[0]} and {free[1]} are both -1; only one can be all that is left")
    if given["train.steps"] and given["train.epochs"]:
        raise ConfigError(
            f"train.steps={given['train.steps']} and train.epochs={given['train.epochs']:g} are "
            "both set; set one of them to 0"
        )
    if task == "detect" and min(given["data.image_size"]) < 32:
        raise ConfigError(
            f"data.image_size: got {tuple(given['data.image_size'])}; a detector wants at least "
            "32, its coarsest stride, on each side"
        )
    for name, times in Counter(given["data.classes"]).items():
        if times > 1:
            raise ConfigError(f"data.classes: {name!r} stands there {times} times; name it once")
    if len(given["data.sizes"]) == 1:
        raise ConfigError("data.sizes: one size alone is data.image_size; give several, or none")
    if given["train.patience"] and not given["eval.every_steps"]:
        raise ConfigError(
            f"train.patience={given['train.patience']}: counts evaluations, and eval.every_steps=0 "
            "makes one at the end; set eval.every_steps, -1 for ten in a run"
        )
    if given["optimizer.nesterov"] and given["optimizer.name"] != "sgd":
        raise ConfigError(
            f"optimizer.nesterov: only optimizer.name sgd uses it, and this is "
            f"{given['optimizer.name']}"
        )
    if given["optimizer.nesterov"] and not given["optimizer.momentum"]:
        raise ConfigError("optimizer.nesterov: is a form of momentum, and optimizer.momentum is 0")
    metrics = ("", *(DETECT_METRICS if task == "detect" else CLASSIFY_METRICS))
    if given["checkpoint.best_metric"] not in metrics:
        raise ConfigError(
            f"checkpoint.best_metric: got {given['checkpoint.best_metric']!r}, but task {task} "
            f"measures {', '.join(metrics[1:])}"
        )
    return config


def check_complete(config: ConfigDict) -> None:
    """Refuses a config that does not yet say what to train: no model, or no data."""
    if not config.model.name:
        raise ConfigError(
            "model.name: not set; give it in the recipe or as --config.model.name=NAME"
        )
    check_data_named(config)


def check_data_named(config: ConfigDict) -> None:
    """Refuses a config that does not say which data."""
    if config.data.format not in ("auto", "tfds") and not config.data.root:
        raise ConfigError(
            f"data.root: not set, and data.format {config.data.format} reads a folder; "
            "give --config.data.root=DIR"
        )
    if not config.data.root and not config.data.name:
        raise ConfigError(
            "data.root: not set; give the folder of the data as --config.data.root=DIR, "
            "or a TFDS data set as --config.data.name=NAME"
        )


# Going on with a run, and the file that holds its config.


def changed_keys(old: ConfigDict, new: ConfigDict) -> list[str]:
    """The keys whose values differ, in the table's order."""
    before, now = dict(flatten(old)), dict(flatten(new))
    names = [*KEYS, *(name for name in [*before, *now] if name not in KEYS)]
    absent = object()
    return [n for n in dict.fromkeys(names) if before.get(n, absent) != now.get(n, absent)]


def may_change_on_resume(name: str) -> bool:
    """Whether a run can go on with another value of this key and still be the same run."""
    return any(name == prefix or name.startswith(prefix + ".") for prefix in RESUME_MAY_CHANGE)


def check_resume(old: ConfigDict, new: ConfigDict) -> None:
    """Raises ConfigError if going on from `old` with `new` would make it another run."""
    refused = [name for name in changed_keys(old, new) if not may_change_on_resume(name)]
    if refused:
        before, now = dict(flatten(old)), dict(flatten(new))
        changes = ", ".join(f"{n} ({before.get(n)!r} -> {now.get(n)!r})" for n in refused)
        raise ConfigError(
            f"the workdir holds another run: {changes} changed; "
            "take the change back or give a new --workdir"
        )


def to_json(config: ConfigDict) -> str:
    """The whole config as JSON text, for `config.json`; `from_json` reads it back equal."""
    return json.dumps(_nest(dict(flatten(config))), indent=2) + "\n"


def from_json(text: str) -> ConfigDict:
    """The checked config of `to_json`'s text. A key that it lacks takes its default.

    Raises ConfigError if the text is no JSON, or holds a wrong key or value.
    """
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"not a config in JSON: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"not a config in JSON: got {type(tree).__name__}, wanted an object")
    return check(_locked(_all_defaults() | dict(flatten(tree))))


def describe() -> str:
    """The table of keys as text: each key's default, type or choices, range and meaning."""
    lines = ["Every key of the config, its default, and what it may be."]
    group = None
    for name, key in KEYS.items():
        if name.partition(".")[0] != group and ("." in name or group is None):
            lines.append("")
        group = name.partition(".")[0] if "." in name else ""
        default = "(required)" if name == "task" else repr(key.default)
        note = f"; task {key.task} only" if key.task else ""
        lines.append(f"{name} = {default}")
        text = f"{key.doc} [{_wanted(key)}{note}]"
        lines += textwrap.wrap(text, 96, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)
