"""The variables of a model from arrays under torch's names and in its layout, and back.

A model's method `torch_names()` says which torch module each of its layers is: {"stage1_block1/
conv1/conv": "layer1.0.conv1", ...}, a path in the variables to a prefix in the state dict. The
rest is the same for all models:

| here | in torch |
|---|---|
| `kernel` of a convolution, [kh, kw, in / groups, out] | `weight`, [out, in / groups, kh, kw] |
| `kernel` of a dense layer, [in, out] | `weight` of a Linear, [out, in] |
| `scale` of a norm | `weight` |
| `bias` | `bias` |
| `mean`, `var` in `batch_stats` | `running_mean`, `running_var` |
| a parameter [c] that has a name of its own | the parameter of that name, [c, 1, 1] |

`num_batches_tracked`, which counts steps of training, is ignored. Only numpy is used.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from convmesh.errors import DataError, some

# The name of a leaf, and of the array that torch has for it.
LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
IGNORED = "num_batches_tracked"
# `with_epsilon` makes variances of 0 as low as -1e-5, which an export has then.
_LEAST_VARIANCE = -1.001e-5


class Misshaped(NamedTuple):
    """An array of another shape than the model's, both as torch has them."""

    name: str
    found: tuple[int, ...]
    wanted: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Fit:
    """How a set of arrays fits a model, by torch's names. What is in no list was taken."""

    taken: tuple[str, ...]
    missing: tuple[str, ...]  # of the model, without an array
    extra: tuple[str, ...]  # arrays that the model has no place for
    misshaped: tuple[Misshaped, ...]

    @property
    def complete(self) -> bool:
        """Whether every array of the model was found, in its shape, and no other array."""
        return not (self.missing or self.extra or self.misshaped)

    def lines(self) -> list[str]:
        """One line for each array that does not fit."""
        return [
            *(f"{name}: missing" for name in self.missing),
            *(f"{name}: not in the model" for name in self.extra),
            *(
                f"{a.name}: {list(a.found)}, the model's is {list(a.wanted)}"
                for a in self.misshaped
            ),
        ]

    def require_complete(self, source: str, model: str) -> None:
        """Raises DataError, in one line, if the arrays of `source` do not fit `model` exactly."""
        if self.complete:
            return
        other = [f"{a.name} {list(a.found)} for {list(a.wanted)}" for a in self.misshaped]
        parts = (("missing", self.missing), ("not in the model", self.extra), ("misshaped", other))
        found = "; ".join(f"{len(names)} {what}: {some(names)}" for what, names in parts if names)
        raise DataError(f"{source}: {len(self.taken)} weights fit {model}, but {found}")


def from_torch(
    names: Mapping[str, str], abstract: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any], Fit]:
    """The variables of a model from a state dict, and how it fitted.

    Args:
      names: of the model's `torch_names()`.
      abstract: its variables {"params": ..., "batch_stats": ...}, nested dicts with leaves that
        have `shape` and `dtype`.
      arrays: the state dict, as numpy arrays.

    Returns:
      Nested dicts as `abstract`, of numpy arrays of its dtypes, without the leaves for which there
      is no array of the right shape; and a `Fit` that lists these.

    Raises:
      ValueError: `names` does not have each layer of the model exactly once.
    """
    found: dict[str, Any] = {}
    taken, missing, misshaped = [], [], []
    wanted = list(_leaves(names, abstract))
    for leaf in wanted:
        array = arrays.get(leaf.name)
        if array is None:
            missing.append(leaf.name)
        elif (value := leaf.from_torch(array)) is None:
            misshaped.append(Misshaped(leaf.name, tuple(array.shape), leaf.torch_shape))
        else:
            taken.append(leaf.name)
            _put(found, leaf.path, value)
    known = {leaf.name for leaf in wanted}
    extra = [n for n in arrays if n not in known and n.rpartition(".")[2] != IGNORED]
    return found, Fit(tuple(taken), tuple(missing), tuple(extra), tuple(misshaped))


