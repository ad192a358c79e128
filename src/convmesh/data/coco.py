"""COCO: one JSON file for each split, with all its images, boxes and categories.

ROOT/annotations/instances_SPLIT2017.json as COCO has it, or any names that hold a split; a single
file without a split (`instances_default.json`, `result.json`) is the training split;
ROOT/SPLIT/_annotations.coco.json beside its images; or the files that the config names. Images are
looked for where tools put them, `_image_folders`. The classes are the categories, by id.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from ml_collections import ConfigDict

from convmesh.data.annotated import Annotated, AnnotatedSet, Numbered, files_below
from convmesh.data.coco_file import CocoFile, CocoImage, NotCoco, read_coco
from convmesh.data.documents import path_inside
from convmesh.data.problems import Problem, refuse
from convmesh.errors import ConfigError, DataError, nearest

# What a JSON file that is not in ROOT/annotations is called.
_BESIDE = ("_annotations.coco.json", "annotations.json", "labels.json", "result.json", "coco.json")
# COCO's own files without boxes, or with those of persons alone.
_OTHERS = ("person_keypoints_", "captions_", "panoptic_", "stuff_", "image_info_")
_VALIDATION = ("val", "valid", "validation")
_SPLIT = re.compile(r"(?:^|[^a-z])(train|valid|validation|val|test)(\d{4})?(?=$|[^a-z0-9])")


def open_coco(config: ConfigDict) -> AnnotatedSet:
    """Return the data set in `config.data.root`; the classes are all categories, by their ids.

    `data.classes` chooses some of them, or another order; boxes of the others are then bad boxes.
    Raises ConfigError for a root that is no folder and for classes or files that are not there,
    DataError where it has no annotations or they are no COCO.
    """
    root = Path(config.data.root).expanduser()
    if not config.data.root or not root.is_dir():
        raise ConfigError(f"data.root: {config.data.root or 'not set'} is not a folder")
    files, parsed, problems = [], [], list[Problem]()
    for file in _files(root, config):
        known = _known(root, file.path)
        try:
            parsed.append(read_coco(file.path, known))
        except NotCoco as error:
            # Of a test split often no more than the images is given out.
            if file.wanted:
                raise
            problems.append(Problem(known, f"{error.what}; left out", error=False))
            continue
        except DataError as error:
            if file.used:
                raise
            what = f"{str(error).removeprefix(f'{file.path}: ')}; left out"
            problems.append(Problem(known, what, split=file.split))
            continue
        files.append(file)
        problems += _of_split(file.split, parsed[-1].problems)
    if not files:
        raise DataError(
            f"{root}: no COCO annotations; expected annotations/*.json or"
            " SPLIT/_annotations.coco.json, or data.train_annotations set"
        )
    categories = _categories(list(zip(files, parsed, strict=True)), problems)
    if not categories:
        refuse(problems)
        raise DataError(f"{parsed[0].known}: no categories, so no classes")
    classes, ids = _chosen(categories, tuple(config.data.classes))
    splits, indices = {}, dict[Path, list[str]]()
    for file, one in zip(files, parsed, strict=True):
        places = _Places(root, file, [image.file_name for image in one.images], indices)
        splits[file.split], told = _examples(one, places, categories, ids)
        problems += _of_split(file.split, told)
    aliases = {file.alias: file.split for file in files if file.alias not in splits}
    return AnnotatedSet(config, splits, classes, ids, problems, aliases)


def _of_split(split: str, problems: Iterable[Problem]) -> list[Problem]:
    return [replace(problem, split=split) for problem in problems]


def looks_like_coco(root: Path, strict: bool = True) -> bool:
    """Return whether `root` has files that are called as COCO's are; none is opened.

    `strict`: a JSON file of any name in `root` itself is not enough.
    """
    return bool(_found(root, "train", strict))


# Which files there are.


@dataclass(frozen=True)
class _File:
    """A JSON file.

    split: what it is called. alias: that with the year. wanted: whether a run needs it. used:
    whether a run reads it: if it needs it, or as the test split where there is no validation.
    images: the folder of its images, if the config gives it.
    """

    path: Path
    split: str
    alias: str
    wanted: bool = True
    used: bool = True
    images: Path | None = None


def _files(root: Path, config: ConfigDict) -> list[_File]:
    """Return the files of the splits, found or named by the config."""
    data = config.data
    eval_names = (data.eval_split,) if data.eval_split else _VALIDATION
    given = []
    for key, split in (("train", data.train_split), ("eval", data.eval_split or "val")):
        name = data[f"{key}_annotations"]
        if name:
            path = root / Path(name).expanduser()
            if not path.is_file():
                raise ConfigError(f"data.{key}_annotations: {path} is not a file")
            given.append(_File(path, split, split, images=_folder_given(root, config, key)))
    if len(given) == 2:
        return given
    taken = {file.path.resolve() for file in given} | {file.split for file in given}
    if data.eval_annotations and not data.eval_split:
        # The file that is named is the validation split; one that is found would come before it.
        taken |= set(_VALIDATION) - {data.train_split}
    found = []
    there = [
        file
        for file in _found(root, data.train_split, strict=False)
        if file.path.resolve() not in taken and not {file.split, file.alias} & taken
    ]
    validated = not {file.split for file in [*given, *there]}.isdisjoint(_VALIDATION)
    last_resort = "" if data.eval_split or validated else "test"
    for file in there:
        names = {file.split, file.alias}
        trained, evaluated = data.train_split in names, not names.isdisjoint(eval_names)
        key = "train" if trained else "eval"
        images = _folder_given(root, config, key) if trained or evaluated else None
        wanted = trained or evaluated
        used = wanted or file.split == last_resort
        found.append(replace(file, wanted=wanted, used=used, images=images))
    return given + found


def _folder_given(root: Path, config: ConfigDict, key: str) -> Path | None:
    name = config.data[f"{key}_images"]
    if not name:
        return None
    path = root / Path(name).expanduser()
    if not path.is_dir():
        raise ConfigError(f"data.{key}_images: {path} is not a folder")
    return path


def _found(root: Path, train_split: str, strict: bool = True) -> list[_File]:
    """Return the annotation files in `root`; `strict`: those beside it only by known names."""
    folder = root / "annotations"
    names = _boxes_in(folder)
    if names:
        return _named(folder, names, train_split)
    below = [
        _File(path, top.name, top.name)
        for top in sorted(root.iterdir())
        if top.is_dir() and not top.name.startswith(".")
        for path in [next((top / name for name in _BESIDE if (top / name).is_file()), None)]
        if path is not None
    ]
    if len(below) == 1 and not _SPLIT.search(below[0].split):
        below = [replace(below[0], split=train_split)]
    if below:
        return below
    names = _boxes_in(root)
    sure = [n for n in names if n in _BESIDE or "coco" in n or n.startswith("instances_")]
    return _named(root, sure or ([] if strict else names), train_split)


def _boxes_in(folder: Path) -> list[str]:
    """Return the names of the JSON files in `folder` that may hold boxes."""
    names = sorted(path.name for path in folder.glob("*.json"))
    return [name for name in names if not name.startswith((*_OTHERS, "."))]


def _named(folder: Path, names: Sequence[str], train_split: str) -> list[_File]:
    """Return the files with the splits that their names hold."""
    splits, aliases = [], []
    for name in names:
        stem = name.removesuffix(".json").removeprefix("instances_")
        held = _SPLIT.search(stem.lower())
        splits.append(held[1] if held else stem)
        aliases.append(held[1] + (held[2] or "") if held else stem)
    if len(names) == 1 and not _SPLIT.search(names[0].removesuffix(".json").lower()):
        splits = [train_split]
    if len(set(splits)) < len(splits):  # train2014 beside train2017
        splits = aliases
    if len(set(splits)) < len(splits):
        splits = [name.removesuffix(".json") for name in names]
    return [
        _File(folder / name, split, alias)
        for name, split, alias in zip(names, splits, aliases, strict=True)
    ]


# The classes of all files together.


@dataclass(frozen=True)
class _Category:
    """A category, and the file that names it first."""

    name: str
    known: str
    file: _File


def _categories(files: Sequence[tuple[_File, CocoFile]], problems: list[Problem]) -> dict[int, str]:
    """Return the name of each category id, by id. Notes what contradicts itself.

    The files that a run uses say what a category is: what contradicts them in another is a fault of
    that one alone.
    """
    found: dict[int, _Category] = {}
    with_boxes: dict[bool, set[int]] = {True: set(), False: set()}  # in files that are used, or not
    for file, one in sorted(files, key=lambda pair: not pair[0].used):
        with_boxes[file.used].update(np.unique(one.category).tolist())
        for number, name in one.categories:
            other = found.setdefault(number, _Category(name, one.known, file))
            if other.name != name:
                what = f"category {number} is {name!r}, but {other.name!r} in {other.known}"
                problems.append(Problem(one.known, what, split=_blamed(file)))
    by_name: dict[str, list[int]] = {}
    for number in sorted(found):
        by_name.setdefault(found[number].name, []).append(number)
    for name, numbers in by_name.items():
        own = [number for number in numbers if found[number].file.used]
        for number in set(numbers) - set(own) if own else ():
            other, stranger = found[own[0]], found.pop(number)
            what = f"category {number} is {name!r}, which is category {own[0]} in {other.known}"
            problems.append(Problem(stranger.known, what, split=stranger.file.split))
        _note_twins(name, own or numbers, found, with_boxes[bool(own)], problems)
    return {number: found[number].name for number in sorted(found)}


def _blamed(file: _File) -> str:
    """Return the split to refuse for what `file` says of the classes, '' for all: see Problem."""
    # The files that a run uses share its classes: where one is wrong, so are all of them.
    return "" if file.used else file.split


def _note_twins(
    name: str,
    numbers: list[int],
    found: dict[int, _Category],
    with_boxes: set[int],
    problems: list[Problem],
) -> None:
    """Note the categories of one name, and leave those out that have no boxes."""
    if len(numbers) < 2:
        return
    # Roboflow puts a category 0 without boxes in front, often with the name of a true one.
    idle = [number for number in numbers if number not in with_boxes][: len(numbers) - 1]
    for number in idle:
        left = found.pop(number)
        what = f"category {number}, {name!r} as well, has no boxes; it is left out"
        problems.append(Problem(left.known, what, error=False, split=left.file.split))
    rest = [number for number in numbers if number not in idle]
    if len(rest) > 1:
        last = found[rest[-1]]
        what = f"categories {' and '.join(map(str, rest))} are all {name!r}"
        problems.append(Problem(last.known, what, split=_blamed(last.file)))
        for number in () if last.file.used else rest[1:]:  # a class has one number
            del found[number]


def _chosen(
    categories: dict[int, str], given: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the classes and their ids in the files."""
    if not given:
        return tuple(categories.values()), tuple(categories)
    numbers = {name: number for number, name in categories.items()}
    for name in given:
        if name not in numbers:
            raise ConfigError(
                f"data.classes: {name!r} is no category of the files, which have"
                f" {', '.join(itertools.islice(numbers, 10))}{nearest(name, numbers)}"
            )
    return given, tuple(numbers[name] for name in given)


