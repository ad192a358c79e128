"""Images with boxes, as annotation files tell of them: what COCO, VOC and YOLO have in common.

A reader of a layout makes an `Annotated` of each image, without opening it, and notes as a
`Problem` what is wrong with the files. The rest stands here: reading, checking, records.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from convmesh.data import images
from convmesh.data.problems import Problem, refuse
from convmesh.data.record import BadExample, Record, box_faults, sound_boxes
from convmesh.errors import ConfigError, DataError, nearest


@dataclass(frozen=True)
class Annotated:
    """What the files say of one image; nothing is decoded yet.

    path: of the image file. name: what people call it, from the root. image_id: as in the source.
    annotation: the file that holds its boxes, for people. boxes: float64 [n, 4], x0 y0 x1 y1 in
    pixels, or in parts of width and height if `relative`. labels: int64 [n], class ids; -1 where
    the class is not known (then `unknown` names it). crowd: bool [n], a region to ignore.
    difficult: bool [n], left out of evaluation only. area: float64 [n] of the outlines, or None.
    places: where each box stands (`line 3`, `object 2`); may be empty. size: (height, width) that
    the file states, or None. broken: why the image cannot be used, or ''.
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
    places: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
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
    """

    def __init__(
        self,
        config: ConfigDict,
        splits: dict[str, list[Annotated]],
        classes: Sequence[str],
        category_ids: Sequence[int] | None = None,
        problems: Iterable[Problem] = (),
    ):
        """Hold `splits`; problems are those of the files as such, not of images or boxes."""
        if config.task != "detect":
            raise ConfigError(
                f"task: {config.task}, but {config.data.root} holds boxes; set task to detect"
            )
        self._config, self._examples = config, splits
        self.splits, self.classes = tuple(splits), tuple(classes)
        self.category_ids = None if category_ids is None else tuple(category_ids)
        self.problems = list(problems)

    def source(self, split: str, training: bool) -> AnnotatedSource:
        """Return one split; difficult boxes are regions to ignore unless `training`.

        Raises ConfigError for a split that is not there, DataError for what the policies refuse.
        """
        examples = self._split(split)
        refuse(self.problems)
        source = AnnotatedSource(self, split, examples, self._config, training)
        refuse([p for i in range(len(source)) for p in source.stated_problems(i) if p.error])
        if not len(source):
            raise DataError(f"{self._config.data.root}: split {split!r} has no images")
        return source

    def unchecked(self, split: str) -> AnnotatedSource:
        """Return one split whatever is wrong with it, for who lists just that.

        Raises ConfigError for a split that is not there.
        """
        return AnnotatedSource(self, split, self._split(split), self._config, training=True)

    def _split(self, split: str) -> list[Annotated]:
        if split not in self._examples:
            raise ConfigError(
                f"data: no split {split!r} in {self._config.data.root}; it has"
                f" {', '.join(self.splits) or 'none'}{nearest(split, self.splits)}"
            )
        return self._examples[split]


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
            area=None if one.area is None else one.area[kept].astype(np.float32),
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

    # What is wrong, in words.

    def stated_problems(self, index: int) -> list[Problem]:
        """Return what can be told of image `index` without opening it."""
        one = self._examples[index]
        if one.broken:
            return [Problem(one.annotation or one.name, one.broken, "", self._bad_example_is_error)]
        if one.size is None and not one.relative:
            return []
        return self._box_problems(one, one.pixels(one.size or (1, 1)), one.size or (1, 1))

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
        problems = self._box_problems(one, boxes, size)
        return Look(problems, image, boxes, faults, orientation)

    def _box_problems(
        self, one: Annotated, boxes: np.ndarray, size: tuple[int, int]
    ) -> list[Problem]:
        """Return the bad boxes."""
        error, found = self._on_bad_box == "fail", []
        faults = box_faults(boxes, one.labels, size, len(self.classes))
        done = {"fail": "", "drop": " (dropped)", "clip": " (clipped, or dropped)"}
        for i, fault in enumerate(faults):
            if fault:
                if one.labels[i] == -1 and one.unknown:
                    fault = f"class {one.unknown[i]!r} is not one of the classes"
                what = fault + done[self._on_bad_box]
                found.append(Problem(one.annotation or one.name, what, one.place(i), error))
        return found
