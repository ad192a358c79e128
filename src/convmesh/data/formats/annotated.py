"""Images with boxes from annotation files: what COCO, VOC and YOLO have in common.

The reader of a layout makes an `AnnotatedImage` for each image without opening it, and a `Problem`
for each error in the files. Reading images and checking boxes is implemented here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
from ml_collections import ConfigDict

from convmesh.data import images
from convmesh.data.box_checks import (
    ROUNDING,
    BoxPolicy,
    StatedBoxes,
    box_errors,
    check_boxes,
    invalid_boxes,
    kept_in_training,
)
from convmesh.data.problems import Problem, raise_errors
from convmesh.data.record import BadExample, DataSet, Record, Source
from convmesh.errors import ConfigError, DataError, nearest

# Without a stated image size, a pixel box cannot be too far right or down.
_ANY_SIZE = (math.inf, math.inf)
_ACTIONS = {"fail": "", "drop": " (dropped)", "clip": " (clipped, or dropped)"}


class Numbered(Sequence[str]):
    """Names like `line 3`, formatted on access: a large data set has a million boxes."""

    def __init__(self, noun: str, numbers: Sequence | np.ndarray):
        """Name `noun NUMBER` for each of `numbers`."""
        self._noun, self._numbers = noun, numbers

    def __len__(self) -> int:
        """Return how many names there are."""
        return len(self._numbers)

    @overload
    def __getitem__(self, i: int) -> str: ...

    @overload
    def __getitem__(self, i: slice) -> Numbered: ...

    def __getitem__(self, i: int | slice) -> str | Numbered:
        """Return name `i`, or the names of a slice."""
        if isinstance(i, slice):
            return Numbered(self._noun, self._numbers[i])
        return f"{self._noun} {self._numbers[i]}"


@dataclass(frozen=True)
class AnnotatedImage:
    """The annotations of one image, before the image is opened.

    path: of the image file. name: its name in messages, relative to the root. image_id: as in the
    source. annotation: name of the file with its boxes, '' if there is none. boxes: float64 [n, 4],
    x0 y0 x1 y1 in pixels, or as fractions of width and height if `relative`; a box without stated
    coordinates is four NaN. labels: int64 [n], class ids; -1 for an unknown class, then `unknown`
    holds its name, or its id in the source. crowd: bool [n], regions to ignore. difficult: bool
    [n], ignored in evaluation only. area: float64 [n] of the outlines, or None. locations: of each
    box in the annotation file (`line 3`, `object 2`); may be empty. size: (height, width) that the
    file states, or None. broken: why the image cannot be used, or ''.
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
    locations: Sequence[str] = ()
    unknown: Sequence[str | int] = ()
    size: tuple[int, int] | None = None
    relative: bool = False
    broken: str = ""

    @property
    def file(self) -> str:
        """Name of the file that states the boxes, else of the image."""
        return self.annotation or self.name

    def pixel_boxes(self, size: tuple[int, int]) -> np.ndarray:
        """Return the boxes float64 [n, 4] in pixels of an image of `size` (height, width)."""
        height, width = size
        return self.boxes * np.array([width, height] * 2) if self.relative else self.boxes

    def ignored(self, training: bool) -> np.ndarray:
        """Return bool [n]: regions to ignore, in evaluation including difficult objects."""
        none = np.zeros(len(self.boxes), bool)
        crowd = none if self.crowd is None else self.crowd
        return crowd if training or self.difficult is None else crowd | self.difficult

    def location(self, i: int) -> str:
        """Return the location of box `i` in the annotation file."""
        return self.locations[i] if self.locations else f"box {i}"

    def box_frame(self) -> tuple[tuple[float, float], float]:
        """Return the size that boxes must fit in, in their own units, and the tolerance."""
        # The reader of relative boxes has already corrected rounding errors.
        return ((1, 1), 0.0) if self.relative else (self.size or _ANY_SIZE, ROUNDING)


@dataclass(frozen=True)
class OpenedImage:
    """An image and its boxes after the image was opened.

    problems: of the image or its boxes. image: uint8 [height, width, 3], upright, or None if it
    cannot be used. boxes: float64 [n, 4] in its pixels, as stated. errors: of each box, '' if it is
    good. orientation: the EXIF orientation that was applied, 1 for none.
    """

    problems: list[Problem]
    image: np.ndarray | None = None
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    errors: tuple[str, ...] = ()
    orientation: int = 1


