"""config.json and classes.json of another version, or edited: compared with the checkpoints.

Each checkpoint holds in its meta the config and the classes that it was trained with, and the
version of convmesh that saved it.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from convmesh.config import (
    KEYS,
    changed_keys,
    check_resume,
    from_json,
    may_change_on_resume,
    to_json,
)
from convmesh.config.keys import unknown_key
from convmesh.config.tree import flatten, nest
from convmesh.data.documents import read_json
from convmesh.distributed import console
from convmesh.errors import ConfigError, DataError, some


def version() -> str:
    """The version of convmesh; 'unknown' if it is not installed."""
    try:
        return importlib.metadata.version("convmesh")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def model_meta(config: ConfigDict, classes: Sequence[str]) -> dict[str, Any]:
    """What every checkpoint states of its model; a run adds its data and the position in it."""
    return {
        "config": json.loads(to_json(config)),
        "classes": list(classes),
        "convmesh": version(),
    }


def version_note(meta: Mapping[str, Any]) -> str:
    """For a message about a run with `meta`: by which other version it was saved, or ''."""
    saved = meta.get("convmesh")
    is_other = saved not in (None, version())
    return f" (saved by convmesh {saved}, this is {version()})" if is_other else ""


def trained_values(meta: Mapping[str, Any]) -> dict[str, Any]:
    """{dotted key: value} that a checkpoint was trained with, of the keys of this version."""
    config = meta.get("config")
    values = flatten(config) if isinstance(config, dict) else ()
    return {name: value for name, value in values if name in KEYS}


def trained_config(meta: Mapping[str, Any]) -> ConfigDict | None:
    """The config that a checkpoint was trained with; None if it holds none that can be read."""
    values = trained_values(meta)
    try:
        return from_json(json.dumps(nest(values))) if values else None
    except ConfigError:
        return None


def read_run_config(path: Path, meta: Mapping[str, Any]) -> ConfigDict:
    """The config of the file `path`; prints a status line about missing keys, once.

    meta: of the run's newest checkpoint, from which missing keys are taken; defaults for those that
    it lacks, too. Raises DataError if it is damaged, or has keys or values
    that this version does not know.
    """
    tree = read_json(path)
    names = [name for name, _ in flatten(tree)] if isinstance(tree, dict) else []
    if unknown := [name for name in names if name not in KEYS]:
        raise DataError(_unknown(path, unknown, meta))
    trained = trained_values(meta)
    missing = [name for name in KEYS if name not in names]
    taken = [name for name in missing if name in trained]
    try:
        if taken:
            tree = nest(dict(flatten(tree)) | {name: trained[name] for name in taken})
        config = from_json(json.dumps(tree))
    except ConfigError as error:
        raise DataError(f"{path}: {error}{version_note(meta)}") from None
    values = dict(flatten(config))
    for group, source in (
        (taken, "their values are taken from the newest checkpoint"),
        ([name for name in missing if name not in taken], "their defaults are taken"),
    ):
        if group:
            shown = some([f"{name} ({values[name]!r})" for name in group], 5)
            _say_once(f"{path}: has no {shown}: {source}{version_note(meta)}")
    return config


def _unknown(path: Path, names: Sequence[str], meta: Mapping[str, Any]) -> str:
    _, hint, near = unknown_key(names[0]).partition("; did you mean ")
    edited = f"or was edited{hint}{near}" if near else "or was edited"
    key = "key" if len(names) == 1 else "keys"
    return (
        f"{path}: convmesh {version()} has no {key} {some(list(names))}: the file is of another "
        f"version{version_note(meta)}, {edited}; use that version, or remove the {key} from the "
        "file"
    )


@functools.cache
def _say_once(line: str) -> None:
    console.print_status(line)


def check_same_model(
    config: ConfigDict, classes: Sequence[str], meta: Mapping[str, Any], workdir: Path
) -> None:
    """Raises DataError if `config` or `classes`, of the files, are not those of the checkpoints.

    meta: of the newest checkpoint, or {}. Only what determines the weights is compared; the rest of
    the config may be another.
    """
    trained = trained_config(meta)
    if trained is None:
        return
    for key, was, now in (
        ("task", trained.task, config.task),
        ("model.name", trained.model.name, config.model.name),
        ("model.backbone", trained.model.backbone, config.model.backbone),
        ("ema.decay", trained.ema.decay, config.ema.decay),
    ):
        # The decay itself may differ: what matters is whether there are averaged weights.
        if was != now and (key != "ema.decay" or 0 in (was, now)):
            raise DataError(_another(workdir / "config.json", f"{key} is {now}", was, meta))
    known = meta.get("classes") or classes
    if len(known) != len(classes):
        file, was = workdir / "classes.json", f"{len(known)}, {some(list(known))}"
        raise DataError(_another(file, f"it has {len(classes)} classes", was, meta))


def check_same_run(
    config: ConfigDict, classes: Sequence[str] | None, meta: Mapping[str, Any], workdir: Path
) -> None:
    """Raises DataError if `config` or `classes`, of the files, are of another run than `meta`.

    meta: of the newest checkpoint, or {}. classes: None without the file. Keys that may change when
    a run resumes are not compared.
    """
    trained = trained_config(meta)
    if trained is None:
        return
    try:
        check_resume(trained, config)
    except ConfigError:
        if said := edited_key(config, meta, workdir):
            raise DataError(said) from None
    known = meta.get("classes")
    if classes is not None and known and list(known) != list(classes):
        said = f"it has the classes {some(list(classes), 10)}"
        raise DataError(_another(workdir / "classes.json", said, some(list(known), 10), meta))


def edited_key(config: ConfigDict, meta: Mapping[str, Any], workdir: Path) -> str:
    """A message about the first key of config.json by which the run in `meta` is another; or ''."""
    trained = trained_config(meta)
    if trained is None:
        return ""
    before, now = dict(flatten(trained)), dict(flatten(config))
    for name in changed_keys(trained, config):
        if not may_change_on_resume(name):
            said = f"{name} is {now[name]!r}"
            return _another(workdir / "config.json", said, repr(before[name]), meta)
    return ""


def _another(file: Path, now: str, was: Any, meta: Mapping[str, Any]) -> str:
    return (
        f"{file}: {now}, but the newest checkpoint was trained with {was}: the file was edited, or "
        f"is of another run or version{version_note(meta)}; put {was} back"
    )