# Where the images are.


class _Places:
    """Finds the images of a split.

    folder: where they are. looked_in: where they were looked for. by_last_part: the names of which
    no more than that was found.
    """

    def __init__(
        self, root: Path, file: _File, names: Sequence[str], indices: dict[Path, list[str]]
    ):
        """Choose the folder that has all of `names`, or most. indices: files by folder, shared."""
        self.root = root
        self.looked_in = [file.images] if file.images else list(_image_folders(root, file))
        best = -1, self.looked_in[0], dict[str, str]()
        for match in (_matched, _matched_by_last_part):
            for folder in self.looked_in:
                if folder not in indices:
                    indices[folder] = files_below(folder)
                found = match(names, indices[folder])
                if len(found) > best[0]:
                    best = len(found), folder, found
                if len(found) == len(names):
                    break
            if best[0] > 0:
                break
        _, self.folder, self._found = best
        if len(self._found) < len(names):
            left = [name for name in names if name not in self._found]
            self._found |= _matched_by_last_part(left, indices[self.folder])
        exact = _matched(names, indices[self.folder])
        self.by_last_part = [name for name in self._found if name not in exact]

    def get(self, name: str) -> str | None:
        """Return the path of an image from the folder, or None."""
        return self._found.get(name)


def _matched(names: Sequence[str], files: list[str]) -> dict[str, str]:
    """Return the file that each name is, where it is one."""
    known, found = set(files), {}
    for name in names:
        path = name if name in known else name.replace("\\", "/").removeprefix("./")
        if path in known:
            found[name] = path
    return found


