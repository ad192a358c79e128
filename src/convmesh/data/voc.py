"""Pascal VOC: an XML file for each image, and lists of names for the splits.

ROOT/{Annotations,JPEGImages,ImageSets/Main/SPLIT.txt} as VOC has it; ImageNet's detection set, with
folders in folders, `Data` for JPEGImages and `.JPEG` files; or a folder of images with the XML
beside them, as labelling tools write it, with ROOT/SPLIT/* for splits. Coordinates are taken as
written: VOC counts pixels from 1, which its own boxes' accuracy does not feel.
"""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np
from ml_collections import ConfigDict

from convmesh.data.annotated import Annotated, AnnotatedSet
from convmesh.data.documents import path_inside, read_text, read_xml
from convmesh.data.images import SUFFIXES
from convmesh.data.problems import Problem
from convmesh.errors import ConfigError, DataError

_IMAGE_FOLDERS = ("JPEGImages", "Data", "images", "Images")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def open_voc(config: ConfigDict) -> AnnotatedSet:
    """Return the data set in `config.data.root`; the classes are sorted, or `data.classes`.

    Raises ConfigError for a root that is no folder, DataError where it has no annotations.
    """
    root = Path(config.data.root).expanduser()
    if not config.data.root or not root.is_dir():
        raise ConfigError(f"data.root: {config.data.root or 'not set'} is not a folder")
    layout = _Layout(root, config.data.train_split)
    if not any(layout.splits.values()):
        raise DataError(f"{root}: no XML annotations; expected Annotations/*.xml, or *.xml")
    parsed: dict[PurePosixPath, Annotated] = {}
    names: dict[PurePosixPath, tuple[str, ...]] = {}
    for stem in dict.fromkeys(stem for stems in layout.splits.values() for stem in stems):
        number = len(parsed) + 1
        parsed[stem], names[stem] = _read(layout, stem, number)
    listed = {name for given in names.values() for name in given}
    classes = tuple(config.data.classes) or tuple(sorted(listed))
    numbers = {name: i for i, name in enumerate(classes)}
    examples = {
        stem: Annotated(
            **{
                **one.__dict__,
                "labels": np.array([numbers.get(name, -1) for name in names[stem]], np.int64),
                "unknown": names[stem],
            }
        )
        for stem, one in parsed.items()
    }
    splits = {split: [examples[stem] for stem in stems] for split, stems in layout.splits.items()}
    return AnnotatedSet(config, splits, classes, problems=layout.problems)


class _Layout:
    """Where the files of a data set lie.

    splits: the names of each split's images, without suffix, from the folder of the images.
    problems: of the files as such.
    """

    def __init__(self, root: Path, train_split: str):
        """Look at `root`; without lists or folders of splits all is `train_split`."""
        self.root, self.problems = root, list[Problem]()
        self._xml_root = root / "Annotations" if (root / "Annotations").is_dir() else root
        folders = [root / name for name in _IMAGE_FOLDERS if (root / name).is_dir()]
        self._image_root = folders[0] if folders else root
        self._xml = _files(self._xml_root, lambda suffix: suffix == ".xml")
        self._images = _files(self._image_root, SUFFIXES.__contains__)
        # ImageNet's lists name `n02084071/x` for Annotations/DET/train/n02084071/x.xml.
        self._by_name: dict[str, list[PurePosixPath]] = {}
        for stem in dict.fromkeys([*self._xml, *self._images]):
            self._by_name.setdefault(stem.name, []).append(stem)
        self.splits = self._listed() or self._folders() or {train_split: list(self._xml)}
        named = {stem for stems in self.splits.values() for stem in stems}
        self._without(named)

    def xml(self, stem: PurePosixPath) -> Path | None:
        """Return the annotation of an image, or None."""
        name = self._xml.get(stem)
        return None if name is None else self._xml_root / name

    def image(self, stem: PurePosixPath) -> Path | None:
        """Return the image file of a name, or None."""
        name = self._images.get(stem)
        return None if name is None else self._image_root / name

    def known(self, path: Path) -> str:
        """Return `path` as people name it: from the root."""
        return path.relative_to(self.root).as_posix()

    def _listed(self) -> dict[str, list[PurePosixPath]]:
        """Return the splits that lists name: ImageSets/Main/*.txt, or ImageSets/*/*.txt."""
        sets, found = self.root / "ImageSets", {}
        folders = [sets / "Main"] if (sets / "Main").is_dir() else [sets / "DET", sets]
        files = next((sorted(f.glob("*.txt")) for f in folders if any(f.glob("*.txt"))), [])
        for file in files:
            lines = [line.split() for line in read_text(file).splitlines() if line.strip()]
            # VOC's CLASS_SPLIT.txt say of each image whether the class is in it.
            if any(len(parts) == 2 and parts[1] in ("-1", "0") for parts in lines):
                continue
            names = [parts[0] for parts in lines]
            for name in sorted({name for name in names if names.count(name) > 1}):
                what = f"names {name} {names.count(name)} times"
                self.problems.append(Problem(self.known(file), what, error=False))
            stems = [self._stem(name, file) for name in dict.fromkeys(names)]
            if stems:
                found[file.stem] = stems
        return found

    def _stem(self, name: str, file: Path) -> PurePosixPath:
        """Return the image that a line of a list names, by its path or its last part."""
        path_inside(self.root, name, file)  # no name may lead out of the root
        path = PurePosixPath(name.replace("\\", "/"))
        given = path.with_suffix("") if path.suffix.lower() in SUFFIXES else path
        if given in self._xml or given in self._images:
            return given
        same = self._by_name.get(given.name, [])
        ends = [stem for stem in same if stem.parts[-len(given.parts) :] == given.parts]
        if len(ends) > 1:  # ImageNet's train and val have other folders in front
            ends = [stem for stem in ends if file.stem in stem.parts] or ends
        return ends[0] if ends else given

    def _folders(self) -> dict[str, list[PurePosixPath]]:
        """Return the splits that folders make: ROOT/SPLIT/*.xml."""
        if any(len(stem.parts) == 1 for stem in self._xml):
            return {}
        found: dict[str, list[PurePosixPath]] = {}
        for stem in self._xml:
            found.setdefault(stem.parts[0], []).append(stem)
        return found if len(found) > 1 or "train" in found else {}

    def _without(self, named: set[PurePosixPath]) -> None:
        """Note what has lost its other half."""
        for stem, name in self._xml.items():
            if stem not in self._images and stem not in named:
                what = "an annotation without an image"
                self.problems.append(Problem(self.known(self._xml_root / name), what, error=False))
        for stem, name in self._images.items():
            if stem not in self._xml and stem not in named:
                what = "an image without an annotation; it is in no split"
                path = self.known(self._image_root / name)
                self.problems.append(Problem(path, what, error=False))


