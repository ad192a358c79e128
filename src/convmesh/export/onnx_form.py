"""`--format onnx`: a program as an ONNX model, by a converter of our own."""

from __future__ import annotations

import json
from typing import Any

import jax

# Each module registers the conversions of its operations.
from convmesh.export import onnx_calls as _calls  # noqa: F401
from convmesh.export import onnx_elementwise as _elementwise  # noqa: F401
from convmesh.export import onnx_products as _products  # noqa: F401
from convmesh.export import onnx_structure as _structure  # noqa: F401
from convmesh.export.onnx_arrays import constant, tensor
from convmesh.export.onnx_graph import Graph
from convmesh.export.onnx_trace import Converter
from convmesh.export.program import IMAGE, Program
from convmesh.inference.onnx_digest import with_digest


def to_onnx(program: Program, about: dict[str, Any]) -> bytes:
    """The ONNX model (opset 18) of a program; `about` becomes its metadata, as JSON.

    The last entry of the metadata is the digest of `inference.onnx_digest`.
    Raises NotConvertible if the program holds an operation that has no conversion.
    """
    traced, outputs = program.trace()
    graph = Graph()
    image = program.image
    graph.add_input(IMAGE, image.dtype, image.shape)
    converter = Converter(graph, classes=len(program.setup.classes))
    weights = [constant(leaf) for leaf in jax.tree.leaves(program.variables)]
    arguments = [*weights, tensor(IMAGE, image.shape, image.dtype)]
    found = converter.run(traced.jaxpr, traced.consts, arguments)
    results = {
        name: (converter.whole(array), array.dtype, array.shape)
        for name, array in zip(outputs, found, strict=True)
    }
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in about.items()}
    return with_digest(graph.model(results, texts).SerializeToString())
