"""Class names as plots show them: readable, and different where the classes are."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from convmesh.plots.scripts import is_altered, readable


def shown_names(
    names: Sequence[str], labels: Iterable[int] | None = None, shorten: Callable[[str], str] = str
) -> list[str]:
    """Return each class name as it is shown.

    A name whose script has no font is written in Latin letters. It carries the class id, as in
    `Mao #3`, since other names may be written the same; so do different names that look the same.

    Args:
      names: [n] class names; a name may be there twice.
      labels: [n] class ids, by default 0 to n - 1.
      shorten: makes a long name shorter before names are compared.
    """
    ids = range(len(names)) if labels is None else labels
    return list(_shown(tuple(map(str, names)), tuple(map(int, ids)), shorten))


@functools.lru_cache(maxsize=64)
def _shown(
    names: tuple[str, ...], labels: tuple[int, ...], shorten: Callable[[str], str]
) -> tuple[str, ...]:
    distinct = dict.fromkeys(names)
    looks = {name: " ".join(shorten(readable(name)).split()) for name in distinct}
    count = Counter(looks.values())
    needs_id = {n for n in distinct if count[looks[n]] > 1 or not looks[n] or is_altered(n)}
    return tuple(
        f"{looks[name]} #{label}".strip() if name in needs_id else looks[name]
        for name, label in zip(names, labels, strict=True)
    )
