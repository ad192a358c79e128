"""Pascal VOC: an XML file for each image, and lists of image names for the splits.

Supported: ROOT/{Annotations,JPEGImages,ImageSets/Main/SPLIT.txt} as in VOC; ImageNet's detection
set, with nested folders, `Data` for JPEGImages and `.JPEG` files; a folder of images with the XML
files next to them, as labelling tools write it, or ROOT/SPLIT/* of such. ROOT may be the parent of
the only such folder. Coordinates are used as written: VOC counts pixels from 1, but its boxes are
not accurate to a pixel.

ImageNet's set follows the readme of its development kit (ILSVRC2015):
ImageSets/DET/{train,val,test}.txt with a number after each name; train_1.txt to train_200.txt, one
class each, with 1 for images in which all objects of the class are annotated, 0 if not all are, and
-1 for images without the class; images without annotated objects may have no XML file; objects are
named by WordNet id, to which devkit/data/map_det.txt assigns a number from 1 and a name.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from ml_collections import ConfigDict

from convmesh.data.documents import path_inside, read_text, read_xml
from convmesh.data.formats.annotated import AnnotatedImage, AnnotatedSet
from convmesh.data.formats.evidence import Evidence
from convmesh.data.formats.files import list_files, name_from, root_folder
from convmesh.data.images import SUFFIXES
from convmesh.data.problems import Problem
from convmesh.errors import DataError

_IMAGE_FOLDERS = ("JPEGImages", "Data", "images", "Images")
_IMAGENET = ("DET", "CLS-LOC")  # ImageNet's folders in ImageSets
_NAMES = ("devkit/data/map_det.txt", "ILSVRC/devkit/data/map_det.txt")
_XML = ("Annotations", "*/Annotations", "*.xml", "*/*.xml")  # any of these makes it VOC
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def open_dataset(config: ConfigDict) -> AnnotatedSet:
    """Return the data set in `config.data.root`.

    The classes are `data.classes`, else those of ImageNet's devkit, else those in the files,
    sorted. Raises ConfigError for a root that is not a folder, DataError if it has no annotations.
    """
    root = root_folder(config)
    names_file = next((root / name for name in _NAMES if (root / name).is_file()), None)
    synsets = _read_synsets(names_file) if names_file else {}
    layout = _Layout(_annotated_folder(root), config.data.train_split)
    if not any(layout.splits.values()):
        raise DataError(f"{root}: no XML annotations; expected Annotations/*.xml, or *.xml")
    images: dict[PurePosixPath, AnnotatedImage] = {}
    names: dict[PurePosixPath, tuple[str, ...]] = {}
    for stem in dict.fromkeys(stem for stems in layout.splits.values() for stem in stems):
        images[stem], found = _read_image(layout, stem, len(images) + 1)
        names[stem] = tuple(synsets[name][1] if name in synsets else name for name in found)
    own_ids = {name: number for number, name in sorted(synsets.values())}
    listed = own_ids or sorted({name for given in names.values() for name in given})
    classes = tuple(config.data.classes) or tuple(listed)
    category_ids = [own_ids[name] for name in classes if name in own_ids]
    class_ids = {name: i for i, name in enumerate(classes)}
    for stem, image in images.items():
        labels = np.array([class_ids.get(name, -1) for name in names[stem]], np.int64)
        images[stem] = replace(image, labels=labels, unknown=names[stem])
    return AnnotatedSet(
        config,
        {split: [images[stem] for stem in stems] for split, stems in layout.splits.items()},
        classes,
        # The numbers of the devkit, if it has all of the classes.
        category_ids if len(category_ids) == len(classes) else None,
        layout.problems,
    )


def looks_like(root: Path, task: str, evidence: Evidence) -> bool:
    """Return whether folder `root` has XML files, or a folder for them; see `registry.Format`."""
    return evidence is Evidence.LAYOUT and any(any(root.glob(pattern)) for pattern in _XML)


def _annotated_folder(root: Path) -> Path:
    """Return `root`, or the only folder in it with annotations (VOCdevkit/VOC2012, ILSVRC).

    Raises DataError if there are several.
    """
    if (root / "Annotations").is_dir():
        return root
    tops = sorted(path.parent for path in root.glob("*/Annotations") if path.is_dir())
    if len(tops) > 1:
        names = ", ".join(top.name for top in tops)
        raise DataError(f"{root}: holds several data sets, {names}; set data.root to one of them")
    return tops[0] if tops else root


def _read_synsets(path: Path) -> dict[str, tuple[int, str]]:
    """Return the number and name of each WordNet id in a file of ImageNet's devkit."""
    found: dict[str, tuple[int, str]] = {}
    for i, line in enumerate(read_text(path).splitlines(), start=1):
        parts = line.split(maxsplit=2)
        if parts and (len(parts) != 3 or not parts[1].isdecimal()):
            raise DataError(f"{path}: line {i}: {line!r}, wanted a WordNet id, a number and a name")
        if parts:
            found[parts[0]] = int(parts[1]), parts[2].strip()
    repeated = [name for name, n in Counter(name for _, name in found.values()).items() if n > 1]
    if repeated:
        raise DataError(f"{path}: {repeated[0]!r} is the name of several classes")
    return found


