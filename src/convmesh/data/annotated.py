"""Images with boxes, as annotation files tell of them: what COCO, VOC and YOLO have in common.

A reader of a layout makes an `Annotated` of each image, without opening it, and notes as a
`Problem` what is wrong with the files. The rest stands here: reading, checking, records.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from convmesh.data import images
from convmesh.data.problems import Problem, refuse
from convmesh.data.record import (
    ROUNDING,
    BadExample,
    Record,
    box_faults,
    faulty,
    kept_as_stated,
    sound_boxes,
    visible_area,
)
from convmesh.errors import ConfigError, DataError, nearest

# A box in pixels of an image of no stated size cannot be too far right or down.
_ANY_SIZE = (math.inf, math.inf)


class Numbered(Sequence):
    """Names like `line 3`, made when asked for: a large set has a million boxes."""

    def __init__(self, kind: str, numbers: Sequence | np.ndarray):
        """Name `kind NUMBER` for each of `numbers`."""
        self._kind, self._numbers = kind, numbers

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._numbers)

    def __getitem__(self, i):
        """Return name `i`, or for a slice the names in it."""
        if isinstance(i, slice):
            return Numbered(self._kind, self._numbers[i])
        return f"{self._kind} {self._numbers[i]}"


@dataclass(frozen=True)
class Annotated:
    """What the files say of one image; nothing is decoded yet.

    path: of the image file. name: what people call it, from the root. image_id: as in the source.
    annotation: the file that holds its boxes, for people. boxes: float64 [n, 4], x0 y0 x1 y1 in
    pixels, or in parts of width and height if `relative`. labels: int64 [n], class ids; -1 where
    the class is not known (then `unknown` names it, or gives its number in the source). crowd: bool
    [n], a region to ignore. difficult: bool [n], left out of evaluation only. area: float64 [n] of
    the outlines, or None. places: where each box stands (`line 3`, `object 2`); may be empty.
    size: (height, width) that the file states, or None. broken: why the image cannot be used, or
    ''. A box that the file does not give is four times NaN.
    """

    path: Path
    name: str
    image_id: int | str
    annotation: str = ""
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    crowd: np.ndarray | None = None
    difficult: np.ndarray | None = None
    area: np.ndarray | None = None
    places: Sequence[str] = ()
    unknown: Sequence[str | int] = ()
    size: tuple[int, int] | None = None
    relative: bool = False
    broken: str = ""

    def pixels(self, size: tuple[int, int]) -> np.ndarray:
        """Return the boxes float64 [n, 4] in pixels of an image of `size` (height, width)."""
        height, width = size
        return self.boxes * np.array([width, height] * 2) if self.relative else self.boxes

    def ignored(self, training: bool) -> np.ndarray:
        """Return bool [n]: regions to ignore; in evaluation also what is hard to see."""
        none = np.zeros(len(self.boxes), bool)
        crowd = none if self.crowd is None else self.crowd
        return crowd if training or self.difficult is None else crowd | self.difficult

    def place(self, i: int) -> str:
        """Return where box `i` stands in the file."""
        return self.places[i] if self.places else f"box {i}"


@dataclass(frozen=True)
class Look:
    """What opening an image has shown.

    problems: of the image or its boxes. image: uint8 [height, width, 3], upright, or None where it
    cannot be used. boxes: float64 [n, 4] in its pixels, as stated. faults: of each box, '' where
    there is none. orientation: by which EXIF turned the image, 1 where it did not.
    """

    problems: list[Problem]
    image: np.ndarray | None = None
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    faults: tuple[str, ...] = ()
    orientation: int = 1


class AnnotatedSet:
    """A data set with boxes: its splits, classes, and what is wrong with its files: a DataSet.

    category_ids: the source's own number of each class, or None where it has none.
    problems: of the files as such, not of images or boxes.
    """

    def __init__(
        self,
        config: ConfigDict,
        splits: dict[str, list[Annotated]],
        classes: Sequence[str],
        category_ids: Sequence[int] | None = None,
        problems: Iterable[Problem] = (),
        aliases: Mapping[str, str] | None = None,
    ):
        """Hold `splits`; aliases: other names under which they may be asked for."""
        if config.task != "detect":
            raise ConfigError(
                f"task: {config.task}, but {config.data.root} holds boxes; set task to detect"
            )
        self._config, self._examples = config, splits
        self.splits, self.classes = tuple(splits), tuple(classes)
        self.category_ids = None if category_ids is None else tuple(category_ids)
        self.problems = list(problems)
        self._aliases = dict(aliases or {})

    def source(self, split: str, training: bool) -> AnnotatedSource:
        """Return one split; difficult boxes are regions to ignore unless `training`.

        Raises ConfigError for a split that is not there, DataError for what the policies refuse.
        """
        split = self._known(split)
        refuse([problem for problem in self.problems if problem.split in ("", split)])
        source = AnnotatedSource(self, split, self._examples[split], self._config, training)
        refuse([p for i in source.suspects() for p in source.stated_problems(i) if p.error])
        if not len(source):
            raise DataError(f"{self._config.data.root}: split {split!r} has no images")
        return source

    def unchecked(self, split: str) -> AnnotatedSource:
        """Return one split whatever is wrong with it, for who lists just that.

        Raises ConfigError for a split that is not there.
        """
        split = self._known(split)
        return AnnotatedSource(self, split, self._examples[split], self._config, training=True)

    def _known(self, split: str) -> str:
        """Return the split that has the name, or the other name, `split`.

        Raises ConfigError where there is none, DataError where its file could not be read.
        """
        split = split if split in self._examples else self._aliases.get(split, split)
        if split not in self._examples:
            refuse([problem for problem in self.problems if problem.split == split])
            raise ConfigError(
                f"data: no split {split!r} in {self._config.data.root}; it has"
                f" {', '.join(self.splits) or 'none'}{nearest(split, self.splits)}"
            )
        return split


class AnnotatedSource:
    """A split of an AnnotatedSet: a Source."""

    task = "detect"

    def __init__(
        self,
        dataset: AnnotatedSet,
        split: str,
        examples: list[Annotated],
        config: ConfigDict,
        training: bool,
    ):
        """Show `examples`, checked as `config.data` says."""
        self.split, self.classes, self.category_ids = split, dataset.classes, dataset.category_ids
        self._examples, self._training = examples, training
        self._on_bad_box = config.data.on_bad_box
        self._bad_example_is_error = config.data.on_bad_example == "fail"
        self._kept: np.ndarray | None = None  # of all boxes, once it is asked for
        self._starts = np.zeros(0, np.int64)

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self._examples)

    def name(self, index: int) -> str:
        """Return the path of image `index`, from the root of the data set."""
        return self._examples[index].name

    def annotated(self, index: int) -> Annotated:
        """Return what the files say of image `index`."""
        return self._examples[index]

    def __getitem__(self, index: int) -> Record:
        """Return image `index` with its boxes. Raises BadExample, DataError naming the file."""
        one = self._examples[index]
        if one.broken:
            raise BadExample(f"{one.annotation or one.name}: {one.broken}")
        image, boxes, size_fault, _ = self._upright(one)
        if size_fault:
            raise BadExample(f"{one.name}: {size_fault}")
        size, count = image.shape[:2], len(self.classes)
        if self._on_bad_box == "fail":  # in the words of the file, which `sound_boxes` has not
            refuse(self._box_problems(one, boxes, size))
        ignored = one.ignored(self._training)
        checked = sound_boxes(
            boxes, one.labels, ignored, size, count, self._on_bad_box, one.annotation or one.name
        )
        kept = checked.kept
        return Record(
            image,
            one.image_id,
            one.name,
            boxes=checked.boxes[kept].astype(np.float32),
            labels=one.labels[kept].astype(np.int32),
            crowd=ignored[kept].copy(),
            area=None if one.area is None else visible_area(one.area, boxes, checked)[kept],
            bad_boxes=checked.bad,
        )

    def _upright(self, one: Annotated) -> tuple[np.ndarray, np.ndarray, str, int]:
        """Return the image, its boxes in pixels of it, what is wrong with its size, and its turn.

        Tools that do not know of EXIF draw boxes on the pixels as stored: where the stated size is
        theirs and not the upright image's, the boxes are turned with the image.
        """
        image, orientation = images.read_turned(str(one.path))
        height, width = image.shape[:2]
        if one.size is None or one.size == (height, width):
            return image, one.pixels((height, width)), "", orientation
        if one.size == (width, height) and orientation in (5, 6, 7, 8):
            turned = images.turn_boxes(one.pixels(one.size), one.size, orientation)
            return image, turned, "", orientation
        fault = (
            f"is {width} x {height}, but {one.annotation} says {one.size[1]} x {one.size[0]}: its"
            " boxes would be wrong"
        )
        return image, one.pixels((height, width)), fault, orientation

    def kept(self, index: int) -> np.ndarray:
        """Return bool [n]: the boxes of image `index` that training will see.

        As far as the files tell; the image is not opened. Of an image that cannot be used, none.
        """
        if self._kept is None:
            self._starts = np.cumsum([0, *(len(one.boxes) for one in self._examples)])
            boxes, labels, sizes, rounding, _ = self._all_boxes()
            self._kept = kept_as_stated(
                boxes, labels, sizes, len(self.classes), self._on_bad_box, rounding
            )
        kept = self._kept[self._starts[index] : self._starts[index + 1]]
        return kept & (not self._examples[index].broken)

    def _all_boxes(self) -> tuple[np.ndarray, ...]:
        """Return the boxes of all images one after another, as `faulty` takes them.

        float64 [n, 4] and int64 [n], the labels; float64 [n, 2] and [n, 1], the size of each one's
        frame and what is rounding in it; int64 [n], of which image each is.
        """
        counts = [len(one.boxes) for one in self._examples]
        frames = [_frame(one) for one in self._examples]
        return (
            np.concatenate([np.zeros((0, 4)), *(one.boxes for one in self._examples)]),
            np.concatenate([np.zeros(0, np.int64), *(one.labels for one in self._examples)]),
            np.repeat(np.reshape([size for size, _ in frames], (-1, 2)), counts, axis=0),
            np.repeat(np.reshape([rounding for _, rounding in frames], (-1, 1)), counts, axis=0),
            np.repeat(np.arange(len(counts)), counts),
        )

    # What is wrong, in words.

    def suspects(self) -> list[int]:
        """Return the images of which `stated_problems` tells something: one pass over all boxes."""
        suspect = np.array([bool(one.broken) for one in self._examples], bool)
        boxes, labels, sizes, rounding, image = self._all_boxes()
        suspect[image[faulty(boxes, labels, sizes, len(self.classes), rounding)]] = True
        return np.flatnonzero(suspect).tolist()

    def stated_problems(self, index: int) -> list[Problem]:
        """Return what can be told of image `index` without opening it."""
        one = self._examples[index]
        if one.broken:
            return [Problem(one.annotation or one.name, one.broken, "", self._bad_example_is_error)]
        size, rounding = _frame(one)
        return self._box_problems(one, one.boxes, size, rounding)

    def problems(self, index: int) -> list[Problem]:
        """Return everything that is wrong with image `index`, which is opened for it."""
        return self.look(index).problems

    def look(self, index: int) -> Look:
        """Open image `index` and return what it shows; raises nothing that data can cause."""
        one, error = self._examples[index], self._bad_example_is_error
        if one.broken:
            return Look(self.stated_problems(index))
        try:
            image, boxes, fault, orientation = self._upright(one)
        except BadExample as unread:
            fault = str(unread).removeprefix(f"{one.path}: ")
        if fault:
            # Training looks at the boxes before it opens an image: it refuses those all the same.
            return Look([Problem(one.name, fault, "", error), *self.stated_problems(index)])
        size = image.shape[:2]
        faults = tuple(box_faults(boxes, one.labels, size, len(self.classes)))
        if one.relative:  # what the size of the image cannot change
            return Look(self.stated_problems(index), image, boxes, faults, orientation)
        problems = self._box_problems(one, boxes, size)
        return Look(problems, image, boxes, faults, orientation)

    def _box_problems(
        self,
        one: Annotated,
        boxes: np.ndarray,
        size: tuple[float, float],
        rounding: float = ROUNDING,
    ) -> list[Problem]:
        """Return the bad boxes."""
        error, found = self._on_bad_box == "fail", []
        frame = "the image" if one.relative or size == _ANY_SIZE else ""
        faults = box_faults(boxes, one.labels, size, len(self.classes), rounding, frame)
        done = {"fail": "", "drop": " (dropped)", "clip": " (clipped, or dropped)"}
        for i, fault in enumerate(faults):
            if fault:
                if one.labels[i] == -1 and one.unknown:
                    named = one.unknown[i]
                    known = f"class {named!r}" if isinstance(named, str) else f"category {named}"
                    fault = f"{known} is not one of the classes"
                elif np.isnan(boxes[i]).all():
                    fault = "has no box"
                elif one.relative and _in_pixels(boxes[i]):
                    fault += "; in pixels? the numbers are to be parts of the image's sides"
                what = fault + done[self._on_bad_box]
                found.append(Problem(one.annotation or one.name, what, one.place(i), error))
        return found


def _frame(one: Annotated) -> tuple[tuple[float, float], float]:
    """Return the size that boxes must lie in, in their own units, and what is rounding in it."""
    # What a reader of relative boxes has left outside of the image is more than rounding.
    return ((1, 1), 0.0) if one.relative else (one.size or _ANY_SIZE, ROUNDING)


def _in_pixels(box: np.ndarray) -> bool:
    """Return whether the middle or a side of a box in parts of the image is more than all of it."""
    return bool((box[:2] + box[2:] > 2).any() or (box[2:] - box[:2] > 1).any())


def files_below(folder: Path) -> list[str]:
    """Return the paths of all files in and below `folder`, from it, sorted; hidden ones not.

    Links to folders are followed, but not in circles. Raises DataError for what may not be read.
    """
    found: list[str] = []

    def visit(where: str, start: str, above: frozenset[str]) -> None:
        real = os.path.realpath(where)
        if real in above:
            return
        for entry in os.scandir(where):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                visit(entry.path, f"{start}{entry.name}/", above | {real})
            else:
                found.append(start + entry.name)

    try:
        visit(str(folder), "", frozenset())
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from None
    return sorted(found)
