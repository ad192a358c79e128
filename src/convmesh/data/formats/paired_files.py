"""Images with one annotation file each (VOC's XML, LabelMe's JSON), paired by name.

The files of an image have a common key: their path without suffix below the folder of images and
that of annotations, such as `train/a` for images/train/a.jpg and annotations/train/a.xml, or for
train/images/a.jpg and train/annotations/a.xml. Files whose keys differ are paired by the last part
of the key if it is unique, or else by the image that the annotation file names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from convmesh.data.documents import read_beginning
from convmesh.data.formats import split_names
from convmesh.data.formats.files import contents, is_hidden, list_files, normal_name, subfolders
from convmesh.data.formats.tally import Tally, counted
from convmesh.data.images import SUFFIXES, UNREAD_SUFFIXES
from convmesh.data.problems import Problem
from convmesh.errors import DataError

# Names of folders in any case, the preferred one first.
_IMAGE_FOLDERS = ("JPEGImages", "Data", "images", "image", "imgs", "img")
_ANNOTATION_FOLDERS = (
    *("Annotations", "annotation", "annots", "anns", "labels", "label"),
    *("xmls", "xml", "jsons", "json", "labelme"),
)
_DEPTH = 6  # of folders that are searched; ImageNet has Data/DET/train/ILSVRC2013_train/n02084071
_YOLO = re.compile(r"\s*\d+(\s+-?[\d.]+(e-?\d+)?){4,}\s*$", re.IGNORECASE)
_FIRST_LINE = 500  # bytes
_LOOKED_AT = 20  # text files, of which the first line is read
_SHOWN = 3  # more files without a partner than this are one warning


class PairedFiles:
    """The images and annotation files of a data set.

    annotations, images: by key, the paths of the files relative to `root`; several files of one key
    are ambiguous. renamed: by the former key of a file that was paired, its new one. folder: of the
    annotations, relative to `root`, or ''. containers: names of folders that keys leave out, in
    lower case. tally: of what is worth a warning.
    """

    def __init__(self, root: Path, suffix: str):
        """List the files in `root`; suffix: of annotation files, in lower case.

        Raises DataError if a folder cannot be read.
        """
        self.root, self.suffix = root, suffix
        self.annotations: dict[str, list[str]] = {}
        self.images: dict[str, list[str]] = {}
        self.renamed: dict[str, str] = {}
        self.folder, self.containers = "", {root.name.lower()}
        self.tally = Tally()
        self._conflicts: dict[str, str] = {}
        self._unread: dict[str, str] = {}  # files that may be images, by the last part of the key
        self._outside = list[str]()  # files in no folder of the data set
        self._texts = list[str]()
        tops = _split_tops(root, suffix)
        for prefix in tops or [""]:
            self._list(prefix)
        if tops:
            self._look_outside("", [root / top for top in tops])
        self._sort()

    def _list(self, prefix: str) -> None:
        """Add the files of the data set, or those in its folder `prefix`."""
        top = self.root / prefix
        notes = annotation_folder(top, self.suffix) or top
        images = _folder_that_holds(top, _IMAGE_FOLDERS, SUFFIXES) or top
        self.folder = notes.name if notes != top and not prefix else ""
        listed = {folder: list_files(folder) for folder in {notes, images}}
        # Annotation files may lie in the folder of images although there is none for them.
        inner = f"{images.name}/" if notes == top and images != top else ""
        before = f"{prefix}/" if prefix else ""
        for folder, into, wanted in (
            (notes, self.annotations, {self.suffix}),
            (images, self.images, SUFFIXES),
        ):
            self.containers.add(folder.name.lower())
            start = before if folder == top else f"{before}{folder.name}/"
            for name in listed[folder]:
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in wanted:
                    key = stem.removeprefix(inner) if folder == notes else stem
                    into.setdefault(normal_name(before + key), []).append(start + name)
                elif not suffix or suffix.lower() in UNREAD_SUFFIXES:
                    self._unread.setdefault(last_part(normal_name(stem)), start + name)
                elif suffix.lower() == ".txt":
                    self._texts.append(start + name)
        if notes != top:
            self._look_outside(prefix, [notes, images])

    def _look_outside(self, prefix: str, inside: list[Path]) -> None:
        """List the files in folder `prefix` that are in none of the folders `inside` it."""
        top = self.root / prefix
        before = f"{prefix}/" if prefix else ""
        here = contents(top)
        names = [] if top in inside else [*here.images, *here.others]
        own = {folder.name for folder in inside}
        for folder in (top / name for name in here.folders if top / name not in inside):
            # A copy of the data set is said where the root is looked for.
            if len(own) < 2 or not own <= set(contents(folder).folders):
                names += [f"{folder.name}/{name}" for name in list_files(folder)]
        self._outside += [before + name for name in names]

    def _sort(self) -> None:
        self.annotations = dict(sorted(self.annotations.items()))
        self.images = dict(sorted(self.images.items()))

    # Pairing files of different keys.

    def pair(self, stated_image: Callable[[str], str]) -> None:
        """Pair annotation files without an image with images without an annotation.

        stated_image: returns the image file that an annotation file names, or ''.
        """
        alone = [key for key in self.annotations if key not in self.images]
        free = {key for key in self.images if key not in self.annotations}
        if alone and free:
            self._pair_by_last_part(alone, free)
            self._pair_by_statement(alone, free, stated_image)
            self._sort()

    def _pair_by_last_part(self, alone: list[str], free: set[str]) -> None:
        """Pair files whose names are unique; removes their keys from `alone` and `free`."""
        images, annotations = by_last_part(self.images), by_last_part(self.annotations)
        for key in list(alone):
            same = images.get(last_part(key), ())
            if len(same) == 1 == len(annotations[last_part(key)]) and same[0] in free:
                if _may_belong(key, same[0]):
                    example = f"{self.annotations[key][0]} for {self.images[same[0]][0]}"
                    self.tally.add("annotations are of the image of that name elsewhere", example)
                    self._join(key, same[0])
                    alone.remove(key)
                    free.remove(same[0])

    def _pair_by_statement(
        self, alone: list[str], free: set[str], stated_image: Callable[[str], str]
    ) -> None:
        """Pair the annotation files `alone` with the images that they name."""
        claims: dict[str, list[str]] = {}
        images = by_last_part(self.images)
        for key in alone:
            for image in self._stated(key, stated_image(self.annotations[key][0]), images):
                claims.setdefault(image, []).append(key)
        for image, keys in claims.items():
            name = self.images[image][0]
            if image not in free:
                other = self.annotations[image][0]
                self._conflicts |= dict.fromkeys(
                    keys, f"its image is missing; it names {name}, which {other} annotates"
                )
            elif len(keys) > 1:
                both = " and ".join(self.annotations[key][0] for key in keys[:2])
                self._conflicts |= dict.fromkeys(keys, f"{both} both name the image {name}")
            else:
                example = f"{self.annotations[keys[0]][0]} for {name}"
                self.tally.add(
                    "annotations are of the image of another name stated inside", example
                )
                self._join(keys[0], image)

    def _stated(self, key: str, stated: str, images: dict[str, list[str]]) -> list[str]:
        """Return the key of the image file `stated`, if exactly one fits; else nothing."""
        name = file_name(stated)
        found = [image for image in images.get(without_suffix(name), ()) if _may_belong(key, image)]
        exact = [image for image in found if file_name(self.images[image][0]) == name]
        near = [image for image in exact or found if folder_of(image) == folder_of(key)]
        found = found if len(found) == 1 else near or exact
        return found if len(found) == 1 else []

    def _join(self, key: str, image: str) -> None:
        """Make an annotation file and an image one example, with the key that has more folders."""
        joined = key if key.count("/") > image.count("/") else image
        for files, old in ((self.annotations, key), (self.images, image)):
            if old != joined:
                files[joined] = files.pop(old)
                self.renamed[old] = joined

    # What is known of a key.

    def why_unusable(self, key: str) -> str:
        """Return what is wrong with the files of a key that has any, '' if nothing is."""
        for files in (self.images, self.annotations):
            if len(files.get(key, ())) > 1:
                both = " and ".join(files[key])
                return f"{both} have its name; rename or remove all but one"
        if key not in self.images:
            return self._conflicts.get(key) or self.unread_image(key) or "its image is missing"
        return ""

    def unread_image(self, key: str) -> str:
        """Return why the file that may be the image of `key` is none, '' without such a file."""
        path = self._unread.get(last_part(key))
        if path is None:
            return ""
        suffix = os.path.splitext(path)[1]
        if suffix:
            return f"its image {path} is in a format that is not read; convert it to JPEG or PNG"
        return f"its image {path} has no suffix; rename it, such as to {path}.jpg"

    def outside(self) -> Iterator[Problem]:
        """Yield warnings about annotations of images that are not used for where they lie.

        These are annotation files in other folders, and YOLO's text files.
        """
        by_suffix: dict[str, list[str]] = {".txt": list(self._texts)}
        for name in self._outside:
            by_suffix.setdefault(os.path.splitext(name)[1].lower(), []).append(name)
        known = {last_part(key) for key in self.images}
        for suffix in SUFFIXES & by_suffix.keys():
            known.update(_stem(name) for name in by_suffix[suffix])
        notes = [name for name in by_suffix.get(self.suffix, ()) if _stem(name) in known]
        if notes:
            what = counted(len(notes), "annotations are outside of the folders that are read")
            yield Problem(self.folder, f"{what}, such as {notes[0]}; not used", error=False)
        texts = [name for name in by_suffix[".txt"] if _stem(name) in known]
        if any(_is_yolo(self.root / name) for name in texts[:_LOOKED_AT]):
            what = counted(len(texts), "images have YOLO labels too")
            what += f", such as {texts[0]}; not used unless data.format is yolo"
            yield Problem(self.folder, what, error=False)

    def note_stated(self, key: str, stated: str) -> None:
        """Count the annotation of `key` if it names another image that is beside its own."""
        name = file_name(stated)
        own = last_part(key)
        if not name or without_suffix(name) == own:
            return
        other = self.images.get(key.removesuffix(own) + without_suffix(name), ())
        if key in self.images and any(file_name(path) == name for path in other):
            example = f"{self.annotations[key][0]}, which names {name}"
            what = "annotations name another image, which also exists"
            self.tally.add(f"{what}; those of their own name are used", example)

    def unlisted(self, used: Collection[str]) -> list[Problem]:
        """Return a warning about annotated images that are in no split; used: keys in one."""
        both = [key for key in self.annotations if key in self.images and key not in used]
        if not both:
            return []
        what = counted(len(both), "images are in no split")
        what += f", such as {self.images[both[0]][0]}; not used"
        return [Problem(self.folder, what, error=False)]

    def unmatched(self, used: Collection[str]) -> Iterator[Problem]:
        """Yield warnings about files without a partner that are in no split; used: keys in one."""
        for files, others, one, many in (
            (self.annotations, self.images, "an annotation without an image", "annotations"),
            (
                *(self.images, self.annotations),
                *("an image without an annotation; it is in no split", "images"),
            ),
        ):
            alone = [
                path
                for key, paths in files.items()
                if key not in others and key not in used
                for path in paths
            ]
            if len(alone) > _SHOWN:
                other = "annotation" if many == "images" else "image"
                what = f"{len(alone)} {many} without an {other}, such as {alone[0]}; in no split"
                yield Problem(folder_of(alone[0]), what, error=False)
            else:
                yield from (Problem(path, one, error=False) for path in alone)

    def splits_from_folders(self, train_split: str) -> tuple[dict[str, list[str]], dict[str, str]]:
        """Return the keys of the annotation files by split, and the other names of splits.

        The first folders of the keys are splits if one is named like one, or `train_split`; else
        all annotations are in `train_split`. Raises DataError if two folders are the same split.
        """
        tops: dict[str, list[str]] = {}
        for key in self.annotations:
            tops.setdefault(key.partition("/")[0] if "/" in key else "", []).append(key)
        known = [top for top in tops if top and (top == train_split or split_names.parse(top))]
        if not known:
            return {train_split: list(self.annotations)}, {}
        for top in tops:
            if top and top not in known:
                what = f"annotations are in a folder that is no split's; they are the split {top!r}"
                self.tally.add(what, self.annotations[tops[top][0]][0], len(tops[top]))
        tops.pop("", None)
        names = split_names.name_splits(top for top in tops if top != train_split)
        if train_split in tops:
            names[train_split] = train_split
        return {names[top]: keys for top, keys in tops.items()}, {
            top: name for top, name in names.items() if top != name
        }


# Parts of keys and names.


def file_name(path: str) -> str:
    """Return the last part of a path with slashes or backslashes, in composed Unicode."""
    return normal_name(path.replace("\\", "/").rpartition("/")[2].strip())


def without_suffix(name: str) -> str:
    """Return a name without the suffix of an image, if it has one."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in SUFFIXES else name