class AnnotatedSet(DataSet):
    """A data set with annotation files.

    category_ids: the source's own id of each class, or None.
    """

    def __init__(
        self,
        config: ConfigDict,
        splits: dict[str, list[AnnotatedImage]],
        classes: Sequence[str],
        category_ids: Sequence[int] | None = None,
        problems: Iterable[Problem] = (),
        aliases: Mapping[str, str] | None = None,
    ):
        """Hold the images of `splits`; aliases: alternative name of a split -> its name."""
        if config.task != "detect":
            raise ConfigError(
                f"task: {config.task}, but {config.data.root} holds boxes; set task to detect"
            )
        self._config, self._images = config, splits
        self.splits, self.classes = tuple(splits), tuple(classes)
        self.category_ids = None if category_ids is None else tuple(category_ids)
        self.problems = list(problems)
        self._aliases = dict(aliases or {})

    def source(self, split: str, training: bool) -> AnnotatedSource:
        """Return one split; difficult boxes are regions to ignore unless `training`.

        Raises ConfigError for an unknown split, DataError for what the policies reject.
        """
        split = self._resolve(split)
        raise_errors([problem for problem in self.problems if problem.split in ("", split)])
        source = AnnotatedSource(self, split, self._images[split], self._config, training)
        raise_errors(
            [p for i in source.images_with_problems() for p in source.stated_problems(i) if p.error]
        )
        if not len(source):
            raise DataError(f"{self._config.data.root}: split {split!r} has no images")
        return source

    def unchecked(self, split: str) -> AnnotatedSource:
        """Return one split without checks, for a caller that lists all problems.

        Raises ConfigError for an unknown split.
        """
        split = self._resolve(split)
        return AnnotatedSource(self, split, self._images[split], self._config, training=True)

    def _resolve(self, split: str) -> str:
        """Return the name of the split whose name or alias is `split`.

        Raises ConfigError for an unknown split, DataError if the file of the split is unreadable.
        """
        split = split if split in self._images else self._aliases.get(split, split)
        if split not in self._images:
            raise_errors([problem for problem in self.problems if problem.split == split])
            raise ConfigError(
                f"data: no split {split!r} in {self._config.data.root}; it has"
                f" {', '.join(self.splits) or 'none'}{nearest(split, self.splits)}"
            )
        return split


