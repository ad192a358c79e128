"""The local copy of a run whose workdir is in an object store.

All code reads and writes the copy, as it does a workdir on a disk. `pull` brings what others have
written, `fetch` the arrays of a checkpoint, `push` writes what has changed here. Objects have no
rename, so the checkpoint of a step is written in this order: its checksums, its other files, and
the object `commit_success.txt`, which is also Orbax's sign of a complete checkpoint. Without that
sign a checkpoint counts only if all files are there that its checksums name, so the loss of any
one object is noticed as on a disk.

Checkpoints are not written to the store by Orbax itself: it would have to be read again for the
checksums, and its S3 driver takes no other endpoint than Amazon's.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from convmesh.data.stores.local_copies import local_folder, stay
from convmesh.data.stores.object_store import Entry, ObjectStore
from convmesh.workdir.checksums import CHECKSUMS, names_in
from convmesh.workdir.step_folders import (
    CHECKPOINTS,
    DELETED,
    META,
    UNFINISHED,
    names_step,
)

COMMITTED = "commit_success.txt"
_READ = ("eval/", "plots/")  # of what lies in folders; traces and what was set aside are not

Stamp = tuple[int, int]  # size in bytes and time in ns of a file


class LocalCopy:
    """A folder that holds what a run has in an object store."""

    def __init__(self, store: ObjectStore) -> None:
        """Asks for nothing yet. Raises OSError if the folder cannot be made."""
        self.store = store
        self.folder = local_folder(store.url)
        self.dead_lock: Any = None  # a lock in the store whose holder was found dead
        self.is_locked = False  # by this process: then the copy is newer than the store
        self.before_push: Callable[[], None] = lambda: None  # raises if the lock was lost
        self._mutex = threading.RLock()  # the run, its saving thread and its lock's thread push
        self._stored: dict[str, Entry] = {}  # objects, as last listed or written
        self._same: dict[str, tuple[Stamp, str]] = {}  # files equal to that version of the object
        self._deleted: set[str] = set()  # files, and folders with a last /
        self.folder.mkdir(parents=True, exist_ok=True)

    # From the store.

    def pull(self) -> None:
        """Brings the copy to the state of the store, but for large files. Raises OSError.

        Of a checkpoint, the checksums and the meta are brought; see `fetch`.
        """
        with self._mutex:
            if self.is_locked:
                return
            self._stored = self.store.entries()
            steps = self._steps()
            self._download(name for name in self._stored if _is_pulled(name, steps))
            for name in [name for name in self._same if name not in self._stored]:
                (self.folder / name).unlink(missing_ok=True)
                del self._same[name]
            self._pull_checkpoint_folders(steps)

    def _pull_checkpoint_folders(self, steps: Iterable[int]) -> None:
        """Makes and removes folders, so that those here are the ones of the store."""
        root = self.folder / CHECKPOINTS
        names = {str(step) for step in steps}
        names |= {name for name in self._checkpoint_names() if not names_step(name)}  # set aside
        for name in names:
            (root / name).mkdir(parents=True, exist_ok=True)
        for path in root.iterdir() if root.is_dir() else ():
            if path.is_dir() and path.name not in names:
                shutil.rmtree(path, ignore_errors=True)
                for name in [name for name in self._same if _checkpoint_of(name) == path.name]:
                    del self._same[name]

    def fetch(self, step: int) -> None:
        """Brings all files of a checkpoint. Raises OSError.

        The folder of one that was deleted in the store meanwhile is deleted here.
        """
        folder = _folder(step)
        with self._mutex:
            if not any(name.startswith(folder) for name in self._stored):
                self.pull()  # it may be newer than the last one
            names = [name for name in self._stored if name.startswith(folder)]
            names = [name for name in names if name != folder + COMMITTED]
            self._download(names)
            if any(not (self.folder / name).exists() for name in names):
                self.pull()

    def _download(self, names: Iterable[str]) -> None:
        """Brings the objects that are not those that were brought before."""
        names = [name for name in names if not self._is_known(name)]
        self.store.download(names, self.folder)
        for name in names:
            if stamp := _stamp(self.folder / name):
                self._same[name] = (stamp, self._stored[name].version)

    def _is_known(self, name: str) -> bool:
        """Whether this version of an object was brought, or written, before, and is still here."""
        known = name in self._same and self._same[name][1] == self._stored[name].version
        return known and (self.folder / name).exists()

    # To the store.

    def push(self, below: str = "") -> None:
        """Writes what was changed, checkpoints last, and deletes what was. Raises OSError.

        below: of which folder, such as `eval/val/`; by default of all.
        """
        stay()
        with self._mutex:
            self.before_push()
            files = {name: at for name, at in self._files().items() if name.startswith(below)}
            changed = [name for name, stamp in files.items() if self._is_changed(name, stamp)]
            of_steps = [name for name in changed if _step_of(name) is not None]
            self._upload([name for name in changed if _step_of(name) is None], files)
            for step in sorted({_step_of(name) or 0 for name in of_steps}):
                self._commit(step, [n for n in of_steps if n.startswith(_folder(step))], files)
            deleted = [name for name in self._stored if self._is_deleted(name)]
            if deleted := [name for name in deleted if name not in files]:
                self.before_push()
                self._delete(deleted)
            self._deleted.clear()

    def delete(self, *names: str) -> None:
        """Lets the next push delete objects: files, and folders with a last /.

        A file that is merely absent here is none that was deleted: somebody may clear the cache.
        """
        with self._mutex:
            self._deleted.update(names)

    def _is_deleted(self, name: str) -> bool:
        return any(
            name.startswith(deleted) if deleted.endswith("/") else name == deleted
            for deleted in self._deleted
        )

    def remove_unfinished(self) -> list[int]:
        """Deletes checkpoints that were not completely written to the store; returns their steps.

        Only for the run that has locked it. Raises OSError.
        """
        with self._mutex:
            steps = self._steps()
            names = [name for name in self._checkpoint_names() if names_step(name)]
            unfinished = sorted(int(name) for name in names if int(name) not in steps)
            for step in unfinished:
                self._delete([name for name in self._stored if name.startswith(_folder(step))])
            return unfinished

    def _commit(self, step: int, names: list[str], files: Mapping[str, Stamp]) -> None:
        """Writes the files of a checkpoint, in the order that makes it complete or absent."""
        folder = _folder(step)
        if folder in self._deleted:  # another one of this step
            self._delete([name for name in self._stored if name.startswith(folder)])
            self._deleted.discard(folder)
        self._upload([name for name in names if name == folder + CHECKSUMS], files)
        self._upload([name for name in names if name != folder + CHECKSUMS], files)
        if folder in self._deleted:  # by the run, meanwhile
            return
        if lost := [name for name in names if not (self.folder / name).exists()]:
            raise FileNotFoundError(errno.ENOENT, "was removed", str(self.folder / lost[0]))
        self.before_push()
        self.store.write(folder + COMMITTED, b"")
        self._stored[folder + COMMITTED] = Entry(0, "")

    def _upload(self, names: list[str], files: Mapping[str, Stamp]) -> None:
        for name in names:  # the version is not known before the next listing
            self._stored[name] = Entry(files[name][0], "")
            self._same.pop(name, None)
        self.store.upload(self.folder, names)
        self._same |= {name: (files[name], "") for name in names}

    def _delete(self, names: Iterable[str]) -> None:
        """Deletes objects; of a checkpoint first what makes it complete."""
        names = sorted(names)
        for first in (COMMITTED, CHECKSUMS):
            self.store.delete(name for name in names if name.endswith(f"/{first}"))
        self.store.delete(name for name in names if not name.endswith(f"/{COMMITTED}"))
        for name in names:
            self._stored.pop(name, None)
            self._same.pop(name, None)

    def _files(self) -> dict[str, Stamp]:
        """The files of the copy that belong into the store."""
        found = {}
        for below, folders, names in os.walk(self.folder, onerror=_raise):
            folders[:] = [
                name
                for name in folders
                if not (UNFINISHED in name or name.endswith(DELETED) or name.startswith("."))
            ]
            for name in names:
                path = Path(below, name)
                if not name.startswith(".") and (stamp := _stamp(path)):
                    found[path.relative_to(self.folder).as_posix()] = stamp
        return found

    def _is_changed(self, name: str, stamp: Stamp) -> bool:
        return name not in self._same or self._same[name][0] != stamp

    # What the store holds.

    def _checkpoint_names(self) -> set[str]:
        return {_checkpoint_of(name) for name in self._stored} - {""}

    def _steps(self) -> set[int]:
        """The steps of complete checkpoints in the store, intact or damaged."""
        steps = {int(name) for name in self._checkpoint_names() if names_step(name)}
        return {
            step
            for step in steps
            if _folder(step) + COMMITTED in self._stored or self._has_all_files(_folder(step))
        }

    def _has_all_files(self, folder: str) -> bool:
        try:
            written = self.store.read(folder + CHECKSUMS)
        except FileNotFoundError:
            return False
        return all(folder + name in self._stored for name in names_in(written))


def _is_pulled(name: str, steps: Container[int]) -> bool:
    if any(part.startswith(".") for part in name.split("/")):
        return False
    if (step := _step_of(name)) is not None:
        return step in steps and name.removeprefix(_folder(step)) in (CHECKSUMS, META)
    return name.startswith(_READ) or ("/" not in name and not name.startswith("events."))


def _folder(step: int) -> str:
    return f"{CHECKPOINTS}/{step}/"


def _checkpoint_of(name: str) -> str:
    """The name of the folder in checkpoints/ that holds `name`; '' if it is not in one."""
    first, _, rest = name.partition("/")
    return rest.partition("/")[0] if first == CHECKPOINTS and "/" in rest else ""


def _step_of(name: str) -> int | None:
    folder = _checkpoint_of(name)
    return int(folder) if names_step(folder) else None


def _stamp(path: Path) -> Stamp | None:
    """Size and time of a file; None if it is not there."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # deleted by the run meanwhile
        raise error
