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
from convmesh.data.formats.annotated import AnnotatedImage, AnnotatedSet, Numbered
from convmesh.data.formats.evidence import Evidence
from convmesh.data.formats.files import root_folder
from convmesh.data.formats.tally import Tally, counted
from convmesh.data.formats.yolo import signs
from convmesh.data.formats.yolo.labels import Rows, parse_labels, sixth_number_error
from convmesh.data.formats.yolo.layout import Layout
from convmesh.data.formats.yolo.pairs import Pairs, label_places
from convmesh.data.formats.yolo.rows import Survey
from convmesh.data.problems import Problem
from convmesh.errors import ConfigError, DataError, nearest


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
    reader = _Reader(layout.root, pairs, names, classes)
    splits = {
        split: [reader.image(path, i) for i, path in enumerate(paths, start=1)]
        for split, paths in layout.splits.items()
    }
    if not reader.survey.has_track_ids:
        splits = {split: [reader.judged(i) for i in images] for split, images in splits.items()}
    problems = list(layout.problems)
    for split, paths in layout.splits.items():
        problems += _missing_labels(layout, pairs, split, paths)
    problems += [*pairs.problems(), *reader.tally.problems("labels")]
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
    example = f"such as {label_places(missing[0])[0]} for {missing[0]}"
    what = counted(len(missing), f"images of split {split!r} have no label file, {example}")
    what += "; they are images without boxes"
    if none:
        what = f"none of the {len(images)} images of split {split!r} has a label file, {example}"
        if pairs.orphans:
            what += f", while {pairs.orphans[0]} belongs to no image"
    file = layout.description or os.path.dirname(missing[0]) or "."
    return [Problem(file, what, error=none, split=split)]
