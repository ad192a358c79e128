"""The train step: what it changes, what it must not change, and how it averages."""

import dataclasses

import equality
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from runs import TinyNet

import convmesh.steps.step as steps
from convmesh import mesh as meshes
from convmesh.config import apply_overrides, defaults
from convmesh.distributed.batch import Batch
from convmesh.models.depth import Frozen
from convmesh.models.detector import BINS, DetectorOutput
from convmesh.models.registry import make_model
from convmesh.programs.flops import flops
from convmesh.steps.mesh_check import SGDSpec, differences, sgd_steps
from convmesh.steps.optimizer import make_optimizer
from convmesh.steps.state import StateSpec, TrainState, create_state
from convmesh.steps.step import (
    StepParts,
    jit_predict_step,
    jit_train_step,
    ramped_decay,
    train_step,
)
from convmesh.tasks.base import PixelScale, Task
from convmesh.tasks.classify import Classify
from convmesh.tasks.detect import Detect
from convmesh.tasks.registry import make_task

SIZE, CLASSES = 16, 8
KEPT = ("params", "batch_stats", "opt_state", "ema")


class Run:
    """A tiny net on a mesh of 8, with its compiled step."""

    def __init__(self, dtype=jnp.float32, shape=(2, 2, 2), seed=0):
        self.mesh = equality.make_mesh(shape)
        self.task = Classify(CLASSES, (SIZE, SIZE))
        self.model = TinyNet(CLASSES, dtype=dtype)
        self.optimizer = optax.adamw(1e-2)
        self.batch = equality.random_batch(self.task, SIZE)
        parts = StepParts(self.model, self.task, self.optimizer, ema_decay=0.9)
        self.step = jit_train_step(self.mesh, self.new_state(), self.batch, parts)

    def new_state(self):
        return create_state(StateSpec(self.model, self.optimizer, (SIZE, SIZE)), self.mesh)

    def put(self, batch):
        return meshes.make_global_batch(self.mesh, batch)


@pytest.fixture(scope="module")
def run():
    return Run()


normalise = PixelScale().normalise


def host(state):
    """The parts that a skipped step must keep, copied to the host before they are donated."""
    return jax.tree.map(np.array, {name: getattr(state, name) for name in KEPT})


def same_bits(ours, theirs):
    equal = lambda a, b: a.dtype == b.dtype and a.tobytes() == b.tobytes()  # noqa: E731
    return jax.tree.map(equal, ours, theirs)


# --- an ordinary step -----------------------------------------------------------------------------


def test_a_step_changes_every_part(run):
    state = run.new_state()
    before = host(state)
    state, metrics = run.step(state, run.put(run.batch))
    after = host(state)
    for name in KEPT:
        assert not all(jax.tree.leaves(same_bits(before[name], after[name]))), name
    assert int(state.step) == 1
    assert int(state.nonfinite_steps) == int(metrics["nonfinite_steps"]) == 0
    assert float(metrics["loss"]) > 0 and float(metrics["gradient_norm"]) > 0


def test_steps_reduce_the_loss(run):
    state, losses = run.new_state(), []
    for _ in range(10):
        state, metrics = run.step(state, run.put(run.batch))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0]


def test_the_state_is_donated_and_keeps_its_shardings(run):
    old = run.new_state()
    shardings = jax.tree.map(lambda leaf: leaf.sharding, old)
    new, _ = run.step(old, run.put(run.batch))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    assert jax.tree.map(lambda leaf: leaf.sharding, new) == shardings


# --- a step that is not finite --------------------------------------------------------------------


