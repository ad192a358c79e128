"""Values of config keys: checking Python values and parsing the text of overrides."""

import ast
import math
import numbers
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from convmesh.config.keys import KEYS, Key, unknown_key
from convmesh.errors import ConfigError, nearest


def check_value(name: str, value: Any) -> Any:
    """`value` converted to the type of the key `name`.

    Raises ConfigError if there is no such key, or if the value has another type or is out of range.
    """
    if name not in KEYS:
        raise ConfigError(unknown_key(name))
    key = KEYS[name]
    try:
        converted = KINDS[key.kind].convert(value)
    except (TypeError, ValueError):
        raise _wrong_value(name, value) from None
    if key.choices and converted not in key.choices:
        raise _wrong_value(name, value)
    if key.within is not None:
        members = converted if isinstance(converted, tuple) else (converted,)
        if not all(number in key.within for number in members):
            raise _wrong_value(name, value)
    return converted


def parse_value(name: str, text: str) -> Any:
    """The checked value of `text`, the value in an override of the key `name`.

    Raises ConfigError like `check_value`.
    """
    if name not in KEYS:
        raise ConfigError(unknown_key(name))
    try:
        value = KINDS[KEYS[name].kind].parse(text)
    except (ValueError, KeyError):
        raise _wrong_value(name, text) from None
    return check_value(name, value)


def allowed(key: Key) -> str:
    """The values that `key` allows, in words."""
    if key.choices:
        return "one of " + ", ".join(choice or "''" for choice in key.choices)
    words = KINDS[key.kind].words
    if key.within is None:
        return words
    return f"{words}{', each' if isinstance(key.default, tuple) else ','} {key.within}"


def _wrong_value(name: str, value: Any) -> ConfigError:
    key = KEYS[name]
    hint = nearest(value, key.choices) if isinstance(value, str) else ""
    return ConfigError(f"{name}: got {value!r}, wanted {allowed(key)}{hint}")


# Conversions of Python values. Each raises TypeError or ValueError if the value has another type.


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


def _sequence(value: Any) -> list[Any]:
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


def _triple(value: Any) -> tuple[float, float, float]:
    first, second, third = map(_float, _sequence(value))
    return first, second, third


def _floats(value: Any) -> tuple[float, ...]:
    return tuple(map(_float, _sequence(value)))


def _strs(value: Any) -> tuple[str, ...]:
    return tuple(map(_str, _sequence(value)))


# Readers of the text of an override. Each raises ValueError or KeyError if it cannot be read.


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


def _parse_ints(text: str) -> list[int]:
    return [int(item) for item in _parse_list(text)]


def _parse_floats(text: str) -> list[float]:
    return [float(item) for item in _parse_list(text)]


@dataclass(frozen=True)
class Kind:
    """A type of value.

    words: its name in error messages. convert: checks a Python value. parse: reads a text, whose
    result `convert` then checks.
    """

    words: str
    convert: Callable[[Any], Any]
    parse: Callable[[str], Any]


KINDS: dict[str, Kind] = {
    "int": Kind("an integer", _int, int),
    "float": Kind("a number", _float, float),
    "bool": Kind("true or false", _bool, _parse_bool),
    "str": Kind("text", _str, str),
    "auto_bool": Kind("auto, true or false", _auto_bool, str),
    "ints": Kind("two integers, as in (192, 256)", _ints, _parse_ints),
    "interval": Kind("(low, high), two numbers with low <= high", _interval, _parse_floats),
    "triple": Kind("three numbers, as in (0.5, 0.5, 0.5)", _triple, _parse_floats),
    "floats": Kind("a list of numbers, as in (0.75, 1, 1.25)", _floats, _parse_floats),
    "strs": Kind("a list of names, as in cat,dog", _strs, _parse_list),
}