def check_values(source: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises DataError, in one line, for values that no trained net has.

    These are values that are not finite, and negative running variances.
    """
    unlike = {
        "values that are not finite": lambda name, array: ~np.isfinite(array),
        "negative variances": lambda name, array: _is_variance(name) and array < _LEAST_VARIANCE,
    }
    for what, test in unlike.items():
        counts = {name: np.count_nonzero(test(name, array)) for name, array in arrays.items()}
        bad = {name: count for name, count in counts.items() if count}
        if bad:
            name, count = next(iter(bad.items()))
            raise DataError(
                f"{source}: {len(bad)} of its arrays have {what}, first {name}, {count} of its "
                f"{arrays[name].size} values: it is damaged, or its training failed"
            )


def _is_variance(name: str) -> bool:
    return name.rpartition(".")[2] == LEAVES["var"]


def with_epsilon(
    arrays: Mapping[str, np.ndarray], epsilon: float, ours: float = 1e-5
) -> dict[str, np.ndarray]:
    """A state dict of batch norms with `epsilon` as one of the same function with that of `ours`.

    A norm divides by sqrt(running_var + epsilon), so only the running variances change.
    """

    def changed(name: str, array: np.ndarray) -> np.ndarray:
        if not _is_variance(name):
            return array
        return array.astype(np.float64) + (epsilon - ours)

    return {name: changed(name, array) for name, array in arrays.items()}


def to_torch(names: Mapping[str, str], variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The state dict of a model's variables, contiguous numpy arrays; the inverse of `from_torch`.

    Without `num_batches_tracked`, which torch's `load_state_dict` does not need. Raises ValueError
    if `names` does not have each layer of the model exactly once.
    """
    return {leaf.name: leaf.to_torch() for leaf in _leaves(names, variables)}


def names_of_leaves(
    names: Mapping[str, str], variables: Mapping[str, Any]
) -> dict[str, tuple[int, ...]]:
    """The name and the shape that torch has for each array of a model's variables.

    Raises ValueError as `from_torch`.
    """
    return {leaf.name: leaf.torch_shape for leaf in _leaves(names, variables)}


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """A leaf of the variables, and its name in torch."""

    path: tuple[str, ...]  # from the collection on
    name: str
    value: Any  # an array, or its shape and dtype
    own: bool  # a parameter with a name of its own, not of a layer

    @property
    def kernel(self) -> bool:
        return self.path[-1] == "kernel" and not self.own

    @property
    def torch_shape(self) -> tuple[int, ...]:
        shape = tuple(self.value.shape)
        if self.kernel:
            return shape[::-1] if len(shape) == 2 else (shape[3], shape[2], *shape[:2])
        return (*shape, 1, 1) if self.own and len(shape) == 1 else shape

    def from_torch(self, array: np.ndarray) -> np.ndarray | None:
        """`array` in the layout and dtype of the model; None if it has another shape.

        A Linear and a 1x1 convolution hold the same numbers, and either is accepted, as is a
        parameter of channels with or without axes of length 1.
        """
        shape = self.torch_shape
        if tuple(array.shape) != shape:
            free = self.own or (self.kernel and shape[2:] in ((), (1, 1)))
            if not free or _bare(tuple(array.shape)) != _bare(shape):
                return None
            array = array.reshape(shape)
        if self.kernel:
            array = array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0)
        value = array.reshape(self.value.shape).astype(self.value.dtype)
        return np.ascontiguousarray(value)

    def to_torch(self) -> np.ndarray:
        array = np.asarray(self.value)
        if self.kernel:
            array = array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)
        return np.ascontiguousarray(array.reshape(self.torch_shape))


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the axes of length 1 at its end."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _leaves(names: Mapping[str, str], variables: Mapping[str, Any]) -> Iterator[_Leaf]:
    """Every leaf of `variables` with its name in torch."""
    used, seen = set(), set()
    for collection in ("params", "batch_stats"):
        for path, value in _flat(variables.get(collection, {})):
            own, layer = "/".join(path), "/".join(path[:-1])
            if own in names:
                name = names[own]
            elif layer in names and path[-1] in LEAVES:
                name = f"{names[layer]}.{LEAVES[path[-1]]}"
            else:
                raise ValueError(f"torch_names: no name for {own}")
            if name in seen:
                raise ValueError(f"torch_names: {name} is named twice")
            seen.add(name)
            used.add(own if own in names else layer)
            yield _Leaf((collection, *path), name, value, own in names)
    if unused := names.keys() - used:
        raise ValueError(f"torch_names: the model has no {some(sorted(unused))}")


def _flat(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """(path, leaf) of nested dicts."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, (*path, name))
        else:
            yield (*path, name), value


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Sets a leaf of nested dicts, which are made as needed."""
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value
