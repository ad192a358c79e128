"""The images of each class of a split, of which there may be millions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from convmesh.data.formats.folder.class_folders import ClassFolder, ClassFolders
from convmesh.data.formats.folder.folder_tree import is_image
from convmesh.data.formats.folder.paths import Paths
from convmesh.data.problems import Problem


@dataclass(frozen=True)
class SplitListing:
    """A split. All paths are relative to the root of the data set.

    Attributes:
      classes: name of each class folder.
      folders: path of each.
      counts: number of images in each.
      images: the images of the first, of the second, ..., each sorted.
      ignored: files that are no images, of each class folder.
    """

    classes: Sequence[str]
    folders: Sequence[str]
    counts: Sequence[int]
    images: Paths
    ignored: Sequence[Sequence[str]]


@dataclass(frozen=True)
class SetListing:
    """splits: by name. aliases, problems: as of `ClassFolders`."""

    splits: dict[str, SplitListing]
    aliases: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def list_set(found: ClassFolders) -> SetListing:
    """Return the images of all class folders."""
    splits = {split: _list_split(folders) for split, folders in found.splits.items()}
    return SetListing(splits, found.aliases, found.problems)


def _list_split(folders: Sequence[ClassFolder]) -> SplitListing:
    counts, ignored = [0] * len(folders), [list[str]() for _ in folders]

    def images(number: int, folder: ClassFolder) -> Iterator[str]:
        for path in folder.files:
            if is_image(path):
                counts[number] += 1
                yield path
            else:
                ignored[number].append(path)

    paths = Paths.of(chain.from_iterable(images(i, one) for i, one in enumerate(folders)))
    classes, places = [one.name for one in folders], [one.path for one in folders]
    return SplitListing(classes, places, counts, paths, ignored)
