"""Pascal VOC: an XML file for each image, and lists of names for the splits.

ROOT/{Annotations,JPEGImages,ImageSets/Main/SPLIT.txt} as VOC has it; ImageNet's detection set, with
folders in folders, `Data` for JPEGImages and `.JPEG` files; or a folder of images with the XML
beside them, as labelling tools write it, with ROOT/SPLIT/* for splits. ROOT may be the folder that
the one folder of them lies in. Coordinates are taken as written: VOC counts pixels from 1, which
its own boxes' accuracy does not feel.

What is particular to ImageNet's set is as its development kit's readme (ILSVRC2015) tells it:
ImageSets/DET/{train,val,test}.txt with a number after each name; train_1.txt to train_200.txt, a
class each, with 1 for images where all of it is annotated, 0 for those where not all is, and -1 for
those without it; images without any annotated object may have no XML; objects are named by their
WordNet id, for which devkit/data/map_det.txt has a number from 1 and a name.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np
from ml_collections import ConfigDict

from convmesh.data.annotated import Annotated, AnnotatedSet, files_below
from convmesh.data.documents import path_inside, read_text, read_xml
from convmesh.data.images import SUFFIXES
from convmesh.data.problems import Problem
from convmesh.errors import ConfigError, DataError

_IMAGE_FOLDERS = ("JPEGImages", "Data", "images", "Images")
_IMAGENET = ("DET", "CLS-LOC")  # its folders in ImageSets
_NAMES = ("devkit/data/map_det.txt", "ILSVRC/devkit/data/map_det.txt")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def open_voc(config: ConfigDict) -> AnnotatedSet:
    """Return the data set in `config.data.root`.

    The classes are `data.classes`, else those that ImageNet's devkit lists, else those that the
    files name, sorted. Raises ConfigError for a root that is no folder, DataError where it has no
    annotations.
    """
    root = Path(config.data.root).expanduser()
    if not config.data.root or not root.is_dir():
        raise ConfigError(f"data.root: {config.data.root or 'not set'} is not a folder")
    names_file = next((root / name for name in _NAMES if (root / name).is_file()), None)
    synsets = _read_synsets(names_file) if names_file else {}
    layout = _Layout(_top(root), config.data.train_split)
    if not any(layout.splits.values()):
        raise DataError(f"{root}: no XML annotations; expected Annotations/*.xml, or *.xml")
    parsed: dict[PurePosixPath, Annotated] = {}
    names: dict[PurePosixPath, tuple[str, ...]] = {}
    for stem in dict.fromkeys(stem for stems in layout.splits.values() for stem in stems):
        number = len(parsed) + 1
        parsed[stem], found = _read(layout, stem, number)
        names[stem] = tuple(synsets[name][1] if name in synsets else name for name in found)
    own = {name: number for number, name in sorted(synsets.values())}
    listed = own or sorted({name for given in names.values() for name in given})
    classes = tuple(config.data.classes) or tuple(listed)
    # The devkit's numbers, if all classes are its own.
    ids = [own[name] for name in classes if name in own]
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
    category_ids = ids if len(ids) == len(classes) else None
    return AnnotatedSet(config, splits, classes, category_ids, layout.problems)


def _top(root: Path) -> Path:
    """Return `root`, or the one folder in it that has annotations (VOCdevkit/VOC2012, ILSVRC).

    Raises DataError where there are several.
    """
    if (root / "Annotations").is_dir():
        return root
    tops = sorted(path.parent for path in root.glob("*/Annotations") if path.is_dir())
    if len(tops) > 1:
        names = ", ".join(top.name for top in tops)
        raise DataError(f"{root}: holds several sets, {names}; set data.root to one of them")
    return tops[0] if tops else root


def _read_synsets(path: Path) -> dict[str, tuple[int, str]]:
    """Return the number and the name of each WordNet id in a file of ImageNet's devkit."""
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
        self._twice = {
            stem: " and ".join(self.known(top / name) for name in names)
            for top, files in ((self._xml_root, self._xml), (self._image_root, self._images))
            for stem, names in files.items()
            if len(names) > 1
        }
        # ImageNet's lists name `n02084071/x` for Annotations/DET/train/n02084071/x.xml.
        self._by_name: dict[str, list[PurePosixPath]] = {}
        for stem in dict.fromkeys([*self._xml, *self._images]):
            self._by_name.setdefault(stem.name, []).append(stem)
        # ImageNet's lists have a million lines; none is looked up as a whole without need.
        self._spaced = any(
            len(str(stem).split()) > 1 for names in self._by_name.values() for stem in names
        )
        self._listed_empty: set[PurePosixPath] = set()
        self.splits = self._listed() or self._folders() or {train_split: list(self._xml)}
        named = {stem for stems in self.splits.values() for stem in stems}
        self._without(named)

    def xml(self, stem: PurePosixPath) -> Path | None:
        """Return the annotation of an image, or None."""
        names = self._xml.get(stem)
        return self._xml_root / names[0] if names else None

    def image(self, stem: PurePosixPath) -> Path | None:
        """Return the image file of a name, or None."""
        names = self._images.get(stem)
        return self._image_root / names[0] if names else None

    def twice(self, stem: PurePosixPath) -> str:
        """Return the files that share a name where one is due, as a.jpg and a.png; '' if none."""
        return self._twice.get(stem, "")

    def is_empty(self, stem: PurePosixPath) -> bool:
        """Return whether an image without an annotation is known to hold no object."""
        return stem in self._listed_empty

    def known(self, path: Path) -> str:
        """Return `path` as people name it: from the root."""
        return path.relative_to(self.root).as_posix()

    def _listed(self) -> dict[str, list[PurePosixPath]]:
        """Return the splits that lists name: ImageSets/Main/*.txt, or ImageSets/*/*.txt."""
        sets, found = self.root / "ImageSets", {}
        folders = [sets / "Main"]
        if not folders[0].is_dir():
            folders = [*(sets / name for name in _IMAGENET), sets]
        files = next((sorted(f.glob("*.txt")) for f in folders if any(f.glob("*.txt"))), [])
        for file in files:
            lines = [line.strip() for line in read_text(file).splitlines() if line.strip()]
            named = [self._line(line, file) for line in lines]
            if _of_one_class([number for _, number in named]):
                continue
            names: dict[PurePosixPath, list[str]] = {}
            for name, _ in named:
                names.setdefault(self._stem(name, file), []).append(name)
            for same in sorted(same for same in names.values() if len(same) > 1):
                what = f"names {same[0]} {len(same)} times"
                self.problems.append(Problem(self.known(file), what, error=False))
            stems = list(names)
            if stems:
                found[file.stem] = stems
            # Of a split that has no XML at all, as the test images, nothing is known.
            if file.parent.name == "DET" and any(stem in self._xml for stem in stems):
                self._listed_empty.update(stem for stem in stems if stem not in self._xml)
        return found

    def _line(self, line: str, file: Path) -> tuple[str, str]:
        """Return the name that a line of a list holds, and the number after it, or ''.

        Names may hold spaces, and end in a number: the longest that is known is taken. Where none
        is, what comes before the numbers is the name, for people to look for.
        """
        name, numbers = line, list[str]()
        while len(parts := name.rsplit(maxsplit=1)) == 2 and _is_number(parts[1]):
            if self._spaced and self._known_stem(name, file):
                break
            name, numbers = parts[0], [parts[1], *numbers]
        return name, " ".join(numbers)

    def _stem(self, name: str, file: Path) -> PurePosixPath:
        """Return the image that a list names, by its path or its last part."""
        path_inside(self.root, name, file)  # no name may lead out of the root
        return self._known_stem(name, file) or _without_suffix(name)

    def _known_stem(self, name: str, file: Path) -> PurePosixPath | None:
        """Return the image of a name in a list, or None where there is none."""
        given = _without_suffix(name)
        if given in self._xml or given in self._images:
            return given
        same = self._by_name.get(given.name, [])
        ends = [stem for stem in same if stem.parts[-len(given.parts) :] == given.parts]
        for folder in (file.parent.name, file.stem):  # ImageNet's lie in DET/train or DET/val
            if len(ends) > 1:
                ends = [stem for stem in ends if folder in stem.parts] or ends
        return ends[0] if ends else None

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
        xml_only = "an annotation without an image"
        image_only = "an image without an annotation; it is in no split"
        for files, others, top, what in (
            (self._xml, self._images, self._xml_root, xml_only),
            (self._images, self._xml, self._image_root, image_only),
        ):
            for stem, names in files.items():
                if stem not in others and stem not in named:
                    found = (self.known(top / name) for name in names)
                    self.problems += [Problem(path, what, error=False) for path in found]


