"""The outputs of classes, taken over from weights of other classes where the names are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Shapes = Mapping[Any, tuple[int, ...]]  # of arrays, by name


@dataclass(frozen=True)
class Columns:
    """Which columns of an array, along its last axis, are those of another array."""

    source: np.ndarray  # int [columns]: the index there
    taken: np.ndarray  # bool [columns]

    def merge(self, loaded: Any, initial: jax.Array) -> jax.Array:
        """`initial` with the columns of `loaded` that are taken, in its sharding."""

        def merged(loaded: jax.Array, initial: jax.Array) -> jax.Array:
            return jnp.where(self.taken, loaded[..., self.source], initial)

        return jax.jit(merged, out_shardings=initial.sharding)(loaded, initial)


def same_names(new: Sequence[str], old: Sequence[str]) -> dict[int, int]:
    """By the index of a class in `new`, that of the same name in `old`, in whatever case."""
    there = {name.casefold(): i for i, name in enumerate(old)}
    return {i: there[n.casefold()] for i, n in enumerate(new) if n.casefold() in there}


@dataclass(frozen=True)
class ClassOutputs:
    """Where the outputs of classes are in the arrays of a model, and which are whose elsewhere.

    counts: the classes of this model, and of the other one. same: see `same_names`. classes_first:
    whether the columns of a class are side by side, else those of an anchor. Background, if the
    model has it, comes before the classes.
    """

    counts: tuple[int, int]
    same: Mapping[int, int]
    classes_first: bool

    def find(self, here: Shapes, one_more: Shapes, there: Shapes) -> dict[Any, Columns]:
        """The columns to take over of each array of class outputs that has another shape there, or
        the same with some classes at another place. (Where all names that are known there stay at
        their place, other names are taken for new names of the same classes.)

        These arrays are known by their shapes `one_more`, in a model of one class more.
        """
        found = {}
        moved = any(i != j for i, j in self.same.items())
        for name, shape in here.items():
            if one_more[name] == shape or name not in there:
                continue
            if there[name] != shape or moved:
                columns = self._columns(shape, one_more[name][-1] - shape[-1], there[name])
                if columns is not None:
                    found[name] = columns
        return found

    def _columns(self, here: tuple, per_class: int, there: tuple) -> Columns | None:
        new, old = self.counts
        background = here[-1] // per_class - new
        if there != (*here[:-1], per_class * (old + background)):
            return None
        classes = np.full(new + background, -1)
        classes[:background] = np.arange(background)
        for mine, other in self.same.items():
            classes[background + mine] = background + other
        parts = np.arange(per_class)
        if self.classes_first:
            source = classes[:, None] * per_class + parts
            taken = np.repeat(classes >= 0, per_class)
        else:
            source = parts[:, None] * (old + background) + classes
            taken = np.tile(classes >= 0, per_class)
        return Columns(np.where(taken, source.ravel(), 0), taken)