class _Layout:
    """The files of a data set.

    splits: the images of each split, as paths without suffix relative to the folder of images.
    problems: of the files as such.
    """

    def __init__(self, root: Path, train_split: str):
        """Read the layout of `root`; without lists or folders of splits, all is `train_split`."""
        self.root, self.problems = root, list[Problem]()
        self._xml_root = root / "Annotations" if (root / "Annotations").is_dir() else root
        folders = [root / name for name in _IMAGE_FOLDERS if (root / name).is_dir()]
        self._image_root = folders[0] if folders else root
        self._xml = _files_by_stem(self._xml_root, lambda suffix: suffix == ".xml")
        self._images = _files_by_stem(self._image_root, SUFFIXES.__contains__)
        self._ambiguous = {
            stem: " and ".join(self.name_of(top / name) for name in names)
            for top, files in ((self._xml_root, self._xml), (self._image_root, self._images))
            for stem, names in files.items()
            if len(names) > 1
        }
        # ImageNet's lists name `n02084071/x` for Annotations/DET/train/n02084071/x.xml.
        self._by_name: dict[str, list[PurePosixPath]] = {}
        for stem in dict.fromkeys([*self._xml, *self._images]):
            self._by_name.setdefault(stem.name, []).append(stem)
        # ImageNet's lists have a million lines: look up whole lines only if names contain spaces.
        self._spaced = any(
            len(str(stem).split()) > 1 for names in self._by_name.values() for stem in names
        )
        self._listed_empty: set[PurePosixPath] = set()
        self.splits = (
            self._splits_from_lists() or self._splits_from_folders() or {train_split: [*self._xml]}
        )
        self.problems += self._unmatched()

    def xml(self, stem: PurePosixPath) -> Path | None:
        """Return the XML file of an image, or None."""
        names = self._xml.get(stem)
        return self._xml_root / names[0] if names else None

    def image(self, stem: PurePosixPath) -> Path | None:
        """Return the image file of an image, or None."""
        names = self._images.get(stem)
        return self._image_root / names[0] if names else None

    def ambiguous(self, stem: PurePosixPath) -> str:
        """Return the files that share a path without suffix, `a.jpg and a.png`; '' if unique."""
        return self._ambiguous.get(stem, "")

    def is_empty(self, stem: PurePosixPath) -> bool:
        """Return whether an image without an XML file is known to contain no object."""
        return stem in self._listed_empty

    def name_of(self, path: Path) -> str:
        """Return the name of `path` in messages, relative to the root."""
        return name_from(self.root, path)

    def _splits_from_lists(self) -> dict[str, list[PurePosixPath]]:
        """Return the splits of ImageSets/Main/*.txt, or else of ImageSets/*/*.txt."""
        sets, found = self.root / "ImageSets", {}
        folders = [sets / "Main"]
        if not folders[0].is_dir():
            folders = [*(sets / name for name in _IMAGENET), sets]
        files = next((sorted(f.glob("*.txt")) for f in folders if any(f.glob("*.txt"))), [])
        for file in files:
            lines = [line.strip() for line in read_text(file).splitlines() if line.strip()]
            entries = [self._parse_line(line, file) for line in lines]
            if _is_class_list([number for _, number in entries]):
                continue
            names: dict[PurePosixPath, list[str]] = {}
            for name, _ in entries:
                names.setdefault(self._resolve(name, file), []).append(name)
            for same in sorted(same for same in names.values() if len(same) > 1):
                what = f"names {same[0]} {len(same)} times"
                self.problems.append(Problem(self.name_of(file), what, error=False))
            stems = list(names)
            if stems:
                found[file.stem] = stems
            # A split without any XML file, such as the test split, was published without labels.
            if file.parent.name == "DET" and any(stem in self._xml for stem in stems):
                self._listed_empty.update(stem for stem in stems if stem not in self._xml)
        return found

    def _parse_line(self, line: str, file: Path) -> tuple[str, str]:
        """Return the name in a line of a list, and the numbers after it, or ''.

        Names may contain spaces and end in a number: the longest known name is used. If none is
        known, the name is what comes before the numbers.
        """
        name, numbers = line, list[str]()
        while len(parts := name.rsplit(maxsplit=1)) == 2 and _is_number(parts[1]):
            if self._spaced and self._find(name, file):
                break
            name, numbers = parts[0], [parts[1], *numbers]
        return name, " ".join(numbers)

    def _resolve(self, name: str, file: Path) -> PurePosixPath:
        """Return the image that a list names, by its path or the last part of it."""
        path_inside(self.root, name, file)  # no name may lead out of the root
        return self._find(name, file) or _without_suffix(name)

    def _find(self, name: str, file: Path) -> PurePosixPath | None:
        """Return the image that a list names, or None if there is no such image."""
        given = _without_suffix(name)
        if given in self._xml or given in self._images:
            return given
        same = self._by_name.get(given.name, [])
        ends = [stem for stem in same if stem.parts[-len(given.parts) :] == given.parts]
        for folder in (file.parent.name, file.stem):  # ImageNet's are in DET/train or DET/val
            if len(ends) > 1:
                ends = [stem for stem in ends if folder in stem.parts] or ends
        return ends[0] if ends else None

    def _splits_from_folders(self) -> dict[str, list[PurePosixPath]]:
        """Return the splits of folders, ROOT/SPLIT/*.xml; one folder must be called train."""
        if any(len(stem.parts) == 1 for stem in self._xml):
            return {}
        found: dict[str, list[PurePosixPath]] = {}
        for stem in self._xml:
            found.setdefault(stem.parts[0], []).append(stem)
        return found if len(found) > 1 or "train" in found else {}

    def _unmatched(self) -> Iterator[Problem]:
        """Yield a warning for each annotation without an image, and the reverse, in no split."""
        listed = {stem for stems in self.splits.values() for stem in stems}
        xml_only = "an annotation without an image"
        image_only = "an image without an annotation; it is in no split"
        for files, others, top, what in (
            (self._xml, self._images, self._xml_root, xml_only),
            (self._images, self._xml, self._image_root, image_only),
        ):
            for stem, names in files.items():
                if stem not in others and stem not in listed:
                    for name in names:
                        yield Problem(self.name_of(top / name), what, error=False)


