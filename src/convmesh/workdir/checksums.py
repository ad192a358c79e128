"""SHA-256 checksums of all files of a folder, and their verification."""

import errno
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from convmesh.workdir.atomic_files import sync_folder, write_atomically

CHECKSUMS = "SHA256SUMS"  # in the format of `sha256sum`, which can verify it too
_READERS = min(8, os.cpu_count() or 1)


def sha256(path: str | os.PathLike[str], sync: bool = False) -> str:
    """SHA-256 of a file, in hexadecimal; with `sync`, the file is fsynced first."""
    with open(path, "rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: Path) -> None:
    """Writes CHECKSUMS, the SHA-256 of every file in and below `folder`, and syncs all of it."""
    names = sorted(_files(folder))
    with ThreadPoolExecutor(_READERS) as pool:
        sums = list(pool.map(lambda name: sha256(folder / name, sync=True), names))
    text = "".join(f"{checksum}  {name}\n" for checksum, name in zip(sums, names, strict=True))
    write_atomically(folder / CHECKSUMS, text)
    for below, _, _ in os.walk(folder):
        sync_folder(below)


def verify_checksums(folder: Path) -> str:
    """The first file that differs since `write_checksums`, and how; '' if none does.

    Added files count as differences. Raises OSError for errors that are not about the files'
    content, such as too many open files.
    """
    try:
        written = (folder / CHECKSUMS).read_bytes()
    except OSError as error:
        return _describe(error, CHECKSUMS)
    expected = {}
    for line in written.decode("utf-8", "replace").splitlines():
        checksum, _, name = line.partition("  ")
        expected[name] = checksum
    names = sorted(_files(folder))
    if added := sorted(set(names) - set(expected)):
        return f"{added[0]}: not in {CHECKSUMS}"
    if missing := sorted(set(expected) - set(names)):
        return f"{missing[0] or CHECKSUMS}: missing"

    def difference(name: str) -> str:
        try:
            same = sha256(folder / name) == expected[name]
            return "" if same else f"{name}: its content has changed"
        except OSError as error:
            return _describe(error, name)

    with ThreadPoolExecutor(_READERS) as pool:
        first = next(filter(None, pool.map(difference, names)), "")
    text = "".join(f"{expected[name]}  {name}\n" for name in names)
    return first or ("" if text.encode() == written else f"{CHECKSUMS}: its content has changed")


def _describe(error: OSError, name: str) -> str:
    if error.errno not in (errno.ENOENT, errno.EIO, errno.EISDIR, errno.ENOTDIR):
        raise error
    return f"{name}: {error.strerror}"


def _files(folder: Path) -> Iterator[str]:
    """All files in and below `folder` except CHECKSUMS, as relative paths."""
    for below, _, names in os.walk(folder):
        for name in names:
            path = (Path(below) / name).relative_to(folder).as_posix()
            if path != CHECKSUMS:
                yield path
