"""What is asked of the disk, and in which order: it decides what a loss of power leaves."""

import os
from pathlib import Path


def record(patch, root: Path) -> list[tuple]:
    """The calls for what is at or below `root`, in a list that grows until `patch` is undone.

    ("mkdir", path) and ("rename", path, new path) as they begin; ("fsync", path, content), with
    None for a folder's, once done. Paths are relative to `root`; what is elsewhere is left out.
    """
    calls: list[tuple] = []
    mkdir, fsync = os.mkdir, os.fsync

    def note(name, *paths, more=()):
        if all(Path(path).is_relative_to(root) for path in paths):
            calls.append((name, *(str(Path(path).relative_to(root)) for path in paths), *more))

    def noted_mkdir(path, *arguments, **named):
        note("mkdir", path)
        return mkdir(path, *arguments, **named)

    def renaming(rename):
        def noted_rename(source, target, **named):
            note("rename", source, target)
            return rename(source, target, **named)

        return noted_rename

    def noted_fsync(file):
        fsync(file)
        number = file if isinstance(file, int) else file.fileno()
        path = Path(os.readlink(f"/proc/self/fd/{number}"))
        if path.is_relative_to(root):
            note("fsync", path, more=[None if path.is_dir() else path.read_bytes()])

    patch.setattr(os, "mkdir", noted_mkdir)
    patch.setattr(os, "fsync", noted_fsync)
    for name in ("rename", "replace"):
        patch.setattr(os, name, renaming(getattr(os, name)))
    return calls


def synced(calls) -> dict[str, bytes | None]:
    """By path, the content that was last brought to the disk; None for a folder.

    A rename takes along what is known of the path and of what is below it.
    """
    found: dict[str, bytes | None] = {}
    for name, path, *rest in calls:
        if name == "fsync":
            found[path] = rest[0]
        elif name == "rename":
            below = [one for one in found if Path(one).is_relative_to(path)]
            for one in below:
                found[str(Path(rest[0]) / Path(one).relative_to(path))] = found.pop(one)
    return found