class AnnotatedSource(Source):
    """A split of an AnnotatedSet."""

    task = "detect"

    def __init__(
        self,
        dataset: AnnotatedSet,
        split: str,
        examples: list[AnnotatedImage],
        config: ConfigDict,
        training: bool,
    ):
        """Hold `examples`, whose boxes are checked as `config.data` states."""
        self.split, self.classes, self.category_ids = split, dataset.classes, dataset.category_ids
        self._examples, self._training = examples, training
        self._policy = BoxPolicy(len(dataset.classes), config.data.on_bad_box)
        self._bad_example_is_error = config.data.on_bad_example == "fail"
        self._kept: np.ndarray | None = None  # of all boxes, computed on first use
        self._starts = np.zeros(0, np.int64)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._examples)

    def name(self, index: int) -> str:
        """Return the path of image `index`, relative to the root of the data set."""
        return self._examples[index].name

    def annotated(self, index: int) -> AnnotatedImage:
        """Return what the files state about image `index`."""
        return self._examples[index]

    def __getitem__(self, index: int) -> Record:
        """Return image `index` with its boxes. Raises BadExample, DataError naming the file."""
        example = self._examples[index]
        if example.broken:
            raise BadExample(f"{example.file}: {example.broken}")
        image, boxes, size_error, _ = _read_upright(example)
        if size_error:
            raise BadExample(f"{example.name}: {size_error}")
        height, width = image.shape[:2]
        if self._policy.on_bad_box == "fail":  # `check_boxes` does not know the line or object
            raise_errors(self._box_problems(example, boxes, (height, width)))
        stated = StatedBoxes(boxes, example.labels, example.ignored(self._training), example.area)
        checked = check_boxes(stated, (height, width), self._policy, example.file)
        return Record(
            image,
            example.image_id,
            example.name,
            boxes=checked.boxes,
            labels=checked.labels,
            crowd=checked.crowd,
            area=checked.area,
            bad_boxes=checked.bad,
        )

    def stored_bits(self, index: int) -> int:
        """Return the bits of a channel of image `index`, from its header."""
        return images.read_stored_bits(str(self._examples[index].path))

    def stated_labels(self, index: int) -> np.ndarray:
        """Return the class ids of the objects in image `index` that training and evaluation use.

        int64 [n], as far as the files show; the image is not opened.
        """
        example = self._examples[index]
        return example.labels[self._kept_boxes(index) & ~example.ignored(training=False)]

    def stated_truth(self, index: int) -> bytes:
        """Return the boxes, labels and ignored regions that the files state for image `index`."""
        example = self._examples[index]
        ignored = example.ignored(training=False)
        return b"".join(array.tobytes() for array in (example.boxes, example.labels, ignored))

    def _kept_boxes(self, index: int) -> np.ndarray:
        """Return bool [n]: the boxes of image `index` that training uses, none if it is broken."""
        if self._kept is None:
            self._starts = np.cumsum([0, *(len(example.boxes) for example in self._examples)])
            boxes, labels, sizes, rounding, _ = self._all_boxes()
            self._kept = kept_in_training(boxes, labels, sizes, self._policy, rounding)
        kept = self._kept[self._starts[index] : self._starts[index + 1]]
        return kept & (not self._examples[index].broken)

    def _all_boxes(self) -> tuple[np.ndarray, ...]:
        """Return the concatenated boxes of all images, as `invalid_boxes` takes them.

        boxes float64 [n, 4]; labels int64 [n]; size of each box's frame float64 [n, 2]; tolerance
        float64 [n, 1]; index of each box's image int64 [n].
        """
        counts = [len(example.boxes) for example in self._examples]
        frames = [example.box_frame() for example in self._examples]
        return (
            np.concatenate([np.zeros((0, 4)), *(example.boxes for example in self._examples)]),
            np.concatenate(
                [np.zeros(0, np.int64), *(example.labels for example in self._examples)]
            ),
            np.repeat(np.reshape([size for size, _ in frames], (-1, 2)), counts, axis=0),
            np.repeat(np.reshape([rounding for _, rounding in frames], (-1, 1)), counts, axis=0),
            np.repeat(np.arange(len(counts)), counts),
        )

    # Problems, for messages.

    def images_with_problems(self) -> list[int]:
        """Return the images for which `stated_problems` is not empty: one pass over all boxes."""
        bad = np.array([bool(example.broken) for example in self._examples], bool)
        boxes, labels, sizes, rounding, image = self._all_boxes()
        bad[image[invalid_boxes(boxes, labels, sizes, len(self.classes), rounding)]] = True
        return np.flatnonzero(bad).tolist()

    def stated_problems(self, index: int) -> list[Problem]:
        """Return the problems of image `index` that its files show; the image is not opened."""
        example = self._examples[index]
        if example.broken:
            return [Problem(example.file, example.broken, "", self._bad_example_is_error)]
        size, rounding = example.box_frame()
        return self._box_problems(example, example.boxes, size, rounding)

    def open_image(self, index: int) -> OpenedImage:
        """Open image `index` and return it with all its problems; does not raise for bad data."""
        example = self._examples[index]
        if example.broken:
            return OpenedImage(self.stated_problems(index))
        try:
            image, boxes, image_error, orientation = _read_upright(example)
        except BadExample as error:
            image_error = str(error).removeprefix(f"{example.path}: ")
        if image_error:
            # Training checks the boxes before it opens an image, so it rejects bad boxes as well.
            problem = Problem(example.name, image_error, "", self._bad_example_is_error)
            return OpenedImage([problem, *self.stated_problems(index)])
        size = image.shape[:2]
        errors = tuple(box_errors(boxes, example.labels, size, len(self.classes)))
        if example.relative:  # the size of the image does not change these problems
            return OpenedImage(self.stated_problems(index), image, boxes, errors, orientation)
        problems = self._box_problems(example, boxes, size)
        return OpenedImage(problems, image, boxes, errors, orientation)

    def _box_problems(
        self,
        example: AnnotatedImage,
        boxes: np.ndarray,
        size: tuple[float, float],
        rounding: float = ROUNDING,
    ) -> list[Problem]:
        """Return the bad ones of `boxes` as problems; arguments as in `invalid_boxes`."""
        policy, found = self._policy.on_bad_box, []
        frame = "the image" if example.relative or size == _ANY_SIZE else ""
        errors = box_errors(boxes, example.labels, size, len(self.classes), rounding, frame)
        for i, error in enumerate(errors):
            if not error:
                continue
            if example.labels[i] == -1 and example.unknown:
                given = example.unknown[i]
                name = f"class {given!r}" if isinstance(given, str) else f"category {given}"
                error = f"{name} is not one of the classes"
            elif np.isnan(boxes[i]).all():
                error = "has no box"
            elif example.relative and _looks_like_pixels(boxes[i]):
                error += "; in pixels? coordinates must be fractions of the image size"
            what = error + _ACTIONS[policy]
            found.append(Problem(example.file, what, example.location(i), policy == "fail"))
        return found


def _read_upright(example: AnnotatedImage) -> tuple[np.ndarray, np.ndarray, str, int]:
    """Return the upright image, its boxes in pixels, what is wrong with its size, orientation.

    Tools that ignore EXIF draw boxes on the pixels as stored: if the stated size is that of the
    stored image and not of the upright one, the boxes are rotated with the image.
    """
    image, orientation = images.read_turned(str(example.path))
    height, width = image.shape[:2]
    stated = example.size
    if stated is None or stated == (height, width):
        return image, example.pixel_boxes((height, width)), "", orientation
    if stated == (width, height) and orientation in (5, 6, 7, 8):
        boxes = images.turn_boxes(example.pixel_boxes(stated), stated, orientation)
        return image, boxes, "", orientation
    error = (
        f"is {width} x {height}, but {example.annotation} says {stated[1]} x {stated[0]}: its boxes"
        " would be wrong"
    )
    return image, example.pixel_boxes((height, width)), error, orientation


def _looks_like_pixels(box: np.ndarray) -> bool:
    """Return whether a relative box has its centre outside the image, or a side longer than it."""
    return bool((box[:2] + box[2:] > 2).any() or (box[2:] - box[:2] > 1).any())
