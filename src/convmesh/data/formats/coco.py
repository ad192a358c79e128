"""COCO: one JSON file for each split, with all its images, boxes and categories.

Supported: ROOT/annotations/instances_SPLIT2017.json as in COCO, or any file names that contain the
name of a split; a single file without one (`instances_default.json`, `result.json`) is the training
split; ROOT/SPLIT/_annotations.coco.json next to its images; or the files named in the config.
Images are searched where tools put them, see `_image_folders`. The classes are the categories,
sorted by id.
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

from convmesh.data.documents import path_inside
from convmesh.data.formats import split_names
from convmesh.data.formats.annotated import AnnotatedImage, AnnotatedSet, Numbered
from convmesh.data.formats.coco_file import CocoFile, CocoImage, NotCoco, read_coco
from convmesh.data.formats.evidence import Evidence
from convmesh.data.formats.files import list_files, name_from, root_folder
from convmesh.data.formats.split_names import VALIDATION
from convmesh.data.problems import Problem, raise_errors
from convmesh.errors import ConfigError, DataError, nearest

# Names of JSON files outside of ROOT/annotations.
_OUTSIDE = ("_annotations.coco.json", "annotations.json", "labels.json", "result.json", "coco.json")
# COCO's own files without boxes, or with boxes of persons only.
_OTHERS = ("person_keypoints_", "captions_", "panoptic_", "stuff_", "image_info_")


def open_dataset(config: ConfigDict) -> AnnotatedSet:
    """Return the data set in `config.data.root`; the classes are all categories, sorted by id.

    `data.classes` selects some of them, or another order; boxes of other categories are bad boxes.
    Raises ConfigError for a root that is not a folder and for unknown classes or files, DataError
    if there are no annotations or they are not in COCO format.
    """
    root = root_folder(config)
    files, parsed, problems = _read_files(root, config)
    categories = _categories(list(zip(files, parsed, strict=True)), problems)
    if not categories:
        raise_errors(problems)
        raise DataError(f"{parsed[0].name}: no categories, so no classes")
    classes, ids = _select_classes(categories, tuple(config.data.classes))
    splits, listings = {}, dict[Path, list[str]]()
    for file, content in zip(files, parsed, strict=True):
        finder = _ImageFinder(root, file, [image.file_name for image in content.images], listings)
        splits[file.split], found = _examples(content, finder, categories, ids)
        problems += _of_split(file.split, found)
    aliases = {file.alias: file.split for file in files if file.alias not in splits}
    return AnnotatedSet(config, splits, classes, ids, problems, aliases)


def looks_like(root: Path, task: str, evidence: Evidence) -> bool:
    """Return whether folder `root` has files named like COCO's; see `registry.Format`.

    A JSON file of any name in `root` itself makes COCO possible for detection.
    """
    if evidence is Evidence.LAYOUT:
        return bool(_find_files(root, "train", strict=True))
    if evidence is Evidence.POSSIBLE and task == "detect":
        return bool(_find_files(root, "train", strict=False))
    return False


def _read_files(
    root: Path, config: ConfigDict
) -> tuple[list[_File], list[CocoFile], list[Problem]]:
    """Return the annotation files that could be read, their contents, and the problems so far.

    Raises DataError if there are none, and for an unreadable file that the run uses.
    """
    files, parsed, problems = [], [], list[Problem]()
    for file in _annotation_files(root, config):
        name = name_from(root, file.path)
        try:
            content = read_coco(file.path, name)
        except NotCoco as error:
            # Often only the images of a test split are published.
            if file.wanted:
                raise
            problems.append(Problem(name, f"{error.what}; ignored", error=False))
            continue
        except DataError as error:
            if file.used:
                raise
            what = f"{str(error).removeprefix(f'{file.path}: ')}; ignored"
            problems.append(Problem(name, what, split=file.split))
            continue
        files.append(file)
        parsed.append(content)
        problems += _of_split(file.split, content.problems)
    if not files:
        raise DataError(
            f"{root}: no COCO annotations; expected annotations/*.json or"
            " SPLIT/_annotations.coco.json, or data.train_annotations set"
        )
    return files, parsed, problems


def _of_split(split: str, problems: Iterable[Problem]) -> list[Problem]:
    return [replace(problem, split=split) for problem in problems]


# The annotation files.


@dataclass(frozen=True)
class _File:
    """A JSON file.

    split: name of its split. alias: the same with the year. wanted: the run needs this file.
    used: the run reads it, because it needs it, or as the test split if there is no validation
    split. images: the folder of its images, if the config names it.
    """

    path: Path
    split: str
    alias: str
    wanted: bool = True
    used: bool = True
    images: Path | None = None


def _annotation_files(root: Path, config: ConfigDict) -> list[_File]:
    """Return the files of the splits: those named in the config, then those found."""
    data = config.data
    given = []
    for key, split in (("train", data.train_split), ("eval", data.eval_split or "val")):
        name = data[f"{key}_annotations"]
        if name:
            path = root / Path(name).expanduser()
            if not path.is_file():
                raise ConfigError(f"data.{key}_annotations: {path} is not a file")
            given.append(_File(path, split, split, images=_given_images(root, config, key)))
    if len(given) == 2:
        return given
    taken = {file.path.resolve() for file in given} | {file.split for file in given}
    if data.eval_annotations and not data.eval_split:
        # The named file is the validation split; do not evaluate another one that is found.
        taken |= set(VALIDATION) - {data.train_split}
    found = [
        file
        for file in _find_files(root, data.train_split, strict=False)
        if file.path.resolve() not in taken and not {file.split, file.alias} & taken
    ]
    validated = not {file.split for file in [*given, *found]}.isdisjoint(VALIDATION)
    fallback = "" if data.eval_split or validated else "test"
    return given + [_with_use(file, root, config, fallback) for file in found]


def _with_use(file: _File, root: Path, config: ConfigDict, fallback: str) -> _File:
    """Return a found file with what the run needs it for; fallback: a split it may evaluate."""
    names = {file.split, file.alias}
    trained = config.data.train_split in names
    evaluated = not names.isdisjoint(split_names.evaluated_names(config))
    wanted = trained or evaluated
    images = _given_images(root, config, "train" if trained else "eval") if wanted else None
    return replace(file, wanted=wanted, used=wanted or file.split == fallback, images=images)


def _given_images(root: Path, config: ConfigDict, key: str) -> Path | None:
    name = config.data[f"{key}_images"]
    if not name:
        return None
    path = root / Path(name).expanduser()
    if not path.is_dir():
        raise ConfigError(f"data.{key}_images: {path} is not a folder")
    return path


def _find_files(root: Path, train_split: str, strict: bool) -> list[_File]:
    """Return the annotation files in `root`; `strict`: outside of annotations by known names."""
    folder = root / "annotations"
    names = _names_with_boxes(folder)
    if names:
        return _files_by_name(folder, names, train_split)
    in_folders = [
        _File(path, top.name, top.name)
        for top in sorted(root.iterdir())
        if top.is_dir() and not top.name.startswith(".")
        for path in [next((top / name for name in _OUTSIDE if (top / name).is_file()), None)]
        if path is not None
    ]
    if len(in_folders) == 1 and not split_names.find_in(in_folders[0].split):
        in_folders = [replace(in_folders[0], split=train_split)]
    if in_folders:
        return in_folders
    names = _names_with_boxes(root)
    sure = [n for n in names if n in _OUTSIDE or "coco" in n or n.startswith("instances_")]
    return _files_by_name(root, sure or ([] if strict else names), train_split)


def _names_with_boxes(folder: Path) -> list[str]:
    """Return the names of the JSON files in `folder` that may contain boxes."""
    names = sorted(path.name for path in folder.glob("*.json"))
    return [name for name in names if not name.startswith((*_OTHERS, "."))]


def _files_by_name(folder: Path, names: Sequence[str], train_split: str) -> list[_File]:
    """Return the files `names` with the splits that their names contain."""
    splits, aliases = [], []
    for name in names:
        stem = name.removesuffix(".json").removeprefix("instances_")
        found = split_names.find_in(stem.lower())
        splits.append(found.split if found else stem)
        aliases.append(found.with_year if found else stem)
    if len(names) == 1 and not split_names.find_in(names[0].removesuffix(".json").lower()):
        splits = [train_split]
    if len(set(splits)) < len(splits):  # train2014 and train2017
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
    file_name: str
    file: _File


def _categories(files: Sequence[tuple[_File, CocoFile]], problems: list[Problem]) -> dict[int, str]:
    """Return the name of each category id, sorted by id; appends contradictions to `problems`.

    The files that a run uses define the categories. A contradiction in another file is an error of
    that file's split only.
    """
    found: dict[int, _Category] = {}
    # Ids of the categories with boxes, in files that are used and in the others.
    with_boxes: dict[bool, set[int]] = {True: set(), False: set()}
    for file, content in sorted(files, key=lambda pair: not pair[0].used):
        with_boxes[file.used].update(np.unique(content.category).tolist())
        for number, name in content.categories:
            other = found.setdefault(number, _Category(name, content.name, file))
            if other.name != name:
                what = f"category {number} is {name!r}, but {other.name!r} in {other.file_name}"
                problems.append(Problem(content.name, what, split=_affected_split(file)))
    by_name: dict[str, list[int]] = {}
    for number in sorted(found):
        by_name.setdefault(found[number].name, []).append(number)
    for name, numbers in by_name.items():
        used = [number for number in numbers if found[number].file.used]
        for number in set(numbers) - set(used) if used else ():
            other, unused = found[used[0]], found.pop(number)
            what = f"category {number} is {name!r}, which is category {used[0]} in"
            what += f" {other.file_name}"
            problems.append(Problem(unused.file_name, what, split=unused.file.split))
        problems += _remove_duplicates(used or numbers, found, with_boxes[bool(used)])
    return {number: found[number].name for number in sorted(found)}


def _affected_split(file: _File) -> str:
    """Return the split to reject for an error in the categories of `file`, '' for all splits."""
    # All files that a run uses share its classes.
    return "" if file.used else file.split


def _remove_duplicates(
    numbers: list[int], found: dict[int, _Category], with_boxes: set[int]
) -> list[Problem]:
    """Return the problems of categories `numbers`, which have the same name.

    Removes those without boxes from `found`.
    """
    if len(numbers) < 2:
        return []
    problems, name = [], found[numbers[0]].name
    # Roboflow puts a category 0 without boxes first, often with the name of a real one.
    without = [number for number in numbers if number not in with_boxes][: len(numbers) - 1]
    for number in without:
        removed = found.pop(number)
        what = f"category {number}, also {name!r}, has no boxes; ignored"
        problems.append(Problem(removed.file_name, what, error=False, split=removed.file.split))
    rest = [number for number in numbers if number not in without]
    if len(rest) > 1:
        last = found[rest[-1]]
        what = f"categories {' and '.join(map(str, rest))} are all {name!r}"
        problems.append(Problem(last.file_name, what, split=_affected_split(last.file)))
        for number in () if last.file.used else rest[1:]:  # a class has one id
            del found[number]
    return problems


def _select_classes(
    categories: dict[int, str], wanted: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the classes and their category ids."""
    if not wanted:
        return tuple(categories.values()), tuple(categories)
    numbers = {name: number for number, name in categories.items()}
    for name in wanted:
        if name not in numbers:
            raise ConfigError(
                f"data.classes: {name!r} is not a category of the files, which have"
                f" {', '.join(itertools.islice(numbers, 10))}{nearest(name, numbers)}"
            )
    return wanted, tuple(numbers[name] for name in wanted)


