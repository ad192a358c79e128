"""Finds the image files that a COCO file names.

Tools write names with the folders of another machine in front, without folders, or in another
spelling than the file system has. A name is taken as it is if there is such a file; otherwise it is
looked up by its spelling, then by its last part. Only one file may fit, and it is counted.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from convmesh.data.formats import split_names
from convmesh.data.formats.coco.layout import AnnotationFile, image_folders
from convmesh.data.formats.files import list_files, name_from, normal_name
from convmesh.data.problems import Problem

_SHOWN = 3  # files of one name in a message


class Listing:
    """The files in and below a folder: their paths relative to it, by their names."""

    def __init__(self, folder: Path):
        """List the files. Raises DataError if a folder cannot be read."""
        self.files = list_files(folder)

    @cached_property
    def known(self) -> frozenset[str]:
        """All paths."""
        return frozenset(self.files)

    @cached_property
    def by_spelling(self) -> dict[str, list[str]]:
        """The paths that differ only in capitals and in the composition of letters."""
        return _group((_spelling(path), path) for path in self.files)

    @cached_property
    def by_last_part(self) -> dict[str, list[str]]:
        """The paths by the spelling of their last part."""
        return _group((_spelling(_last_part(path)), path) for path in self.files)

    @cached_property
    def by_stem(self) -> dict[str, list[str]]:
        """The paths by the spelling of their last part without its suffix."""
        return _group((_stem(path), path) for path in self.files)


# Returns the file of each name that it finds.
_Match = Callable[[Sequence[str], Listing], dict[str, str]]


class ImageFinder:
    """The image files of a split.

    folder: that has most of them. searched: all folders that may hold them.
    """

    def __init__(
        self,
        root: Path,
        file: AnnotationFile,
        names: Sequence[str],
        listings: dict[Path, Listing],
    ):
        """Choose the folder that has most of `names`; listings: those made so far, by folder."""
        self.root = root
        self.searched = [file.images] if file.images else list(image_folders(root, file))
        self._listings = listings
        self._respelled = dict[str, str]()
        self._by_last_part = dict[str, str]()
        exact = self._best_folder(names, _match)
        self.folder = exact or self._best_folder(names, _match_loosely) or self.searched[0]
        # Where a file may be that is not found.
        inside = self.folder.is_relative_to(root)
        self._everywhere = root if inside else self.folder
        here = self._listing(self.folder)
        self._found = _match(names, here)
        missing = [name for name in names if name not in self._found]
        if missing:
            self._respelled = _match_spelling(missing, here)
            missing = [name for name in missing if name not in self._respelled]
            self._by_last_part = self._plausible(_match_by_last_part(missing, here))
            self._found |= self._respelled | self._by_last_part

    def get(self, name: str) -> str | None:
        """Return the path of an image, relative to `folder`, or None."""
        return self._found.get(name)

    def unlisted(self, suffixes: Iterable[str]) -> list[str]:
        """Return the files in `folder` with one of `suffixes` that no image was found as."""
        files, taken = self._listing(self.folder).files, set(self._found.values())
        if len(files) == len(taken):
            return []
        ends = tuple(suffixes)
        return [path for path in files if path not in taken and path.lower().endswith(ends)]

    def warnings(self, file: str) -> list[Problem]:
        """Return what must be said about the images of `file` that have other names."""
        found = []
        for names, how in (
            (self._respelled, "in another spelling"),
            (self._by_last_part, "only by the last part of their names"),
        ):
            if names:
                name, path = next(iter(names.items()))
                what = f"images found {how}: {len(names)}, such as {name} ({path})"
                found.append(Problem(file, what, error=False))
        return found

    def why_missing(self, name: str) -> str:
        """Return why an image is not found: what is there instead, and what to do."""
        everywhere = self._listing(self._everywhere)
        last = _candidates(name)[-1]
        same = everywhere.by_last_part.get(_spelling(last), [])
        if len(same) > 1:
            more = ", ..." if len(same) > _SHOWN else ""
            files = f"{', '.join(same[:_SHOWN])}{more}"
            return f"{name} is there {len(same)} times: {files}; file_name must say which"
        searched = ", ".join(name_from(self.root, folder) for folder in self.searched)
        what = f"{name} not found in {searched}"
        if same:
            return f"{what}; there is {same[0]}: correct file_name, or move the file"
        alike = everywhere.by_stem.get(_stem(last), [])
        if alike:
            return f"{what}; there is {alike[0]}: correct the suffix in file_name"
        return f"{what}; if it is elsewhere, set data.train_images or data.eval_images"

    def _listing(self, folder: Path) -> Listing:
        if folder not in self._listings:
            self._listings[folder] = Listing(folder)
        return self._listings[folder]

    def _best_folder(self, names: Sequence[str], match: _Match) -> Path | None:
        """Return the folder in which `match` finds most of `names`, None if it finds none."""
        most, best = 0, None
        for folder in self.searched:
            found = len(match(names, self._listing(folder)))
            if found > most:
                most, best = found, folder
            if found == len(names):
                break
        return best

    def _plausible(self, found: dict[str, str]) -> dict[str, str]:
        """Return those of `found` by their last part that are not images of another folder.

        `a/0.jpg` may be the file `b/0.jpg` only if `b` is what `a` is called here: for all names,
        and if there is no other `0.jpg`.
        """
        taken = {_parent(path) for path in self._found.values()} - {""}
        here, there = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
        unlike = dict[str, tuple[str, str]]()
        for name, path in found.items():
            in_name, in_path = _differing_folders(name, path)
            if in_name and in_path:
                unlike[name] = in_name, in_path
                here[in_name].add(in_path)
                there[in_path].add(in_name)
        split = split_names.parse(self.folder.name)
        everywhere, kept = self._listing(self._everywhere) if unlike else None, {}
        for name, path in found.items():
            if everywhere and name in unlike:
                in_name, in_path = unlike[name]
                known = everywhere.by_last_part[_spelling(_last_part(path))]
                if len(known) > 1 or _parent(path) in taken:
                    continue
                if len(here[in_name]) > 1 or len(there[in_path]) > 1:
                    continue
            stated = split_names.parse(_last_part(_parent(_slashes(name))))
            actual = split_names.parse(_last_part(_parent(path))) or split
            if stated and actual and stated.split != actual.split:
                continue
            kept[name] = path
        return kept


def _match(names: Sequence[str], listing: Listing) -> dict[str, str]:
    """Return the file of each name that is the path of one."""
    known, found = listing.known, {}
    for name in names:
        path = name if name in known else _slashes(name)
        if path in known:
            found[name] = path
    return found


def _match_spelling(names: Sequence[str], listing: Listing) -> dict[str, str]:
    """Return the file of each name that is the path of exactly one in another spelling."""
    found = {}
    for name in names:
        paths = listing.by_spelling.get(_spelling(_slashes(name)), ())
        if len(paths) == 1:
            found[name] = paths[0]
    return found


def _match_by_last_part(names: Sequence[str], listing: Listing) -> dict[str, str]:
    """Return the file of each name whose last part is the name of exactly one file.

    Of several, the one that shares more folders with the name.
    """
    found = {}
    for name in names:
        for part in _candidates(name):
            paths = listing.by_last_part.get(_spelling(part), [])
            exact = [path for path in paths if _last_part(path) == part] or paths
            best = _nearest(name, exact)
            if best is not None:
                found[name] = best
                break
    return found


def _match_loosely(names: Sequence[str], listing: Listing) -> dict[str, str]:
    return _match_by_last_part(names, listing) | _match_spelling(names, listing)


def _candidates(name: str) -> list[str]:
    """Return what the name of the file may be, if only the last part of `name` is right."""
    # Label Studio writes upload/1/3f2a-x.jpg, or ../../media/x.jpg, or ?d=images/x%20y.jpg.
    last = re.split(r"[/\\]", unquote(name) if "%" in name else name)[-1]
    return list(dict.fromkeys((re.split(r"[/\\]", name)[-1], last, last.rpartition("=")[2])))


def _nearest(name: str, paths: Sequence[str]) -> str | None:
    """Return the one of `paths` that shares most of its last folders with `name`, or None."""
    if len(paths) < 2:
        return paths[0] if paths else None
    shared = [len(PurePosixPath(path).parts) - _unshared(name, path)[1] for path in paths]
    best = max(shared)
    return paths[shared.index(best)] if shared.count(best) == 1 else None


def _differing_folders(name: str, path: str) -> tuple[str, str]:
    """Return the folders of `name` and of `path` that are left without those they share."""
    in_name, in_path = _unshared(name, path)
    names, paths = _parts(name), PurePosixPath(path).parts
    return "/".join(names[:in_name]), "/".join(paths[:in_path])


def _unshared(name: str, path: str) -> tuple[int, int]:
    """Return how many parts of `name` and of `path` are left without the last ones they share.

    The last parts count as shared.
    """
    ours, theirs = list(_parts(name))[:-1], list(PurePosixPath(path).parts)[:-1]
    while ours and theirs and _spelling(ours[-1]) == _spelling(theirs[-1]):
        del ours[-1], theirs[-1]
    return len(ours), len(theirs)


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(_slashes(unquote(name) if "%" in name else name)).parts


def _slashes(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _spelling(path: str) -> str:
    return normal_name(path).casefold()


def _last_part(path: str) -> str:
    return path.rpartition("/")[2]


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _stem(path: str) -> str:
    last = _spelling(_last_part(path))
    return last.rpartition(".")[0] or last


def _group(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups
