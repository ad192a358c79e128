"""The arrays that a checkpoint holds: their names and shapes, and the files that Orbax reads."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from convmesh.errors import DataError
from convmesh.workdir import checksums
from convmesh.workdir.layout import Workdir
from convmesh.workdir.run_files import edited_key
from convmesh.workdir.step_folders import newest_meta


class AnotherModelError(DataError):
    """A checkpoint holds the arrays of another model."""


@contextlib.contextmanager
def naming_edited_key(workdir: Workdir) -> Iterator[None]:
    """Turns AnotherModelError into a DataError that names the key of config.json that differs."""
    try:
        yield
    except AnotherModelError as error:
        meta = newest_meta(workdir.checkpoints_folder)
        if said := edited_key(workdir.read_config(), meta, workdir.root):
            raise DataError(said) from error
        raise


@contextlib.contextmanager
def without_added_files(folder: Path) -> Iterator[Path]:
    """`folder`, or a folder of links if other programs have added files: Orbax would read some.

    Raises OSError if `folder` has no checksums.
    """
    if not checksums.added_files(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="convmesh-") as temporary:
        links = Path(temporary) / folder.name
        checksums.link_named_files(folder, links)
        yield links


def first_difference(item: Path, target: Any) -> str:
    """The first array of `target` that differs from what the folder `item` holds; '' if none does.

    Names and shapes are compared, nothing is restored. Raises OSError or ValueError if Orbax cannot
    read the folder.
    """
    saved = _shapes(ocp.StandardCheckpointHandler().metadata(item).tree)
    wanted = _shapes(target)
    for name in [*wanted, *(name for name in saved if name not in wanted)]:
        there, here = saved.get(name), wanted.get(name)
        if there is None:
            return f"it has no {name}, of shape {_text(here)}"
        if here is None:
            return f"its {name}, of shape {_text(there)}, is not in the model"
        if there != here:
            return f"its {name} has the shape {_text(there)}, wanted {_text(here)}"
    return ""


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shape of each array of a tree of dicts, by its path."""
    return {
        "/".join(str(getattr(key, "key", key)) for key in path): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if hasattr(leaf, "shape")
    }


def _text(shape: tuple[int, ...] | None) -> str:
    return " x ".join(map(str, shape or ())) or "a number"


def copied(tree: Any, gather: bool = False) -> Any:
    """`tree` with each fully replicated array replaced by a copy on the host.

    With `gather` the others, too: a part of them may be on the devices of other processes, all of
    which must call it.

    Orbax would split replicated ones into a slice per device, array by array: on two CPU devices
    that takes three times as long as writing.
    """
    leaves, treedef = jax.tree.flatten(tree)
    replicated = [leaf for leaf in leaves if leaf.is_fully_replicated]
    # Copied, since on CPUs `device_get` returns the array's own memory, which is donated soon.
    copies = iter([np.array(leaf) for leaf in jax.device_get(replicated)])

    def of_others(leaf: Any) -> Any:
        return np.array(multihost_utils.process_allgather(leaf, tiled=True)) if gather else leaf

    return jax.tree.unflatten(
        treedef,
        [next(copies) if leaf.is_fully_replicated else of_others(leaf) for leaf in leaves],
    )
