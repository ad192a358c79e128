"""No window operation reaches XLA's partitioner: by the source, and by the traced programs."""

import ast
from pathlib import Path

import equality
import jax
import jax.numpy as jnp
import optax
import pytest

import convmesh
from convmesh.config import apply_overrides, defaults
from convmesh.models.registry import MODELS, make_model
from convmesh.programs.jaxpr import equations
from convmesh.steps.state import StateSpec, abstract_state
from convmesh.steps.step import StepParts, predict_step, train_step
from convmesh.tasks.registry import make_task

SOURCE = Path(convmesh.__file__).parent
WINDOWS = {
    "Conv", "ConvTranspose", "ConvLocal", "max_pool", "avg_pool", "min_pool", "pool",
    "conv", "conv_general_dilated", "conv_with_general_padding", "conv_transpose",
    "conv_general_dilated_patches", "conv_general_dilated_local", "reduce_window",
    "select_and_scatter_add", "resize", "scale_and_translate", "convolve", "convolve2d",
    "correlate",
}  # fmt: skip
LIBRARIES = {"nn", "linen", "lax", "jax", "jnp", "scipy", "image", "signal", "flax"}


def direct_windows(text: str) -> list[str]:
    """Uses of a library's window operation in Python source."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and node.attr in WINDOWS:
            base = node.value
            name = base.id if isinstance(base, ast.Name) else getattr(base, "attr", "")
            if name in LIBRARIES:
                found.append(f"line {node.lineno}: {name}.{node.attr}")
        library = isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0]
        if library in ("jax", "flax"):
            found += [f"line {node.lineno}: {a.name}" for a in node.names if a.name in WINDOWS]
    return found


def test_no_direct_window_operation_outside_ops():
    files = [p for p in SOURCE.rglob("*.py") if p.parent != SOURCE / "ops"]
    assert len(files) > 20
    assert {str(p): w for p in files if (w := direct_windows(p.read_text()))} == {}


@pytest.mark.parametrize(
    "text",
    [
        "import flax.linen as nn\nnn.Conv(3, (3, 3))",
        "from jax import lax\nlax.conv_general_dilated(x, k)",
        "from flax.linen import max_pool",
        "import jax\njax.image.resize(x, (2, 2))",
    ],
)
def test_direct_window_operations_are_found_in_source(text):
    assert direct_windows(text)


def unprotected(jaxpr) -> set[str]:
    """Window primitives of a jaxpr outside any shard_map."""
    names = {each.primitive.name for each in equations(jaxpr, not_inside=("shard_map",))}
    windows = ("conv_general", "reduce_window", "select_and_", "cumsum_window")
    return {name for name in names if name.startswith(windows)}


# All detectors and, of each file of classifiers, the first and those of other blocks: tracing all
# sizes of a family would find nothing more.
_first = {module: n for n, (task, module, _) in reversed(MODELS.items()) if task == "classify"}
DETECTORS = [name for name, (task, *_) in MODELS.items() if task == "detect"]
OTHER_BLOCKS = ["resnet50", "resnext50_32x4d", "efficientnet_v2_s", "efficientnet_lite0"]


@pytest.mark.parametrize("name", [*_first.values(), *OTHER_BLOCKS, *DETECTORS])
def test_every_window_of_every_model_is_in_a_shard_map(name):
    task_name = MODELS[name][0]
    size = 64
    model = make_model(name, task_name, 8, jnp.float32)
    config = apply_overrides(defaults(task_name), {"data.image_size": (size, size)})
    task = make_task(config, 8, model)
    mesh, optimizer = equality.make_mesh((2, 2, 2)), optax.sgd(0.1)
    state = abstract_state(StateSpec(model, optimizer, (size, size)), mesh)
    batch = equality.random_batch(task, size)
    parts = StepParts(model, task, optimizer)
    with jax.set_mesh(mesh):
        train = jax.make_jaxpr(lambda s, b: train_step(s, b, parts))
        predict = jax.make_jaxpr(lambda v, i: predict_step(v, i, model, task))
        assert unprotected(train(state, batch).jaxpr) == set()
        assert unprotected(predict(state.variables(), batch.image).jaxpr) == set()


def test_windows_outside_shard_map_are_found_in_a_jaxpr():
    def inside(x):
        return jax.jit(lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (2,), (2,), "SAME"))(x)

    assert unprotected(jax.make_jaxpr(inside)(jnp.ones(8)).jaxpr)