def last_part(key: str) -> str:
    """Return a key without folders."""
    return key.rpartition("/")[2]


def _stem(path: str) -> str:
    return last_part(normal_name(os.path.splitext(path)[0]))


def _is_yolo(path: Path) -> bool:
    """Return whether the first line of a text file is a box of YOLO."""
    try:
        begin = read_beginning(path, _FIRST_LINE).decode(errors="replace")
    except (OSError, ValueError):
        return False
    return _YOLO.match(begin.partition("\n")[0]) is not None


def folder_of(path: str) -> str:
    """Return the folders of a path or key, '' if it has none."""
    return path.rpartition("/")[0]


def by_last_part(keys: Iterable[str]) -> dict[str, list[str]]:
    """Return `keys` by their last part."""
    found: dict[str, list[str]] = {}
    for key in keys:
        found.setdefault(last_part(key), []).append(key)
    return found


def _may_belong(annotation: str, image: str) -> bool:
    """Return whether the keys of an annotation and an image are not in two different splits."""
    tops = [split_names.parse(key.partition("/")[0]) for key in (annotation, image) if "/" in key]
    return len(tops) < 2 or None in tops or tops[0] == tops[1]


# Folders.


def find_root(root: Path, suffix: str) -> Path:
    """Return `root`, or the only folder in it with annotations (VOCdevkit/VOC2012, archive/x).

    Raises DataError if there are several, or a folder cannot be read.
    """
    for _ in range(_DEPTH):
        if annotation_folder(root, suffix):
            return root
        inner = subfolders(root)
        tops = [top for top in inner if annotation_folder(top, suffix)]
        if any(split_names.parse(top.name) for top in tops):
            return root
        if len(tops) > 1:
            names = ", ".join(top.name for top in tops)
            raise DataError(
                f"{root}: holds several data sets, {names}; set data.root to one of them"
            )
        if tops:
            return tops[0]
        if len(inner) != 1 or split_names.parse(inner[0].name):
            return root
        if any(holds(top, (suffix,), 0) for top in (root, inner[0])):
            return root
        root = inner[0]
    return root


