import re
from pathlib import Path

import equality
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convmesh.config import apply_overrides, defaults
from convmesh.geometry import STRIDES, grid_points
from convmesh.models.detector import BINS, Detector, Head
from convmesh.models.layers import BatchNorm, Conv
from convmesh.models.registry import MODELS, make_model
from convmesh.programs.jaxpr import equations
from convmesh.steps.setup import make_setup
from convmesh.tasks.detect import Detect
from convmesh.tasks.registry import make_task

DETECTORS = [name for name, (_, module, _) in MODELS.items() if module == Detector.__module__]
# A small detector with each backbone.
SMALL_DETECTORS = {
    "plain": lambda dtype, classes=5, **options: make_model(
        "detector_tiny", "detect", classes, dtype, **options
    ),
    "csp": equality.tiny_csp_detector,
    "resnet": equality.tiny_resnet_detector,
}


def shapes(model, size, batch=2):
    """The result's and the variables' shapes for an image of that size."""
    image = jax.ShapeDtypeStruct((batch, *size, 3), model.dtype)
    return jax.eval_shape(model.init_with_output, jax.random.key(0), image)


# --- points -------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", SMALL_DETECTORS)
@pytest.mark.parametrize(
    "size",
    [(64, 64), (224, 160), (200, 264), (100, 72), (33, 50), (41, 43), (57, 119), (15, 8)],
    ids=str,
)
def test_the_model_has_the_points_of_the_grid_at_any_size(backbone, size):
    model = SMALL_DETECTORS[backbone](jnp.float32, classes=5)
    output, _ = shapes(model, size)
    n = len(grid_points(size, model.strides)[0])
    assert output.class_logits.shape == (2, n, 5)
    assert output.distance_logits.shape == (2, n, 4, BINS)
    assert output.confidence_logits.shape == (2, n)


@pytest.mark.parametrize("name", DETECTORS)
def test_the_task_of_a_run_has_the_points_of_its_model(name):
    given = {"model.name": name, "data.image_size": (640, 480), "train.steps": 1}
    config = apply_overrides(defaults("detect"), given)
    setup = make_setup(config, "abc", equality.make_mesh((1, 1, 1)))
    more = {"detector_resnet50_p7": (64, 128)}.get(name, ())
    assert setup.task.strides == setup.model.strides == (8, 16, 32, *more)
    n = len(grid_points((640, 480), setup.model.strides)[0])
    boxes = jax.eval_shape(setup.task.boxes, jnp.zeros((1, n, 4, BINS)))
    assert boxes.shape == (1, n, 4)
    assert make_task(config, 3).strides == STRIDES


def test_a_task_with_other_strides_than_its_model_fails():
    model = SMALL_DETECTORS["resnet"](jnp.float32)
    outputs, _ = shapes(model, (64, 64))
    with pytest.raises((TypeError, ValueError), match="shape"):
        jax.eval_shape(Detect(8, (64, 64)).predict, outputs)


def test_a_cell_of_a_level_changes_the_points_around_it_alone():
    # Features that differ in one cell of one level change the points around that cell alone.
    head = Head(3, 4)
    levels = [jnp.zeros((1, rows, 2 * rows, 4)) for rows in (8, 4, 2)]  # a 64 x 128 image
    variables = head.init(jax.random.key(0), levels, train=False)
    points, strides = grid_points((64, 128))
    apply = jax.jit(lambda levels: head.apply(variables, levels, train=False))
    before = apply(levels)
    for level, (row, column) in [(0, (2, 9)), (1, (1, 5))]:
        touched = list(levels)
        touched[level] = levels[level].at[0, row, column].set(5.0)
        after, stride = apply(touched), 8 * 2**level
        centre = (np.array([column, row]) + 0.5) * stride
        # Two 3x3 convolutions reach two cells in each direction.
        near = (abs(points - centre) <= 2 * stride).all(1) & (strides == stride)
        for one, other in zip(before, after, strict=True):
            changed = np.any(np.asarray(one != other).reshape(1, len(points), -1), axis=(0, 2))
            np.testing.assert_array_equal(changed, near)


# --- size ---------------------------------------------------------------------------------------


def multiply_adds(jaxpr) -> int:
    """Of all convolutions and products of a program."""
    total = 0
    for equation in equations(jaxpr):
        if equation.primitive.name == "conv_general_dilated":
            kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.size
            total += out * int(np.prod(kernel[:3]))
        elif equation.primitive.name == "dot_general":
            ((contracted, _), _), left = equation.params["dimension_numbers"], equation.invars[0]
            total += equation.outvars[0].aval.size * left.aval.shape[contracted[0]]
    return total