def poison(state, value):
    """`state` with one number of the head's bias replaced."""
    params = jax.tree.map(lambda leaf: leaf, state.params)
    bias = params["head"]["bias"]
    params["head"]["bias"] = jax.device_put(bias.at[0].set(value), bias.sharding)
    return state.replace(params=params)


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
def test_a_loss_that_is_not_finite_changes_nothing_but_the_counters(run, value):
    state = poison(run.new_state(), value)
    before = host(state)
    for count in (1, 2):
        state, metrics = run.step(state, run.put(run.batch))
        assert not np.isfinite(float(metrics["loss"]))
        assert int(metrics["nonfinite_steps"]) == int(state.nonfinite_steps) == count
        assert int(state.step) == count
    kept = same_bits(before, host(state))
    assert all(jax.tree.leaves(kept)), kept


def test_a_skipped_step_changes_nothing_with_fsdp():
    run = Run(shape=(8, 1, 1, True))
    state = poison(run.new_state(), np.nan)
    before, shardings = host(state), jax.tree.map(lambda leaf: leaf.sharding, state)
    assert "data" in state.params["stem"]["conv"]["kernel"].sharding.spec
    state, metrics = run.step(state, run.put(run.batch))
    assert int(metrics["nonfinite_steps"]) == int(state.step) == 1
    assert all(jax.tree.leaves(same_bits(before, host(state))))
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == shardings


def test_training_continues_after_a_skipped_step(run):
    good, _ = run.step(run.new_state(), run.put(run.batch))
    good = host(good)
    bad, _ = run.step(poison(run.new_state(), np.nan), run.put(run.batch))
    fresh = run.new_state()
    # The step counter sets the decay of the average.
    recovered = bad.replace(params=fresh.params, step=fresh.step)
    recovered, metrics = run.step(recovered, run.put(run.batch))
    assert np.isfinite(float(metrics["loss"])) and int(recovered.nonfinite_steps) == 1
    after = host(recovered)
    assert all(jax.tree.leaves(same_bits(good["params"], after["params"])))
    assert all(jax.tree.leaves(same_bits(good["opt_state"], after["opt_state"])))


def toy_state(w, optimizer, ema=False):
    """A state of one vector of parameters and one statistic."""
    params, stats = {"w": w}, {"seen": jnp.zeros(())}
    average = {"params": params, "batch_stats": stats} if ema else None
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, params, stats, optimizer.init(params), average, zero)


class Toy(Task):
    """A model of one vector `w` and one statistic, and its task: the loss is `of(w)`."""

    dtype = jnp.float32

    def __init__(self, of):
        self.of = of

    def apply(self, variables, images, train, mutable, rngs):
        changed = {"batch_stats": {"seen": variables["batch_stats"]["seen"] + 1}}
        return variables["params"]["w"], changed

    def sums(self, w, batch):
        return {"loss": self.of(w), "total": jnp.zeros(())}

    def finish(self, sums):
        return sums["loss"] / self.divisor(sums), {}

    def run(self, w, steps, optimizer, decay=0.0, ema=True):
        """The states after each of `steps` steps."""
        state = toy_state(jnp.array(w), optimizer, ema)
        parts = StepParts(self, self, optimizer, ema_decay=decay)
        step = jax.jit(lambda state, batch: train_step(state, batch, parts))
        states = []
        for _ in range(steps):
            state, metrics = step(state, Batch(image=np.zeros((1, 1, 1, 3), np.uint8)))
            states.append((state, metrics))
        return states


def test_a_gradient_that_is_not_finite_is_skipped_though_the_loss_is():
    root = Toy(lambda w: jnp.sqrt(w).sum())
    [(state, metrics)] = root.run([0.0, 4.0], 1, optax.sgd(0.1))
    assert float(metrics["loss"]) == 2.0 and not np.isfinite(float(metrics["gradient_norm"]))
    np.testing.assert_array_equal(state.params["w"], [0.0, 4.0])
    assert int(state.nonfinite_steps) == 1 and float(state.batch_stats["seen"]) == 0


