"""A data set in an object store, as a folder in the user's cache, which the host's processes share.

Annotations, lists and records are copied when the set is opened. An image is at first an empty
file of its size, dated 1970, and is copied when it is first read: each host copies what it uses.
What has changed in the store since is noticed when the set is opened, by size and version.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from convmesh.data.stores.object_store import Entry, ObjectStore, explained
from convmesh.distributed import console
from convmesh.distributed.compile_cache import user_folder
from convmesh.errors import NO_LOCKS, DataError, StoreError, StoreRefusal

_FOLDER, _ADDRESS, _INDEX, _LOCK = "data_sets", "address", "objects.json", "lock"
STORE_PATIENCE = 90.0  # seconds
_UNFINISHED_SECONDS = 3600.0  # none is written for so long
_silent: set[ObjectStore] = set()  # that did not answer the last time
_NOT_COPIED = 0  # time of the last change of a file whose content is not here yet


def local_set(url: str, is_image: Callable[[str], bool]) -> Path:
    """The folder for the data set at `url`, as it is in the store now.

    is_image: whether a file of this name is copied only when it is read. Raises ConfigError for a
    wrong address, DataError if the store cannot be read or nothing is there.
    """
    store = ObjectStore(url)
    try:
        folder = _opened(store, os.getpid(), is_image)
    except OSError as error:
        raise explained(f"data.root {error.filename or url}", error, DataError) from error
    console.shown_as[str(folder)] = store.url
    return folder


def content(path: str | os.PathLike[str], limit: int) -> bytes | None:
    """The content of an image of a `local_set` that is not here yet, and is then; None for others.

    Also None for one of more than `limit` bytes. Waits STORE_PATIENCE seconds for a store that does
    not answer; then raises StoreError, as that says nothing about the image. Raises OSError.
    """
    # What follows costs as much as reading a small file.
    if os.path.isabs(path) and _FOLDER not in os.fspath(path):
        return None
    path = os.path.abspath(path)
    root = f"{_root()}{os.sep}"
    if not path.startswith(root):
        return None
    found = os.stat(path)
    if found.st_mtime_ns != _NOT_COPIED or found.st_size > limit:
        return None
    number, _, name = path.removeprefix(root).split(os.sep, 2)
    data = _read_patiently(ObjectStore(_url(number)), name.replace(os.sep, "/"))
    if len(data) == found.st_size:  # else it was changed since the set was opened
        with contextlib.suppress(OSError):  # a full disk: the image is read again the next time
            _replace(path, data, f"{root}{number}")
    return data


def _read_patiently(store: ObjectStore, name: str) -> bytes:
    """The content of an object. Raises FileNotFoundError; StoreError otherwise."""
    until, pause = time.monotonic() + STORE_PATIENCE, 0.5
    while True:
        try:
            data = store.read(name)
            _silent.discard(store)
            return data
        except FileNotFoundError:
            raise
        except OSError as error:
            refused = isinstance(error, PermissionError)
            if refused or store in _silent or time.monotonic() + pause > until:
                _silent.add(store)  # the next image does not wait again
                what = f"{error.filename or store}: cannot be read"
                if refused:
                    raise StoreRefusal(
                        f"{what}: {error.strerror}; run it again once the store permits it"
                    ) from error
                raise explained(what, error, StoreError) from error
        time.sleep(pause)
        pause *= 2


def _replace(path: str | Path, data: bytes, folder: str | Path) -> None:
    """Writes a file; readers see its old or its new content. `folder`: for the file meanwhile."""
    file, temporary = tempfile.mkstemp(".new", dir=folder)
    try:
        with os.fdopen(file, "wb") as opened:
            opened.write(data)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


@functools.cache
def _opened(store: ObjectStore, process: int, is_image: Callable[[str], bool]) -> Path:
    """Brings the folder to the state of the store, once in each process. Raises OSError."""
    number = hashlib.sha256(store.url.encode()).hexdigest()[:16]
    place = Path(_root(), number)
    folder = place / store.parts[-1]
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(place / _LOCK):
        (place / _ADDRESS).write_text(store.url)
        index = place / _INDEX
        before = json.loads(index.read_text()) if index.exists() else {}
        entries = store.entries()
        if not entries:
            raise FileNotFoundError(2, "nothing is there", store.url)
        now = {name: [entry.size, entry.version] for name, entry in entries.items()}
        same = {name: known for name, known in before.items() if now.get(name) == known}
        # What was removed here, as by a cleaner of old files, is brought again.
        same = {name: known for name, known in same.items() if _size(folder / name) == known[0]}
        _replace(index, json.dumps(same).encode(), place)  # what is killed now is done again
        changed = [name for name in now if name not in same]
        for name in before.keys() - now.keys():
            (folder / name).unlink(missing_ok=True)
        for name in filter(is_image, changed):
            _write_empty(folder / name, entries[name], place)
        store.download([name for name in changed if not is_image(name)], folder)
        _replace(index, json.dumps(now).encode(), place)
        _remove_unfinished({place, *((folder / name).parent for name in now if not is_image(name))})
    return folder


def _remove_unfinished(places: Iterable[Path]) -> None:
    """Removes what killed processes have left half written in some folders."""
    for path in itertools.chain.from_iterable(place.glob("*.new") for place in places):
        with contextlib.suppress(OSError):
            written = path.stat().st_mtime_ns
            age = time.time() - written / 1e9
            if written != _NOT_COPIED and age > _UNFINISHED_SECONDS:
                path.unlink()


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _write_empty(path: Path, entry: Entry, place: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file, temporary = tempfile.mkstemp(".new", dir=place)
    with os.fdopen(file, "wb") as opened:
        opened.truncate(entry.size)  # takes no room
    os.utime(temporary, ns=(_NOT_COPIED, _NOT_COPIED))
    os.replace(temporary, path)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lets one process of this host at a time, where the file system has locks."""
    import fcntl

    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            console.print_status(
                f"{path}: this file system has no locks ({error.strerror}); start one process of "
                "a host alone the first time, or let CONVMESH_CACHE name a folder on a local disk"
            )
        yield


def _root() -> str:
    return os.path.abspath(user_folder() / _FOLDER)


@functools.cache
def _url(number: str) -> str:
    return Path(_root(), number, _ADDRESS).read_text()
