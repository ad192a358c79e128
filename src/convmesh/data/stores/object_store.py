"""Objects below an address of Google Cloud Storage (gs://) or S3 (s3://), through fsspec.

Credentials, endpoints and regions are those of the libraries: `AWS_ENDPOINT_URL` names a server
other than Amazon's, `STORAGE_EMULATOR_HOST` one other than Google's. They also repeat failed
requests; what still fails is an OSError here, with the address in `filename`.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convmesh.errors import ConfigError, ConvmeshError, StoreError, first_line

# The package of each scheme.
PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}
# What says that a request is wrong, or not permitted, and not that it was not answered.
_LOCAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ENAMETOOLONG, errno.EINVAL)
_REFUSALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError")
_REFUSED = ("Forbidden", "Unauthorized", "Invalid Credentials")
_AT_ONCE = 8  # requests of one call
_AT_ONCE_BYTES = 2**26  # smaller files are read before they are written


@dataclass(frozen=True)
class Entry:
    """An object: its size in bytes, and what changes whenever it is written."""

    size: int
    version: str


def is_url(path: Any) -> bool:
    """Whether `path` is an address instead of a path of a file system."""
    return isinstance(path, str) and "://" in path


def is_unanswered(error: BaseException | None) -> bool:
    """Whether an error is, or follows from, a request that the store did not answer."""
    while error is not None:
        if isinstance(error, StoreError):
            return error.exit_code == StoreError.exit_code
        if isinstance(error, OSError) and error.errno == errno.EIO and is_url(error.filename):
            return True
        error = error.__cause__
    return False


def explained(what: str, error: OSError, kind: type[ConvmeshError]) -> ConvmeshError:
    """The error for a failed request: StoreError if the store did not answer, else of `kind`."""
    text = f"{what}: {error.strerror or error}"
    if is_unanswered(error):
        return StoreError(f"{text}; run it again once the store answers")
    return kind(text)


class ObjectStore:
    """The objects below an address, by their names relative to it: `eval/val/metrics.json`."""

    def __init__(self, url: str) -> None:
        """`url`: SCHEME://BUCKET/FOLDER. Asks for nothing yet.

        Raises ConfigError for another scheme, an address without a bucket, or a missing package.
        """
        self.scheme, _, path = url.partition("://")
        parts = path.rstrip("/").split("/")
        if self.scheme not in PACKAGES:
            raise ConfigError(f"{url}: {self.scheme}:// is not supported; gs:// and s3:// are")
        if not all(parts) or {".", ".."} & set(parts):
            raise ConfigError(f"{url}: give {self.scheme}://BUCKET/FOLDER")
        self.parts = tuple(parts)
        self._root = "/".join(parts)
        self.url = f"{self.scheme}://{self._root}"
        _file_system(self.scheme, os.getpid())

    def __str__(self) -> str:
        return self.url

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectStore) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)

    def entries(self, below: str = "") -> dict[str, Entry]:
        """All objects below the folder `below`, by name, without names that are no paths.

        Raises OSError: no bucket, ...
        """
        path = f"{self._root}/{below}".rstrip("/")
        with self._requesting(below):
            found = self._fs.find(path, detail=True)
        names = {name.removeprefix(f"{self._root}/"): info for name, info in found.items()}
        return {
            name: Entry(info.get("size") or 0, _version(info))
            for name, info in names.items()
            if name != self._root and _is_path(name)
        }

    def read(self, name: str) -> bytes:
        """The content of an object. Raises FileNotFoundError, OSError."""
        with self._requesting(name):
            return self._fs.cat_file(self._path(name))

    def write(self, name: str, data: bytes) -> None:
        """Writes an object, whole or not at all. Raises OSError."""
        with self._requesting(name):
            self._fs.pipe_file(self._path(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """Writes an object unless there is one; whether it did. Raises OSError.

        By a conditional request: of several clients, one succeeds.
        """
        with self._requesting(name):
            try:
                self._fs.pipe_file(self._path(name), data, mode="create")
            except FileExistsError:
                return False
        return True

    def upload(self, folder: Path, names: Iterable[str]) -> None:
        """Writes the files `names` of `folder` as objects of those names. Raises OSError.

        Files that are not there any more are left out.
        """
        self._each(functools.partial(self._upload, folder), names)

    def _upload(self, folder: Path, name: str) -> None:
        with self._requesting(name):
            try:
                if (folder / name).stat().st_size < _AT_ONCE_BYTES:
                    # As it is now: a file that grows meanwhile would not have the size stated.
                    self._fs.pipe_file(self._path(name), (folder / name).read_bytes())
                else:
                    self._fs.put_file(str(folder / name), self._path(name))
            except FileNotFoundError:
                if (folder / name).exists():  # then it is the bucket
                    raise

    def download(self, names: Iterable[str], folder: Path) -> None:
        """Writes objects as files below `folder`. Raises OSError; each file is whole or absent.

        Objects that are not there any more are left out.
        """
        self._each(functools.partial(self._download, folder), names)

    def _download(self, folder: Path, name: str) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            with self._requesting(name):
                self._fs.get_file(self._path(name), str(temporary))
            os.replace(temporary, path)
        except FileNotFoundError:
            pass
        finally:
            temporary.unlink(missing_ok=True)

    def delete(self, names: Iterable[str]) -> None:
        """Deletes objects; those that are not there count for nothing. Raises OSError."""
        self._each(self._delete, names)

    def _delete(self, name: str) -> None:
        with self._requesting(name), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    # Requests.

    @property
    def _fs(self) -> Any:
        return _file_system(self.scheme, os.getpid())

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _each(self, function: Any, names: Iterable[str]) -> None:
        names = list(names)
        if len(names) < 2:
            for name in names:
                function(name)
            return
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for _ in pool.map(function, names):
                pass

    @contextlib.contextmanager
    def _requesting(self, name: str) -> Iterator[None]:
        """Turns every error of the libraries into an OSError with a short text and the address."""
        url = f"{self.url}/{name}".rstrip("/")
        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "no such object or bucket", url) from error
        except PermissionError as error:
            raise PermissionError(errno.EACCES, _text(error), url) from error
        except Exception as error:  # of botocore, aiohttp, google.auth, ...
            if type(error).__name__ in _REFUSALS or _text(error).startswith(_REFUSED):
                raise PermissionError(errno.EACCES, _text(error), url) from error
            local = isinstance(error, OSError) and error.errno in _LOCAL
            number = error.errno if isinstance(error, OSError) and local else errno.EIO
            raise OSError(number, _text(error), url) from error


def _is_path(name: str) -> bool:
    """Whether a name is a path of a file below a folder; S3 also has names such as `a//../b/`."""
    return not {"", ".", ".."} & set(name.split("/"))


def _text(error: Exception) -> str:
    said = getattr(error, "strerror", None)
    return (str(said) if said else first_line(error))[:200]


def _version(info: dict[str, Any]) -> str:
    return str(info.get("generation") or info.get("ETag") or info.get("etag") or info.get("mtime"))


@functools.cache
def _file_system(scheme: str, process: int) -> Any:
    """fsspec's file system, which never answers from a cache. Raises ConfigError.

    A forked process needs one of its own.
    """
    import fsspec

    if os.environ.get("STORAGE_EMULATOR_HOST"):
        # Emulators have no gRPC, by which gcsfs asks for the kind of a bucket: a minute, each time.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        return fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True)
    except ImportError:
        raise ConfigError(
            f"{scheme}:// needs the package {PACKAGES[scheme]}: pip install {PACKAGES[scheme]}"
        ) from None
    except Exception as error:  # no credentials, for example
        raise ConfigError(f"{scheme}://: cannot be used: {_text(error)}") from error