def test_the_reported_norm_is_that_of_the_gradient_before_clipping():
    line = Toy(lambda w: w @ jnp.array([3.0, 4.0]))
    clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0))
    [(state, metrics)] = line.run([0.0, 0.0], 1, clipped)
    assert float(metrics["gradient_norm"]) == pytest.approx(5.0)
    np.testing.assert_allclose(state.params["w"], [-0.6, -0.8], rtol=1e-6)


# --- the running average --------------------------------------------------------------------------


def test_the_decay_ramps_up_to_its_limit():
    assert float(ramped_decay(0, 0.998)) == pytest.approx(1 / 10)
    assert float(ramped_decay(9, 0.998)) == pytest.approx(10 / 19)
    assert float(ramped_decay(10**6, 0.998)) == pytest.approx(0.998)
    assert float(ramped_decay(90, 0.5)) == 0.5


def test_the_average_by_hand():
    # A constant gradient: w falls by 0.1 a step; the statistic counts the steps.
    states = Toy(lambda w: w.sum()).run([1.0, 2.0], 5, optax.sgd(0.1), decay=0.35)
    w, seen = np.array([1.0, 2.0]), 0.0
    mean_w, mean_seen = w.copy(), 0.0
    for t, (state, _) in enumerate(states):
        w, seen = w - 0.1, seen + 1
        d = min(0.35, (1 + t) / (10 + t))  # 0.1, 0.18, 0.25, 0.31, 0.35
        mean_w, mean_seen = d * mean_w + (1 - d) * w, d * mean_seen + (1 - d) * seen
        np.testing.assert_allclose(state.ema["params"]["w"], mean_w, rtol=1e-6)
        np.testing.assert_allclose(state.ema["batch_stats"]["seen"], mean_seen, rtol=1e-6)


def test_without_an_average_none_is_created():
    [(state, _)] = Toy(lambda w: w.sum()).run([1.0], 1, optax.sgd(0.1), ema=False)
    assert state.ema is None


# --- micro-batches --------------------------------------------------------------------------------


class Weighted(Toy):
    """The loss of an example is w . x, x its box; the divisor is the sum of `label`."""

    def __init__(self):
        super().__init__(None)

    def apply(self, variables, images, train, mutable, rngs):
        # The statistic goes to the mean of the micro-batch's pixels.
        return variables["params"]["w"], {"batch_stats": {"seen": images.mean()}}

    def sums(self, w, batch):
        return {"loss": (batch.boxes @ w).sum(), "total": batch.label.sum()}


@pytest.mark.parametrize("unroll", [False, True])
def test_micro_batches_are_summed_divided_once_and_then_clipped(unroll):
    toy = Weighted()
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0))
    state = toy_state(jnp.array([1.0, 2.0]), optimizer)
    black, white = np.zeros((1, 1, 1, 3)), np.full((1, 1, 1, 3), 255)
    batch = Batch(  # two micro-batches of two examples
        image=np.stack([np.concatenate([black, white]), np.concatenate([white, white])]),
        boxes=np.array([[[3.0, 0.0], [9.0, 4.0]], [[0.0, 8.0], [0.0, 4.0]]]),
        label=np.array([[1.0, 0.0], [2.0, 1.0]]),
    )
    parts = StepParts(toy, toy, optimizer, accumulate=2)
    step = jax.jit(lambda state, batch: train_step(state, batch, parts, unroll=unroll))
    state, metrics = step(state, batch)
    # The sums are [12, 16] and 4. Means of each micro-batch would be [12, 4] / 1 and [0, 12] / 3.
    assert float(metrics["gradient_norm"]) == pytest.approx(5.0)
    assert float(metrics["loss"]) == pytest.approx((12 * 1 + 16 * 2) / 4)
    np.testing.assert_allclose(state.params["w"], [1 - 0.6, 2 - 0.8], rtol=1e-6)
    # Means of 1/2 and of 1 of the way from black to white.
    both = normalise(jnp.array([0.0, 255.0])[:, None] * jnp.ones(3), jnp.float32).mean(1)
    assert float(state.batch_stats["seen"]) == pytest.approx(0.25 * both[0] + 0.75 * both[1])
    assert int(state.step) == 1


