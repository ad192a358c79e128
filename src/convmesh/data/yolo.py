"""YOLO: a text file of boxes for each image, in parts of its sides, beside a folder of images.

The splits are those of data.yaml: folders, lists of folders, or .txt files that list images. Where
it names none, or is not there: ROOT/{images,labels}/SPLIT, ROOT/SPLIT/{images,labels}, or
ROOT/{images,labels} without splits. Labels lie where the last folder `images` of the image's path
is called `labels`, else beside the image. What data.yaml says of folders on another machine is
read as what is like it in ROOT; nothing outside of ROOT is read.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from convmesh.data.annotated import Annotated, AnnotatedSet, Numbered, files_below
from convmesh.data.documents import read_json, read_text, read_yaml
from convmesh.data.images import SUFFIXES
from convmesh.data.problems import Problem
from convmesh.errors import ConfigError, DataError, nearest

_YAML = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_NAMES = ("classes.txt", "obj.names", "labels/classes.txt", "train/labels/classes.txt")
_NO_LABELS = ("classes.txt", "predefined_classes.txt")  # .txt files among the labels
_VALIDATION = ("val", "valid", "validation")
_SPLIT = re.compile(r"(train|valid|validation|val|test)(\d{4})?")
# A side may pass the image's edge by this part of it: files hold three decimals or more, and a
# corner is a middle and half a length.
ROUNDING = 1e-3


def open_yolo(config: ConfigDict) -> AnnotatedSet:
    """Return the data set in `config.data.root`; the classes are those of its files, in order.

    `data.classes` names them where no file does, else it chooses some or another order; boxes of
    the others are then bad boxes. Raises ConfigError for a root that is no folder and for classes
    that are not there, DataError for files that are not of the form.
    """
    root = Path(config.data.root).expanduser()
    if not config.data.root or not root.is_dir():
        raise ConfigError(f"data.root: {config.data.root or 'not set'} is not a folder")
    layout = _Layout(root, config)
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
                f"data.classes: {name!r} is no class of the files, which have"
                f" {', '.join(itertools.islice(names, 10))}{nearest(name, names)}"
            )
    splits = {}
    for split, listed in layout.splits.items():
        splits[split] = [
            _example(layout, path, i, names, classes) for i, path in enumerate(listed, start=1)
        ]
        _note_missing(layout, split, listed)
    _note_without_images(layout)
    return AnnotatedSet(config, splits, classes, problems=layout.problems, aliases=layout.aliases)


def has_yaml(root: Path) -> bool:
    """Return whether `root` has a file that is called as YOLO's data.yaml is."""
    return any((root / name).is_file() for name in _YAML)


def looks_like_yolo(root: Path) -> bool:
    """Return whether `root` has data.yaml, or folders `images` and `labels` of text files."""
    if has_yaml(root):
        return True
    tops = (root, *(path for path in root.iterdir() if path.is_dir()))
    return any((top / "images").is_dir() and _of_texts(top / "labels") for top in tops)


def _of_texts(folder: Path) -> bool:
    """Return whether a folder is there and its first files are no images, as masks or a class's."""
    if not folder.is_dir():
        return False
    first = list(itertools.islice(itertools.chain(folder.glob("*.*"), folder.glob("*/*.*")), 100))
    suffixes = {path.suffix.lower() for path in first}
    return ".txt" in suffixes or not suffixes & SUFFIXES


# Which files there are.


