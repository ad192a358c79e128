"""Finds the image files that a COCO file names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from convmesh.data.formats.coco_layout import AnnotationFile, image_folders
from convmesh.data.formats.files import list_files


class ImageFinder:
    """Finds the image files of a split.

    folder: that has most of them. searched: all folders that were searched. by_last_part: file
    names of which only the last part was found.
    """

    def __init__(
        self,
        root: Path,
        file: AnnotationFile,
        names: Sequence[str],
        listings: dict[Path, list[str]],
    ):
        """Choose the folder that has most of `names`; listings: cache of files by folder."""
        self.root = root
        self.searched = [file.images] if file.images else list(image_folders(root, file))
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
