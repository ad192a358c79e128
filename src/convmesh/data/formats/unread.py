"""Layouts that are not read, by the name that their users know them by.

Used for messages only, once no layout that is read was found: a message about classes or splits
would mislead.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from convmesh.data.formats.files import contents
from convmesh.errors import DataError

_CONVERT = {
    "detect": "convert it to COCO JSON, Pascal VOC XML or YOLO text, see docs/data.md",
    "classify": "put the images of each class into one folder of its name, see docs/data.md",
}
_SAVE = "not read: save its images as files, and {convert}"
_FIRST = 2**14  # bytes of a file that are looked at
_FILES = 20  # of one suffix, whose contents are looked at
_FOLDERS = 50  # in one folder, that are looked into
_IMAGE = r"[^,;\t\n]*\.(?:jpe?g|png|bmp|tiff?|webp|gif)"


class Unread(NamedTuple):
    """A layout that is not read.

    what: its name. files: pattern of a file's path, in lower case. contains: pattern of the first
    part of the file, '' for any. advice: what to do; '' to convert it. task: only for this task.
    """

    what: str
    files: str
    contains: str = ""
    advice: str = ""
    task: str = ""


_BOX_COLUMNS = r"x_?min|xtl|bbox|x_?cent|\bx_?1\b|\bleft\b|region_shape"
# The first that fits is named.
LAYOUTS = (
    Unread("VGG Image Annotator (VIA) JSON", r"(^|.*/)via_[^/]*\.json"),
    Unread("VGG Image Annotator (VIA) JSON", r".*\.json", r'"_via_|"shape_attributes"'),
    Unread("VGG Image Annotator (VIA) CSV", r".*\.csv", r"region_shape_attributes"),
    Unread("CreateML JSON", r".*createml\.json"),
    Unread("CreateML JSON", r".*\.json", r'"coordinates"\s*:\s*\{'),
    Unread(
        "Supervisely JSON",
        r".*\.(jpe?g|png|bmp|tiff?|webp)\.json",
        advice="export it from Supervisely as COCO, Pascal VOC or YOLO",
    ),
    Unread("Supervisely JSON", r"(.*/)?meta\.json", r'"classes"[\s\S]*"shape"'),
    Unread(
        "Label Studio JSON",
        r".*\.json",
        r'"from_name"|"file_upload"|"(completions|predictions)"\s*:',
        "export it from Label Studio as COCO, YOLO or Pascal VOC",
    ),
    Unread(
        "a prepared TFDS data set",
        r"(.*/)?features\.json",
        advice="set data.name to its name, and data.root to the folder that holds that of its name",
    ),
    Unread("TFRecord files", r".*\.(tfrecords?|tfrec|record|records)(-\d+-of-\d+)?(\.gz)?"),
    Unread("Parquet files", r".*\.parquet", advice=_SAVE),
    Unread("Arrow files", r".*\.arrow", advice=_SAVE),
    Unread("an LMDB database", r".*\.(mdb|lmdb)"),
    Unread("MATLAB files", r".*\.mat"),
    Unread("HDF5 files", r".*\.(h5|hdf5)"),
    Unread("MNIST's idx files", r".*-ubyte(\.gz)?"),
    Unread("CIFAR's pickled batches", r"(.*/)?(data_batch_\d|test_batch)(\.bin)?"),
    Unread("CIFAR's pickled batches", r"(.*/)?(batches\.meta|meta)"),
    Unread("a CSV table of boxes", r".*\.(csv|tsv)", rf"(?i)^[^\n]*({_BOX_COLUMNS})"),
    Unread("a CSV table of boxes", r".*\.csv", rf'(?i)^"?{_IMAGE}"?(,-?[\d.]+){{4}}'),
    Unread("a table of labels", r".*\.(csv|tsv|xlsx?)", task="classify"),
    Unread("a table", r".*\.(csv|tsv|xlsx?)", task="detect"),
    Unread(
        "YOLO labels",
        r".*\.txt",
        r"^\s*\d+([ \t]+-?[\d.eE+-]+){4}",
        "set task to detect (recipe detect)",
        task="classify",
    ),
    Unread("a list of labels", r".*\.txt", rf"(?im)^{_IMAGE}[ \t,;]+\S", task="classify"),
    Unread(
        "XML annotations",
        r".*\.xml",
        advice="if it holds boxes, set task to detect (recipe detect)",
        task="classify",
    ),
    Unread(
        "COCO annotations",
        r".*\.json",
        r'"(images|annotations|categories|licenses)"\s*:',
        "set task to detect (recipe detect)",
        task="classify",
    ),
    Unread("JSON labels", r"(.*/)?[^/]*(label|class|annotation|train)[^/]*\.json", task="classify"),
    Unread(
        "YOLO labels in folders of another arrangement",
        r".*\.txt",
        r"^\s*\d+([ \t]+-?[\d.eE+-]+){4}",
        "arrange it as images/SPLIT/* and labels/SPLIT/*, see docs/data.md",
        task="detect",
    ),
    Unread(
        "masks instead of boxes",
        r"(.*/)?(segmentation(class|object)|masks?|labels?|annotations?|ann|gtfine)/[^/]*"
        r"\.(png|jpe?g|bmp|tiff?|gif)",
    ),
    Unread("NumPy arrays", r".*\.(npz|npy)"),
    Unread("pickled Python objects", r".*\.(pkl|pickle|pt|pth)"),
)
_ARCHIVE = Unread("an archive", r".*\.(zip|tar|tgz|gz|bz2|xz|rar|7z|zst)", advice="unpack it")


def explain(root: Path, task: str) -> str:
    """Return what folder `root` holds, as far as it can be named, and what to do."""
    shown = _Shown(root)
    found = find(root, task)
    if found is None:
        return f"found {shown}; {_CONVERT[task]}"
    layout, file = found
    advice = (layout.advice or "not read: {convert}").format(convert=_CONVERT[task])
    return f"found {shown}: {layout.what} ({file}); {advice}"


def find(root: Path, task: str, suffix: str = "") -> tuple[Unread, str] | None:
    """Return the first of `LAYOUTS` that `root` has, and a file of it.

    suffix: of the only files to look at. Raises DataError if a folder cannot be read.
    """
    shown = _Shown(root)
    files = [name for name in shown.files if name.endswith(suffix)]
    # Beside images, an archive is what they were unpacked from.
    for layout in LAYOUTS if shown.images else (*LAYOUTS, _ARCHIVE):
        if layout.task not in ("", task):
            continue
        named = (name for name in files if re.fullmatch(layout.files, name.lower()))
        for name in itertools.islice(named, _FILES):
            if not layout.contains or re.search(layout.contains, _first_part(root / name)):
                return layout, name
    return None


def _first_part(path: Path) -> str:
    try:
        if not path.is_file():  # a pipe would block
            return ""
        with path.open("rb") as file:
            return file.read(_FIRST).decode("utf-8", "replace").lstrip("\ufeff")
    except OSError:
        return ""


class _Shown:
    """What is in a folder and a few levels below: files (images: one of each folder)."""

    def __init__(self, root: Path):
        self.files, self.images, self._example = list[str](), 0, ""
        self._kinds, self._examples = Counter[str](), dict[str, str]()
        self._more = ""
        for prefix, images, others, complete in _levels(root, ""):
            self._more = self._more if complete else "more than "
            self.images += len(images)
            self._example = self._example or (prefix + images[0] if images else "")
            for name in others:
                kind = os.path.splitext(name)[1] or name
                self._kinds[kind] += 1
                self._examples.setdefault(kind, prefix + name)
            self.files += [prefix + name for name in (*others, *images[:1])]

    def __str__(self) -> str:
        """Return the numbers of files by kind: 12 images (a.jpg), 1 file .csv (train.csv)."""
        images = f"{self._more}{_count(self.images, 'image')} ({self._example})"
        parts = [images] if self.images else []
        for kind, count in self._kinds.most_common(3):
            named = f"{_count(count, f'{kind} file')}" if kind.startswith(".") else "1 file"
            parts.append(f"{named} ({self._examples[kind]})")
        return ", ".join(parts) or "no files"


def _levels(
    root: Path, prefix: str, depth: int = 4
) -> Iterator[tuple[str, list[str], list[str], bool]]:
    """Yield the path of `root` and each folder below, its images, and its other files.

    The last value is whether all folders in it are yielded too.
    """
    try:
        found = contents(root / prefix)
    except DataError:  # what can be seen is enough
        return
    below = found.folders[: _FOLDERS if depth else 0]
    yield prefix, found.images, found.others, len(below) == len(found.folders)
    for name in below:
        yield from _levels(root, f"{prefix}{name}/", depth - 1)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