# The image files.


class _ImageFinder:
    """Finds the image files of a split.

    folder: that has most of them. searched: all folders that were searched. by_last_part: file
    names of which only the last part was found.
    """

    def __init__(
        self, root: Path, file: _File, names: Sequence[str], listings: dict[Path, list[str]]
    ):
        """Choose the folder that has most of `names`; listings: cache of files by folder."""
        self.root = root
        self.searched = [file.images] if file.images else list(_image_folders(root, file))
        best = -1, self.searched[0], dict[str, str]()
        for match in (_match, _match_by_last_part):
            for folder in self.searched:
                if folder not in listings:
                    listings[folder] = list_files(folder)
                found = match(names, listings[folder])
                if len(found) > best[0]:
                    best = len(found), folder, found
                if len(found) == len(names):
                    break
            if best[0] > 0:
                break
        _, self.folder, self._found = best
        if len(self._found) < len(names):
            missing = [name for name in names if name not in self._found]
            self._found |= _match_by_last_part(missing, listings[self.folder])
        exact = _match(names, listings[self.folder])
        self.by_last_part = [name for name in self._found if name not in exact]

    def get(self, name: str) -> str | None:
        """Return the path of an image, relative to `folder`, or None."""
        return self._found.get(name)


def _match(names: Sequence[str], files: list[str]) -> dict[str, str]:
    """Return the file of each name that is the path of one."""
    known, found = set(files), {}
    for name in names:
        path = name if name in known else name.replace("\\", "/").removeprefix("./")
        if path in known:
            found[name] = path
    return found


