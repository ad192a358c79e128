"""What is on the disk is whole, or absent, or known to be damaged: files and their sums."""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SUMS = "SHA256SUMS"  # in the form of `sha256sum`, which can check it as well
_READERS = min(8, os.cpu_count() or 1)


def write_whole(path, data: str | bytes) -> None:
    """Writes a file that a crash or a full disk leaves as it was, or as it is to be, never between.

    What is there already is not written again. Raises OSError.
    """
    path = Path(path)
    data = data.encode() if isinstance(data, str) else data
    if path.is_file() and path.read_bytes() == data:
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Removes what `write_whole` has left in and below `folder` when its process was killed."""
    for path in folder.rglob(".*.new"):
        with contextlib.suppress(OSError):
            path.unlink()


def sync_folder(folder) -> None:
    """Makes what was created, renamed or removed in `folder` outlive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path, sync: bool = False) -> str:
    """SHA-256 of a file, in hexadecimal; with `sync`, once its content is on the disk."""
    with open(path, "rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(folder: Path) -> None:
    """Writes SUMS, the SHA-256 of every file in and below `folder`, and brings all to the disk."""
    names = sorted(_files(folder))
    with ThreadPoolExecutor(_READERS) as pool:
        sums = list(pool.map(lambda name: sha256(folder / name, sync=True), names))
    text = "".join(f"{one}  {name}\n" for one, name in zip(sums, names, strict=True))
    write_whole(folder / SUMS, text)
    for below, _, _ in os.walk(folder):
        sync_folder(below)


def fault(folder: Path) -> str:
    """What is no longer as `seal` left it, in words that name a file; nothing if all is.

    A file that was added is a fault, too. Raises OSError where that says nothing of the files, as
    where too many are open.
    """
    try:
        sealed = (folder / SUMS).read_bytes()
    except OSError as error:
        return _of_the_disk(error, SUMS)
    told = {}
    for line in sealed.decode("utf-8", "replace").splitlines():
        one, _, name = line.partition("  ")
        told[name] = one
    names = sorted(_files(folder))
    if added := sorted(set(names) - set(told)):
        return f"{added[0]}: not in {SUMS}"
    if gone := sorted(set(told) - set(names)):
        return f"{gone[0] or SUMS}: not there"

    def differs(name: str) -> str:
        try:
            return "" if sha256(folder / name) == told[name] else f"{name}: other bytes than saved"
        except OSError as error:
            return _of_the_disk(error, name)

    with ThreadPoolExecutor(_READERS) as pool:
        found = next(filter(None, pool.map(differs, names)), "")
    text = "".join(f"{told[name]}  {name}\n" for name in names)
    return found or ("" if text.encode() == sealed else f"{SUMS}: other bytes than saved")


def _of_the_disk(error: OSError, name: str) -> str:
    if error.errno not in (errno.ENOENT, errno.EIO, errno.EISDIR, errno.ENOTDIR):
        raise error
    return f"{name}: {error.strerror}"


def _files(folder: Path) -> Iterator[str]:
    """All files in and below `folder` but its SUMS, as paths from there."""
    for below, _, names in os.walk(folder):
        for name in names:
            path = (Path(below) / name).relative_to(folder).as_posix()
            if path != SUMS:
                yield path