def _files(root: Path, wanted) -> dict[PurePosixPath, str]:
    """Return the files in and below `root` by their path without suffix, sorted; hidden ones not.

    Links to folders are not followed: they may lead in circles.
    """
    found = {}
    for where, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = PurePosixPath(Path(where).relative_to(root).as_posix())
        for name in sorted(files):
            stem, suffix = os.path.splitext(name)
            if not name.startswith(".") and wanted(suffix.lower()):
                found[below / stem] = str(below / name)
    return dict(sorted(found.items()))


def _read(layout: _Layout, stem: PurePosixPath, number: int) -> tuple[Annotated, tuple[str, ...]]:
    """Return image `stem` and the class name of each of its boxes."""
    xml, path = layout.xml(stem), layout.image(stem)
    if xml is None:
        if path is None:
            nowhere = Annotated(
                layout.root / str(stem), str(stem), number, broken="no image and no annotation"
            )
            return nowhere, ()
        # ImageNet's test images have none; for VOC it is a file that was forgotten.
        broken = "there is no XML for it; write one, without objects if it has none"
        return Annotated(path, layout.known(path), number, broken=broken), ()
    annotation = layout.known(xml)
    if path is None:
        broken = "its image is missing"
        return Annotated(xml, annotation, number, annotation=annotation, broken=broken), ()
    try:
        boxes, names, difficult, size = _objects(read_xml(xml), annotation)
    except DataError as error:
        broken = str(error).removeprefix(f"{xml}: ").removeprefix(f"{annotation}: ")
        return Annotated(path, layout.known(path), number, annotation, broken=broken), ()
    one = Annotated(
        path,
        layout.known(path),
        number,
        annotation,
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        difficult=np.array(difficult, bool),
        places=tuple(f"object {i + 1}" for i in range(len(boxes))),
        size=size,
    )
    return one, tuple(names)


def _objects(root: ElementTree.Element, file: str):
    """Return boxes, class names, difficult marks and the stated size (or None) of an annotation."""
    boxes, names, difficult = [], [], []
    for i, thing in enumerate(root.iter("object"), start=1):
        name = (thing.findtext("name") or "").strip()
        frame = thing.find("bndbox")
        if not name:
            raise DataError(f"{file}: object {i} has no <name>")
        if frame is None:
            raise DataError(f"{file}: object {i} has no <bndbox>")
        boxes.append([_number(frame.findtext(corner), corner, i, file) for corner in _CORNERS])
        names.append(name)
        difficult.append((thing.findtext("difficult") or "0").strip() in ("1", "true", "True"))
    stated = [root.findtext(f"size/{side}") for side in ("height", "width")]
    sides = [int(float(text)) for text in stated if text and _is_number(text)]
    size = (sides[0], sides[1]) if len(sides) == 2 and min(sides) > 0 else None
    return boxes, names, difficult, size


def _number(text: str | None, corner: str, i: int, file: str) -> float:
    if text is None or not _is_number(text):
        raise DataError(f"{file}: object {i}: <{corner}> is {text!r}, wanted a number")
    return float(text)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