def test_a_pixel_is_normalised_by_hand_and_by_the_numbers_of_the_config():
    # Red (1 - 0.485) / 0.229, green (0 - 0.456) / 0.224, blue (0.2 - 0.406) / 0.225.
    pixel = np.array([[[[255, 0, 51]]]], np.uint8)
    wanted = [[[[2.248908, -2.035714, -0.915556]]]]
    np.testing.assert_allclose(normalise(pixel, jnp.float32), wanted, rtol=1e-5)
    for name in ("classify", "detect"):
        config = defaults(name)
        config.data.pixel_mean, config.data.pixel_std = (0.5, 0.25, 0.2), (0.5, 0.25, 0.1)
        found = make_task(config, 3).pixels.normalise(pixel, jnp.float32)
        np.testing.assert_allclose(found, [[[[1, -1, 0]]]], atol=1e-6)


def some_absent(task, size):
    """A batch of 8 that lacks two of its first four examples."""
    batch = equality.random_batch(task, size)
    batch.present[:2] = False
    return batch


@pytest.fixture(scope="module")
def ghost_step():
    """An SGD step on one device, on a batch in ghost groups of 4; the batch."""
    task = Classify(CLASSES, (SIZE, SIZE))
    batch = some_absent(task, SIZE)
    with jax.enable_x64(True):
        model = TinyNet(CLASSES, dtype=jnp.float64, norm_group=4)
        spec = SGDSpec(model, task, clip_norm=0.1)
        return sgd_steps(spec, equality.make_mesh((1, 1, 1)), [batch]), batch


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2, True)], ids=str)
def test_a_loop_over_micro_batches_is_one_batch_of_as_many_ghost_groups(
    shape, ghost_step, monkeypatch
):
    """As on accelerators; where the devices are CPUs, there is no loop (see test_equality)."""
    unrolled = []

    def looped(*args, unroll):
        unrolled.append(unroll)
        return train_step(*args, unroll=False)

    monkeypatch.setattr(steps, "train_step", looped)
    one_batch, batch = ghost_step
    task, model = Classify(CLASSES, (SIZE, SIZE)), TinyNet(CLASSES, dtype=jnp.float64)
    spec = SGDSpec(model, task, accumulate=2, clip_norm=0.1)
    micro_batches = sgd_steps(spec, equality.make_mesh(shape), [batch])
    assert one_batch.metrics[0]["gradient_norm"] > 0.1  # it was clipped
    found = differences(micro_batches, one_batch, min_tolerance=1e-12)
    assert not found[0].fails, found[0]
    assert {d.leaf.partition("/")[0] for d in found} == {
        "metrics", "gradients", "batch_stats", "state",
    }  # fmt: skip
    assert set(unrolled) == {True}


class Points:
    """Not a detector: each point's outputs are parameters, times what the image is like."""

    dtype = jnp.float64

    def apply(self, variables, images, train, mutable, rngs):
        factor = 1 + images.mean((1, 2, 3)) / 9
        outputs = [jnp.einsum("b,...->b...", factor, p) for p in variables["params"]]
        return DetectorOutput(*outputs), {}


