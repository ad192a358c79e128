import jax
import numpy as np
import pytest

from convmesh.ops import losses

LOGITS = np.array([-5, -1.5, -0.1, 0, 0.3, 2, 5])
TARGETS = np.array([0, 0.2, 0.5, 1])
EXTREME = np.array([-1e4, -100, 0, 100, 1e4], np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def entropy_formula(logits, targets):
    p = sigmoid(logits)
    return -targets * np.log(p) - (1 - targets) * np.log(1 - p)


def gradient(loss, logits, targets):
    """Elementwise, of the logits."""
    logits, targets = np.broadcast_arrays(logits, targets)
    return jax.grad(lambda logits: loss(logits, targets).sum())(logits)


@pytest.mark.usefixtures("float64")
def test_binary_cross_entropy_is_its_formula():
    got = losses.binary_cross_entropy(LOGITS[:, None], TARGETS)
    np.testing.assert_allclose(got, entropy_formula(LOGITS[:, None], TARGETS), rtol=1e-12)
    # The gradient is p - t, at 0 too, where |x| has none.
    got = gradient(losses.binary_cross_entropy, LOGITS[:, None], TARGETS)
    np.testing.assert_allclose(got, sigmoid(LOGITS)[:, None] - TARGETS, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_quality_focal_is_its_formula():
    def formula(x):
        return (TARGETS - sigmoid(x)) ** 2 * entropy_formula(x, TARGETS)

    x, step = LOGITS[:, None], 1e-5
    np.testing.assert_allclose(losses.quality_focal(x, TARGETS), formula(x), rtol=1e-12)
    slope = (formula(x + step) - formula(x - step)) / (2 * step)
    np.testing.assert_allclose(gradient(losses.quality_focal, x, TARGETS), slope, atol=1e-8)


def test_quality_focal_is_zero_at_the_target():
    # log(0.25 / 0.75): p is the target.
    logits = np.log(np.array([0.25 / 0.75, 1.0], np.float32))
    np.testing.assert_allclose(losses.quality_focal(logits, np.array([0.25, 0.5])), 0, atol=1e-12)


def test_extreme_logits_by_hand():
    got = losses.binary_cross_entropy(EXTREME[:, None], np.array([0, 1], np.float32))
    wanted = [[0, 1e4], [0, 100], [np.log(2)] * 2, [100, 0], [1e4, 0]]
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-30)
    got = losses.quality_focal(EXTREME[:, None], np.array([0, 1], np.float32))
    wanted[2] = [np.log(2) / 4] * 2
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("loss", [losses.binary_cross_entropy, losses.quality_focal])
def test_extreme_logits_have_finite_gradients(loss):
    targets = TARGETS.astype(np.float32)
    assert np.isfinite(loss(EXTREME[:, None], targets)).all()
    slope = gradient(loss, EXTREME[:, None], targets)
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(slope[-1], 1 - targets if "binary" in loss.__name__
                               else (1 - targets) ** 3, rtol=1e-6)  # fmt: skip


def distances(bins=16, seed=0):
    return np.random.default_rng(seed).normal(size=bins).astype(np.float32)


@pytest.mark.parametrize(
    "target, weights",
    [
        (0, {0: 1}),
        (3, {3: 1}),
        (15, {15: 1}),
        (3.5, {3: 0.5, 4: 0.5}),
        (14.75, {14: 0.25, 15: 0.75}),
        (-2.3, {0: 1}),  # clipped to the first bin
        (40, {15: 1}),  # and to the last
    ],
)
def test_distribution_focal_weights_the_two_bins_next_to_the_target(target, weights):
    logits = distances()
    log_p = log_softmax(logits)
    wanted = -sum(weight * log_p[k] for k, weight in weights.items())
    got = losses.distribution_focal(logits, np.float32(target))
    assert got == pytest.approx(wanted, rel=1e-5)
    # The gradient of cross-entropy: p less the weights.
    slope = jax.grad(losses.distribution_focal)(logits, np.float32(target))
    wanted = np.exp(log_p)
    for k, weight in weights.items():
        wanted[k] -= weight
    np.testing.assert_allclose(slope, wanted, atol=1e-6)


def test_distribution_focal_takes_any_leading_shape():
    logits = np.stack([distances(seed=i) for i in range(6)]).reshape(2, 3, 16)
    targets = np.array([[0, 1.5, 15], [7, 20, 3.25]], np.float32)
    got = losses.distribution_focal(logits, targets)
    assert got.shape == (2, 3)
    alone = [losses.distribution_focal(logits[i], targets[i]) for i in range(2)]
    np.testing.assert_allclose(got, alone, rtol=1e-6)


def test_distribution_focal_is_finite_at_extreme_logits():
    logits = np.full(16, -1e4, np.float32)
    logits[2] = 1e4
    assert losses.distribution_focal(logits, np.float32(2)) == 0
    assert losses.distribution_focal(logits, np.float32(9)) == pytest.approx(2e4)
    assert np.isfinite(jax.grad(losses.distribution_focal)(logits, np.float32(9))).all()


def test_cross_entropy_by_hand():
    # Softmax of log(1, 2, 5) is 1/8, 2/8, 5/8.
    logits = np.log(np.array([[1, 2, 5], [1, 2, 5]], np.float32))
    got = losses.cross_entropy(logits, np.array([0, 2]))
    np.testing.assert_allclose(got, -np.log([1 / 8, 5 / 8]), rtol=1e-6)
    slope = jax.grad(lambda x: losses.cross_entropy(x, np.array([0, 2])).sum())(logits)
    np.testing.assert_allclose(slope, [[-7 / 8, 2 / 8, 5 / 8], [1 / 8, 2 / 8, -3 / 8]], atol=1e-6)


def test_cross_entropy_is_finite_at_extreme_logits():
    logits = np.array([[1e4, -1e4, 0]], np.float32)
    assert losses.cross_entropy(logits, np.array([1])).tolist() == [2e4]
    slope = jax.grad(lambda x: losses.cross_entropy(x, np.array([1])).sum())(logits)
    assert slope.tolist() == [[1, -1, 0]]
