"""YOLO: for each image a text file of boxes, as fractions of the image size.

The splits are those of data.yaml: folders, lists of folders, or .txt files that list images. If it
states none, or is missing: ROOT/{images,labels}/SPLIT, ROOT/SPLIT/{images,labels}, or
ROOT/{images,labels} without splits. The label file of an image is in the same path with the last
folder `images` replaced by `labels`, or next to the image. Paths in data.yaml that are those of
another machine are matched to folders in ROOT; nothing outside of ROOT is read.
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
from convmesh.data.formats.yolo_labels import parse_labels
from convmesh.data.formats.yolo_layout import YAML, Layout, is_image, replace_folder
from convmesh.data.images import SUFFIXES
from convmesh.data.problems import Problem
from convmesh.errors import ConfigError, DataError, nearest

_NO_LABELS = ("classes.txt", "predefined_classes.txt")  # .txt files in folders of labels


def open_dataset(config: ConfigDict) -> AnnotatedSet:
    """Return the data set in `config.data.root`; the classes are those of its files, in order.

    `data.classes` names the classes if no file does; otherwise it selects some, or another order,
    and boxes of other classes are bad boxes. Raises ConfigError for a root that is not a folder and
    for unknown classes, DataError for files that are not in YOLO format.
    """
    root = root_folder(config)
    layout = Layout(root, config)
    names = layout.names or tuple(config.data.classes)
    if not names:
        raise ConfigError(
            f"data.classes: not set, and {root} has no data.yaml or classes.txt that names the"
            " classes; give them in the order of their ids"
        )
    classes = tuple(config.data.classes) or names
    for name in classes:
        if name not in names:
            raise ConfigError(
                f"data.classes: {name!r} is not a class of the files, which have"
                f" {', '.join(itertools.islice(names, 10))}{nearest(name, names)}"
            )
    splits, problems = {}, list(layout.problems)
    for split, paths in layout.splits.items():
        splits[split] = [
            _example(layout, path, i, names, classes) for i, path in enumerate(paths, start=1)
        ]
        problems += _missing_labels(layout, split, paths)
    problems += _labels_without_image(layout)
    return AnnotatedSet(config, splits, classes, problems=problems, aliases=layout.aliases)


def looks_like(root: Path, task: str, evidence: Evidence) -> bool:
    """Return whether folder `root` has YOLO's files and folders; see `registry.Format`.

    That is data.yaml, or folders `images` and `labels`, the latter with text files.
    """
    has_yaml = any((root / name).is_file() for name in YAML)
    if evidence is Evidence.DESCRIPTION:
        # Roboflow's COCO export may contain a data.yaml. In the other direction COCO's annotations
        # in ROOT/annotations prove nothing: YOLO's tools keep them with the same images.
        return has_yaml and not any(root.glob("*/_annotations.coco.json"))
    if evidence is Evidence.LAYOUT:
        tops = (root, *(path for path in root.iterdir() if path.is_dir()))
        return has_yaml or any(
            (top / "images").is_dir() and _holds_labels(top / "labels") for top in tops
        )
    return False


def _holds_labels(folder: Path) -> bool:
    """Return whether the first files in `folder` are text, not images such as masks."""
    if not folder.is_dir():
        return False
    first = list(itertools.islice(itertools.chain(folder.glob("*.*"), folder.glob("*/*.*")), 100))
    suffixes = {path.suffix.lower() for path in first}
    return ".txt" in suffixes or not suffixes & SUFFIXES


def _example(
    layout: Layout, path: str, number: int, names: Sequence[str], classes: Sequence[str]
) -> AnnotatedImage:
    """Return image `path`, which is number `number` of its split.

    names: of the class ids in label files. classes: names of the class ids to return.
    """
    label_file = layout.label_file(path)
    file = layout.root / path
    if path not in layout.files:
        return AnnotatedImage(file, path, number, broken="is in a list, but does not exist")
    if label_file not in layout.files:
        return AnnotatedImage(file, path, number, relative=True)
    try:
        rows = parse_labels(read_text(layout.root / label_file))
    except DataError as error:
        broken = str(error).removeprefix(f"{layout.root / label_file}: ")
        return AnnotatedImage(file, path, number, label_file, broken=broken)
    labels, unknown = rows.labels, tuple[str | int, ...]()
    if classes != names:
        ids: dict[str | int, int] = {name: i for i, name in enumerate(classes)}
        stated = [names[i] if 0 <= i < len(names) else int(i) for i in labels]
        labels = np.array([ids.get(name, -1) for name in stated], np.int64)
        unknown = tuple(stated)
    return AnnotatedImage(
        file,
        path,
        number,
        label_file,
        boxes=rows.boxes,
        labels=labels,
        locations=Numbered("line", rows.lines),
        unknown=unknown,
        relative=True,
    )


def _missing_labels(layout: Layout, split: str, paths: Sequence[str]) -> list[Problem]:
    """Return the problem that images of a split have no label file; an error if none has one."""
    images = [path for path in paths if path in layout.files]
    missing = [path for path in images if layout.label_file(path) not in layout.files]
    if not missing:
        return []
    none = len(missing) == len(images)
    example = f"such as {layout.label_file(missing[0])} for {missing[0]}"
    what = f"{len(missing)} images of split {split!r} have no label file, {example}"
    what += "; they are images without boxes"
    if none:
        what = f"none of the {len(images)} images of split {split!r} has a label file, {example}"
    file = layout.yaml or os.path.dirname(missing[0])
    return [Problem(file, what, error=none, split=split)]


def _labels_without_image(layout: Layout) -> list[Problem]:
    """Return a warning for each label file without an image."""
    stems = {os.path.splitext(path)[0] for path in layout.files if is_image(path)}
    problems = []
    for path in layout.files:
        stem, suffix = os.path.splitext(path)
        image = replace_folder(stem, "labels", "images")
        if suffix == ".txt" and image not in stems and image != stem:
            if os.path.basename(path) not in _NO_LABELS:
                problems.append(Problem(path, "labels without an image", error=False))
    return problems
