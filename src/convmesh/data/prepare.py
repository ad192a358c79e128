"""`convmesh prepare`: a TFDS data set, downloaded and written as training reads it.

That is as array_record files, which need no TensorFlow afterwards. TFDS writes a set into a folder
`incomplete.*` and renames it once it is whole, so one that was interrupted is never read.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import inspect
import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from absl import logging as absl_logging
from tensorflow_datasets.core import constants, read_only_builder

from convmesh.data.tfds_source import OWN_SET, file_formats, known_names
from convmesh.errors import ConfigError, DataError, nearest

EXTRA = 'pip install "convmesh[tfds-prepare]"'
# What TFDS itself does with TensorFlow, besides what a builder does: it unpacks archives.
_UNPACKS = re.compile(r"\b(?:tf\.|tensorflow\b|extract\b|download_and_extract\b|iter_archive\b)")


def prepare(name: str, root: str = "", say: Callable[[str], None] = print) -> Path:
    """Download the TFDS set `name` and write it into `root`, or TFDS's own folder.

    Returns the folder of the set, which training finds by `data.name` and `data.root`; a set that
    is there already is left as it is. Raises ConfigError, before anything is downloaded or written,
    for a name that TFDS does not have and where TensorFlow is needed and missing; DataError where
    there is no network, no space, or the set cannot be made; nothing is left then that would be
    read.
    """
    if not name:
        raise ConfigError("--name: no TFDS set named; as in --name coco/2017")
    root = os.path.expanduser(root)
    data_dir = root or os.path.expanduser(str(constants.DATA_DIR))
    base, _, variant = name.partition("/")
    if base == OWN_SET:
        from convmesh.data import digit_scenes

        return _done(digit_scenes.prepare(variant or "full", root or None), root, say, "prepared")
    with _quiet():
        found = _found(name, data_dir)
    if found is not None:
        formats = file_formats(found)
        if "array_record" in formats:
            return _done(found, root, say, "is prepared already")
        raise DataError(
            f"{found.data_dir}: prepared as {', '.join(sorted(formats)) or 'nothing'}, which only"
            " TensorFlow reads; give another --root, or move that folder away"
        )
    with _quiet():
        builder = _builder(name, data_dir)
    _check_place(builder, say)
    say(f"{builder.info.full_name}: downloading and writing it, into {builder.data_dir}")
    try:
        with _quiet(progress=True):
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
    except Exception as error:
        with _quiet():
            found = _found(name, data_dir)
        if found is None:  # else another process was faster
            raise _in_words(error, builder) from error
    return _done(builder, root, say, "prepared")


def _found(name: str, data_dir: str) -> Any:
    """Return the builder of a set that is prepared, or None."""
    try:
        return read_only_builder.builder_from_files(name, data_dir=data_dir)
    except Exception:  # TFDS raises many kinds for a set that is not there
        return None


def _done(builder: Any, root: str, say: Callable[[str], None], what: str) -> Path:
    """Tell what is there, and how training reads it."""
    info = builder.info
    counts = ", ".join(f"{split} {part.num_examples:,}" for split, part in info.splits.items())
    say(f"{info.full_name} {what}: {counts}, in {builder.data_dir}")
    name = info.full_name.rpartition("/")[0]  # without the version
    where = f" --config.data.root={root}" if root else ""
    say(f"train on it with --config.data.name={name}{where}")
    return Path(builder.data_dir)


def _builder(name: str, data_dir: str) -> Any:
    """Return the builder that makes the set. Raises ConfigError."""
    base = name.partition("/")[0].partition(":")[0]
    if base not in known_names():
        raise ConfigError(f"--name: no TFDS set {name!r}{nearest(base, known_names())}")
    try:
        made = tfds.builder_cls(base)
    except ModuleNotFoundError as error:
        raise _missing(name, error) from error
    variant = name.partition("/")[2].partition(":")[0]
    if variant and variant not in made.builder_configs:
        has, hint = ", ".join(made.builder_configs), nearest(variant, made.builder_configs)
        raise ConfigError(f"--name: {base} has no config {variant!r} among {has or 'none'}{hint}")
    if not importlib.util.find_spec("tensorflow") and _needs_tensorflow(made):
        raise ConfigError(
            f"--name: {name} needs TensorFlow to be prepared (not to be read): {EXTRA}"
        )
    try:
        return tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except ModuleNotFoundError as error:
        raise _missing(name, error) from error
    except Exception as error:  # a version that is not there, or a name in another form
        raise ConfigError(f"--name: {name}: {_told(error)}") from error


def _needs_tensorflow(made: type) -> bool:
    """Return whether the code of a builder uses TensorFlow, by its text.

    All image sets of TFDS do: to list files, to unpack archives, or to encode images.
    """
    if made.__module__.startswith("tensorflow_datasets."):
        return True
    try:
        return bool(_UNPACKS.search(inspect.getsource(made)))
    except (OSError, TypeError):  # made where there is no file
        return False


def _check_place(builder: Any, say: Callable[[str], None]) -> None:
    """Raise DataError where something stands in the way, before anything is downloaded."""
    folder = Path(builder.data_dir)
    if folder.exists():  # TFDS would take it for the set, whatever is in it
        raise DataError(
            f"{folder}: there, but it is not a whole prepared set; move it away, and run it again"
        )
    left = sorted(folder.parent.glob(f"{constants.INCOMPLETE_PREFIX}*_{folder.name}"))
    if left:
        names = ", ".join(map(str, left))
        say(f"{names}: left by a preparation that was interrupted; remove it if none is under way")
    by_hand = Path(builder.data_dir_root) / "downloads" / "manual"
    words = " ".join((builder.MANUAL_DOWNLOAD_INSTRUCTIONS or "").split())
    if words and not (by_hand.is_dir() and any(by_hand.iterdir())):
        raise DataError(
            f"{by_hand}: {builder.name} cannot be downloaded freely; put its files there: {words}"
        )


def _in_words(error: Exception, builder: Any) -> ConfigError | DataError:
    """Return what went wrong, for people."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    name, root = builder.info.full_name, builder.data_dir_root
    kept = f"what was downloaded is kept in {Path(root) / 'downloads'}"
    if any(_is_full(one) for one in causes):
        return DataError(
            f"{root}: no space left for {name} ({_told(error)}); free some or give another"
            f" --root; {kept}"
        )
    for one in causes:
        if isinstance(one, ModuleNotFoundError):
            return _missing(name, one)
    if any(_is_network(one) for one in causes):
        return DataError(f"{name}: cannot be downloaded: {_told(error)}; {kept}")
    return DataError(f"{name}: cannot be prepared: {type(error).__name__}: {_told(error)}")


