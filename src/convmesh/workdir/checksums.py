"""SHA-256 checksums of all files of a folder, and their verification."""

import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from convmesh.distributed.cores import usable_cores
from convmesh.workdir.atomic_files import sync_folder, write_atomically

CHECKSUMS = "SHA256SUMS"  # in the format of `sha256sum`, which can verify it too
_OF_CONTENT = (errno.ENOENT, errno.EIO, errno.EISDIR, errno.ENOTDIR, errno.ESTALE)
_READERS = min(8, usable_cores())


def sha256(path: str | os.PathLike[str], sync: bool = False) -> str:
    """SHA-256 of a file, in hexadecimal; with `sync`, the file is fsynced first."""
    with open(path, "rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: Path) -> None:
    """Writes CHECKSUMS, the SHA-256 of every file in and below `folder`, and syncs all of it."""
    # A hidden file is another program's, and may be gone soon (.nfs*, .DS_Store).
    names = sorted(name for name in _files(folder) if not _is_hidden(name))
    with ThreadPoolExecutor(_READERS) as pool:
        sums = list(pool.map(lambda name: sha256(folder / name, sync=True), names))
    write_atomically(folder / CHECKSUMS, _text(dict(zip(names, sums, strict=True))))
    for below, _, _ in os.walk(folder):
        sync_folder(below)


def verify_checksums(folder: Path) -> str:
    """The first file that differs since `write_checksums`, and how; '' if none does.

    Files that were added count for nothing, see `added_files`. Raises OSError for errors that are
    not about the files' content, such as too many open files.
    """
    try:
        written = (folder / CHECKSUMS).read_bytes()
    except OSError as error:
        return _describe(error, CHECKSUMS)
    expected, names = _parsed(written), set(_files(folder))
    if missing := [name for name in sorted(set(expected) - names) if not _is_hidden(name)]:
        return f"{missing[0] or CHECKSUMS}: missing"
    counts = written.startswith(_header(expected).encode())  # those of earlier versions do not
    if not counts and (left_out := _perhaps_left_out(expected, names)):
        return f"{left_out}: not in {CHECKSUMS}, which may have been cut short"

    def difference(name: str) -> str:
        if name not in names:
            return ""
        try:
            same = sha256(folder / name) == expected[name]
            return "" if same else f"{name}: its content has changed"
        except OSError as error:
            return _describe(error, name)

    with ThreadPoolExecutor(_READERS) as pool:
        first = next(filter(None, pool.map(difference, sorted(expected))), "")
    text = _text(expected) if counts else _text(expected).removeprefix(_header(expected))
    return first or ("" if text.encode() == written else f"{CHECKSUMS}: its content has changed")


def is_unchanged(folder: Path, name: str) -> bool:
    """Whether the file `name` is as `write_checksums` found it. Raises OSError if it is absent."""
    expected = _parsed((folder / CHECKSUMS).read_bytes())
    return sha256(folder / name) == expected.get(name)


def added_files(folder: Path) -> list[str]:
    """The files in and below `folder` that `write_checksums` has not named, as relative paths.

    Raises OSError if there are no checksums.
    """
    expected = _parsed((folder / CHECKSUMS).read_bytes())
    return sorted(set(_files(folder)) - set(expected))


def names_in(written: bytes) -> list[str]:
    """The files that are named in a file of checksums, as relative paths."""
    return list(_parsed(written))


def link_named_files(folder: Path, to: Path) -> None:
    """Links, below the new folder `to`, to the files that `write_checksums` has named."""
    for name in names_in((folder / CHECKSUMS).read_bytes()):
        path = to / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to((folder / name).absolute())


def _text(sums: Mapping[str, str]) -> str:
    return _header(sums) + "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))


def _header(sums: Mapping[str, str]) -> str:
    """The first line, by which a list that was cut short is recognised; a comment for sha256sum."""
    return f"# {len(sums)} files\n"


def _parsed(written: bytes) -> dict[str, str]:
    """{name: checksum} of a file of checksums."""
    expected = {}
    for line in written.decode("utf-8", "replace").splitlines():
        if not line.startswith("#"):
            checksum, _, name = line.partition("  ")
            expected[name] = checksum
    return expected


def _perhaps_left_out(expected: Mapping[str, str], names: set[str]) -> str:
    """The first of `names` that a list without a count may have named before it was cut short.

    Names are sorted, so it would be one of the last; files of a checkpoint lie in folders.
    """
    last = max(expected, default="")
    added = (name for name in sorted(names) if name > last and "/" in name)
    return next((name for name in added if not _is_hidden(name)), "")


def _is_hidden(name: str) -> bool:
    """Whether a file is hidden, or in a hidden folder: no file of a checkpoint is."""
    return any(part.startswith(".") for part in name.split("/"))


def _describe(error: OSError, name: str) -> str:
    if error.errno not in _OF_CONTENT:
        raise error
    return f"{name}: {error.strerror}"


def _files(folder: Path) -> Iterator[str]:
    """All files in and below `folder` except CHECKSUMS, as relative paths."""
    for below, _, names in os.walk(folder):
        for name in names:
            path = (Path(below) / name).relative_to(folder).as_posix()
            if path != CHECKSUMS:
                yield path