class _Layout:
    """Where the files of a data set lie; all paths are from `root`, with forward slashes.

    files: all of them. splits: the images of each split. names: of the classes, () if no file has
    them. aliases: other names of splits. wanted: the splits that a run needs.
    """

    def __init__(self, root: Path, config: ConfigDict):
        """Look at `root`. Raises DataError for what the files say and is not so."""
        self.root, self.problems = root, list[Problem]()
        self.files = dict.fromkeys(files_below(root))
        self.aliases: dict[str, str] = {}
        data = config.data
        self._eval_names = (data.eval_split,) if data.eval_split else _VALIDATION
        self._train_split = data.train_split
        self._folders = {"", *(up for path in self.files for up in _folders_of(path))}
        self.yaml = next((name for name in _YAML if name in self.files), "")
        self._document = self._read_document()
        self.names = self._stated_names() or self._names_beside()
        self.splits = self._stated() or self._found()
        if not any(self.splits.values()):
            raise DataError(
                f"{root}: no images in a YOLO layout; expected data.yaml, images/SPLIT and"
                " labels/SPLIT, or SPLIT/images and SPLIT/labels"
            )

    def is_wanted(self, split: str) -> bool:
        """Return whether a run trains on the split or evaluates it."""
        return split == self._train_split or split in self._eval_names

    def label(self, image: str) -> str:
        """Return where the boxes of an image are, if there are any."""
        return _swapped(os.path.splitext(image)[0], "images", "labels") + ".txt"

    # What data.yaml says.

    def _read_document(self) -> dict:
        if not self.yaml:  # coco8.yaml, but not any YAML that lies there
            others = [name for name in self.files if re.fullmatch(r"[^/]+\.ya?ml", name)]
            document = read_yaml(self.root / others[0]) if len(others) == 1 else None
            if not isinstance(document, dict) or "names" not in document:
                return {}
            self.yaml = others[0]
        else:
            document = read_yaml(self.root / self.yaml)
        if not isinstance(document, dict):
            raise DataError(f"{self.yaml}: no names and values, as `train: images/train`")
        if document.get("kpt_shape") is not None:
            raise DataError(f"{self.yaml}: kpt_shape: its labels are keypoints, not boxes")
        return document

    def _stated_names(self) -> tuple[str, ...]:
        given, count = self._document.get("names"), self._document.get("nc")
        if isinstance(given, dict):
            if sorted(map(repr, given)) != sorted(map(repr, range(len(given)))):
                raise DataError(f"{self.yaml}: names: the ids are not 0..{len(given) - 1}")
            given = [given[i] for i in range(len(given))]
        if given is None:
            return ()
        if not isinstance(given, list) or not given:
            raise DataError(f"{self.yaml}: names: {given!r} is no list of names")
        names = tuple(self._name(name) for name in given)
        if count is not None and (type(count) is not int or count != len(names)):
            raise DataError(f"{self.yaml}: nc: {count!r}, but there are {len(names)} names")
        return _each_once(names, f"{self.yaml}: names")

    def _name(self, name: Any) -> str:
        if type(name) not in (str, int) or name == "":
            raise DataError(f"{self.yaml}: names: {name!r} is no text; write it in quotes")
        return str(name)

    def _names_beside(self) -> tuple[str, ...]:
        """Return the names that other files than data.yaml hold."""
        for file in _NAMES:
            if file in self.files:
                lines = [line.strip() for line in read_text(self.root / file).splitlines()]
                while lines and not lines[-1]:
                    lines.pop()
                if "" in lines:
                    raise DataError(f"{file}: line {lines.index('') + 1}: empty, and more follow")
                return _each_once(tuple(lines), file)
        if "notes.json" not in self.files:  # Label Studio's
            return ()
        document = read_json(self.root / "notes.json")
        entries = document.get("categories") if isinstance(document, dict) else None
        try:
            found = {entry["id"]: entry["name"] for entry in entries or ()}
            names = [found[i] for i in range(len(found))]
        except (TypeError, KeyError):
            names = [None]
        if not all(isinstance(name, str) and name for name in names):
            raise DataError("notes.json: categories: no names with the ids 0, 1, ...")
        return _each_once(tuple(names), "notes.json")

    def _stated(self) -> dict[str, list[str]]:
        """Return the splits of data.yaml."""
        splits = {}
        for split in dict.fromkeys(("train", *_VALIDATION, "test", self._train_split)):
            given = self._document.get(split)
            if given is None or given == "" or given == []:
                continue
            entries = given if isinstance(given, list) else [given]
            listed: list[str] = []
            for entry in entries:
                if not isinstance(entry, str):
                    raise DataError(f"{self.yaml}: {split}: {entry!r} is no path; write it in text")
                place = self._place(entry)
                if place is None:
                    what = f"{split}: {entry} is neither a folder nor a list of images in {{}}"
                    # Roboflow names a test split whether there is one or not.
                    if self.is_wanted(split):
                        raise DataError(f"{self.yaml}: {what.format(self.root)}")
                    what = what.format("the folder; left out")
                    self.problems.append(Problem(self.yaml, what, error=False))
                elif place in self.files:
                    listed += self._read_list(place)
                else:
                    listed += self._images_in(place)
            if listed or self.is_wanted(split):
                splits[split] = self._once(listed, split)
        return splits

    def _bases(self) -> list[str]:
        """Return the folders that the paths of data.yaml may be from."""
        said = self._document.get("path")
        inside = _inside(self.root, "", said) if isinstance(said, str) and said else None
        return list(dict.fromkeys(base for base in (inside, "") if base in self._folders))

    def _place(self, entry: str) -> str | None:
        """Return the folder or the list that an entry of data.yaml means, or None."""
        lists = (self._folders, {name for name in self.files if name.endswith(".txt")})
        for way in _ways(entry):
            for base in self._bases():
                path = _inside(self.root, base, way)
                if path is not None and any(path in known for known in lists):
                    return path
        return None

    def _read_list(self, file: str) -> list[str]:
        """Return the images that a .txt file lists; those that are not there too."""
        listed, bases = [], dict.fromkeys((os.path.dirname(file), *self._bases()))
        for i, line in enumerate(read_text(self.root / file).splitlines(), start=1):
            if not line.strip():
                continue
            ways = [
                path
                for way in _ways(line.strip())
                for path in (_inside(self.root, base, way) for base in bases)
                if path is not None
            ]
            if not ways:
                raise DataError(f"{file}: line {i}: {line.strip()} leads out of {self.root}")
            listed.append(next((path for path in ways if path in self.files), ways[0]))
        return listed

    def _images_in(self, folder: str) -> list[str]:
        start = f"{folder}/" if folder else ""
        return [path for path in self.files if path.startswith(start) and _is_image(path)]

    def _once(self, listed: list[str], split: str) -> list[str]:
        for path, count in Counter(listed).items():
            if count > 1:
                what = f"is {count} times in split {split!r}; taken once"
                self.problems.append(Problem(path, what, error=False))
        return list(dict.fromkeys(listed))

    # What the folders say.

    def _found(self) -> dict[str, list[str]]:
        """Return the splits that folders make."""
        images = self._images_in("images")
        if images:
            tops = {path.split("/")[1] if path.count("/") > 1 else "" for path in images}
            if not any(_SPLIT.fullmatch(top) or top == self._train_split for top in tops):
                return {self._train_split: images}
            loose = [path for path in images if path.count("/") == 1]
            if loose:
                what = f"{len(loose)} images in none of the splits' folders, as {loose[0]}"
                self.problems.append(Problem("images", what, error=False))
            return self._named({top: f"images/{top}" for top in sorted(tops - {""})})
        tops = {
            folder.split("/")[0]
            for folder in self._folders
            if folder.count("/") == 1 and folder.endswith("/images")
        }
        return self._named({top: f"{top}/images" for top in sorted(tops)})

    def _named(self, folders: dict[str, str]) -> dict[str, list[str]]:
        """Return the images of each folder; `train2017` is `train` unless there are two."""
        short = {top: held[1] for top in folders if (held := _SPLIT.fullmatch(top))}
        counts = Counter(short.get(top, top) for top in folders)
        splits = {}
        for top, folder in folders.items():
            split = short.get(top, top)
            split = split if counts[split] == 1 else top
            splits[split] = self._images_in(folder)
            if split != top:
                self.aliases[top] = split
        return splits