def _is_full(error: BaseException) -> bool:
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    # array_record and TensorFlow say it in words, and TFDS where it looks beforehand.
    return full or any(
        words in str(error) for words in (os.strerror(errno.ENOSPC), "Not enough disk space")
    )


def _is_network(error: BaseException) -> bool:
    import requests

    kinds = (requests.RequestException, ConnectionError, TimeoutError, tfds.download.DownloadError)
    return isinstance(error, kinds)


def _missing(name: str, error: ModuleNotFoundError) -> ConfigError:
    module = (error.name or "").partition(".")[0]
    if module == "tensorflow":
        return ConfigError(f"--name: {name} needs TensorFlow to be prepared: {EXTRA}")
    return ConfigError(f"--name: {name} needs the package {module!r} to be prepared; install it")


def _told(error: BaseException) -> str:
    """Return a message in one line: of TFDS's, which print whole examples, the ends."""
    text = re.sub(r'^Failed to construct dataset .*?}": ', "", str(error).strip())
    lines = [line.strip()[:300] for line in text.splitlines() if line.strip()]
    return " ... ".join(dict.fromkeys([*lines[:1], *lines[-1:]])) or type(error).__name__


@contextlib.contextmanager
def _quiet(progress: bool = False) -> Iterator[None]:
    """Silence what TFDS prints and logs, but its errors, and with `progress` its bars."""
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    if not progress:
        tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl_logging.set_verbosity(before)
        tfds.enable_progress_bar()
