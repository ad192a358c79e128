"""The lists of image names that are the splits of a VOC data set: ImageSets/Main/SPLIT.txt.

A line is the name of an image, or a name and numbers: ImageNet counts the images, and a list for
one class has -1, 0 or 1 after each name. Names may hold spaces and end in a number themselves.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

from convmesh.data.documents import path_inside, read_text
from convmesh.data.formats import split_names
from convmesh.data.formats.files import folder_named, name_from, normal_name, subfolders
from convmesh.data.formats.paired_files import PairedFiles, by_last_part, last_part
from convmesh.data.formats.tally import counted
from convmesh.data.formats.voc.names import is_number
from convmesh.data.images import SUFFIXES, UNREAD_SUFFIXES
from convmesh.data.problems import Problem
from convmesh.errors import DataError

_KNOWN = SUFFIXES | UNREAD_SUFFIXES | {".xml"}
_IMAGENET = ("DET", "CLS-LOC")  # ImageNet's folders in ImageSets
_OTHER_CASE = "names in lists are those of files but for upper and lower case"
_BOTH = re.compile(r"train[\W_]*val", re.IGNORECASE)

_QUOTED = re.compile(r"""^(["'])(.+)\1((?:\s+\S+)?)$""")  # CVAT quotes names with spaces


class _Line(NamedTuple):
    """A line of a list: the name, the numbers after it, and the key of the image or None."""

    name: str
    numbers: tuple[str, ...]
    key: str | None


class SplitLists:
    """The splits of the lists of a data set.

    splits: the keys of the images of each split. aliases: other names of splits. problems: of the
    lists. without_xml: images without an XML file that are known to contain no object.
    """

    def __init__(self, files: PairedFiles, train_split: str):
        """Read the lists. Raises DataError for a name that leads outside of the data set."""
        self._files, self._train_split = files, train_split
        self.problems = list[Problem]()
        self.without_xml: set[str] = set()
        self.aliases: dict[str, str] = {}
        self._lists: dict[str, str] = {}  # the name of each list in messages, by its stem
        self._by_name = by_last_part(dict.fromkeys([*files.annotations, *files.images]))
        for old, key in files.renamed.items():
            self._by_name.setdefault(last_part(old), []).append(key)
        # ImageNet's lists have a million lines: look up whole lines only if names contain spaces.
        self._spaced = any(re.search(r"\s", name) for name in self._by_name)
        # Keys by their path and last part in lower case, made when a name is not found; and the
        # names in lists that are such.
        self._folded: dict[str, set[str]] | None = None
        self._other_case: dict[str, str] = {}
        self.splits = self._name(self._read())
        for key, given in self._other_case.items():
            self._files.tally.add(_OTHER_CASE, f"{given} for {key}")

    def _read(self) -> dict[str, list[str]]:
        """Return the keys in each list that is one of a split."""
        found: dict[str, list[str]] = {}
        of_classes = []
        files = self._list_files()
        stems = {file.stem for file in files}
        for file in files:
            lines = self._parse(file)
            name = name_from(self._files.root, file)
            numbers = [" ".join(line.numbers) for line in lines]
            if _is_class_list(numbers) or _is_of_class(file.stem, numbers, stems):
                of_classes.append(name)
                continue
            if not lines:
                self.problems.append(Problem(name, "is empty; ignored", error=False))
                continue
            keys: dict[str, list[str]] = {}
            for line in lines:
                keys.setdefault(self._key(line, file), []).append(line.name)
            for same in sorted(same for same in keys.values() if len(same) > 1):
                what = f"names {same[0]} {len(same)} times"
                self.problems.append(Problem(name, what, error=False))
            found[file.stem] = list(keys)
            self._lists[file.stem] = name
            # A split without any XML file, such as the test split, was published without labels.
            xml = self._files.annotations
            if file.parent.name == "DET" and any(key in xml for key in keys):
                self.without_xml.update(key for key in keys if key not in xml)
        if of_classes and not found:
            what = f"{len(of_classes)} lists are of one class each, such as {of_classes[0]}, and"
            self.problems.append(Problem("ImageSets", f"{what} none is of a split", error=False))
        return found

    def _list_files(self) -> list[Path]:
        """Return the lists in ImageSets/Main, else those elsewhere.

        Raises DataError if several other folders in ImageSets hold lists.
        """
        root = self._files.root
        sets = folder_named(root, "ImageSets", "ImageSet")
        if sets is not None:
            named = [folder_named(sets, name) for name in ("Main", *_IMAGENET)]
            for folder in (*named, sets):
                if folder is not None and _texts(folder):
                    return _texts(folder)
            others = [folder for folder in subfolders(sets) if _texts(folder)]
            if len(others) > 1:
                names = " and ".join(folder.name for folder in others)
                raise DataError(f"{sets}: lists in {names}; move those to use to {sets.name}/Main")
            if others:
                return _texts(others[0])
        for folder in (root, root / self._files.folder):
            files = [file for file in _texts(folder) if self._is_split_list(file)]
            if files:
                return files
        return []

    def _is_split_list(self, file: Path) -> bool:
        """Return whether a file outside of ImageSets is the list of a split."""
        if not (split_names.parse(file.stem) or _BOTH.fullmatch(file.stem)):
            return False
        try:
            return any(line.key in self._files.annotations for line in self._parse(file))
        except DataError:  # not a text
            return False

    def unused(
        self, splits: Mapping[str, Sequence[str]], chosen: Collection[str]
    ) -> Iterator[Problem]:
        """Yield a warning about each list that is no split's, if images are in no other list.

        splits: keys by split. chosen: the names of splits that the config sets.
        """
        extra = [name for name in splits if name not in chosen and not split_names.parse(name)]
        used = {key for name, keys in splits.items() if name not in extra for key in keys}
        for name in extra:
            more = sum(key not in used and key in self._files.annotations for key in splits[name])
            if more and name in self._lists:
                what = f"{counted(more, 'images are only in this list, which is no split')}; not"
                what += f" used unless data.train_split or data.eval_split is {name!r}"
                yield Problem(self._lists[name], what, error=False)

    # Lines.

    def _parse(self, file: Path) -> list[_Line]:
        """Return the lines of a list."""
        lines = [_QUOTED.sub(r"\2\3", line.strip()) for line in read_text(file).splitlines()]
        lines = [line for line in lines if line]
        parsed = [self._parse_line(line, file) for line in lines]
        known = [len(line.numbers) for line in parsed if line.key is not None]
        if not known:
            return _parse_unknown(lines)
        # Of equally frequent numbers of numbers, the larger one.
        counts = Counter(known)
        usual = max(counts, key=lambda n: (counts[n], n))
        for i, line in enumerate(parsed):
            # `img 7` is not the image `img` if the other lines are names alone.
            if line.key is None or len(line.numbers) > usual:
                parsed[i] = _Line(*_without_numbers(lines[i], usual), None)
        return parsed

    def _parse_line(self, line: str, file: Path) -> _Line:
        """Return the longest known name in a line and the numbers after it; else without a key."""
        name, numbers = line, tuple[str, ...]()
        pair = re.fullmatch(r"(.*\S)\s+\S+\.xml", line, re.IGNORECASE)
        if pair and os.path.splitext(pair[1])[1].lower() in SUFFIXES:  # PaddleDetection's
            name = pair[1]
        while True:
            if (self._spaced or " " not in name) and (key := self.find(name, file)) is not None:
                return _Line(name, numbers, key)
            parts = name.rsplit(maxsplit=1)
            if len(parts) < 2 or not is_number(parts[1]):
                return _Line(name, numbers, None)
            name, numbers = parts[0], (parts[1], *numbers)

    def _key(self, line: _Line, file: Path) -> str:
        """Return the key of the image in a line, or what the key of an unknown image would be."""
        if line.key is not None:
            return line.key
        path_inside(self._files.root, line.name, file)  # no name may lead out of the root
        return _as_key(line.name)

    def find(self, name: str, file: Path) -> str | None:
        """Return the key of the image that a list names by its path or the end of it, or None."""
        given = _as_key(name)
        known = self._known(given)
        if known is not None:
            return known
        parts = given.split("/")
        same = self._by_name.get(parts[-1], [])
        ends = [key for key in dict.fromkeys(same) if f"/{key}".endswith(f"/{given}")]
        for folder in (file.parent.name, file.stem):  # ImageNet's are in DET/train or DET/val
            if len(ends) > 1:
                ends = [key for key in ends if folder in key.split("/")[:-1]] or ends
        if ends:
            return ends[0]
        found = self._find_end(name, parts) if len(parts) > 1 else None
        return found or self._in_other_case(given)

    def _in_other_case(self, given: str) -> str | None:
        """Return the only key that differs from `given` in upper and lower case alone, or None."""
        if self._folded is None:
            self._folded = {}
            for key in (key for keys in self._by_name.values() for key in keys):
                for name in {key.casefold(), last_part(key).casefold()}:
                    self._folded.setdefault(name, set()).add(key)
        same = self._folded.get(given.casefold(), set())
        if len(same) != 1:
            return None
        key = next(iter(same))
        self._other_case.setdefault(key, given)
        return key

    def _find_end(self, name: str, parts: list[str]) -> str | None:
        """Return the key that the end of a path is, such as of JPEGImages/a.jpg or /home/x/a.jpg.

        What comes before must be a folder that keys leave out, or the path of another machine.
        """
        containers = self._files.containers
        absolute = name.startswith(("/", "\\")) or bool(PureWindowsPath(name).drive)
        for i in range(1, len(parts)):
            if absolute or parts[i - 1].lower() in containers:
                short = [part for part in parts[i:-1] if part.lower() not in containers]
                for end in (parts[i:], [*short, parts[-1]]):
                    known = self._known("/".join(end))
                    if known is not None:
                        return known
        short = [part for part in parts[:-1] if part.lower() not in containers]
        known = self._known("/".join([*short, parts[-1]]))
        if known is None and absolute and len(self._by_name.get(parts[-1], ())) == 1:
            return self._by_name[parts[-1]][0]
        return known

    def _known(self, key: str) -> str | None:
        files = self._files
        key = files.renamed.get(key, key)
        return key if key in files.annotations or key in files.images else None

    # Names.

    def _name(self, lists: dict[str, list[str]]) -> dict[str, list[str]]:
        """Return the splits by name, with the name of the training split."""
        train = self._train_split
        names = split_names.name_splits(stem for stem in lists if stem != train)
        names |= {train: train} if train in lists else {}
        if train not in names.values():
            names |= self._train_list(names)
        self.aliases = {stem: name for stem, name in names.items() if stem != name}
        return {names[stem]: lists[stem] for stem in lists}

    def _train_list(self, names: dict[str, str]) -> dict[str, str]:
        """Return the list that is the training split although it has another name, or nothing."""
        found = {stem: split_names.find_in(stem) for stem in names}
        within = {stem: name.split for stem, name in found.items() if name and names[stem] == stem}
        if Counter(within.values())[self._train_split] == 1:
            taken = Counter([*within.values(), *names.values()])
            return {stem: name for stem, name in within.items() if taken[name] == 1}
        if self._train_split != "train":
            return {}
        others = [stem for stem in names if not _BOTH.fullmatch(stem)]
        both = [stem for stem in names if _BOTH.fullmatch(stem)]
        if len(both) == 1 and all(names[stem] == "test" for stem in others):
            what = "is used as the training split; there is no list of it alone"
            self.problems.append(Problem(self._lists[both[0]], what, error=False))
            return {both[0]: "train"}
        alone = len(names) == 1 and not both
        return {stem: "train" for stem in names if alone and found[stem] is None}


def _is_of_class(stem: str, numbers: list[str], stems: Collection[str]) -> bool:
    """Return whether a list is called CLASS_SPLIT after another one, and states the class.

    If all images contain the only class, the number after each name is 1.
    """
    named = any(stem.endswith(f"_{other}") for other in stems)
    return named and bool(numbers) and set(numbers) <= {"-1", "0", "1"}


def _texts(folder: Path) -> list[Path]:
    """Return the text files in `folder`, sorted by name, without hidden ones."""
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if os.path.splitext(e.name)[1].lower() == ".txt"]
    return [folder / name for name in sorted(names) if not name.startswith(".")]