@pytest.mark.usefixtures("float64")
def test_micro_batches_are_weighted_by_the_sum_of_their_targets():
    size, classes = 32, 3
    task, model = Detect(classes, (size, size)), Points()
    rng, n = np.random.default_rng(0), equality.number_of_points(size)
    shapes = (n, classes), (n, 4, BINS), (n,)
    params = [jnp.asarray(rng.normal(size=shape)) for shape in shapes]
    optimizer, zero = optax.sgd(1.0), jnp.int32(0)
    state = TrainState(zero, params, {}, optimizer.init(params), None, zero)
    batch = equality.random_batch(task, size, 4)
    batch.valid[:2, 1:] = batch.crowd[:] = False  # a box each in the first half
    batch.valid[2:] = True

    def step(accumulate):
        parts = StepParts(model, task, optimizer, accumulate=accumulate)
        return jax.jit(lambda state, batch: train_step(state, batch, parts))

    without_micro_batches = step(1)
    whole = without_micro_batches(state, batch)
    halves = jax.tree.map(lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]), batch)
    worst = differences(step(2)(state, halves), whole, min_tolerance=1e-12)[0]
    assert not worst.fails, worst
    # A mean of the halves' own losses would be another.
    each = []
    for half in (np.arange(4) < 2, np.arange(4) >= 2):
        alone = dataclasses.replace(batch, present=half, valid=batch.valid & half[:, None])
        each.append(without_micro_batches(state, alone)[1]["loss"])
    assert abs(sum(each) / 2 / whole[1]["loss"] - 1) > 0.01


# --- bfloat16 -------------------------------------------------------------------------------------


def test_bfloat16_trains_float32_parameters(run):
    half = Run(jnp.bfloat16)
    state = half.new_state()
    for leaf in jax.tree.leaves((state.params, state.batch_stats, state.ema)):
        assert leaf.dtype == jnp.float32
    state, metrics = half.step(state, half.put(half.batch))
    full, exact = run.step(run.new_state(), run.put(run.batch))
    assert int(state.nonfinite_steps) == 0
    # Near the float32 step but not equal: the arithmetic was bfloat16.
    assert float(metrics["loss"]) == pytest.approx(float(exact["loss"]), rel=0.05)
    assert float(metrics["loss"]) != float(exact["loss"])
    for leaf in jax.tree.leaves((state.params, state.batch_stats, state.opt_state[0].mu)):
        assert leaf.dtype == jnp.float32 and np.isfinite(leaf).all()


def test_a_bfloat16_detector_hands_float32_to_the_loss():
    model = make_model("detector_tiny", "detect", 3, jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.bfloat16)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    outputs = jax.eval_shape(model.apply, variables, images)
    assert {leaf.dtype for leaf in outputs} == {jnp.dtype("float32")}
    batch = equality.random_batch(Detect(3, (64, 64)), 64, batch=2)
    loss, _ = jax.eval_shape(Detect(3, (64, 64)).loss, outputs, batch)
    assert loss.dtype == jnp.float32


# --- prediction -----------------------------------------------------------------------------------


def test_predictions_are_replicated_and_the_same_as_on_one_device(run):
    images = run.batch.image
    variables = jax.device_get(run.new_state().variables())
    found = []
    for shape in [(2, 2, 2), (1, 1, 1)]:
        mesh = equality.make_mesh(shape)
        predict = jit_predict_step(mesh, model=run.model, task=run.task)
        images = meshes.make_global_batch(mesh, Batch(image=images)).image
        out = predict(variables, images)["probabilities"]
        assert out.shape == (8, CLASSES) and out.is_fully_replicated
        found.append(np.asarray(out))
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    np.testing.assert_allclose(found[0].sum(1), 1, rtol=1e-5)


