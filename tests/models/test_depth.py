"""The depth of a layer in a backbone, by its name; and the batch norms of frozen stages."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from convmesh.models.depth import (
    AFTER_STAGES,
    Frozen,
    depth_of,
    in_backbone,
    is_frozen,
    path_names,
    stages_of,
)
from convmesh.models.layers import BatchNorm
from convmesh.models.registry import make_model


@pytest.mark.parametrize(
    "path, depth",
    [
        ("backbone/stem/conv/kernel", 0),
        ("backbone/stage1_block1/conv1/conv/kernel", 1),
        ("backbone/down2/norm/scale", 2),
        ("backbone/stage12_block3/conv1", 12),
        ("backbone/stage4", 4),
        ("backbone/last_norm/scale", AFTER_STAGES),
        ("backbone/stages2/scale", AFTER_STAGES),
        ("stem/conv/kernel", 0),
        ("stage3_block2/conv1", 3),
        ("pyramid/down1/conv/kernel", None),
        ("pyramid/stem", None),
        ("head/class/kernel", None),
        ("Dense_0/kernel", None),
    ],
)
def test_depth_of_a_path(path, depth):
    assert depth_of(path.split("/")) == depth
    assert is_frozen(path.split("/"), 2) is (depth in (0, 1, 2))
    assert not is_frozen(path.split("/"), 0)


def test_a_backbone_has_the_same_depths_alone_and_in_a_detector():
    assert in_backbone(("backbone", "stem", "conv")) == in_backbone(("stem", "conv"))
    assert in_backbone(("pyramid", "backbone")) == ("pyramid", "backbone")


@pytest.mark.parametrize(
    "name, task, stages, trained",
    [
        ("resnet18", "classify", 4, {"head", "stage3", "stage4"}),
        ("detector_tiny", "detect", 4, {"backbone", "pyramid", "head"}),
        ("detector_nano", "detect", 4, {"backbone", "pyramid", "head"}),
        ("small_cnn", "classify", 0, {"Conv", "Dense"}),
    ],
)
def test_the_names_of_the_models(name, task, stages, trained):
    model = make_model(name, task, 3, jnp.float32)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    assert stages_of(shapes) == stages
    paths = [path_names(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)]
    # All names in a backbone give a depth.
    assert AFTER_STAGES not in {depth_of(names) for names in paths}
    rest = {names[0].partition("_")[0] for names in paths if not is_frozen(names, 2)}
    assert rest == trained


def test_replace_calls_on_frozen_leaves_alone():
    norm = {"scale": 1, "bias": 2}
    tree = {
        "stem": {"conv": {"kernel": 3}, "norm": norm},
        "stage1": {"conv": {"kernel": 4}, "norm": norm, "other": norm},  # the other: a layer norm
        "head": {"norm": norm},
    }
    tree = {"backbone": tree, "pyramid": {"norm": norm}}
    stats = {"norm": {"mean": 0, "var": 1}}
    inside = {"stem": stats, "stage1": stats, "head": stats}
    stats = {"backbone": inside, "pyramid": stats}

    def found(frozen, tree, *rest):
        new = frozen.replace(lambda leaf, *rest: 0, stats, tree, *rest)
        flat = jax.tree_util.tree_leaves_with_path(new)
        return {"/".join(path_names(path)[:-1]) for path, leaf in flat if leaf == 0}

    norms = {f"backbone/{layer}/norm" for layer in ("stem", "stage1", "head")}
    assert found(Frozen(), tree) == set()
    assert found(Frozen(1), tree) == {
        *("backbone/stem/conv", "backbone/stem/norm"),
        *(f"backbone/stage1/{name}" for name in ("conv", "norm", "other")),
    }
    assert found(Frozen(0, "backbone"), tree, tree) == norms
    assert found(Frozen(0, "all"), tree) == {*norms, "pyramid/norm"}
    new = Frozen(0, "backbone").replace(lambda leaf: "kept", stats, stats)
    kept = {"mean": "kept", "var": "kept"}
    assert new["backbone"] == {name: {"norm": kept} for name in inside}
    assert new["pyramid"] == stats["pyramid"]


class _Norms(nn.Module):
    """A norm in the stem and one in the head."""

    @nn.compact
    def __call__(self, x, train):
        return BatchNorm(name="head")(BatchNorm(name="stem")(x, train), train)


def moved(variables, changed):
    """The first names of the running statistics that are no more what they were."""
    same = jax.tree.map(
        lambda a, b: a.tobytes() == b.tobytes(),
        *jax.device_get((variables["batch_stats"], changed["batch_stats"])),
    )
    return {name for name, tree in same.items() if not all(jax.tree.leaves(tree))}


def test_frozen_norms_use_their_running_statistics_and_leave_them():
    x = np.arange(24, dtype=np.float32).reshape(2, 2, 2, 3)
    variables = jax.jit(lambda x: _Norms().init(jax.random.key(0), x, False))(x)
    variables["batch_stats"]["stem"] = {"mean": jnp.full(3, 5.0), "var": jnp.full(3, 4.0)}

    def apply(frozen):
        with frozen.norms_as_in_evaluation():
            step = lambda x: _Norms().apply(variables, x, True, mutable=["batch_stats"])  # noqa: E731
            return jax.jit(step)(x)[1]

    changed = apply(Frozen(1))
    assert moved(variables, changed) == {"head"}
    # The head's norm has seen (x - 5) / 2, and takes a tenth of its mean.
    seen = (x - 5) / np.sqrt(4 + 1e-5)
    found = changed["batch_stats"]["head"]["mean"]
    np.testing.assert_allclose(found, 0.1 * seen.mean((0, 1, 2)), rtol=1e-6)
    assert "stem" in moved(variables, apply(Frozen()))
    assert moved(variables, apply(Frozen(norms="all"))) == set()
    assert "stem" in moved(variables, apply(Frozen(norms="backbone")))  # there is none


@pytest.mark.parametrize("remat", [False, True])
def test_norms_inside_blocks_are_frozen(remat):
    model = runs.TinyNet(3, remat=remat)
    noise = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x))(noise)
    with Frozen(1).norms_as_in_evaluation():
        step = jax.jit(lambda x: model.apply(variables, x, train=True, mutable=["batch_stats"]))
        _, changed = step(noise)
    assert moved(variables, changed) == {"stage2_block1"}


def test_layers_after_all_stages_are_no_stages():
    norm, stage = {"last_norm": {"scale": 0}}, {"stage2_block1": {"kernel": 0}}
    assert stages_of({"backbone": stage | norm, "head": {"kernel": 0}}) == 2
    assert stages_of({"backbone": norm}) == 0