def _match_by_last_part(names: Sequence[str], files: list[str]) -> dict[str, str]:
    """Return the file of each name whose last part is the name of exactly one file."""
    # Label Studio writes upload/1/3f2a-x.jpg, or ../../media/x.jpg, or ?d=images/x%20y.jpg.
    by_name: dict[str, list[str]] = {}
    for path in files:
        by_name.setdefault(path.rpartition("/")[2], []).append(path)
    found = {}
    for name in names:
        last = re.split(r"[/\\]", unquote(name) if "%" in name else name)[-1]
        for part in (re.split(r"[/\\]", name)[-1], last, last.rpartition("=")[2]):
            if name not in found and len(by_name.get(part, ())) == 1:
                found[name] = by_name[part][0]
    return found


def _image_folders(root: Path, file: _File) -> list[Path]:
    """Return the folders that may hold the images of a split, the most likely first."""
    # Sorted only to keep a fixed order, should several folders hold the same names.
    names = dict.fromkeys((file.alias, file.split, *sorted(split_names.same_split(file.split))))
    parent = file.path.parent
    candidates = [top / name for name in names for top in (root, root / "images")]
    if parent not in (root, root / "annotations"):
        candidates = [parent, parent / "data", parent / "images"]
    folders = [*candidates, root / "images", root / "data", parent, root]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _examples(
    parsed: CocoFile, finder: _ImageFinder, categories: dict[int, str], ids: Sequence[int]
) -> tuple[list[AnnotatedImage], list[Problem]]:
    """Return the images of a split, and the problems of their file names."""
    problems = list[Problem]()
    searched = ", ".join(name_from(finder.root, folder) for folder in finder.searched)
    if finder.by_last_part:
        count, first = len(finder.by_last_part), finder.by_last_part[0]
        what = f"{count} images found only by the last part of their names, such as {first}"
        problems.append(Problem(parsed.name, what, error=False))
    labels = _labels(parsed.category, ids)
    taken: dict[str, str] = {}
    examples = []
    for i, image in enumerate(parsed.images):
        path = finder.get(image.file_name)
        broken = ""
        if path is None:
            broken = _missing(image, finder.root, searched)
        elif taken.setdefault(path, image.file_name) != image.file_name:
            what = f"{taken[path]} and {image.file_name} are the same image, {path}"
            problems.append(Problem(parsed.name, what))
        file = finder.folder / (path or image.file_name.replace("\\", "/").lstrip("/"))
        part = slice(parsed.starts[i], parsed.starts[i + 1])
        unknown: tuple[str | int, ...] = ()
        if (labels[part] < 0).any():
            numbers = parsed.category[part].tolist()
            unknown = tuple(categories.get(number, number) for number in numbers)
        examples.append(
            AnnotatedImage(
                file,
                name_from(finder.root, file),
                image.image_id,
                parsed.name,
                boxes=parsed.boxes[part],
                labels=labels[part],
                crowd=parsed.crowd[part],
                area=parsed.area[part],
                locations=Numbered("annotation", parsed.ids[part]),
                unknown=unknown,
                size=image.size,
                broken=broken,
            )
        )
    return examples, problems


def _missing(image: CocoImage, root: Path, searched: str) -> str:
    """Return the message for an image whose file was not found."""
    try:
        path_inside(root, image.file_name, f"image {image.image_id}")
    except DataError as error:
        return str(error)
    what = f"image {image.image_id}: {image.file_name} not found in {searched}"
    return f"{what}; if it is elsewhere, set data.train_images or data.eval_images"


def _labels(category: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """Return the class id of each category id, int64 [n]; -1 for ids that are not in `ids`."""
    order = np.argsort(ids)
    ranked = np.asarray(ids, np.int64)[order]
    at = np.minimum(np.searchsorted(ranked, category), len(ranked) - 1)
    return np.where(ranked[at] == category, order[at], -1).astype(np.int64)
