"""The data order: a function of seed and position, without state."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from ml_collections import ConfigDict

from convmesh.data.record import Source
from convmesh.errors import ConfigError

_ORDER, _CLASS_ORDER = 1, 6  # separate these random streams from others that use the same seed


@dataclass(frozen=True)
class DataOrder:
    """Maps the global position of an example in a run to an example of the split.

    size: examples of the split. classes: if classes with few images are drawn more often, how.
    """

    size: int
    seed: int
    classes: ClassOrder | None = None

    @classmethod
    def of(cls, source: Source, config: ConfigDict) -> DataOrder:
        """Return the order of a run of `config`. Raises ConfigError as `labels_for`."""
        balance = config.data.balance
        classes = None
        if config.task == "classify" and balance:
            labels = labels_for(f"data.balance={balance:g}", source)
            classes = ClassOrder.of(labels, balance, config.train.seed)
        return cls(len(source), config.train.seed, classes)

    def __call__(self, position: int) -> tuple[int, int]:
        """Return (epoch, index): how often the example was drawn before, and which it is."""
        epoch, index = example_at(position, self.size, self.seed)
        return self.classes.example_at(epoch, index) if self.classes else (epoch, index)

    def substitutes(self, index: int) -> Iterator[int]:
        """Yield `index` and what to take instead, in turn, if it cannot be read: the next example.

        Where classes have places of their own, those of its class come first.
        """
        yield index
        if self.classes:  # looked for only now: hardly an example is unreadable
            yield from self.classes.classmates(index)
        yield from range(index + 1, self.size)
        yield from range(index)


@dataclass(frozen=True)
class ClassOrder:
    """The order of the examples of each class, where an epoch holds others than each once.

    Each class has so many of the places of an epoch, and fills them with its examples in turn, in a
    permutation that is new when all have been drawn.

    order: int [n], the examples by class. starts: int [classes + 1], where each class begins among
    them. places: int [classes + 1], the same for the places of an epoch.
    """

    seed: int
    order: np.ndarray = field(repr=False)
    starts: np.ndarray = field(repr=False)
    places: np.ndarray = field(repr=False)

    @classmethod
    def of(cls, labels: np.ndarray, balance: float, seed: int) -> ClassOrder:
        """Return the order for the class ids `labels` int [n], see `data.balance`."""
        counts = np.bincount(labels)
        share = np.where(counts > 0, np.maximum(counts, 1.0) ** (1 - balance), 0)
        exact = share * (len(labels) / share.sum())
        places = np.floor(exact).astype(np.int64)
        # The largest remainders get the places that are left.
        left = len(labels) - int(places.sum())
        places[np.argsort(places - exact, kind="stable")[:left]] += 1
        starts, ends = (np.concatenate([[0], np.cumsum(n)]) for n in (counts, places))
        return cls(seed, np.argsort(labels, kind="stable"), starts, ends)

    def example_at(self, epoch: int, place: int) -> tuple[int, int]:
        """Return (how often it was drawn before, index) of the example at a place of an epoch."""
        label = int(np.searchsorted(self.places, place, side="right")) - 1
        first, end = self.places[label : label + 2].tolist()
        start, stop = self.starts[label : label + 2].tolist()
        drawn, at = divmod(epoch * (end - first) + place - first, stop - start)
        order = _class_permutation(stop - start, self.seed, label, drawn)
        return drawn, int(self.order[start + order[at]])

    def classmates(self, index: int) -> list[int]:
        """Return the other examples of the class of `index`: those after it, then those before."""
        (place,) = np.flatnonzero(self.order == index).tolist()
        label = int(np.searchsorted(self.starts, place, side="right")) - 1
        first, end = self.starts[label : label + 2].tolist()
        return [*self.order[place + 1 : end].tolist(), *self.order[first:place].tolist()]


def labels_for(key: str, source: Source) -> np.ndarray:
    """Return the class id of each example, int [n], for the config's `key`.

    Raises ConfigError if they are known only from the images.
    """
    labels = source.single_labels()
    if labels is None:
        raise ConfigError(
            f"{key}: the classes of split {source.split!r} are stated only beside each image; use "
            "folders of classes, or leave it at 0"
        )
    return labels


def class_weights(labels: np.ndarray, classes: int, balance: float) -> tuple[float, ...]:
    """Return the weight of each class in the loss: its count to the power -`balance`, scaled.

    The mean over the examples, with class ids `labels` int [n], is 1.
    """
    counts = np.bincount(labels, minlength=classes)
    weights = np.maximum(counts, 1.0) ** -balance
    return tuple((weights * len(labels) / (weights * counts).sum()).tolist())


def example_at(position: int, size: int, seed: int) -> tuple[int, int]:
    """Return (epoch, index) of the example at global `position` of a run over `size` examples.

    Each epoch has its own permutation; positions continue across the end of an epoch, so no example
    is dropped or repeated if the batch size does not divide `size`.
    """
    epoch, offset = divmod(position, size)
    return epoch, int(_epoch_permutation(size, seed, epoch)[offset])


@functools.lru_cache(maxsize=4)  # a batch touches two epochs at most, prefetching a few batches
def _epoch_permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    return permutation(size, (seed, _ORDER, epoch))


def _class_permutation(size: int, seed: int, label: int, drawn: int) -> np.ndarray:
    # Those of two rounds of a class: batches that are read ahead may be of the next.
    kept = _class_permutations.setdefault((size, seed, label, drawn % 2), (-1, np.zeros(0, int)))
    if kept[0] != drawn:
        kept = drawn, permutation(size, (seed, _CLASS_ORDER, label, drawn))
        _class_permutations[size, seed, label, drawn % 2] = kept
    return kept[1]


# By size, seed, label and the round's parity: the round, and its permutation.
_class_permutations: dict[tuple[int, int, int, int], tuple[int, np.ndarray]] = {}


def permutation(size: int, key: tuple[int, ...]) -> np.ndarray:
    """Return a permutation of 0..size-1, int64 [size]: a function of `size` and `key` alone.

    Sorts raw random words: numpy guarantees the stream of a bit generator across versions, but not
    the result of `Generator.permutation`.
    """
    words = np.random.Philox(np.random.SeedSequence(key)).random_raw(size)
    return np.argsort(words, kind="stable")