def test_detector_nano_is_small_enough_for_cpus():
    model = make_model("detector_nano", "detect", 10, jnp.float32)
    _, variables = shapes(model, (224, 224), batch=1)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert 0.4e6 <= parameters <= 1.2e6
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    program = jax.make_jaxpr(lambda v, image: model.apply(v, image))(variables, image)
    operations = 2 * multiply_adds(program.jaxpr)
    assert 0.1e9 < operations <= 0.47e9


@pytest.fixture(scope="module")
def parameters():
    """The parameters' shapes of a size for 80 classes, traced once."""
    seen = {}

    def get(name):
        if name not in seen:
            model = make_model(name, "detect", 80, jnp.float32)
            seen[name] = shapes(model, (64, 64))[1]["params"]
        return seen[name]

    return get


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("detector_nano", 990_649),
        ("detector_small", 2_489_265),
        ("detector_medium", 9_046_449),
        ("detector_large", 24_518_017),
        ("detector_resnet50", 32_731_089),
        ("detector_resnet50_p7", 33_915_857),
        ("detector_tiny", 52_737),
    ],
)
def test_parameter_counts_are_those_of_the_documentation(parameters, name, wanted):
    count = sum(leaf.size for leaf in jax.tree.leaves(parameters(name)))
    assert count == wanted
    assert set(parameters(name)) == {"backbone", "pyramid", "head"}
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    (line,) = re.findall(rf"^\| `{name}` .*$", page, re.MULTILINE)
    assert f"| **{count / 1e6:.2f}** |" in line


def test_every_detector_has_its_parameters_counted():
    marks = test_parameter_counts_are_those_of_the_documentation.pytestmark
    assert {name for name, _ in marks[0].args[1]} == set(DETECTORS)


def test_layer_names_are_those_in_checkpoints(parameters):
    nano = parameters("detector_nano")
    assert set(nano["backbone"]) == {"stem", "down2", "down3", "down4", "stage2_block1",
                                     "stage3_block1", "stage4_block1"}  # fmt: skip
    pyramid = {"lateral0", "lateral1", "lateral2", "top_down0", "top_down1", "down1", "down2",
               "bottom_up1", "bottom_up2"}  # fmt: skip
    assert set(nano["pyramid"]) == pyramid
    assert set(nano["pyramid"]["top_down0"]) == {"conv", "norm"}
    p7 = parameters("detector_resnet50_p7")["pyramid"]
    assert set(p7) == pyramid | {"down3", "down4"}
    assert set(parameters("detector_medium")["pyramid"]) == pyramid
    assert "merge" in parameters("detector_medium")["pyramid"]["top_down0"]


@pytest.mark.parametrize("backbone", SMALL_DETECTORS)
def test_all_layers_have_the_dtype_and_norm_group_of_the_model(backbone):
    found = {"dtype": set(), "group": set(), "norms": 0}

    def look(call, args, kwargs, context):
        module = context.module
        if isinstance(module, BatchNorm | Conv):
            found["dtype"].add(module.dtype)
        if isinstance(module, BatchNorm):
            found["group"].add(module.group)
            found["norms"] += 1
        return call(*args, **kwargs)

    model = SMALL_DETECTORS[backbone](jnp.bfloat16, norm_group=2)
    with nn.intercept_methods(look):
        output, variables = shapes(model, (64, 64), batch=4)
    assert found["dtype"] == {jnp.bfloat16} and found["group"] == {2} and found["norms"] > 20
    kinds = {leaf.dtype for leaf in jax.tree.leaves((output, variables))}
    assert kinds == {jnp.dtype(jnp.float32)}


# Of the backbone, and of the pyramid where it has any.
@pytest.mark.parametrize("backbone, blocks", [("plain", 4), ("csp", 4 + 4), ("resnet", 4)])
def test_remat_recomputes_the_blocks(backbone, blocks):
    wanted, found = (
        shapes(SMALL_DETECTORS[backbone](jnp.float32, remat=remat), (64, 64))
        for remat in (False, True)
    )
    assert found == wanted  # a checkpoint of the one fits the other
    image = jnp.zeros((2, 64, 64, 3))
    for remat, count in [(False, 0), (True, blocks)]:
        model = SMALL_DETECTORS[backbone](jnp.float32, remat=remat)
        apply = lambda v, x, model=model: model.apply(v, x, True, mutable=["batch_stats"])  # noqa: E731
        assert str(jax.make_jaxpr(apply)(wanted[1], image)).count("= remat2[") == count


