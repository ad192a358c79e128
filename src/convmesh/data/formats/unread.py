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


_NUMBER = r"-?\d+(?:\.\d+)?"
# A row of YOLO is a class and fractions of the image; four pixels are another tool's.
_FRACTION = r"-?(?:[01](?:\.\d*)?|\.\d+|\d(?:\.\d+)?[eE]-\d+)"
_YOLO_ROW = rf"^\s*\d+(?:[ \t]+{_FRACTION}){{4}}(?!\S)"
# Also the beginning of a COCO file in another key order.
_NO_COCO = r"\A(?![\s\S]*\"(?:images|annotations|categories|image_id)\"\s*:)[\s\S]*"
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
        r'"from_name"|"file_upload"|"(completions|predictions)"\s*:|"(rectangle|polygon)labels"\s*:',
        "export it from Label Studio as COCO, YOLO or Pascal VOC",
    ),
    Unread(
        "Darwin JSON of V7",
        r".*\.json",
        r'"bounding_box"\s*:\s*\{|"item"\s*:\s*\{[\s\S]*"slots"\s*:',
        "export it from V7 as COCO",
    ),
    Unread(
        "VoTT JSON",
        r".*\.json",
        r'"asset"\s*:\s*\{|"boundingBox"\s*:\s*\{[\s\S]*"tags"',
        "export it from VoTT as Pascal VOC",
    ),
    Unread(
        "SuperAnnotate JSON",
        r".*\.json",
        r'"className"\s*:',
        "export it from SuperAnnotate as COCO",
    ),
    Unread("ISAT JSON", r".*\.json", r'"description"\s*:\s*"ISAT"', "convert it with ISAT to COCO"),
    Unread(
        "FiftyOne JSON",
        r".*\.json",
        r'"samples"\s*:\s*\[[\s\S]*"(filepath|_cls)"|"bounding_box"\s*:\s*\[',
        "export it from FiftyOne as COCO",
    ),
    Unread(
        "Datumaro JSON",
        r".*\.json",
        r'"categories"\s*:\s*\{\s*"(label|mask|points)"\s*:|"dm_format_version"',
        "export it from Datumaro as COCO",
    ),
    Unread(
        "Dataloop JSON",
        r".*\.json",
        r'"filename"[\s\S]*"coordinates"\s*:\s*\[',
        "export it from Dataloop as COCO",
    ),
    Unread("BDD100K JSON", r".*\.json", r'"box2d"\s*:'),
    Unread(
        "Labelbox JSON",
        r".*\.(ndjson|jsonl?)",
        r'"data_row"\s*:|"Labeled Data"',
        "convert it with Labelbox to COCO",
    ),
    Unread(
        "Ultralytics NDJSON",
        r".*\.ndjson",
        r'"type"\s*:\s*"(dataset|image)"',
        "convert it with Ultralytics to YOLO text",
    ),
    Unread("a manifest of SageMaker Ground Truth", r".*\.(manifest|jsonl)", r'"source-ref"\s*:'),
    Unread("Edge Impulse labels", r".*\.labels", r'"(bounding-?box|boundingBoxes|files")'),
    Unread(
        "Roboflow JSONL",
        r".*\.jsonl",
        r'"(prefix|suffix|messages)"\s*:',
        "export it from Roboflow as COCO",
    ),
    Unread("metadata of a Hugging Face image folder", r"(.*/)?metadata\.jsonl"),
    Unread("JSON lines", r".*\.(jsonl|ndjson)"),
    Unread("ODGT, as of CrowdHuman", r".*\.odgt"),
    Unread("tracks of the MOT Challenge", r"(.*/)?(gt|det)/(gt|det)\.txt"),
    Unread("tracks of the MOT Challenge", r"(.*/)?seqinfo\.ini"),
    Unread(
        "PASCAL Annotation Version 1.00 (Penn-Fudan, INRIA)",
        r".*\.txt",
        r"PASCAL Annotation Version 1",
    ),
    Unread(
        "WIDER FACE annotations",
        r".*\.txt",
        rf"(?i)\A{_IMAGE}\s*\n\d+\s*\n(?:-?\d+[ \t]+){{3,}}-?\d+\s",
    ),
    Unread("KITTI labels", r".*\.txt", rf"\A\s*[A-Za-z]\w*(?:[ \t]+{_NUMBER}){{14,15}}(?!\S)"),
    Unread(
        "DOTA's oriented boxes",
        r".*\.txt",
        rf"\A\s*(?:imagesource:|gsd:|{_NUMBER}(?:[ \t]+{_NUMBER}){{7}}[ \t]+[A-Za-z])",
    ),
    Unread("VisDrone labels", r".*\.txt", r"\A\s*(?:-?\d+,){7}-?\d+,?\s"),
    Unread(
        "class names with boxes in pixels, as of the OIDv4 Toolkit",
        r".*\.txt",
        rf"\A\s*[A-Za-z][^\d\n]*(?:[ \t]+{_NUMBER}){{4}}\s*(?:\n|\Z)",
    ),
    Unread(
        "lists of images and boxes in pixels (Keras, YOLOv4 PyTorch)",
        r".*\.txt",
        rf"(?im)^{_IMAGE}(?:[ \t]+\d+(?:\.\d+)?(?:,\d+(?:\.\d+)?){{3,4}})+[ \t]*\r?$",
    ),
    Unread("FGVC-Aircraft", r"(.*/)?images_(box|variant|family|manufacturer)[^/]*\.txt"),
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
        _YOLO_ROW,
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
        _YOLO_ROW,
        "arrange it as images/SPLIT/* and labels/SPLIT/*, see docs/data.md",
        task="detect",
    ),
    Unread(
        "JSON of boxes in a form of its own",
        r".*\.json",
        _NO_COCO + r'"(xmin|x_min|x1|left|top_?left|bbox)"\s*:',
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
# Beside images, what may be labels.
_LABELS = Unread(
    "labels in a form that is not known",
    r"(?!(.*/)?[^/]*(readme|licen[sc]e|citation|classes|names|about)[^/]*$)"
    r".*\.(txt|jsonl?|ndjson|xml|ya?ml|labels|manifest|gt|ann|anno|bbox|dat)",
)
_EMPTY = Unread("no images", r".*", advice="no images")


def explain(root: Path, task: str) -> str:
    """Return what folder `root` holds, as far as it can be named, and what to do."""
    shown = _Shown(root)
    if not shown.files:
        return "it is empty: no files in it" if not shown.folders else "its folders are empty"
    found = find(root, task)
    if found and found[0] is _EMPTY:
        return f"found {shown}, and no images"
    if found is None:
        return f"found {shown}; {_CONVERT[task]}"
    layout, file = found
    return f"found {shown}: {layout.what} ({file}); {_advice(layout, task)}"


def find(root: Path, task: str, suffix: str = "") -> tuple[Unread, str] | None:
    """Return the first of `LAYOUTS` that `root` has, and a file of it.

    For detection also what is in no layout but is no folder of images either: files that may be
    labels, or no images at all. suffix: of the only files to look at, which are of a layout.
    """
    shown = _Shown(root)
    files = [name for name in shown.files if name.endswith(suffix)]
    # Beside images, an archive is what they were unpacked from.
    layouts = LAYOUTS if shown.images else (*LAYOUTS, _ARCHIVE)
    if task == "detect" and not suffix:
        layouts = (*layouts, _LABELS)
    parts = dict[str, str]()
    for layout in layouts:
        if layout.task not in ("", task):
            continue
        named = (name for name in files if re.fullmatch(layout.files, name.lower()))
        for name in itertools.islice(named, _FILES):
            if layout.contains and name not in parts:
                parts[name] = _first_part(root / name)
            if not layout.contains or re.search(layout.contains, parts[name]):
                return layout, name
    return (_EMPTY, "") if task == "detect" and not (suffix or shown.images) else None


def name_document(path: Path) -> str:
    """Return the name of the layout of a JSON file by its name and content, and what to do; or ''.

    For detection, of a file that is known not to be in COCO format.
    """
    begin = _first_part(path)
    for layout in LAYOUTS:
        if layout.task in ("", "detect") and re.fullmatch(layout.files, path.name.lower()):
            if not layout.contains or re.search(layout.contains, begin):
                return f"{layout.what}; {_advice(layout, 'detect')}"
    return ""


def _advice(layout: Unread, task: str) -> str:
    return (layout.advice or "not read: {convert}").format(convert=_CONVERT[task])


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
        self.folders = 0  # below
        self._kinds, self._examples = Counter[str](), dict[str, str]()
        self._more = ""
        for prefix, images, others, complete in _levels(root, ""):
            self._more = self._more if complete else "more than "
            self.images += len(images)
            self.folders += prefix != ""
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