def _matched_by_last_part(names: Sequence[str], files: list[str]) -> dict[str, str]:
    """Return the file that each name is by its last part, where only one file is called so."""
    # Label Studio writes upload/1/3f2a-x.jpg, or ../../media/x.jpg, or ?d=images/x%20y.jpg.
    ends: dict[str, list[str]] = {}
    for path in files:
        ends.setdefault(path.rpartition("/")[2], []).append(path)
    found = {}
    for name in names:
        last = re.split(r"[/\\]", unquote(name) if "%" in name else name)[-1]
        for end in (re.split(r"[/\\]", name)[-1], last, last.rpartition("=")[2]):
            if name not in found and len(ends.get(end, ())) == 1:
                found[name] = ends[end][0]
    return found


def _image_folders(root: Path, file: _File) -> list[Path]:
    """Return where the images of a split may be, the surest first."""
    same = _VALIDATION if file.split in _VALIDATION else ()
    names = dict.fromkeys((file.alias, file.split, *same))
    beside = file.path.parent
    candidates = [top / name for name in names for top in (root, root / "images")]
    if beside not in (root, root / "annotations"):
        candidates = [beside, beside / "data", beside / "images"]
    folders = [*candidates, root / "images", root / "data", beside, root]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _examples(
    parsed: CocoFile,
    places: _Places,
    categories: dict[int, str],
    ids: Sequence[int],
) -> tuple[list[Annotated], list[Problem]]:
    """Return the images of a split, and what is wrong with how they are named."""
    problems = list[Problem]()
    where = [_known(places.root, folder) for folder in places.looked_in]
    if places.by_last_part:
        count, first = len(places.by_last_part), places.by_last_part[0]
        what = f"{count} images found by the last part of their names only, as {first}"
        problems.append(Problem(parsed.known, what, error=False))
    labels = _labels(parsed.category, ids)
    taken: dict[str, str] = {}
    examples = []
    for i, image in enumerate(parsed.images):
        path = places.get(image.file_name)
        broken = ""
        if path is None:
            broken = _missing(image, places, where)
        elif taken.setdefault(path, image.file_name) != image.file_name:
            what = f"{taken[path]} and {image.file_name} are the same image, {path}"
            problems.append(Problem(parsed.known, what))
        file = places.folder / (path or image.file_name.replace("\\", "/").lstrip("/"))
        part = slice(parsed.starts[i], parsed.starts[i + 1])
        unknown: tuple[str | int, ...] = ()
        if (labels[part] < 0).any():
            numbers = parsed.category[part].tolist()
            unknown = tuple(categories.get(number, number) for number in numbers)
        examples.append(
            Annotated(
                file,
                _known(places.root, file),
                image.image_id,
                parsed.known,
                boxes=parsed.boxes[part],
                labels=labels[part],
                crowd=parsed.crowd[part],
                area=parsed.area[part],
                places=Numbered("annotation", parsed.ids[part]),
                unknown=unknown,
                size=image.size,
                broken=broken,
            )
        )
    return examples, problems


def _missing(image: CocoImage, places: _Places, where: list[str]) -> str:
    try:
        path_inside(places.root, image.file_name, f"image {image.image_id}")
    except DataError as error:
        return str(error)
    what = f"image {image.image_id}: there is no {image.file_name} in {', '.join(where)}"
    return f"{what}; if elsewhere, set data.train_images, data.eval_images"


def _labels(category: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """Return the class id of each category number, int64; -1 for those that are not in `ids`."""
    order = np.argsort(ids)
    ranked = np.asarray(ids, np.int64)[order]
    at = np.minimum(np.searchsorted(ranked, category), len(ranked) - 1)
    return np.where(ranked[at] == category, order[at], -1).astype(np.int64)


def _known(root: Path, path: Path) -> str:
    """Return `path` as people name it: from the root, if it is in it."""
    try:
        return path.relative_to(root).as_posix() or "."
    except ValueError:
        return str(path)
