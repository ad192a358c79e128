"""The listing of a large set of class folders, kept in files: made once, shared by all processes.

It lies in the folder of the user's caches (`compile_cache.user_folder`), which hosts may share, and
is valid while no folder of the set was changed: a file system changes the time of a folder when a
file is added, removed or renamed in it. Those in user space (FUSE) may not, so nothing is kept of
them. A listing is written to a new folder, as other runs may be using the old one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from convmesh.data.formats.folder.class_folders import find_class_folders
from convmesh.data.formats.folder.folder_tree import Times, state_of
from convmesh.data.formats.folder.listing import SetListing, SplitListing, list_set
from convmesh.data.formats.folder.paths import Paths
from convmesh.data.problems import Problem
from convmesh.distributed import compile_cache, console

LEAST_FILES = 200_000  # smaller sets are listed each time, in a second
_UNCHANGED_SECONDS = 2.0  # before it was listed: times of folders may be no finer
_WAIT_SECONDS, _POLL_SECONDS = 1800.0, 0.2  # for another process that lists the same set
_KEPT_SECONDS = 30 * 24 * 3600.0  # after a listing was last opened
_FORMAT = 1
_META = "listing.json"


def open_listing(root: Path, given: Sequence[str], split_keys: Sequence[str]) -> SetListing:
    """Return the images of each class of each split of `root`: kept ones, or newly listed.

    given, split_keys: see `find_class_folders`, whose errors are raised.
    """
    place = _place(root, given, split_keys)
    if place is None:
        return list_set(find_class_folders(root, given, split_keys))
    if kept := _read(place, root):  # without the lock: the processes of a host at once
        return kept
    with _only_one(place):
        return _read(place, root) or _make(place, root, given, split_keys)


def _place(root: Path, given: Sequence[str], split_keys: Sequence[str]) -> Path | None:
    """The folder of the listing; None if nothing is kept (CONVMESH_CACHE is empty)."""
    if os.environ.get(compile_cache.FOLDER) == "":
        return None
    try:
        found = os.stat(root)  # hosts may have other files at this path, and one home
    except OSError:
        return None
    own = [os.path.realpath(root), found.st_ino, found.st_mtime_ns]
    stated = [_FORMAT, _version(), *own, list(given), list(split_keys)]
    digest = hashlib.sha256(json.dumps(stated).encode("utf-8", "surrogateescape")).hexdigest()
    return compile_cache.user_folder() / "listings" / digest[:16]


def _version() -> str:
    try:
        return version("convmesh")
    except PackageNotFoundError:
        return "unknown"


def _make(place: Path, root: Path, given: Sequence[str], split_keys: Sequence[str]) -> SetListing:
    """List the set, and keep the listing if it is large and cannot have changed meanwhile."""
    started, times = time.time(), Times()
    listing = list_set(find_class_folders(root, given, split_keys, times))
    files = sum(len(split.images) for split in listing.splits.values())
    if files < LEAST_FILES or not _is_reliable(root, times, started):
        return listing
    try:
        _write(place, listing, times)
        kept = _read(place, root)
    except OSError as error:
        console.print_status(f"the list of the {files:,} files of {root} cannot be kept: {error}")
        return listing
    took = time.time() - started
    console.print_status(f"listed {files:,} files of {root} in {took:.0f} s; kept in {place}")
    return kept or listing


def _is_reliable(root: Path, times: Times, started: float) -> bool:
    """Whether a change after `started`, seconds of the clock, must change `times`."""
    modified = [state[0] for state in times.values()]
    if times.broken or min(modified) <= 0:
        return False
    return max(modified) < (started - _UNCHANGED_SECONDS) * 1e9 and not _is_in_user_space(root)


def _is_in_user_space(root: Path) -> bool:
    """Whether `root` is on a file system such as those of object stores (Linux)."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    real, found = os.path.realpath(root), ("", "")
    for line in lines:
        before, _, after = line.partition(" - ")
        point = before.split()[4]
        if os.path.commonpath([point, real]) == point:
            found = max(found, (point, after.split()[0]), key=lambda one: len(one[0]))
    return found[1].startswith("fuse")


# Files.


def _write(place: Path, listing: SetListing, times: Times) -> None:
    _remove_old(place)
    own = place / uuid.uuid4().hex
    try:
        splits: dict[str, Any] = {}
        for number, (name, split) in enumerate(listing.splits.items()):
            folder = own / str(number)
            folder.mkdir(parents=True)
            splits[name] = {
                "classes": split.classes,
                "folders": split.folders,
                "counts": split.counts,
                "ignored": split.ignored,
                "images": split.images.save(folder),
            }
        meta = {
            "folder": own.name,
            "splits": splits,
            "aliases": listing.aliases,
            "problems": [asdict(problem) for problem in listing.problems],
            "times": times,
        }
        temporary = own / _META
        temporary.write_text(json.dumps(meta))
        _sync(temporary)
        temporary.replace(place / _META)
    except OSError:
        shutil.rmtree(own, ignore_errors=True)
        raise


def _remove_old(place: Path) -> None:
    """Removes the folders of listings that no run has opened for long, of any set."""
    for old in place.parent.glob("*/*/"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > _KEPT_SECONDS:
                shutil.rmtree(old)
                if not any(path.is_dir() for path in old.parent.iterdir()):
                    shutil.rmtree(old.parent)


def _sync(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def _read(place: Path, root: Path) -> SetListing | None:
    """The kept listing; None if there is none, or the set has changed since."""
    try:
        meta = json.loads((place / _META).read_text())
        if any(state_of(root / path) != tuple(state) for path, state in meta["times"].items()):
            return None
        splits = {
            name: SplitListing(
                classes=split["classes"],
                folders=split["folders"],
                counts=split["counts"],
                images=Paths.load(place / meta["folder"] / str(number), split["images"]),
                ignored=split["ignored"],
            )
            for number, (name, split) in enumerate(meta["splits"].items())
        }
        problems = [Problem(**problem) for problem in meta["problems"]]
        with contextlib.suppress(OSError):  # another user's, or read-only
            os.utime(place / meta["folder"])  # see `_remove_old`
        return SetListing(splits, meta["aliases"], problems)
    except (
        OSError,
        ValueError,
        EOFError,
        LookupError,
        TypeError,
        AttributeError,
    ):  # absent, or damaged: it is made again
        return None


@contextlib.contextmanager
def _only_one(place: Path) -> Iterator[None]:
    """While a process is in here, others with the same `place` wait; without a lock none does."""
    with contextlib.ExitStack() as stack:
        lock = place.with_suffix(".lock")
        try:
            import fcntl

            lock.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(lock.open("w"))
            until, said = time.monotonic() + _WAIT_SECONDS, False
            while time.monotonic() < until:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not said and until - time.monotonic() < _WAIT_SECONDS - 10:
                        said = True
                        console.print_status("waiting for another process that lists the data")
                    time.sleep(_POLL_SECONDS)
        except (ImportError, OSError):  # Windows; a folder that cannot be written; no locks there
            pass
        yield