def _without_suffix(name: str) -> PurePosixPath:
    """Return a name in a list as a path without the suffix of an image."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.with_suffix("") if path.suffix.lower() in SUFFIXES else path


def _is_class_list(numbers: list[str]) -> bool:
    """Return whether a list states for each image if it contains a class: -1, 0 or 1 after each."""
    # ImageNet numbers the images of a split from 1: a list with only 1 is a split of one image.
    return set(numbers) <= {"-1", "0", "1"} and not set(numbers) <= {"1"}


def _files_by_stem(root: Path, wanted: Callable[[str], bool]) -> dict[PurePosixPath, list[str]]:
    """Return the files in and below `root` by their path without suffix, sorted, no hidden ones.

    Several files may share a path: a.jpg and a.png. wanted: whether to include files with a suffix,
    in lower case. Follows links to folders. Raises DataError if a folder cannot be read.
    """
    found: dict[PurePosixPath, list[str]] = {}
    for name in list_files(root):
        stem, suffix = os.path.splitext(name)
        if wanted(suffix.lower()):
            found.setdefault(PurePosixPath(stem), []).append(name)
    return dict(sorted(found.items()))


def _read_image(
    layout: _Layout, stem: PurePosixPath, number: int
) -> tuple[AnnotatedImage, tuple[str, ...]]:
    """Return image `stem`, with image id `number`, and the class name of each of its boxes."""
    xml, path = layout.xml(stem), layout.image(stem)
    if xml is None and path is None:
        broken = "no image and no annotation"
        return AnnotatedImage(layout.root / str(stem), str(stem), number, broken=broken), ()
    file, annotation = path or xml, layout.name_of(xml) if xml else ""
    assert file is not None
    name = layout.name_of(file)
    broken = _why_unusable(layout, stem)
    if broken:
        return AnnotatedImage(file, name, number, annotation, broken=broken), ()
    if xml is None:
        return AnnotatedImage(file, name, number), ()
    try:
        objects = _read_objects(read_xml(xml), annotation)
    except DataError as error:
        broken = str(error).removeprefix(f"{xml}: ").removeprefix(f"{annotation}: ")
        return AnnotatedImage(file, name, number, annotation, broken=broken), ()
    image = AnnotatedImage(
        file,
        name,
        number,
        annotation,
        boxes=np.array(objects.boxes, np.float64).reshape(-1, 4),
        difficult=np.array(objects.difficult, bool),
        locations=tuple(f"object {i + 1}" for i in range(len(objects.boxes))),
        size=objects.size,
    )
    return image, tuple(objects.names)


def _why_unusable(layout: _Layout, stem: PurePosixPath) -> str:
    """Return what is wrong with the files of an image that has at least one, '' if nothing is."""
    if layout.ambiguous(stem):
        return f"{layout.ambiguous(stem)} have its name; rename or remove all but one"
    if layout.image(stem) is None:
        return "its image is missing"
    if layout.xml(stem) is None and not layout.is_empty(stem):
        # ImageNet publishes test images without XML; in VOC the file is missing.
        return "has no XML file; write one, without objects if the image has none"
    return ""


class _Objects(NamedTuple):
    """The objects of an XML file; size: the stated (height, width) of the image, or None."""

    boxes: list[list[float]]
    names: list[str]
    difficult: list[bool]
    size: tuple[int, int] | None


def _read_objects(root: ElementTree.Element, file: str) -> _Objects:
    """Return the objects of an annotation. Raises DataError for one without name or box."""
    boxes, names, difficult = [], [], []
    for i, element in enumerate(root.iter("object"), start=1):
        name = (element.findtext("name") or "").strip()
        box = element.find("bndbox")
        if not name:
            raise DataError(f"{file}: object {i} has no <name>")
        if box is None:
            raise DataError(f"{file}: object {i} has no <bndbox>")
        boxes.append([_number(box.findtext(corner), corner, i, file) for corner in _CORNERS])
        names.append(name)
        difficult.append((element.findtext("difficult") or "0").strip() in ("1", "true", "True"))
    stated = [root.findtext(f"size/{side}") for side in ("height", "width")]
    sides = [int(float(text)) for text in stated if text and _is_number(text)]
    size = (sides[0], sides[1]) if len(sides) == 2 and min(sides) > 0 else None
    return _Objects(boxes, names, difficult, size)


def _number(text: str | None, corner: str, i: int, file: str) -> float:
    if text is None or not _is_number(text):
        raise DataError(f"{file}: object {i}: <{corner}> is {text!r}, wanted a number")
    return float(text)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
