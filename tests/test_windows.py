"""No window operation reaches XLA's partitioner: by the source, and by the traced programs."""

import ast
from pathlib import Path

import equality
import jax
import jax.numpy as jnp
import optax
import pytest

import convmesh
from convmesh.models import MODELS, make_model
from convmesh.state import abstract_state
from convmesh.step import predict_step, train_step
from convmesh.tasks.classify import Classify
from convmesh.tasks.detect import Detect

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
def test_a_direct_window_operation_is_seen(text):
    assert direct_windows(text)


def unprotected(jaxpr) -> set[str]:
    """Window primitives of a jaxpr that stand in no shard_map."""
    found = set()
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "shard_map":
            continue
        if name.startswith(("conv_general", "reduce_window", "select_and_", "cumsum_window")):
            found.add(name)
        is_jaxpr = lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")  # noqa: E731
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=is_jaxpr):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                found |= unprotected(inner)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_every_window_of_every_model_is_in_a_shard_map(name):
    kind = MODELS[name][0]
    size = 64
    model = make_model(name, kind, 8, jnp.float32)
    strides = {"strides": model.strides} if kind == "detect" else {}
    task = {"classify": Classify, "detect": Detect}[kind](8, (size, size), **strides)
    mesh, optimizer = equality.make_mesh((2, 2, 2)), optax.sgd(0.1)
    state = abstract_state(model, optimizer, (size, size), mesh, seed=0, ema=True)
    batch = equality.random_batch(task, size)
    parts = dict(model=model, task=task)
    with jax.set_mesh(mesh):
        train = jax.make_jaxpr(lambda s, b: train_step(s, b, optimizer=optimizer, **parts))
        predict = jax.make_jaxpr(lambda v, i: predict_step(v, i, **parts))
        assert unprotected(train(state, batch).jaxpr) == set()
        assert unprotected(predict(state.variables(), batch["image"]).jaxpr) == set()


def test_an_unprotected_window_is_seen_in_a_jaxpr():
    def inside(x):
        return jax.jit(lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (2,), (2,), "SAME"))(x)

    assert unprotected(jax.make_jaxpr(inside)(jnp.ones(8)).jaxpr)
