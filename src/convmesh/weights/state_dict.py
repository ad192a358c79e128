"""Finds the state dict in the nested dictionaries of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from convmesh.errors import some
from convmesh.weights.binary_file import Refused, printable
from convmesh.weights.torch_objects import Tensor

# Under which checkpoints keep their weights, those to be preferred first: averaged weights are the
# ones that were evaluated. From the training programs of torchvision, timm, detectron and others.
_WRAPPERS = (
    "model_ema",
    "state_dict_ema",
    "ema_state_dict",
    "ema",
    "params_ema",
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "params",
    "weights",
)
# What DataParallel and torch.compile put in front of each name.
_PREFIXES = ("module.", "_orig_mod.")
_COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel, beside the names
_MOST_NAMES = 100_000
_MOST_VALUES = 1_000_000  # that are looked at
_DEEPEST = 16
_Value = TypeVar("_Value")


def state_dict(value: Any) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name; names of nested dictionaries joined by dots.

    Raises Refused if it has none.
    """
    if not isinstance(value, dict):
        raise Refused(f"it holds one {type(value).__name__.lower()}, not arrays with names")
    budget = _Budget()
    found: dict[str, Tensor] = {}
    for name, tensor in _tensors(_weights_of(value, budget), budget, ()):
        if len(found) == _MOST_NAMES:
            raise Refused(f"it has more than {_MOST_NAMES} names")
        if name in found:
            raise Refused(f"it has two arrays of the name {printable(name[:100])}")
        found[name] = tensor
    if not found:
        keys = printable(some([str(key)[:40] for key in value], shown=8)) or "none"
        raise Refused(f"it holds no arrays with names; its keys: {keys}")
    return found


def _weights_of(value: dict[Any, Any], budget: _Budget) -> dict[Any, Any]:
    """Return the dictionary inside `value` that holds the weights, or `value`."""
    for _ in range(_DEEPEST):
        dicts = {key: v for key, v in value.items() if isinstance(v, dict)}
        inner = [key for key in _WRAPPERS if key in dicts and _has_tensors(dicts[key], budget)]
        if not inner and not any(isinstance(v, Tensor) for v in value.values()):
            inner = [key for key in dicts if _has_tensors(dicts[key], budget)]
            inner = inner if len(inner) == 1 else []
        if not inner:
            break
        value = dicts[inner[0]]
    return value


def _has_tensors(value: dict[Any, Any], budget: _Budget) -> bool:
    return next(_tensors(value, budget, ()), None) is not None


class _Budget:
    """How many values may still be looked at: a pickle may hold one dictionary many times."""

    def __init__(self) -> None:
        self.left = _MOST_VALUES

    def take(self) -> None:
        """Count one value."""
        self.left -= 1
        if self.left < 0:
            raise Refused("its dictionaries hold too many values")


def _tensors(
    value: dict[Any, Any], budget: _Budget, path: tuple[str, ...]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and description of each tensor in nested dictionaries."""
    if len(path) > _DEEPEST:
        raise Refused("its dictionaries are nested too deeply")
    for key, item in value.items():
        budget.take()
        if isinstance(item, Tensor):
            yield ".".join([*path, str(key)]), item
        elif isinstance(item, dict):
            yield from _tensors(item, budget, (*path, str(key)))


def without_prefix(named: dict[str, _Value]) -> dict[str, _Value]:
    """Return what has names, without a prefix that DataParallel or torch.compile gave them all."""
    while True:
        names = [name for name in named if name != _COUNTER]
        prefix = next((p for p in _PREFIXES if all(n.startswith(p) for n in names)), None)
        if prefix is None or not names:
            return named
        named = {name.removeprefix(prefix): named[name] for name in names}
