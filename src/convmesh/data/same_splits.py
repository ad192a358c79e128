"""Checks that all processes see the same data: each reads its own part of every batch."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from convmesh.data.record import Source, identity
from convmesh.distributed import console, processes, same_run
from convmesh.errors import DataError, some

SAMPLED = 2000  # largest number of examples of a split whose labels and file sizes are compared
MOST_NAMES = 200_000  # that are sent to the other processes, to say which differ
_BLOCK = 1000  # names that are compared at once where there are more
_ADVICE = "give every process the same data"


def check_same_splits(sources: Mapping[str, Source]) -> None:
    """Raises DataError, on every process, if the splits differ between processes.

    sources: by their use, such as "training". Compared are the names of splits, classes and
    examples, and, of up to SAMPLED examples, labels and boxes. Image files of other sizes are only
    reported: one may be damaged on one machine, and skipped. Waits for a process that opens its
    data later, see `processes.wait_for_others`.
    """
    if processes.count() == 1:
        return
    stated: dict[str, Any] = {}
    for use, source in sources.items():
        stated |= {f"{use} {name}": value for name, value in _statement(source).items()}
    for difference in same_run.differences(stated, "open its data"):
        use, _, name = difference.name.partition(" ")
        source = sources[use]
        if name == "sizes":
            differ = _sampled(source, "the sizes of image files differ", source.stated_size)
            console.print_status(f"warning: {differ}")
        elif name == "truth":
            differ = _sampled(source, "labels or boxes differ", source.stated_truth)
            raise DataError(f"{differ}; {_ADVICE}")
        else:
            described = {"classes": _classes, "examples": _examples}.get(name)
            raise DataError(f"{described(source) if described else difference}; {_ADVICE}")


def _statement(source: Source) -> dict[str, Any]:
    """What is compared, in the order in which differences are reported."""
    return {
        "split": source.split,
        "classes": tuple(source.classes),
        "category ids": source.category_ids,
        "examples": identity(source),
        "truth": _digest(source, source.stated_truth),
        "sizes": _digest(source, source.stated_size),
    }


def _digest(source: Source, stated: Callable[[int], bytes]) -> str:
    """A digest of what is stated of the sampled examples."""
    return hashlib.sha256(b"".join(_digests(source, stated))).hexdigest()


def _digests(source: Source, stated: Callable[[int], bytes]) -> list[bytes]:
    return [hashlib.sha256(stated(i)).digest()[:8] for i in _sample(source)]


def _sample(source: Source) -> list[int]:
    """Indices of at most SAMPLED examples, evenly spread."""
    spread = np.linspace(0, len(source) - 1, min(SAMPLED, len(source)))
    return [int(i) for i in np.unique(spread.astype(int))]


def _classes(source: Source) -> str:
    """How the classes of the processes differ."""
    everyone = processes.gather(source.classes)
    first = everyone[0]
    said = []
    for process, classes in enumerate(everyone):
        if classes == first:
            continue
        more, less = sorted(set(classes) - set(first)), sorted(set(first) - set(classes))
        words = [f"has also {some(more)}"] * bool(more) + [f"lacks {some(less)}"] * bool(less)
        words = words or ["has them in another order"]
        said.append(f"{processes.named([process])} {' and '.join(words)}")
    return f"the classes of process 0 are {some(first, 10)}; {'; '.join(said[:3])}"


def _examples(source: Source) -> str:
    """How the names of the examples of the processes differ; each compares its own with those of
    process 0.
    """
    if max(processes.gather(len(source))) > MOST_NAMES:
        return _first_difference(source)
    names = list(source.all_names())
    first = processes.broadcast(names)
    less, more = sorted(set(first) - set(names)), sorted(set(names) - set(first))
    words = [f"lacks {some(less)}"] * bool(less) + [f"has also {some(more)}"] * bool(more)
    words = words or ["has them in another order"] * (names != first)
    everyone = processes.gather((len(names), " and ".join(words)))
    said = [
        f"{processes.named([i])} has {count} and {text}"
        for i, (count, text) in enumerate(everyone)
        if text
    ]
    return f"split {source.split}: process 0 has {len(first)} images, {'; '.join(said[:3])}"


def _first_difference(source: Source) -> str:
    """The same where the names are too many to be sent: from which example on they differ."""
    names, blocks = source.all_names(), []
    while block := list(itertools.islice(names, _BLOCK)):
        text = "\n".join(block).encode("utf-8", "surrogateescape")
        blocks.append(hashlib.sha256(text).digest()[:8])
    first = processes.broadcast(blocks)
    differs = [one != other for one, other in zip(blocks, first, strict=False)]
    equal = differs.index(True) if True in differs else len(differs)
    everyone = processes.gather((len(source), equal * _BLOCK, blocks == first))
    said = [
        f"{processes.named([i])} has {count} and differs from example {at} on"
        for i, (count, at, same) in enumerate(everyone)
        if not same
    ]
    return f"split {source.split}: process 0 has {everyone[0][0]} images, {'; '.join(said[:3])}"


def _sampled(source: Source, what: str, stated: Callable[[int], bytes]) -> str:
    """Of which of the sampled examples something that is stated differs from process 0's."""
    digests = _digests(source, stated)
    first = processes.broadcast(digests)
    names = [source.name(i) for i in _sample(source)]
    differing = [n for n, a, b in zip(names, digests, first, strict=True) if a != b]
    everyone = processes.gather(differing)
    said = [f"{processes.named([i])}: {some(names)}" for i, names in enumerate(everyone) if names]
    return f"split {source.split}: {what} from process 0's on {'; '.join(said[:3])}"