def _parse_unknown(lines: list[str]) -> list[_Line]:
    """Return the lines of a list that names no known image, with the numbers if all have some."""
    parsed = [_Line(*_without_numbers(line, 1), None) for line in lines]
    names = {line.name for line in parsed}
    if all(line.numbers for line in parsed) and len(names) == len(parsed):
        return parsed
    return [_Line(line, (), None) for line in lines]  # `img 0`, `img 1`


def _without_numbers(line: str, most: int) -> tuple[str, tuple[str, ...]]:
    """Return a line without up to `most` numbers at its end, and these."""
    name, numbers = line, tuple[str, ...]()
    while len(numbers) < most:
        parts = name.rsplit(maxsplit=1)
        if len(parts) < 2 or not is_number(parts[1]):
            break
        name, numbers = parts[0], (parts[1], *numbers)
    return name, numbers


def _as_key(name: str) -> str:
    """Return a name in a list as a key: without `./`, and the suffix of an image or of XML."""
    path = normal_name(name.replace("\\", "/"))
    stem, suffix = os.path.splitext(path)
    path = stem if suffix.lower() in _KNOWN else path
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def _is_class_list(numbers: list[str]) -> bool:
    """Return whether a list states for each image if it contains a class: -1, 0 or 1 after each."""
    # ImageNet numbers the images of a split from 1: a list with only 1 is a split of one image.
    return bool(numbers) and set(numbers) <= {"-1", "0", "1"} and not set(numbers) <= {"1"}
