"""A program of JAX as one file for CPU, CUDA and TPU: StableHLO by `jax.export`.

The file is a zip archive, so that it opens without convmesh: `program.bin`, which
`jax.export.deserialize` reads, and `metadata.json`. JAX promises that such a program runs with
versions of it that are up to six months newer or three weeks older than the one that wrote it
(https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees).
"""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
from jax import export

from convmesh.errors import DataError, RunError, first_line

PLATFORMS = ("cpu", "cuda", "tpu")
_PROGRAM, _METADATA = "program.bin", "metadata.json"
_MAX_METADATA = 2**24  # bytes
# What JAX says of operations that only run here or now.
_REFUSALS = ("compatibility guarantees", "multi-platform lowering")
_PROMISE = "runs with JAX up to six months newer and three weeks older than the versions here"


@dataclass(frozen=True)
class StableHLO:
    """A program that was read: `program.call(images)`, better `jax.jit(program.call)`.

    It takes uint8 [batch, height, width, 3] and returns a dict of arrays. metadata: of the file.
    """

    program: export.Exported
    metadata: Mapping[str, Any]


def to_stablehlo(
    function: Callable[[jax.Array], Mapping[str, jax.Array]],
    image_shape: str,
    metadata: Mapping[str, Any],
) -> bytes:
    """Return the file of `function`, which maps images to a dict of arrays, its weights inside.

    image_shape: of the images, uint8; names are symbolic: "b, h, w, 3", or "8, h, w, 3" for batches
    of 8. metadata: for `metadata.json`; versions, platforms, the shapes of input and outputs, and
    what is promised of the file's age are added. The same program gives the same bytes.

    Raises RunError if the package flatbuffers is missing, or if the program holds an operation
    that JAX does not promise to run later.
    """
    images = jax.ShapeDtypeStruct(export.symbolic_shape(image_shape), jnp.uint8)
    try:
        with _without_source_lines():
            exported = export.export(jax.jit(function), platforms=PLATFORMS)(images)
            program = bytes(exported.serialize())
    except ImportError as error:
        raise RunError(f"StableHLO needs flatbuffers ({error}): pip install flatbuffers") from None
    except (ValueError, NotImplementedError) as error:
        if not any(reason in str(error) for reason in _REFUSALS):
            raise
        raise RunError(f"the model cannot be written as StableHLO: {first_line(error)}") from None
    versions = {
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "calling_convention": exported.calling_convention_version,
    }
    outputs = jax.tree.unflatten(exported.out_tree, [_described(a) for a in exported.out_avals])
    added = {
        "input": _described(exported.in_avals[0]),
        "outputs": outputs,
        "platforms": list(PLATFORMS),
        "versions": versions,
        "compatibility": _PROMISE,
    }
    text = json.dumps({**metadata, **added}, indent=1)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        # ZipInfo has a fixed date. Weights hardly compress, so the program is stored.
        archive.writestr(zipfile.ZipInfo(_METADATA), text.encode())
        archive.writestr(zipfile.ZipInfo(_PROGRAM), program)
    return file.getvalue()


@contextlib.contextmanager
def _without_source_lines() -> Iterator[None]:
    """Keep file names and lines of the source out of programs: folders of this machine."""
    name = "jax_traceback_in_locations_limit"
    usual = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, usual)


def load(data: bytes, source: str = "the file") -> StableHLO:
    """Return the program in `data`, what `to_stablehlo` returned; `source` names it in errors.

    Raises DataError if it is damaged, something else, or written by a JAX that is too new or too
    old; RunError if the package flatbuffers is missing.
    """
    try:
        metadata, program = _members(data)
    except (zipfile.BadZipFile, KeyError, ValueError, NotImplementedError, RuntimeError) as error:
        raise DataError(
            f"{source}: not a StableHLO file of convmesh, or damaged ({first_line(error)})"
        ) from None
    versions = metadata.get("versions")
    written = versions if isinstance(versions, dict) else {}
    try:
        exported = export.deserialize(bytearray(program))
    except ImportError as error:
        raise RunError(f"StableHLO needs flatbuffers ({error}): pip install flatbuffers") from None
    except Exception as error:  # flatbuffers and JAX raise whatever the bytes lead to
        raise DataError(
            f"{source}: JAX {jax.__version__} cannot read its program, written by JAX "
            f"{written.get('jax', '?')} ({first_line(error)}); it {_PROMISE}"
        ) from None
    return StableHLO(exported, metadata)


def _members(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The metadata and the program. Raises various errors if there are none."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        if sizes[_METADATA] > _MAX_METADATA or sizes[_PROGRAM] > len(data):
            raise ValueError("its members are larger than they can be")
        metadata = json.loads(archive.read(_METADATA))
        if not isinstance(metadata, dict):
            raise ValueError(f"{_METADATA} holds no object")
        return metadata, archive.read(_PROGRAM)


def _described(array: Any) -> dict[str, Any]:
    """Shape and type of an input or output; symbolic sides as names."""
    shape = [side if isinstance(side, int) else str(side) for side in array.shape]
    return {"shape": shape, "dtype": str(array.dtype)}