def _folders_of(path: str) -> Iterable[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _is_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in SUFFIXES


def _swapped(path: str, old: str, new: str) -> str:
    """Return `path` with its last folder `old` called `new`."""
    parts = path.split("/")
    at = [i for i, part in enumerate(parts[:-1]) if part == old]
    if at:
        parts[at[-1]] = new
    return "/".join(parts)


def _ways(said: str) -> list[str]:
    """Return how a path may be meant: as said, or from the root though it says otherwise.

    Roboflow writes ../train/images for train/images; other paths are those of another machine.
    """
    path = said.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or PureWindowsPath(path).drive:
        return [path, *("/".join(parts[i:]) for i in range(len(parts)))]
    ups = len(list(itertools.takewhile("..".__eq__, parts)))
    return [path, "/".join(parts[ups:])] if 0 < ups < len(parts) else [path]


def _inside(root: Path, base: str, said: str) -> str | None:
    """Return the path `said`, which is from `base` or absolute, from the root; None if not in it.

    '' is the root itself.
    """
    path = os.path.join(os.path.abspath(root), base, said.replace("\\", "/"))
    for top in (os.path.abspath(root), os.path.realpath(root)):
        found = os.path.relpath(path, top).replace(os.sep, "/")
        if found != ".." and not found.startswith("../"):
            return "" if found == "." else found
    return None


def _each_once(names: tuple[str, ...], file: str) -> tuple[str, ...]:
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(f"{file}: {name!r} stands there {count} times")
    return names


def _note_missing(layout: _Layout, split: str, listed: Sequence[str]) -> None:
    """Note how many images have no label file."""
    there = [path for path in listed if path in layout.files]
    missing = [path for path in there if layout.label(path) not in layout.files]
    if not missing:
        return
    none = len(missing) == len(there)
    what = f"{len(missing)} images of split {split!r} have no label file, as"
    what += f" {layout.label(missing[0])} for {missing[0]}; they are images without boxes"
    if none:
        what = f"none of the {len(there)} images of split {split!r} has a label file, as"
        what += f" {layout.label(missing[0])} for {missing[0]}"
    where = layout.yaml or os.path.dirname(missing[0])
    layout.problems.append(Problem(where, what, error=none, split=split))


def _note_without_images(layout: _Layout) -> None:
    """Note the label files without an image."""
    stems = {os.path.splitext(path)[0] for path in layout.files if _is_image(path)}
    for path in layout.files:
        stem, suffix = os.path.splitext(path)
        image = _swapped(stem, "labels", "images")
        if suffix == ".txt" and image not in stems and image != stem:
            if os.path.basename(path) not in _NO_LABELS:
                layout.problems.append(Problem(path, "labels without an image", error=False))


# What a file of labels says.


@dataclass(frozen=True)
class _Rows:
    """Boxes float64 [n, 4] in parts of the sides, class ids int64 [n], and their lines, from 1."""

    boxes: np.ndarray
    labels: np.ndarray
    lines: np.ndarray


def _example(
    layout: _Layout, path: str, number: int, names: Sequence[str], classes: Sequence[str]
) -> Annotated:
    """Return image `path`, the `number`-th of its split."""
    label = layout.label(path)
    file = layout.root / path
    if path not in layout.files:
        return Annotated(file, path, number, broken="a list names it, and it is missing")
    if label not in layout.files:
        return Annotated(file, path, number, relative=True)
    try:
        rows = _read(read_text(layout.root / label))
    except DataError as error:
        broken = str(error).removeprefix(f"{layout.root / label}: ")
        return Annotated(file, path, number, label, broken=broken)
    labels, unknown = rows.labels, tuple[str | int, ...]()
    if classes != names:
        numbers: dict[str | int, int] = {name: i for i, name in enumerate(classes)}
        known = [names[i] if 0 <= i < len(names) else int(i) for i in labels]
        labels = np.array([numbers.get(name, -1) for name in known], np.int64)
        unknown = tuple(known)
    return Annotated(
        file,
        path,
        number,
        label,
        boxes=rows.boxes,
        labels=labels,
        places=Numbered("line", rows.lines),
        unknown=unknown,
        relative=True,
    )


def _read(text: str) -> _Rows:
    """Return the rows of a label file. Raises DataError: the first that is none, and how many."""
    boxes, labels, lines, wrong = list[tuple](), list[int](), list[int](), list[str]()
    for i, line in enumerate(text.splitlines(), start=1):
        parts = line.split()
        if not parts:
            continue
        try:
            label, box = _row(parts)
        except ValueError as error:
            wrong.append(f"line {i}: {error}")
            continue
        boxes.append(box)
        labels.append(label)
        lines.append(i)
    if wrong:
        more = f" (and {len(wrong) - 1} more lines)" if len(wrong) > 1 else ""
        raise DataError(wrong[0] + more)
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    within = np.clip(corners, 0, 1)
    corners = np.where(np.abs(corners - within) <= ROUNDING, within, corners)
    return _Rows(corners, np.array(labels, np.int64), np.array(lines, np.int64))


def _row(parts: list[str]) -> tuple[int, tuple[float, float, float, float]]:
    """Return the class id and the corners of a row. Raises ValueError that says what is wrong."""
    values = [_number(part) for part in parts]
    label = values[0]
    if label != int(label) or abs(label) >= 2**31:
        raise ValueError(f"class id {parts[0]} is no whole number")
    if len(values) == 5:
        _, x, y, width, height = values
        return int(label), (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    if len(values) >= 7 and len(values) % 2:
        across, down = values[1::2], values[2::2]
        return int(label), (min(across), min(down), max(across), max(down))
    hint = "; is the last a confidence?" if len(values) == 6 else ""
    hint = "; keypoints?" if len(values) > 7 else hint
    raise ValueError(
        f"{len(values)} numbers, wanted class x y width height, or class and points x y{hint}"
    )


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is no number")
    return value