def _without_suffix(name: str) -> PurePosixPath:
    """Return a name in a list as a path without an image's suffix."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.with_suffix("") if path.suffix.lower() in SUFFIXES else path


def _of_one_class(numbers: list[str]) -> bool:
    """Return whether a list says of each image whether a class is in it: -1, 0 or 1 after each."""
    # ImageNet counts the images of a split from 1: with 1 alone it is a split of one image.
    return set(numbers) <= {"-1", "0", "1"} and not set(numbers) <= {"1"}


def _files(root: Path, wanted: Callable[[str], bool]) -> dict[PurePosixPath, list[str]]:
    """Return the files in and below `root` by their path without suffix, sorted; hidden ones not.

    Several may share a path: a.jpg and a.png.

    wanted: says of a suffix in lower case whether it is one of theirs. Linked folders are followed.
    Raises DataError for a folder that may not be read.
    """
    found: dict[PurePosixPath, list[str]] = {}
    for name in files_below(root):
        stem, suffix = os.path.splitext(name)
        if wanted(suffix.lower()):
            found.setdefault(PurePosixPath(stem), []).append(name)
    return dict(sorted(found.items()))


def _read(layout: _Layout, stem: PurePosixPath, number: int) -> tuple[Annotated, tuple[str, ...]]:
    """Return image `stem` and the class name of each of its boxes."""
    xml, path = layout.xml(stem), layout.image(stem)
    if (path or xml) and layout.twice(stem):
        # Any of them may be the one that is meant: none is taken for it.
        broken = f"{layout.twice(stem)} have its name; rename or remove all but one"
        file, annotation = path or xml, layout.known(xml) if xml else ""
        assert file is not None
        return Annotated(file, layout.known(file), number, annotation, broken=broken), ()
    if xml is None:
        if path is None:
            nowhere = Annotated(
                layout.root / str(stem), str(stem), number, broken="no image and no annotation"
            )
            return nowhere, ()
        if layout.is_empty(stem):
            return Annotated(path, layout.known(path), number), ()
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
