"""Networks of the families as ONNX files: the outputs are those of the step that evaluates."""

import jax
import numpy as np
import onnxruntime
import pytest
from exported_models import random_program

from convmesh.export.onnx_form import to_onnx
from convmesh.export.program import metadata
from convmesh.export.self_check import TOLERANCES, Differences
from convmesh.inference.onnx_model import found_in

# Classifiers with layer norm, squeeze-and-excitation and grouped convolutions; the dense detector,
# one with anchors and one of two stages.
NAMES = (
    *("convnext_tiny", "mobilenet_v3_small", "detector_tiny"),
    *("ssdlite320_mobilenet_v3_large", "tiny faster rcnn"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_with_random_weights(name):
    program = random_program(name, side=64)
    data = to_onnx(program, metadata(program.setup, "float32", "inside"))
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, (2, 70, 50, 3), np.uint8)
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"image": images}), strict=True))
    wanted = jax.device_get(jax.jit(program)(program.variables, images))
    assert {key: (a.shape, a.dtype) for key, a in found.items()} == {
        key: (a.shape, a.dtype) for key, a in wanted.items()
    }
    differences = Differences(TOLERANCES["float32"])
    for i in range(len(images)):
        each = [{key: a[i:] for key, a in outputs.items()} for outputs in (wanted, found)]
        differences.add(str(i), *(found_in(o, program.setup.config.task) for o in each))
    assert differences.compared and differences.alone == 0
