"""Every example of a run opened once; what is kept is enough to judge the data, and no pixels."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from convmesh.data.annotated import Annotated, AnnotatedSource
from convmesh.data.problems import Problem
from convmesh.data.record import BadExample, Source
from convmesh.errors import DataError

_THREADS = min(16, os.cpu_count() or 1)  # decoding and hashing run beside each other
_AT_ONCE = 1024  # examples handed to the threads; a million at once would be a million promises


def _no_marks() -> np.ndarray:
    return np.zeros(0, bool)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of one example.

    problems: each with the config key whose policy decides on it. size: (height, width) of the
    upright image, or None where it cannot be used. boxes: float64 [n, 4] in pixels of it, as
    stated. labels: int64 [n], class ids of the boxes; of a classification example one, without a
    box. bad, crowd, difficult: bool [n]. digest: of the pixels. doubts: (kind, what) of the image.
    """

    problems: list[tuple[Problem, str]]
    size: tuple[int, int] | None = None
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    bad: np.ndarray = field(default_factory=_no_marks)
    crowd: np.ndarray = field(default_factory=_no_marks)
    difficult: np.ndarray = field(default_factory=_no_marks)
    digest: bytes = b""
    doubts: tuple[tuple[str, str], ...] = ()

    @property
    def sound(self) -> np.ndarray:
        """Bool [n]: objects that can be learnt, without bad boxes and regions to ignore."""
        return ~(self.bad | self.crowd)


@dataclass
class Part:
    """Examples `indices` of `source`, which a run trains on or evaluates under the name `split`."""

    split: str
    source: Source
    indices: Sequence[int]
    seen: list[Seen] = field(default_factory=list)

    def __len__(self) -> int:
        """Return how many examples there are."""
        return len(self.indices)

    def name(self, i: int) -> str:
        """Return what people call the image of example `i`."""
        return self.source.name(self.indices[i])

    def path(self, i: int) -> str:
        """Return what two examples have in common that are the same file."""
        one = self.annotated(i)
        return self.name(i) if one is None else str(one.path)

    def file(self, i: int) -> str:
        """Return what people call the file that says what is on image `i`."""
        one = self.annotated(i)
        return self.name(i) if one is None else one.annotation or one.name

    def place(self, i: int, box: int) -> str:
        """Return where a box of example `i` stands in that file."""
        one = self.annotated(i)
        return f"box {box}" if one is None else one.place(box)

    def annotated(self, i: int) -> Annotated | None:
        """Return what annotation files say of example `i`, where the source has such."""
        if not isinstance(self.source, AnnotatedSource):
            return None
        return self.source.annotated(self.indices[i])

    def pixels(self, i: int) -> np.ndarray | None:
        """Return image `i`, uint8 [height, width, 3]; None where it cannot be used."""
        if isinstance(self.source, AnnotatedSource):
            return self.source.look(self.indices[i]).image
        try:
            return self.source[self.indices[i]].image
        except DataError:
            return None


def see(parts: Sequence[Part], skip_bad: bool, progress: Callable[[int, int], None]) -> None:
    """Open all examples of `parts` and keep what was seen of them in `Part.seen`.

    skip_bad: whether training passes by what it cannot read. progress: told how many of how many
    are done.
    """
    total, done = sum(map(len, parts)), 0
    with ThreadPoolExecutor(_THREADS) as pool:
        for part in parts:
            part.seen = []
            look = functools.partial(_look, part.source, skip_bad)
            for start in range(0, len(part), _AT_ONCE):
                for seen in pool.map(look, part.indices[start : start + _AT_ONCE]):
                    part.seen.append(seen)
                    done += 1
                    progress(done, total)


def _look(source: Source, skip_bad: bool, index: int) -> Seen:
    """Return what is seen of example `index`."""
    if isinstance(source, AnnotatedSource):
        return _annotated(source, index)
    return _any(source, index, skip_bad)


def _annotated(source: AnnotatedSource, index: int) -> Seen:
    """Return what is seen of an image with an annotation file."""
    look, one = source.look(index), source.annotated(index)
    if look.image is None:
        first, *boxes = look.problems
        return Seen([(first, "data.on_bad_example"), *((p, "data.on_bad_box") for p in boxes)])
    none = np.zeros(len(one.boxes), bool)
    height, width = look.image.shape[:2]
    return Seen(
        [(problem, "data.on_bad_box") for problem in look.problems],
        (height, width),
        look.boxes,
        one.labels,
        np.array([bool(fault) for fault in look.faults], bool),
        none if one.crowd is None else one.crowd,
        none if one.difficult is None else one.difficult,
        _digest(look.image),
        (*_units(one, (height, width)), *_turn(one, (height, width), look.orientation)),
    )


def _any(source: Source, index: int, skip_bad: bool) -> Seen:
    """Return what is seen of an example of a source that says no more than the protocol asks."""
    name = source.name(index)
    try:
        record = source[index]
    except DataError as error:
        # The message begins with the name, or with a path that ends in it.
        text = str(error)
        _, found, what = text.partition(f"{name}: ")
        unread = isinstance(error, BadExample)
        problem = Problem(name, what if found else text, "", not (unread and skip_bad))
        return Seen([(problem, "data.on_bad_example" if unread else "data.on_bad_box")])
    height, width = record.image.shape[:2]
    problems = []
    if record.bad_boxes:
        what = f"{record.bad_boxes} of its boxes are bad (dropped, or clipped)"
        problems.append((Problem(name, what, "", False), "data.on_bad_box"))
    detects = source.task == "detect"
    labels = record.labels if detects else np.array([record.label])
    none = np.zeros(len(labels), bool)
    return Seen(
        problems,
        (height, width),
        record.boxes.astype(np.float64),
        labels.astype(np.int64),
        none,
        record.crowd if detects else none,
        none,
        _digest(record.image),
    )


def _digest(image: np.ndarray) -> bytes:
    """Return what only the same picture has, whatever file it is stored in."""
    hashed = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    hashed.update(np.ascontiguousarray(image).data)
    return hashed.digest()


def _units(one: Annotated, size: tuple[int, int]) -> list[tuple[str, str]]:
    """Say so if the boxes look like parts of the image where pixels are due, or the reverse."""
    finite = one.boxes[np.isfinite(one.boxes).all(1)]
    if not len(finite) or min(size) <= 2:
        return []
    largest = float(finite.max())
    if not one.relative and 0 < largest <= 1:
        what = "no coordinate is above 1: parts of width and height, where pixels are due?"
        return [("units", what)]
    if one.relative and largest > 2:
        what = f"a coordinate is {largest:g}: pixels, where parts of width and height are due?"
        return [("units", what)]
    return []


def _turn(one: Annotated, size: tuple[int, int], orientation: int) -> list[tuple[str, str]]:
    """Say so if EXIF turns an image, unless the stated size is that of the upright one alone."""
    if not len(one.boxes) or orientation not in range(2, 9):
        return []
    turned = f"EXIF turns the image (orientation {orientation}); its boxes are"
    told = one.size is not None and orientation >= 5 and size[0] != size[1]
    if told and one.size != size:
        return [("turned", f"{turned} stated on the stored pixels, and turned with it")]
    if not told:
        return [("turned", f"{turned} taken as those of the upright image: look whether they fit")]
    return []
