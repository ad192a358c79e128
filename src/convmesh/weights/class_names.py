"""The names of the classes that a model's outputs stand for.

`imagenet_classes.txt` has the 1,000 of ImageNet-1k, and `coco_classes.txt` the 90 of COCO, in the
order of the outputs, with the names that torchvision 0.28 has in the metadata of its weights
(`meta["categories"]`). Its detectors count background, as class 0, and ten classes that COCO does
not use: ours have no class of background, and the ten are named "N/A (12)" and so on.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import os
from collections.abc import Sequence

from convmesh.data.documents import read_bytes
from convmesh.errors import DataError
from convmesh.weights.binary_file import printable

_LARGEST = 2**24  # bytes of a file of names


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """The 1,000 classes of ImageNet-1k."""
    return _lines_of("imagenet_classes.txt")


@functools.cache
def coco_classes() -> tuple[str, ...]:
    """The 90 classes of COCO, by its category ids from 1 on; ten of them are not used."""
    return _lines_of("coco_classes.txt")


def _lines_of(file: str) -> tuple[str, ...]:
    """The lines of a file of this package."""
    path = importlib.resources.files("convmesh.weights") / file
    return tuple(path.read_text(encoding="utf-8").split("\n")[:-1])


def read_class_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The names in a file: a JSON list of strings, as classes.json, or one name a line.

    Raises DataError naming the file, if it cannot be read, or a name is empty or there twice.
    """
    try:
        text = read_bytes(path, _LARGEST).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text in UTF-8; give one class name a line") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    if not text.lstrip().startswith("["):
        return checked(str(path), [line.strip() for line in text.rstrip().splitlines()])
    try:
        names = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: no JSON list of class names: {error}") from None
    return checked(str(path), names)


def checked(source: str, names: Sequence[str]) -> tuple[str, ...]:
    """`names` of a file `source`. Raises DataError unless they are different, non-empty strings."""
    if not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{source}: no list of class names")
    found: dict[str, int] = {}
    for i, name in enumerate(names):
        shown = printable(repr(name))
        if not name or not name.isprintable():
            raise DataError(f"{source}: name {i + 1} of {len(names)} is {shown}; name each class")
        if name in found:
            raise DataError(
                f"{source}: {shown} is the name of class {found[name]} and of class {i}; "
                "give each class a name of its own"
            )
        found[name] = i
    return tuple(names)
