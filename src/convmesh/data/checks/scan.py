"""Reads every example of a run once, and keeps what the checks need; no pixels are kept.

`scan` opens the images; `scan_files` takes what the files state about them, for the start of a run.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from convmesh.data import images
from convmesh.data.formats.annotated import AnnotatedImage, AnnotatedSource
from convmesh.data.problems import Problem
from convmesh.data.record import BadExample, Source
from convmesh.distributed.cores import usable_cores
from convmesh.errors import DataError, StoreError

_THREADS = min(16, usable_cores())  # decoding and hashing release the GIL
_CHUNK = 1024  # examples submitted to the threads at a time, to bound the number of futures


def _no_flags() -> np.ndarray:
    return np.zeros(0, bool)


@dataclass(frozen=True, slots=True)
class ScannedExample:
    """The properties of one example.

    problems: each with the config key of the policy that applies to it. size: (height, width) of
    the upright image, or None if it is unusable. boxes: float64 [n, 4] in its pixels, as stated in
    the files. labels: int64 [n], class ids of the boxes; of a classification example one class id,
    without a box. bad, crowd, difficult: bool [n]. digest: of the pixels. warnings: (kind, message)
    about the image. bad_boxes: how many of its boxes are bad, without those of classes that
    `data.classes` leaves out; all_boxes: how many there are without these.

    If only its files were read, the size is the one that they state, and the boxes are fractions of
    the image if they state none.
    """

    problems: list[tuple[Problem, str]]
    size: tuple[int, int] | None = None
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    bad: np.ndarray = field(default_factory=_no_flags)
    crowd: np.ndarray = field(default_factory=_no_flags)
    difficult: np.ndarray = field(default_factory=_no_flags)
    digest: bytes = b""
    warnings: tuple[tuple[str, str], ...] = ()
    bad_boxes: int = 0
    all_boxes: int = 0

    @property
    def usable(self) -> np.ndarray:
        """Bool [n]: objects to learn, without bad boxes and crowd regions."""
        return ~(self.bad | self.crowd)


@dataclass
class ScannedSplit:
    """The examples `indices` of `source`, which a run uses as its split `name`."""

    name: str
    source: Source
    indices: Sequence[int]
    examples: list[ScannedExample] = field(default_factory=list)
    by_class: np.ndarray | None = None  # examples of each class, where no more is known of them

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.indices)

    def image_name(self, i: int) -> str:
        """Return the name of the image of example `i` in messages."""
        return self.source.name(self.indices[i])

    def image_path(self, i: int) -> str:
        """Return a text that is the same for two examples with the same image file."""
        annotated = self.annotated(i)
        return self.image_name(i) if annotated is None else str(annotated.path)

    def label_file(self, i: int) -> str:
        """Return the name of the file that holds the labels of example `i`."""
        annotated = self.annotated(i)
        return self.image_name(i) if annotated is None else annotated.file

    def box_location(self, i: int, box: int) -> str:
        """Return where the box is in that file, for example `line 3`."""
        annotated = self.annotated(i)
        return f"box {box}" if annotated is None else annotated.location(box)

    def annotated(self, i: int) -> AnnotatedImage | None:
        """Return the annotations of example `i`, if the source reads annotation files."""
        if not isinstance(self.source, AnnotatedSource):
            return None
        return self.source.annotated(self.indices[i])

    def pixels(self, i: int) -> np.ndarray | None:
        """Return image `i`, uint8 [height, width, 3]; None if it is unusable."""
        if isinstance(self.source, AnnotatedSource):
            return self.source.open_image(self.indices[i]).image
        try:
            return self.source[self.indices[i]].image
        except StoreError:
            raise
        except DataError:
            return None


def scan(
    splits: Sequence[ScannedSplit], skip_bad: bool, progress: Callable[[int, int], None]
) -> None:
    """Read all examples of `splits` and fill in their `examples`.

    skip_bad: whether training skips unreadable images. progress: called with the number of examples
    done and the total.
    """
    total, done = sum(map(len, splits)), 0
    with ThreadPoolExecutor(_THREADS) as pool:
        for split in splits:
            split.examples = []
            scan_one = functools.partial(_scan_example, split.source, skip_bad)
            for start in range(0, len(split), _CHUNK):
                for example in pool.map(scan_one, split.indices[start : start + _CHUNK]):
                    split.examples.append(example)
                    done += 1
                    progress(done, total)


def _scan_example(source: Source, skip_bad: bool, index: int) -> ScannedExample:
    if isinstance(source, AnnotatedSource):
        return _scan_annotated(source, index)
    return _scan_record(source, index, skip_bad)


def _scan_annotated(source: AnnotatedSource, index: int) -> ScannedExample:
    """Scan an image with an annotation file."""
    opened, annotated = source.open_image(index), source.annotated(index)
    if opened.image is None:
        first, *others = opened.problems
        return ScannedExample(
            [(first, "data.on_bad_example"), *((p, "data.on_bad_box") for p in others)]
        )
    none = np.zeros(len(annotated.boxes), bool)
    height, width = opened.image.shape[:2]
    size = (height, width)
    bad = np.array([bool(fault) for fault in opened.errors], bool)
    counted = ~source.left_out(index)
    return ScannedExample(
        problems=[(problem, "data.on_bad_box") for problem in opened.problems],
        size=size,
        boxes=opened.boxes,
        labels=annotated.labels,
        bad=bad,
        crowd=none if annotated.crowd is None else annotated.crowd,
        difficult=none if annotated.difficult is None else annotated.difficult,
        digest=_digest(opened.image),
        warnings=(
            *_unit_warnings(annotated, size),
            *_orientation_warnings(annotated, size, opened.orientation),
            *_depth_warnings(source, index, opened.image),
        ),
        bad_boxes=int((bad & counted).sum()),
        all_boxes=int(counted.sum()),
    )


def _scan_record(source: Source, index: int, skip_bad: bool) -> ScannedExample:
    """Scan an example of a source that provides records only."""
    name = source.name(index)
    try:
        record = source[index]
    except StoreError:
        raise
    except DataError as error:
        # The message begins with the name, or with a path that ends in it.
        message = str(error)
        _, found, what = message.partition(f"{name}: ")
        unreadable = isinstance(error, BadExample)
        problem = Problem(name, what if found else message, "", not (unreadable and skip_bad))
        policy = "data.on_bad_example" if unreadable else "data.on_bad_box"
        return ScannedExample([(problem, policy)])
    height, width = record.image.shape[:2]
    problems = []
    if record.bad_boxes:
        what = f"{record.bad_boxes} of its boxes are bad (dropped or clipped)"
        problems.append((Problem(name, what, "", False), "data.on_bad_box"))
    detects = source.task == "detect"
    labels = record.labels if detects else np.array([record.label])
    none = np.zeros(len(labels), bool)
    return ScannedExample(
        problems=problems,
        size=(height, width),
        boxes=record.boxes.astype(np.float64),
        labels=labels.astype(np.int64),
        bad=none,
        crowd=record.crowd if detects else none,
        difficult=none,
        digest=_digest(record.image),
        warnings=tuple(_depth_warnings(source, index, record.image)),
        bad_boxes=record.bad_boxes - record.left_out_boxes,
        all_boxes=len(record.boxes) + record.dropped_boxes - record.left_out_boxes,
    )


def scan_files(splits: Sequence[ScannedSplit]) -> None:
    """Fill in the `examples` of `splits` from their files, as far as these describe the examples.

    No image is opened. The examples of a split whose files do not state labels stay empty; of class
    folders, of which there may be millions of files, they are counted by class.
    """
    for split in splits:
        source = split.source
        if isinstance(source, AnnotatedSource):
            split.examples = [_stated(source, index) for index in split.indices]
        elif source.task == "classify" and len(split) and source.stated_labels(0) is not None:
            split.by_class = _count_by_class(source, split.indices)


def _count_by_class(source: Source, indices: Sequence[int]) -> np.ndarray:
    """The number of examples of each class, int64 [classes], of a source with one label each."""
    labels = source.single_labels()
    if labels is None:
        stated = [source.stated_labels(index) for index in indices]
        labels = np.array([-1 if each is None else each[0] for each in stated], np.int64)
    else:
        labels = labels[np.asarray(indices, np.int64)]
    return np.bincount(labels, minlength=len(source.classes))


def _stated(source: AnnotatedSource, index: int) -> ScannedExample:
    """Return an image as its files describe it, without the problem of each box that is left out.

    There may be a million of these, on purpose.
    """
    annotated = source.annotated(index)
    if annotated.broken:
        [problem] = source.stated_problems(index)
        return ScannedExample([(problem, "data.on_bad_example")])
    bad, left_out = source.stated_bad(index), source.left_out(index)
    problems: Iterable[Problem] = ()
    if (bad & ~left_out).any():
        problems = itertools.compress(source.stated_problems(index), ~left_out[bad])
    none = np.zeros(len(annotated.boxes), bool)
    return ScannedExample(
        problems=[(problem, "data.on_bad_box") for problem in problems],
        size=annotated.size,
        boxes=annotated.pixel_boxes(annotated.size) if annotated.size else annotated.boxes,
        labels=annotated.labels,
        bad=bad,
        crowd=none if annotated.crowd is None else annotated.crowd,
        difficult=none if annotated.difficult is None else annotated.difficult,
        warnings=tuple(_unit_warnings(annotated, annotated.size)),
    )


def _digest(image: np.ndarray) -> bytes:
    """Return a hash of the pixels, the same for equal images in different files."""
    hashed = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    hashed.update(np.ascontiguousarray(image).data)
    return hashed.digest()


def _unit_warnings(
    annotated: AnnotatedImage, size: tuple[int, int] | None
) -> list[tuple[str, str]]:
    """Warn if boxes look like fractions where pixels are expected, or the reverse.

    size: (height, width) of the image, or None if it is not known.
    """
    finite = annotated.boxes[np.isfinite(annotated.boxes).all(1)]
    if not len(finite) or (size is not None and min(size) <= 2):
        return []
    largest = float(finite.max())
    if not annotated.relative and 0 < largest <= 1:
        what = "no coordinate is above 1; are the boxes fractions of the image, not pixels?"
        return [("units", what)]
    if annotated.relative and largest > 2:
        what = f"a coordinate is {largest:g}; are the boxes pixels, not fractions of the image?"
        return [("units", what)]
    return []


def _depth_warnings(source: Source, index: int, image: np.ndarray) -> list[tuple[str, str]]:
    """Warn if the image is nearly black because its file uses few of its bits."""
    if not images.looks_nearly_black(image):  # only then is the file opened again
        return []
    what = images.unused_bits(image, source.stored_bits(index))
    return [("depth", what)] if what else []


def _orientation_warnings(
    annotated: AnnotatedImage, size: tuple[int, int], orientation: int
) -> list[tuple[str, str]]:
    """Warn if EXIF rotates or flips the image, unless the boxes are certainly those of the result.

    That is certain if the stated size is the size of the upright image but not of the stored one.
    """
    if not len(annotated.boxes) or orientation not in range(2, 9):
        return []
    begin = f"EXIF turns the image (orientation {orientation}); its boxes are taken as those of the"
    certain = annotated.size is not None and orientation >= 5 and size[0] != size[1]
    if certain and annotated.size != size:
        return [("exif_orientation", f"{begin} stored pixels and turned with them")]
    if not certain:
        return [("exif_orientation", f"{begin} upright image; check that they fit")]
    return []
