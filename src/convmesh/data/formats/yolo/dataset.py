"""YOLO: for each image a text file of boxes, as fractions of the image size.

The splits are those of data.yaml or Darknet's obj.data: folders, or .txt files that list images. If
there is none, or it states none, they are folders (images/SPLIT, SPLIT/images, SPLIT) or lists
(train.txt) with names of splits; otherwise all images are for training. The label file of an image
is in the same path with the last folder `images` replaced by `labels`, or next to the image.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from convmesh.data.documents import read_text
from convmesh.data.formats import split_names
from convmesh.data.formats.annotated import AnnotatedImage, AnnotatedSet, Numbered
from convmesh.data.formats.evidence import Evidence
from convmesh.data.formats.files import contents, root_folder
from convmesh.data.formats.tally import Tally
from convmesh.data.formats.yolo import signs
from convmesh.data.formats.yolo.description import YAML
from convmesh.data.formats.yolo.labels import Rows, parse_labels, sixth_number_error
from convmesh.data.formats.yolo.layout import Layout
from convmesh.data.formats.yolo.names import is_name_file
from convmesh.data.formats.yolo.pairs import Pairs, label_places
from convmesh.data.formats.yolo.rows import Survey
from convmesh.data.problems import Problem
from convmesh.errors import ConfigError, DataError, nearest

_TEST = "test"


def open_dataset(config: ConfigDict) -> AnnotatedSet:
    """Return the data set in `config.data.root`; the classes are those of its files, in order.

    `data.classes` names the classes if no file does; otherwise it selects some, or another order,
    and boxes of other classes are bad boxes. Raises ConfigError for a root that is not a folder and
    for unknown classes, DataError for files that are not in YOLO format.
    """
    layout = Layout(root_folder(config), config)
    names = layout.names or tuple(config.data.classes)
    classes = tuple(config.data.classes) or names
    _check_names(layout, names, classes)
    used = itertools.chain(*layout.splits.values())
    pairs = Pairs(layout.files, used, layout.lists)
    problems = [*layout.problems, *_leave_out_unlabelled_test(layout, pairs, config)]
    reader = _Reader(layout.root, pairs, names, classes)
    splits = {
        split: [reader.image(path, i) for i, path in enumerate(paths, start=1)]
        for split, paths in layout.splits.items()
    }
    if not reader.survey.has_track_ids:
        splits = {split: [reader.judged(i) for i in images] for split, images in splits.items()}
    for split, paths in layout.splits.items():
        problems += _missing_labels(layout, pairs, split, paths)
    extra = {split: layout.splits[split] for split in layout.extra}
    problems += [*pairs.problems(extra), *reader.tally.problems("labels")]
    problems += reader.survey.problems(len(names), layout.names_file or "data.classes")
    return AnnotatedSet(config, splits, classes, problems=problems, aliases=layout.aliases)


def looks_like(root: Path, task: str, evidence: Evidence) -> bool:
    """Return whether folder `root` has YOLO's files and folders; see `registry.Format`.

    Opens a few label files that lie beside images: these may also be captions.
    """
    return signs.shows(root, evidence)


def _check_names(layout: Layout, names: Sequence[str], classes: Sequence[str]) -> None:
    """Raise ConfigError if no file names the classes, or `classes` names one that is none."""
    if not names:
        above = _names_above(layout.root)
        if above:
            raise ConfigError(
                f"data.root: {layout.root} does not name the classes, and {above} in the folder"
                f" above it does; set data.root to {layout.root.resolve().parent}"
            )
        lacks = f"{layout.root} has no data.yaml or classes.txt that names the classes"
        if layout.description:
            keys = ", ".join(layout.keys)
            lacks = f"{layout.description} has no key names (it has {keys}), nor is there a"
            lacks += " classes.txt that names the classes"
        raise ConfigError(
            f"data.classes: not set, and {lacks}; give them in the order of their ids"
        )
    for name in classes:
        if name not in names:
            raise ConfigError(
                f"data.classes: {name!r} is not a class of the files, which have"
                f" {', '.join(itertools.islice(names, 10))}{nearest(name, names)}"
            )


def _names_above(root: Path) -> str:
    """Return the file in the folder above `root` that may name the classes, or ''."""
    try:
        files = contents(root.resolve().parent).others
    except DataError:  # outside of what the user named
        return ""
    return next((file for file in files if file.lower() in YAML or is_name_file(file)), "")


def _leave_out_unlabelled_test(layout: Layout, pairs: Pairs, config: ConfigDict) -> list[Problem]:
    """Remove a test split without any label file that only stands in for a validation split.

    Tests of competitions are published without labels. Returns the warning about it, if so.
    """
    asked_for = config.data.eval_split or config.data.train_split == _TEST
    can_hold_out = config.data.val_fraction
    if (
        asked_for
        or not can_hold_out
        or any(name in layout.splits for name in split_names.VALIDATION)
    ):
        return []
    images = [path for path in layout.splits.get(_TEST, ()) if pairs.exists(path)]
    missing = pairs.missing(images)
    if not images or len(missing) < len(images) or any(map(pairs.elsewhere, images)):
        return []
    del layout.splits[_TEST]
    layout.aliases = {name: split for name, split in layout.aliases.items() if split != _TEST}
    what = f"{_no_label_files(missing, len(images), _TEST)}; left out, and a part of the training"
    what += " split is held out to evaluate on; data.eval_split='test' would use it"
    return [Problem(os.path.dirname(images[0]) or ".", what, error=False)]


class _Reader:
    """Reads the label files of images.

    names: of the class ids in label files. classes: names of the class ids to return. survey: of
    all rows. tally: of files that are not used.
    """

    def __init__(self, root: Path, pairs: Pairs, names: Sequence[str], classes: Sequence[str]):
        self._root, self._pairs, self._names, self._classes = root, pairs, names, classes
        self.survey, self._surveyed = Survey(), set[str]()
        self._ids: dict[str | int, int] = {name: i for i, name in enumerate(classes)}
        self._six_numbers: dict[str, str] = {}  # images with such rows -> the error
        self.tally = Tally()

    def image(self, path: str, number: int) -> AnnotatedImage:
        """Return image `path`, which is number `number` of its split."""
        file, labels = self._root / path, self._pairs.of(path)
        if not self._pairs.exists(path):
            return AnnotatedImage(file, path, number, broken="is in a list, but does not exist")
        if not labels:
            return AnnotatedImage(file, path, number, relative=True)
        first = self._pairs.owners(labels[0])[0]
        if first != path:  # the error of the first says what to do
            broken = f"has the same label file as {first}, {labels[0]}"
            return AnnotatedImage(file, path, number, broken=broken)
        try:
            rows = self._rows(path, labels)
        except DataError as error:
            broken = str(error).removeprefix(f"{self._path(labels[0])}: ")
            return AnnotatedImage(file, path, number, labels[0], broken=broken)
        ids, unknown = self._class_ids(rows)
        return AnnotatedImage(
            file,
            path,
            number,
            labels[0],
            boxes=rows.boxes,
            labels=ids,
            locations=Numbered("line", rows.lines),
            unknown=unknown,
            relative=True,
        )

    def judged(self, image: AnnotatedImage) -> AnnotatedImage:
        """Return an image as one that cannot be used if it has rows with a sixth number."""
        error = self._six_numbers.get(image.name)
        if error is None:
            return image
        return AnnotatedImage(
            image.path, image.name, image.image_id, image.annotation, broken=error
        )

    def _path(self, file: str) -> str:
        return os.path.join(self._root, file)

    def _rows(self, image: str, labels: Sequence[str]) -> Rows:
        """Return the rows of an image's label files. Raises DataError."""
        file = labels[0]
        rows = parse_labels(read_text(self._path(file)))
        for other in labels[1:]:
            self._compare(rows, file, other)
        owners = self._pairs.owners(file)
        if len(owners) > 1:
            raise DataError(
                f"belongs to {' and '.join(owners)}: which of them has these boxes is not known;"
                " rename or remove one"
            )
        if rows.sixth:
            self._six_numbers[image] = sixth_number_error(rows)
        if file not in self._surveyed:  # an image may be in several splits
            self._surveyed.add(file)
            self.survey.add(file, rows)
        return rows

    def _compare(self, rows: Rows, file: str, other: str) -> None:
        """Raise DataError if two label files of an image differ; one may be a caption."""
        try:
            same = rows.same(parse_labels(read_text(self._path(other))))
        except DataError:
            self.tally.add("text files have the name of an image and no boxes; not used", other)
            return
        if not same:
            raise DataError(f"differs from {other}, which belongs to the same image; remove one")
        self.tally.add("label files have a copy with the same boxes; used once", other)

    def _class_ids(self, rows: Rows) -> tuple[np.ndarray, tuple[str | int, ...]]:
        """Return the ids in `classes`, -1 for none, and then the classes that the rows name."""
        if self._classes == self._names:
            return rows.labels, ()
        stated: tuple[str | int, ...] = tuple(
            self._names[i] if 0 <= i < len(self._names) else i for i in rows.labels.tolist()
        )
        return np.array([self._ids.get(name, -1) for name in stated], np.int64), stated


