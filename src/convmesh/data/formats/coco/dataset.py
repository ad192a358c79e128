"""COCO: one JSON file for each split, with all its images, boxes and categories.

Supported: ROOT/annotations/instances_SPLIT2017.json as in COCO, or any file names that contain the
name of a split; a single file without one (`instances_default.json`, `result.json`) is the training
split; ROOT/SPLIT/_annotations.coco.json next to its images; or the files named in the config.
Images are searched where tools put them, see `image_folders`. The classes are the categories,
sorted by id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from convmesh.data.documents import path_inside
from convmesh.data.formats import unread
from convmesh.data.formats.annotated import AnnotatedImage, AnnotatedSet, Numbered
from convmesh.data.formats.coco.categories import merge_categories, select_classes, shifted_ids
from convmesh.data.formats.coco.file import CocoFile, CocoImage, NotCoco, read_coco
from convmesh.data.formats.coco.images import ImageFinder, Listing
from convmesh.data.formats.coco.layout import (
    AnnotationFile,
    annotation_files,
    files_without_boxes,
    find_files,
)
from convmesh.data.formats.coco.unused import unused_files
from convmesh.data.formats.evidence import Evidence
from convmesh.data.formats.files import name_from, root_folder
from convmesh.data.images import SUFFIXES
from convmesh.data.problems import Problem, raise_errors
from convmesh.errors import DataError

_NOT_COCO = "JSON that is not COCO's; convert it to COCO JSON, see docs/data.md"


def open_dataset(config: ConfigDict) -> AnnotatedSet:
    """Return the data set in `config.data.root`; the classes are all categories, sorted by id.

    `data.classes` selects some of them, or another order; boxes of other categories are bad boxes.
    Raises ConfigError for a root that is not a folder and for unknown classes or files, DataError
    if there are no annotations or they are not in COCO format.
    """
    root = root_folder(config)
    files, parsed, problems = _read_files(root, config)
    categories = merge_categories(list(zip(files, parsed, strict=True)), problems)
    if not categories:
        raise_errors(problems)
        raise DataError(f"{parsed[0].name}: no categories, so no classes")
    classes, ids = select_classes(categories, tuple(config.data.classes))
    splits, finders, listings = {}, dict[str, ImageFinder](), dict[Path, Listing]()
    for file, content in zip(files, parsed, strict=True):
        finder = ImageFinder(root, file, [image.file_name for image in content.images], listings)
        splits[file.split], found = _examples(content, finder, categories, ids)
        found = [*shifted_ids(content, categories), *finder.warnings(content.name), *found]
        problems += _of_split(file.split, found)
        finders[file.split] = finder
    problems += _unlisted(finders)
    aliases = {file.alias: file.split for file in files if file.alias not in splits}
    return AnnotatedSet(config, splits, classes, ids, problems, aliases)


def looks_like(root: Path, task: str, evidence: Evidence) -> bool:
    """Return whether folder `root` has files named like COCO's; see `registry.Format`.

    A JSON file of any name in `root` itself makes COCO possible for detection.
    """
    if evidence is Evidence.LAYOUT:
        return bool(find_files(root, "train", strict=True))
    if evidence is Evidence.POSSIBLE and task == "detect":
        return bool(find_files(root, "train", strict=False))
    return False


def _read_files(
    root: Path, config: ConfigDict
) -> tuple[list[AnnotationFile], list[CocoFile], list[Problem]]:
    """Return the annotation files that could be read, their contents, and the problems so far.

    Raises DataError if there are none, and for an unreadable file that the run uses.
    """
    files, parsed, problems = [], [], list[Problem]()
    listed = annotation_files(root, config)
    for file in listed:
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
        boxless = _boxless(content, config.data.on_bad_box == "fail")
        problems += _of_split(file.split, [*boxless, *content.problems])
    if not files:
        raise DataError(_none_read(root, [name_from(root, file.path) for file in listed]))
    if not (config.data.train_annotations or config.data.eval_annotations):
        boxed = [file for file, content in zip(files, parsed, strict=True) if len(content.boxes)]
        problems += unused_files(root, listed, boxed)
    return files, parsed, problems


def _none_read(root: Path, found: Sequence[str]) -> str:
    """Return the message for a data set without COCO files; found: names of other JSON files."""
    if found:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        what = unread.name_document(root / found[0])
        return f"{root}: no COCO annotations; {found[0]}{more}: {what or _NOT_COCO}"
    others = [name_from(root, path) for path in files_without_boxes(root)]
    hint = f"; {', '.join(others[:3])}: without boxes, or of persons only" if others else ""
    return (
        f"{root}: no COCO annotations; expected annotations/*.json or"
        f" SPLIT/_annotations.coco.json, or data.train_annotations set{hint}"
    )


def _boxless(content: CocoFile, refused: bool) -> list[Problem]:
    """Return a problem for what annotations have instead of boxes; refused: it is an error."""
    return [
        Problem(
            content.name,
            f"annotations with {what} and no bbox: {count} of {len(content.boxes)}, such as"
            f" annotation {first}; only boxes are read, add bbox",
            error=refused,
        )
        for what, (count, first) in content.boxless
    ]


def _of_split(split: str, problems: Iterable[Problem]) -> list[Problem]:
    return [replace(problem, split=split) for problem in problems]


def _image_name(finder: ImageFinder, file: Path) -> str:
    """Return the name of an image: relative to the root, or to the parent of its own folder.

    The name is part of the data's identity, which stays the same when the data is moved.
    """
    name = name_from(finder.root, file)
    return name if name != str(file) else name_from(finder.folder.parent, file)


def _examples(
    parsed: CocoFile, finder: ImageFinder, categories: dict[int, str], ids: Sequence[int]
) -> tuple[list[AnnotatedImage], list[Problem]]:
    """Return the images of a split, and the problems of their file names."""
    problems = list[Problem]()
    labels = _labels(parsed.category, ids)
    taken: dict[str, str] = {}
    examples = []
    for i, image in enumerate(parsed.images):
        path = finder.get(image.file_name)
        broken = ""
        if path is None:
            broken = _missing(image, finder)
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
                _image_name(finder, file),
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


def _missing(image: CocoImage, finder: ImageFinder) -> str:
    """Return the message for an image whose file was not found."""
    try:
        path_inside(finder.root, image.file_name, f"image {image.image_id}")
    except DataError as error:
        return str(error)
    return f"image {image.image_id}: {finder.why_missing(image.file_name)}"


def _unlisted(finders: Mapping[str, ImageFinder]) -> list[Problem]:
    """Return a warning for each split whose folder, which is its own, has images not in its file.

    In a folder of several splits they may be of one that has no file.
    """
    problems = []
    for split, finder in finders.items():
        folder = finder.folder.resolve()
        others = (other.folder.resolve() for name, other in finders.items() if name != split)
        if any(folder.is_relative_to(one) or one.is_relative_to(folder) for one in others):
            continue
        unlisted = finder.unlisted(SUFFIXES)
        if unlisted:
            what = f"images that no annotations list: {len(unlisted)}, such as {unlisted[0]}"
            where = name_from(finder.root, finder.folder)
            problems.append(Problem(where, what, error=False, split=split))
    return problems


def _labels(category: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """Return the class id of each category id, int64 [n]; -1 for ids that are not in `ids`."""
    order = np.argsort(ids)
    ranked = np.asarray(ids, np.int64)[order]
    at = np.minimum(np.searchsorted(ranked, category), len(ranked) - 1)
    return np.where(ranked[at] == category, order[at], -1).astype(np.int64)
