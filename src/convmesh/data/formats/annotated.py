"""Images with boxes from annotation files: what COCO, VOC and YOLO have in common.

The reader of a layout makes an `AnnotatedImage` for each image without opening it, and a `Problem`
for each error in the files. Reading images and checking boxes is implemented here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    refused_boxes,
)
from convmesh.data.limits import BOXES, IMAGES, Limit
from convmesh.data.problems import Problem, raise_errors
from convmesh.data.record import BadExample, DataSet, Record, Source, file_size
from convmesh.errors import ConfigError, DataError, nearest

# Without a stated image size, a pixel box cannot be too far right or down.
_ANY_SIZE = (math.inf, math.inf)


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

    def has_known_name(self) -> np.ndarray:
        """Return bool [n]: boxes that are of none of the classes, but of one that has a name."""
        named = [isinstance(name, str) for name in self.unknown] or np.zeros(len(self.boxes), bool)
        return (self.labels < 0) & named

    def location(self, i: int) -> str:
        """Return the location of box `i` in the annotation file."""
        return self.locations[i] if self.locations else f"box {i}"

    def box_frame(self) -> tuple[tuple[float, float], float]:
        """Return the size that boxes must fit in, in their own units, and the tolerance."""
        # The reader of relative boxes has already corrected rounding errors.
        return ((1, 1), 0.0) if self.relative else (self.size or _ANY_SIZE, ROUNDING)


@dataclass(frozen=True)
class _Judgement:
    """What the files show of all boxes of a split, in the order of its images: bool [n] each.

    bad: what `data.on_bad_box` applies to. left_out: of these, those whose class `data.classes`
    leaves out. unknown: of these, those with a class id that does not exist. kept: used in
    training. starts: int64 [images + 1], index of the first box of each image.
    """

    bad: np.ndarray
    left_out: np.ndarray
    unknown: np.ndarray
    kept: np.ndarray
    starts: np.ndarray

    def of_image(self, index: int) -> slice:
        """Return the boxes of image `index`."""
        return slice(self.starts[index], self.starts[index + 1])

    def images(self, boxes: np.ndarray) -> np.ndarray:
        """Return the image of each of `boxes`, bool [n]: int64, ascending."""
        return np.searchsorted(self.starts, np.flatnonzero(boxes), side="right") - 1


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
        raise_errors(source.stated_errors())
        if not len(source):
            raise DataError(f"{self._config.data.root}: split {split!r} has no images")
        raise_errors([*source.too_many_bad_images(), *source.too_many_bad_boxes()])
        raise_errors(source.nothing_left() if training else [])
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
        self._examples, self._training, data = examples, training, config.data
        self._policy = BoxPolicy(len(dataset.classes), data.on_bad_box)
        self._selects_classes = bool(data.classes)
        self._bad_example_is_error = data.on_bad_example == "fail"
        self._limits = {limit.key: limit.of(config) for limit in (BOXES, IMAGES)}

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
        if self._policy.on_bad_box != "drop":  # `check_boxes` does not know the line or object
            raise_errors(self._box_problems(example, boxes, (height, width)))
        left_out, _ = self._class_faults(example)
        ignored = example.ignored(self._training)
        stated = StatedBoxes(boxes, example.labels, ignored, example.area, left_out)
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
            dropped_boxes=checked.dropped,
            left_out_boxes=checked.left_out,
        )

    def stored_bits(self, index: int) -> int:
        """Return the bits of a channel of image `index`, from its header."""
        return images.read_stored_bits(str(self._examples[index].path))

    def stated_labels(self, index: int) -> np.ndarray:
        """Return the class ids of the objects in image `index` that training and evaluation use.

        int64 [n], as far as the files show; the image is not opened.
        """
        example = self._examples[index]
        kept = self._judgement.kept[self._judgement.of_image(index)] & (not example.broken)
        return example.labels[kept & ~example.ignored(training=False)]

    def stated_truth(self, index: int) -> bytes:
        """Return the boxes, labels and ignored regions that the files state for image `index`."""
        example = self._examples[index]
        ignored = example.ignored(training=False)
        return b"".join(a.tobytes() for a in (example.boxes, example.labels, ignored))

    def stated_size(self, index: int) -> bytes:
        """Return the size of the file of image `index`."""
        return file_size(self._examples[index].path)

    def stated_bad(self, index: int) -> np.ndarray:
        """Return bool [n]: the boxes of image `index` that its files show to be bad."""
        return self._judgement.bad[self._judgement.of_image(index)]

    def left_out(self, index: int) -> np.ndarray:
        """Return bool [n]: the boxes of image `index` whose class `data.classes` leaves out."""
        return self._judgement.left_out[self._judgement.of_image(index)]

    @functools.cached_property
    def _judgement(self) -> _Judgement:
        """All boxes at once: one at a time takes a minute for a million."""
        examples = self._examples
        counts = [len(example.boxes) for example in examples]
        frames = [example.box_frame() for example in examples]
        boxes = np.concatenate([np.zeros((0, 4)), *(example.boxes for example in examples)])
        labels = np.concatenate([np.zeros(0, np.int64), *(example.labels for example in examples)])
        sizes = np.repeat(np.reshape([size for size, _ in frames], (-1, 2)), counts, axis=0)
        rounding = np.repeat(np.reshape([r for _, r in frames], (-1, 1)), counts, axis=0)
        found = _Judgement(
            bad=invalid_boxes(boxes, labels, sizes, self._policy.num_classes, rounding),
            left_out=np.zeros(len(boxes), bool),
            unknown=np.zeros(len(boxes), bool),
            kept=kept_in_training(boxes, labels, sizes, self._policy, rounding),
            starts=np.cumsum([0, *counts]),
        )
        for i in np.unique(found.images((labels < 0) | (labels >= self._policy.num_classes))):
            part = found.of_image(i)
            found.left_out[part], found.unknown[part] = self._class_faults(examples[i])
        return found

    def _class_faults(self, example: AnnotatedImage) -> tuple[np.ndarray, np.ndarray]:
        """Return bool [n] twice: boxes whose class `data.classes` leaves out, or does not exist."""
        unknown = (example.labels < 0) | (example.labels >= self._policy.num_classes)
        if not self._selects_classes or not unknown.any():
            return np.zeros(len(unknown), bool), unknown
        named = example.has_known_name()
        return unknown & named, unknown & ~named

    # Problems, for messages.

    def images_with_problems(self) -> list[int]:
        """Return the images for which `stated_problems` is not empty: one pass over all boxes."""
        bad = self._judgement.images(self._judgement.bad)
        return sorted({*bad.tolist(), *self._broken()})

    def stated_errors(self) -> list[Problem]:
        """Return the problems of images and boxes for which training refuses the split."""
        found, broken = self._judgement, self._broken() if self._bad_example_is_error else []
        refused = found.images(refused_boxes(found.bad, found.unknown, self._policy))
        images = sorted({*refused.tolist(), *broken})
        return [p for i in images for p in self.stated_problems(i) if p.error]

    def too_many_bad_images(self) -> list[Problem]:
        """Return an error if more images are skipped than `data.max_bad_examples` allows."""
        broken = [] if self._bad_example_is_error else self._broken()
        first = (str(self.stated_problems(i)[0]) for i in broken)
        return self._exceeded(IMAGES, len(broken), len(self), first)

    def too_many_bad_boxes(self) -> list[Problem]:
        """Return an error if more boxes are dropped or clipped than `data.max_bad_boxes` allows."""
        if self._policy.on_bad_box == "fail":
            return []
        found = self._judgement
        counted = ~found.left_out
        for i in self._broken():
            counted[found.of_image(i)] = False
        bad = counted & found.bad
        first = (str(self._stated_problem(int(box))) for box in np.flatnonzero(bad))
        return self._exceeded(BOXES, int(bad.sum()), int(counted.sum()), first)

    def nothing_left(self) -> list[Problem]:
        """Return an error if there are boxes, and the policy keeps none of them."""
        found = self._judgement
        if not len(found.bad) or found.kept.any() or self._policy.on_bad_box == "fail":
            return []
        what = f"none of its {len(found.bad)} boxes can be used, such as "
        return [Problem(f"split {self.split}", what + str(self._stated_problem(0)))]

    def _exceeded(
        self, limit: Limit, bad: int, total: int, examples: Iterator[str]
    ) -> list[Problem]:
        """Return an error if `bad` of `total` is too much; examples: descriptions of the bad."""
        what = limit.exceeded(bad, total, self._limits[limit.key])
        if not what:
            return []
        what += f", such as {next(examples)}; fix them, or set {limit.key} higher"
        return [Problem(f"split {self.split}", what, split=self.split)]

    def _broken(self) -> list[int]:
        """Return the images that cannot be used, as far as the files show."""
        return [i for i, example in enumerate(self._examples) if example.broken]

    def _stated_problem(self, box: int) -> Problem:
        """Return the problem of a bad box, by its index in the split."""
        found = self._judgement
        index = int(np.searchsorted(found.starts, box, side="right")) - 1
        return self.stated_problems(index)[int(found.bad[found.starts[index] : box].sum())]

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
        frame = "the image" if example.relative or size == _ANY_SIZE else ""
        errors = box_errors(boxes, example.labels, size, len(self.classes), rounding, frame)
        bad, (left_out, unknown) = np.array(errors, bool), self._class_faults(example)
        refused, found = refused_boxes(bad, unknown, self._policy), []
        for i in np.flatnonzero(bad).tolist():
            error = errors[i]
            if example.labels[i] == -1 and example.unknown:
                given = example.unknown[i]
                name = f"class {given!r}" if isinstance(given, str) else f"category {given}"
                error = f"{name} is not one of the classes"
            elif np.isnan(boxes[i]).all():
                error = "has no box"
            elif example.relative and _looks_like_pixels(boxes[i]):
                error += "; in pixels? coordinates must be fractions of the image size"
            if not refused[i]:
                dropped = self._policy.on_bad_box == "drop" or left_out[i]
                error += " (dropped)" if dropped else " (clipped, or dropped)"
            found.append(Problem(example.file, error, example.location(i), bool(refused[i])))
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
