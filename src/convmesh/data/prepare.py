"""`convmesh prepare`: download a TFDS data set and write it in the format that training reads.

The format is array_record, which needs no TensorFlow to be read. TFDS writes into a folder
`incomplete.*` and renames it when everything is written, so an interrupted set is never read.
"""

from __future__ import annotations

import errno
import importlib.util
import inspect
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants, read_only_builder

from convmesh.data.formats.tfds_source import OWN_SET, file_formats, known_names
from convmesh.data.tfds_output import quiet_tfds
from convmesh.errors import ConfigError, DataError, nearest

EXTRA = 'pip install "convmesh[tfds-prepare]"'
# Calls in a builder that need TensorFlow: its own, and those by which TFDS unpacks archives.
_NEEDS_TENSORFLOW = re.compile(
    r"\b(?:tf\.|tensorflow\b|extract\b|download_and_extract\b|iter_archive\b)"
)


def prepare(name: str, root: str = "", log: Callable[[str], None] = print) -> Path:
    """Download the TFDS set `name` and write it into `root`, or into TFDS's default folder.

    Returns the folder of the set, which training finds by `data.name` and `data.root`. A set that
    is already prepared is left unchanged.

    Raises ConfigError, before anything is downloaded or written, for a name that TFDS does not know
    and where TensorFlow is needed but missing; DataError where the network fails, the disk is full
    or the set cannot be built. No set that training would read is left behind in that case.
    """
    if not name:
        raise ConfigError("--name: no TFDS set named; for example --name coco/2017")
    root = os.path.expanduser(root)
    data_dir = root or os.path.expanduser(str(constants.DATA_DIR))
    base, _, variant = name.partition("/")
    if base == OWN_SET:
        from convmesh.data.digit_scenes import builder as digit_scenes

        return _log_prepared(digit_scenes.prepare(variant or "full", root or None), root, log)
    with quiet_tfds():
        prepared = _prepared_builder(name, data_dir)
    if prepared is not None:
        formats = file_formats(prepared)
        if "array_record" in formats:
            return _log_prepared(prepared, root, log, "is prepared already")
        raise DataError(
            f"{prepared.data_dir}: prepared as {', '.join(sorted(formats)) or 'nothing'}, which"
            " only TensorFlow reads; give another --root, or move that folder away"
        )
    with quiet_tfds():
        builder = _builder(name, data_dir)
    _check_folders(builder, log)
    log(f"{builder.info.full_name}: downloading it and writing it into {builder.data_dir}")
    try:
        with quiet_tfds(progress=True):
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
    except Exception as error:
        with quiet_tfds():
            prepared = _prepared_builder(name, data_dir)
        if prepared is None:  # else another process finished first
            raise _user_error(error, builder) from error
    return _log_prepared(builder, root, log)


def _prepared_builder(name: str, data_dir: str) -> Any:
    """Return the builder of a set that is prepared already, or None."""
    try:
        return read_only_builder.builder_from_files(name, data_dir=data_dir)
    except Exception:  # TFDS raises errors of many types for a missing set
        return None


def _log_prepared(
    builder: Any, root: str, log: Callable[[str], None], status: str = "prepared"
) -> Path:
    """Log the examples in each split and how to train on them; return the folder of the set."""
    info = builder.info
    counts = ", ".join(f"{split} {part.num_examples:,}" for split, part in info.splits.items())
    log(f"{info.full_name} {status}: {counts}, in {builder.data_dir}")
    name = info.full_name.rpartition("/")[0]  # without the version
    root_flag = f" --config.data.root={root}" if root else ""
    log(f"train on it with --config.data.name={name}{root_flag}")
    return Path(builder.data_dir)