def test_convolutions_of_the_head_are_shared_and_norms_are_not():
    _, variables = shapes(make_model("detector_nano", "detect", 7, jnp.float32), (64, 64))
    head = variables["params"]["head"]
    convolutions = {f"{branch}_conv{i}" for branch in ("box", "class") for i in (0, 1)}
    norms = {f"{name}_level{i}" for name in convolutions for i in (0, 1, 2)}
    norms = {name.replace("conv", "norm") for name in norms}
    assert set(head) == convolutions | norms | {"class", "distance", "confidence"}
    assert set(variables["batch_stats"]["head"]) == norms
    width = head["box_conv1"]["kernel"].shape[-1]
    for name, outputs in [("class", 7), ("distance", 4 * BINS), ("confidence", 1)]:
        assert head[name]["kernel"].shape == (1, 1, width, outputs)


# --- a new detector -----------------------------------------------------------------------------


@pytest.mark.parametrize("branch", ["box", "class"])
def test_distances_and_confidence_are_of_the_box_branch_and_classes_of_the_other(branch):
    head = Head(classes=3, features=4)
    levels = [jax.random.normal(jax.random.key(0), (2, 4, 4, 4))]
    variables = head.init(jax.random.key(1), levels, False)
    last = variables["params"][f"{branch}_norm1_level0"]
    last["scale"] = jnp.zeros_like(last["scale"])  # the branch ends in 0: its outputs are biases
    found = head.apply(variables, levels, False)
    bins = np.broadcast_to(np.float32(-0.4) * np.arange(BINS, dtype=np.float32), (2, 16, 4, BINS))
    constant = {
        "class": (found.class_logits == np.float32(-4.595)).all(),
        "distance": (found.distance_logits == bins).all(),
        "confidence": (found.confidence_logits == np.float32(-4.595)).all(),
    }
    names = {"box": {"distance", "confidence"}, "class": {"class"}}[branch]
    assert {name for name, alike in constant.items() if alike} == names


@pytest.fixture(scope="module")
def new():
    """A new detector's variables, its outputs for a batch in training, and the batch."""
    model, task = make_model("detector_tiny", "detect", 5, jnp.float32), Detect(5, (64, 64))
    images = jnp.asarray(equality.noise_images(64, batch=4), jnp.float32)

    @jax.jit
    def make():
        variables = model.init(jax.random.key(0), images)
        return variables, model.apply(variables, images, train=True, mutable=["batch_stats"])[0]

    return *make(), task, equality.random_batch(task, 64, batch=4)


def test_confidences_start_at_one_in_a_hundred(new):
    _, outputs, _, _ = new
    for logits in (outputs.class_logits, outputs.confidence_logits):
        assert jax.nn.sigmoid(logits).mean() == pytest.approx(0.01, rel=0.1)
        assert 0.001 < logits.std() < 0.3  # nearly alike, and not stuck


def test_boxes_start_about_two_strides_from_their_points(new):
    _, outputs, task, _ = new
    points, strides = grid_points(task.image_size)
    boxes = np.asarray(task.boxes(outputs.distance_logits))
    sides = (
        np.concatenate([points - boxes[..., :2], boxes[..., 2:] - points], -1) / strides[:, None]
    )
    # The mean of weights e^(-0.4 k), k = 0 to 15.
    weights = np.exp(-0.4 * np.arange(BINS))
    start = weights @ np.arange(BINS) / weights.sum()
    assert start == pytest.approx(2, abs=0.05)
    assert sides.mean((0, 1)) == pytest.approx([start] * 4, abs=0.2)


def test_the_first_loss_is_moderate(new):
    _, outputs, task, batch = new
    loss, numbers = jax.jit(task.loss)(outputs, batch)
    assert 0.5 < loss < 10
    assert all(np.isfinite(part) for part in numbers.values())
    assert numbers["positive_points"] > 5 and numbers["loss/box"] > 0.1


def test_evaluation_uses_the_running_statistics(new):
    variables, outputs, task, _ = new
    assert set(variables) == {"params", "batch_stats"}
    model = make_model("detector_tiny", "detect", 5, jnp.float32)
    images = jnp.asarray(equality.noise_images(64, batch=4), jnp.float32)
    evaluate = jax.jit(lambda images: model.apply(variables, images))
    together = evaluate(images)
    alone = evaluate(images.at[1:].set(0))
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one[0], other[0], rtol=1e-4, atol=1e-5)
    assert np.abs(together.class_logits - outputs.class_logits).max() > 1e-4
