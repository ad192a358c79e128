"""Small programs of JAX as ONNX models, run by onnxruntime."""

import jax
import numpy as np
import onnxruntime

from convmesh.export import onnx_form  # noqa: F401  registers the conversions
from convmesh.export.onnx_arrays import tensor
from convmesh.export.onnx_graph import Graph
from convmesh.export.onnx_trace import Converter


def model_of(function, *arguments, symbolic=(), classes=3):
    """The ONNX model of `function` of arrays; `symbolic`: the first axis of which may be any."""
    batch = jax.export.symbolic_shape("batch")[0]
    shapes = [(batch, *a.shape[1:]) if i in symbolic else a.shape for i, a in enumerate(arguments)]
    structs = [
        jax.ShapeDtypeStruct(shape, a.dtype) for shape, a in zip(shapes, arguments, strict=True)
    ]
    traced = jax.make_jaxpr(function)(*structs)
    graph = Graph()
    inputs = []
    for i, (shape, array) in enumerate(zip(shapes, arguments, strict=True)):
        graph.add_input(f"input{i}", array.dtype, shape)
        inputs.append(tensor(f"input{i}", shape, array.dtype))
    converter = Converter(graph, classes)
    found = converter.run(traced.jaxpr, traced.consts, inputs)
    results = {f"output{i}": (converter.whole(a), a.dtype, a.shape) for i, a in enumerate(found)}
    return graph.model(results, {})


def run(model, *arguments):
    """The outputs of an ONNX model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {f"input{i}": a for i, a in enumerate(arguments)})


def assert_same(function, *arguments, rtol=1e-5, atol=1e-5, **options):
    """The ONNX model of `function` gives what JAX gives; returns the model."""
    model = model_of(function, *arguments, **options)
    wanted = jax.tree.leaves(function(*arguments))
    found = run(model, *arguments)
    assert len(found) == len(wanted)
    for got, want in zip(found, wanted, strict=True):
        want = np.asarray(want)
        assert got.dtype == want.dtype and got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)
    return model


def operators(model):
    """The names of the operators of a model, in order."""
    return [node.op_type for node in model.graph.node]
