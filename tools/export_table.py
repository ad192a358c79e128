"""Exports models with random weights as ONNX and compares the file with the program.

    PYTHONPATH=tests python tools/export_table.py [NAME ...]   # all models by default

Prints a row for each: the largest difference of a box in pixels and of a score or probability, how
many detections only one of the two has, nodes and size of the file, and onnxruntime's time for an
image beside XLA's (the program on this machine's CPU, weights and sizes the same). Images are 128 x
128 of noise, given to the file as 140 x 100. Exits with 1 where a model differs by more than
`convmesh export` allows.
"""

import os
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime  # noqa: E402
from exported_models import random_program  # noqa: E402

from convmesh.export.onnx_form import to_onnx  # noqa: E402
from convmesh.export.program import metadata  # noqa: E402
from convmesh.export.self_check import TOLERANCES, Differences, ExportDiffers  # noqa: E402
from convmesh.inference.onnx_model import found_in  # noqa: E402
from convmesh.models.registry import MODELS  # noqa: E402

SIDE, IMAGES = 128, 4


def main(names):
    """Prints the table; returns the exit status."""
    print("| model | apart: pixels | score | alone | nodes | MB | ms ONNX | ms XLA |")
    print("|---|---|---|---|---|---|---|---|")
    failed = [name for name in names if not row(name)]
    if failed:
        print(f"differ: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


def row(name):
    """Prints the row of a model; returns whether it agrees."""
    program = random_program(name, SIDE)
    task = program.setup.config.task
    data = to_onnx(program, metadata(program.setup, "float32", "inside"))
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    step = jax.jit(program)
    rng = np.random.default_rng(0)
    differences = Differences(TOLERANCES["float32"])
    times = {"onnx": [], "xla": []}
    for i in range(IMAGES):
        image = rng.integers(0, 256, (1, 140, 100, 3), np.uint8)
        start = time.perf_counter()
        theirs = dict(zip(names, session.run(None, {"image": image}), strict=True))
        times["onnx"].append(time.perf_counter() - start)
        start = time.perf_counter()
        ours = jax.device_get(step(program.variables, image))
        times["xla"].append(time.perf_counter() - start)
        differences.add(f"image {i}", found_in(ours, task), found_in(theirs, task))
    onnx_ms, xla_ms = (1000 * min(times[key]) for key in ("onnx", "xla"))
    nodes = len(onnx.load_from_string(data).graph.node)
    print(
        f"| {name} | {differences.pixels:.0e} | {differences.score:.0e} | {differences.alone} of "
        f"{differences.compared} | {nodes} | {len(data) / 2**20:.0f} | {onnx_ms:.0f} | "
        f"{xla_ms:.0f} |",
        flush=True,
    )
    try:
        differences.check()
    except ExportDiffers as error:
        print(error, file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(MODELS)))