def _builder(name: str, data_dir: str) -> Any:
    """Return the builder that generates the set. Raises ConfigError."""
    base = name.partition("/")[0].partition(":")[0]
    if base not in known_names():
        raise ConfigError(f"--name: no TFDS set {name!r}{nearest(base, known_names())}")
    try:
        builder_class = tfds.builder_cls(base)
    except ModuleNotFoundError as error:
        raise _missing_package(name, error) from error
    configs = builder_class.builder_configs
    variant = name.partition("/")[2].partition(":")[0]
    if variant and variant not in configs:
        raise ConfigError(
            f"--name: {base} has no config {variant!r} among {', '.join(configs) or 'none'}"
            f"{nearest(variant, configs)}"
        )
    if not importlib.util.find_spec("tensorflow") and _needs_tensorflow(builder_class):
        raise ConfigError(
            f"--name: {name} needs TensorFlow to be prepared (not to be read): {EXTRA}"
        )
    try:
        return tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except ModuleNotFoundError as error:
        raise _missing_package(name, error) from error
    except Exception as error:  # an unknown version, or a name that TFDS cannot parse
        raise ConfigError(f"--name: {name}: {_one_line(error)}") from error


def _needs_tensorflow(builder_class: type) -> bool:
    """Return whether a builder uses TensorFlow, judged by its source text.

    All image sets of TFDS do: to list files, to unpack archives, or to encode images.
    """
    if builder_class.__module__.startswith("tensorflow_datasets."):
        return True
    try:
        return bool(_NEEDS_TENSORFLOW.search(inspect.getsource(builder_class)))
    except (OSError, TypeError):  # a class without a source file
        return False


def _check_folders(builder: Any, log: Callable[[str], None]) -> None:
    """Raise DataError, before anything is downloaded, for a folder that prevents preparing."""
    folder = Path(builder.data_dir)
    if folder.exists():  # TFDS would use it as the set, with any content
        raise DataError(
            f"{folder}: exists, but is not a complete prepared set; move it away and run again"
        )
    incomplete = sorted(folder.parent.glob(f"{constants.INCOMPLETE_PREFIX}*_{folder.name}"))
    if incomplete:
        names = ", ".join(map(str, incomplete))
        log(f"{names}: left by an interrupted preparation; remove it unless one is still running")
    manual = Path(builder.data_dir_root) / "downloads" / "manual"
    instructions = " ".join((builder.MANUAL_DOWNLOAD_INSTRUCTIONS or "").split())
    if instructions and not (manual.is_dir() and any(manual.iterdir())):
        raise DataError(
            f"{manual}: {builder.name} has to be downloaded by hand; put its files there:"
            f" {instructions}"
        )


def _user_error(error: Exception, builder: Any) -> ConfigError | DataError:
    """Return the error to show to the user, by the likely cause of `error`."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    name, root = builder.info.full_name, builder.data_dir_root
    kept = f"downloaded files are kept in {Path(root) / 'downloads'}"
    if any(_is_disk_full(cause) for cause in causes):
        return DataError(
            f"{root}: no space left for {name} ({_one_line(error)}); free some or give another"
            f" --root; {kept}"
        )
    for cause in causes:
        if isinstance(cause, ModuleNotFoundError):
            return _missing_package(name, cause)
    if any(_is_network_error(cause) for cause in causes):
        return DataError(f"{name}: cannot be downloaded: {_one_line(error)}; {kept}")
    return DataError(f"{name}: cannot be prepared: {type(error).__name__}: {_one_line(error)}")


def _is_disk_full(error: BaseException) -> bool:
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return True
    # array_record and TensorFlow only mention it in the message; TFDS checks in advance.
    return any(text in str(error) for text in (os.strerror(errno.ENOSPC), "Not enough disk space"))


def _is_network_error(error: BaseException) -> bool:
    import requests

    types = (requests.RequestException, ConnectionError, TimeoutError, tfds.download.DownloadError)
    return isinstance(error, types)


def _missing_package(name: str, error: ModuleNotFoundError) -> ConfigError:
    module = (error.name or "").partition(".")[0]
    if module == "tensorflow":
        return ConfigError(f"--name: {name} needs TensorFlow to be prepared: {EXTRA}")
    return ConfigError(f"--name: {name} needs the package {module!r} to be prepared; install it")


def _one_line(error: BaseException) -> str:
    """Return a message in one line: the first and the last line of TFDS's, without examples."""
    text = re.sub(r'^Failed to construct dataset .*?}": ', "", str(error).strip())
    lines = [line.strip()[:300] for line in text.splitlines() if line.strip()]
    return " ... ".join(dict.fromkeys([*lines[:1], *lines[-1:]])) or type(error).__name__
