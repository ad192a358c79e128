"""Pascal VOC: an XML file for each image, and lists of image names for the splits.

Supported: ROOT/{Annotations,JPEGImages,ImageSets/Main/SPLIT.txt} as in VOC, with the folders in any
case; ImageNet's detection set, with nested folders, `Data` for JPEGImages and `.JPEG` files; a
folder of images with the XML files next to them, as labelling tools write it, or ROOT/SPLIT/* of
such; ROOT/SPLIT/{images,annotations} and ROOT/{images,annotations}/SPLIT. ROOT may be the parent of
the only such folder. Coordinates are used as written: VOC counts pixels from 1, but its boxes are
not accurate to a pixel.

ImageNet's set follows the readme of its development kit (ILSVRC2015):
ImageSets/DET/{train,val,test}.txt with a number after each name; train_1.txt to train_200.txt, one
class each, with 1 for images in which all objects of the class are annotated, 0 if not all are, and
-1 for images without the class; images without annotated objects may have no XML file; objects are
named by WordNet id, to which devkit/data/map_det.txt assigns a number from 1 and a name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from convmesh.data.documents import read_text, read_xml
from convmesh.data.formats.annotated import AnnotatedImage, AnnotatedSet
from convmesh.data.formats.evidence import Evidence
from convmesh.data.formats.files import root_folder
from convmesh.data.formats.paired_files import PairedFiles, find_root, has_annotations
from convmesh.data.formats.pixel_boxes import unit_problems
from convmesh.data.formats.tally import counted
from convmesh.data.formats.voc.foreign import Foreign
from convmesh.data.formats.voc.lists import SplitLists
from convmesh.data.formats.voc.xml import Objects, check_root, read_objects, stated_image
from convmesh.data.problems import Problem
from convmesh.errors import DataError

# What is said about files with elements that VOC does not have.
_BOXES_ALONE = (
    "files have no <object>, but unknown elements; objects in another form?"
    " They must be <object>s with <name> and <bndbox>"
)
_BOXES_BESIDE = "files have boxes in unknown elements that are no <object>; not used"
_NUMBERS = "files have numbers in unknown elements; not used: objects in another form?"
_NO_OBJECT = "files have no <object>, but unknown elements; images without objects"
_NAMES = ("devkit/data/map_det.txt", "ILSVRC/devkit/data/map_det.txt")


def open_dataset(config: ConfigDict) -> AnnotatedSet:
    """Return the data set in `config.data.root`.

    The classes are `data.classes`, else those of ImageNet's devkit, else those in the files,
    sorted. Raises ConfigError for a root that is not a folder, DataError if it has no annotations.
    """
    root = root_folder(config)
    names_file = next((root / name for name in _NAMES if (root / name).is_file()), None)
    synsets = _read_synsets(names_file) if names_file else {}
    layout = _Layout(find_root(root, ".xml"), config.data.train_split)
    if not any(layout.splits.values()):
        raise DataError(f"{root}: no XML annotations; expected Annotations/*.xml, or *.xml")
    images: dict[str, AnnotatedImage] = {}
    names: dict[str, tuple[str, ...]] = {}
    for key in dict.fromkeys(key for keys in layout.splits.values() for key in keys):
        images[key], found = layout.read_image(key, len(images) + 1)
        names[key] = tuple(synsets[name][1] if name in synsets else name for name in found)
    if all(image.broken for image in images.values()):
        layout.check_is_voc()
    own_ids = {name: number for number, name in sorted(synsets.values())}
    listed = own_ids or sorted({name for given in names.values() for name in given})
    classes = tuple(config.data.classes) or tuple(listed)
    category_ids = [own_ids[name] for name in classes if name in own_ids]
    class_ids = {name: i for i, name in enumerate(classes)}
    for key, image in images.items():
        labels = np.array([class_ids.get(name, -1) for name in names[key]], np.int64)
        images[key] = replace(image, labels=labels, unknown=names[key])
    chosen = (config.data.train_split, config.data.eval_split)
    splits = {split: [images[key] for key in keys] for split, keys in layout.splits.items()}
    return AnnotatedSet(
        config,
        splits,
        classes,
        # The numbers of the devkit, if it has all of the classes.
        category_ids if len(category_ids) == len(classes) else None,
        [*layout.problems(chosen), *unit_problems(splits, layout.files.folder)],
        layout.aliases,
    )


def looks_like(root: Path, task: str, evidence: Evidence) -> bool:
    """Return whether folder `root` has XML files, or a folder for them; see `registry.Format`."""
    return evidence is Evidence.LAYOUT and has_annotations(root, ".xml")


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
    """The files of a data set, and what they state.

    files: images and XML files. splits: the keys of the images of each split. aliases: other names
    of splits.
    """

    def __init__(self, root: Path, train_split: str):
        """Read the layout of `root`; without lists or folders of splits, all is `train_split`."""
        self.files = PairedFiles(root, ".xml")
        self.files.pair(self._stated_image)
        self._lists = SplitLists(self.files, train_split)
        self.splits, self.aliases = self._lists.splits, self._lists.aliases
        if not self.splits:
            self.splits, self.aliases = self.files.splits_from_folders(train_split)
        # Of each file with elements that VOC does not have: these, and whether it has objects.
        self._foreign: dict[str, tuple[Foreign, bool]] = {}

    def _stated_image(self, path: str) -> str:
        try:
            return stated_image(read_xml(self.files.root / path))
        except DataError:  # reported when the objects are read
            return ""

    def check_is_voc(self) -> None:
        """Raise DataError if the first annotation is XML of another kind."""
        for file in [names[0] for names in self.files.annotations.values()][:1]:
            try:
                root = read_xml(self.files.root / file)
            except DataError:  # reported with its image
                return
            check_root(root, file)

    def read_image(self, key: str, number: int) -> tuple[AnnotatedImage, tuple[str, ...]]:
        """Return an image, with image id `number`, and the class name of each of its boxes."""
        root = self.files.root
        xml = self.files.annotations.get(key, [""])[0]
        path = self.files.images.get(key, [""])[0]
        if not (xml or path):
            broken = self.files.unread_image(key) or "no image and no annotation"
            return AnnotatedImage(root / key, key, number, broken=broken), ()
        file, broken, objects = path or xml, self._why_unusable(key), Objects()
        if xml and not broken:
            try:
                objects = read_objects(read_xml(root / xml), xml)
            except DataError as error:
                broken = str(error).removeprefix(f"{root / xml}: ").removeprefix(f"{xml}: ")
            else:
                self._note(key, xml, objects)
        image = AnnotatedImage(
            root / file,
            file,
            number,
            xml,
            boxes=np.array(objects.boxes, np.float64).reshape(-1, 4),
            difficult=np.array(objects.difficult, bool),
            locations=tuple(objects.locations),
            size=objects.size,
            broken=broken,
        )
        return image, tuple(objects.names)

    def _why_unusable(self, key: str) -> str:
        """Return what is wrong with the files of an image that has at least one, or ''."""
        broken = self.files.why_unusable(key)
        if broken or key in self.files.annotations or key in self._lists.without_xml:
            return broken
        # ImageNet publishes test images without XML; in VOC the file is missing.
        return "has no XML file; remove it from the list, or write one"

    def _note(self, key: str, xml: str, objects: Objects) -> None:
        """Collect what is worth a warning in an XML file."""
        self.files.note_stated(key, objects.image)
        for what, where in objects.remarks:
            self.files.tally.add(what, f"{xml}: {where}")
        if objects.foreign:
            self._foreign[xml] = objects.foreign, objects.found > 0

    def problems(self, chosen: Collection[str]) -> list[Problem]:
        """Return the problems of the files as such; complete after all images were read.

        chosen: the names of splits that the config sets.
        """
        files = self.files
        used = {key for keys in self.splits.values() for key in keys}
        return [
            *self._lists.problems,
            *files.tally.problems(files.folder),
            *self._foreign_problems(),
            *self._lists.unused(self.splits, chosen),
            *files.unlisted(used),
            *files.unmatched(used),
            *files.outside(),
        ]

    def _foreign_problems(self) -> list[Problem]:
        """Return the problem that unknown elements may hold objects in another form.

        It is an error in files without <object>: their images would be images without objects.
        """
        beside = set[str]()  # elements that other files have beside objects, such as of the camera
        for foreign, has_objects in self._foreign.values():
            beside |= foreign.others if has_objects else set()
        found: dict[str, list[tuple[str, str]]] = {}
        for xml, (foreign, has_objects) in self._foreign.items():
            if foreign.boxes:
                kind = _BOXES_BESIDE if has_objects else _BOXES_ALONE
                found.setdefault(kind, []).append((xml, min(foreign.boxes)))
            elif foreign.numbers:
                found.setdefault(_NUMBERS, []).append((xml, min(foreign.numbers)))
            elif not has_objects and foreign.others - beside:
                found.setdefault(_NO_OBJECT, []).append((xml, min(foreign.others - beside)))
        problems = []
        for kind, entries in found.items():
            what, _, remark = kind.partition("; ")
            text = f"{counted(len(entries), what)}, such as <{entries[0][1]}> in {entries[0][0]}"
            error = kind == _BOXES_ALONE
            problems.append(Problem(self.files.folder, f"{text}; {remark}", error=error))
        return problems