def _missing_labels(
    layout: Layout, pairs: Pairs, split: str, paths: Sequence[str]
) -> list[Problem]:
    """Return the problem that images of a split have no label file; an error if none has one."""
    images = [path for path in paths if pairs.exists(path)]
    missing = pairs.missing(images)
    if not missing:
        return []
    none = len(missing) == len(images)
    what = _no_label_files(missing, len(images), split)
    if not none:
        what += (
            "; they are images without boxes"
            if len(missing) > 1
            else "; it is an image without boxes"
        )
    elif pairs.orphans:
        what += f", while {pairs.orphans[0]} belongs to no image"
    file = layout.description or os.path.dirname(missing[0]) or "."
    return [Problem(file, what, error=none, split=split)]


def _no_label_files(missing: Sequence[str], of: int, split: str) -> str:
    """Return that images of a split, out of so many, have no label file, with an example."""
    example = f"such as {label_places(missing[0])[0]} for {missing[0]}"
    if len(missing) < of:
        subject = f"1 image of split {split!r} has"
        if len(missing) > 1:
            subject = f"{len(missing)} images of split {split!r} have"
        return f"{subject} no label file, {example}"
    if of == 1:
        return f"the only image of split {split!r} has no label file, {example}"
    return f"none of the {of} images of split {split!r} has a label file, {example}"