# --- frozen stages --------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 3])
def test_frozen_stages_stay_bit_for_bit_and_do_not_count(accumulate):
    mesh, size = equality.make_mesh((2, 2, 2)), 4 * accumulate
    task, model = Classify(CLASSES, (SIZE, SIZE)), TinyNet(CLASSES)
    changes = {"train.frozen_stages": 1, "optimizer.name": "sgd", "optimizer.weight_decay": 0.1}
    config = apply_overrides(defaults("classify"), changes | {"optimizer.clip_norm": 0})
    optimizer = make_optimizer(config, lambda step: 1e-2)
    spec = StateSpec(model, optimizer, (SIZE, SIZE))
    state = create_state(spec, mesh)
    for tree in (state.batch_stats, state.ema["batch_stats"]):  # they start as 0 and 1
        tree["stem"]["norm"] = jax.tree.map(lambda leaf: leaf + 0.1, tree["stem"]["norm"])
    before = host(state)

    shard = meshes.process_shard(mesh, size, SIZE, accumulate)
    batch = equality.random_batch(task, SIZE, size)
    batch = meshes.make_global_batch(mesh, shard.take(batch), shard)
    parts = StepParts(model, task, optimizer, 0.9, accumulate, Frozen(1))
    step = jit_train_step(mesh, state, batch, parts)
    state, metrics = step(state, batch)
    momenta = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    # After one step each is a gradient, and the decay of a kernel.
    trained = jax.tree.leaves([before["params"][name] for name in ("head", "stage2_block1")])
    assert len(momenta) == len(trained)
    gradients = [m - 0.1 * p * (p.ndim > 1) for m, p in zip(momenta, trained, strict=True)]
    norm = float(optax.tree.norm(gradients))
    assert float(metrics["gradient_norm"]) == pytest.approx(norm, rel=1e-5)

    # The running statistics of frozen norms are used: with others the loss is another.
    other = create_state(spec, mesh)
    assert float(step(other, batch)[1]["loss"]) != float(metrics["loss"])

    state, _ = step(state, batch)
    same = same_bits(before, host(state))
    for kept in (same["params"], same["batch_stats"], *same["ema"].values()):
        for name, tree in kept.items():
            assert all(jax.tree.leaves(tree)) is (name in ("stem", "stage1_block1")), name


def test_frozen_stages_cost_no_backward_pass():
    mesh, task, model = equality.make_mesh((1, 1, 1)), Classify(CLASSES, (SIZE, SIZE)), TinyNet
    optimizer = optax.sgd(1e-2)
    state = create_state(StateSpec(model(CLASSES), optimizer, (SIZE, SIZE)), mesh)
    batch = equality.random_batch(task, SIZE, 4)

    def cost(frozen):
        parts = StepParts(model(CLASSES), task, optimizer, 0.9, frozen=frozen)
        return flops(jax.make_jaxpr(lambda s, b: train_step(s, b, parts))(state, batch).jaxpr)

    images = batch.image.astype(np.float32)
    forward = flops(
        jax.make_jaxpr(lambda x: model(CLASSES).apply(state.variables(), x))(images).jaxpr
    )
    assert cost(Frozen()) > 2.5 * forward
    assert cost(Frozen(2)) < 1.01 * forward  # the head's alone
    assert cost(Frozen(2)) < cost(Frozen(1)) < 0.75 * cost(Frozen())


def test_frozen_norms_stay_bit_for_bit_while_the_rest_is_trained():
    mesh = equality.make_mesh((2, 2, 2))
    task, model = Classify(CLASSES, (SIZE, SIZE)), TinyNet(CLASSES)
    optimizer = optax.adamw(1e-2)
    state = create_state(StateSpec(model, optimizer, (SIZE, SIZE)), mesh)
    before = host(state)
    shard = meshes.process_shard(mesh, 4, SIZE, 1)
    batch = equality.random_batch(task, SIZE, 4)
    batch = meshes.make_global_batch(mesh, shard.take(batch), shard)
    parts = StepParts(model, task, optimizer, 0.9, frozen=Frozen(norms="all"))
    step = jit_train_step(mesh, state, batch, parts)
    for _ in range(2):  # in the first, a block that ends in a norm of zeros has no gradient inside
        state, _ = step(state, batch)
    same = same_bits(before, host(state))
    for kept in (same["batch_stats"], same["ema"]["batch_stats"]):
        assert all(jax.tree.leaves(kept))
    for path, unchanged in jax.tree_util.tree_leaves_with_path(same["params"]):
        names = [key.key for key in path]
        assert unchanged is (names[-2] == "norm"), names