def has_annotations(root: Path, suffix: str) -> bool:
    """Return whether folder `root` has annotation files, or a folder for them."""
    try:
        root = find_root(root, suffix)
    except DataError:  # several data sets: opening it says so
        return True
    places = [root, *subfolders(root)]
    images = _folder_that_holds(root, _IMAGE_FOLDERS, SUFFIXES)
    return (
        any(annotation_folder(top, suffix) for top in places)
        or any(holds(top, (suffix,), 0) for top in places)
        or (images is not None and holds(images, (suffix,)))
    )


def annotation_folder(top: Path, suffix: str) -> Path | None:
    """Return the folder in `top` for annotation files with `suffix`, or None.

    A folder `Annotations` counts as one for XML although it is empty, unless it holds JSON.
    """
    found = _folder_that_holds(top, _ANNOTATION_FOLDERS, (suffix,))
    default = top / "Annotations"
    if found is None and suffix == ".xml" and default.is_dir() and not holds(default, (".json",)):
        return default
    return found


def _split_tops(root: Path, suffix: str) -> list[str]:
    """Return the folders in `root` that have a folder of annotations each; [] if they are none."""
    if annotation_folder(root, suffix):
        return []
    tops = {top.name: annotation_folder(top, suffix) is not None for top in subfolders(root)}
    if not any(tops.values()):
        return []
    return [name for name, annotated in tops.items() if annotated or split_names.parse(name)]


def _folder_that_holds(top: Path, names: Iterable[str], suffixes: Collection[str]) -> Path | None:
    """Return the folder in `top` with the first of `names`, in any case, that has such files."""
    folders: dict[str, list[Path]] = {}
    for path in subfolders(top):
        folders.setdefault(path.name.lower(), []).append(path)
    for name in names:
        # `Annotations` before `annotations`, if there are both.
        for path in sorted(folders.get(name.lower(), ()), key=lambda path: path.name != name):
            if holds(path, suffixes):
                return path
    return None


def holds(folder: Path, suffixes: Collection[str], depth: int = _DEPTH) -> bool:
    """Return whether a file with one of `suffixes` is in `folder` or up to `depth` below it.

    Raises DataError if a folder cannot be read.
    """
    inner = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                if os.path.splitext(entry.name)[1].lower() in suffixes:
                    return True
                if depth and entry.is_dir():
                    inner.append(Path(entry.path))
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from None
    return any(holds(path, suffixes, depth - 1) for path in inner)
