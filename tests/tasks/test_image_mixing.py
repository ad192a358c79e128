"""Mixup and cutmix: what is shown, and with what share of which label."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convmesh.tasks.image_mixing import ImageMixing, _cut

SIDE = 20


def mixing(mixup=0.0, cutmix=0.0, mixup_alpha=0.8):
    return ImageMixing(mixup, cutmix, mixup_alpha, cutmix_alpha=1.0, ends=10)


def apply(mix, examples=64, step=0, seed=0):
    """Mixed images whose pixels are all the number of their example, and the labels."""
    numbers = jnp.arange(examples, dtype=jnp.float32)
    images = jnp.broadcast_to(numbers[:, None, None, None], (examples, SIDE, 2 * SIDE, 3))
    mixed, labels = mix(images, jnp.arange(examples), jax.random.key(seed), jnp.int32(step))
    return np.asarray(mixed), np.asarray(labels.other), np.asarray(labels.share)


def test_the_partner_is_the_neighbour():
    _, other, _ = apply(mixing(mixup=1.0), examples=6)
    assert other.tolist() == [1, 0, 3, 2, 5, 4]


def test_mixup_blends_by_the_share():
    mixed, other, share = apply(mixing(mixup=1.0))
    wanted = (share * np.arange(64) + (1 - share) * other)[:, None, None, None]
    np.testing.assert_allclose(mixed, np.broadcast_to(wanted, mixed.shape), rtol=1e-5)
    assert len(np.unique(share)) == 64  # each example draws by itself


def test_cutmix_pastes_a_rectangle_whose_area_is_the_others_share():
    mixed, other, share = apply(mixing(cutmix=1.0))
    for i, image in enumerate(mixed):
        pasted = image[..., 0] == other[i]
        assert ((image[..., 0] == i) | pasted).all()
        assert share[i] == pytest.approx(1 - pasted.mean(), abs=1e-6)
        rows, columns = np.nonzero(pasted.any(1))[0], np.nonzero(pasted.any(0))[0]
        if len(rows):
            box = pasted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert box.all() and box.sum() == pasted.sum()
    assert 0.2 < share.mean() < 0.8 and share.max() > 0.9 and share.min() < 0.2


def test_a_box_by_hand():
    # A quarter of the area is cut out: half of each side, around the centre, clipped at the edge.
    share = jnp.array([0.75, 0.75, 0.0, 1.0])
    low, high = _cut(share, jnp.array([0.5, 0.1, 0.5, 0.3]), 20)
    assert list(zip(low.tolist(), high.tolist(), strict=True)) == [(5, 15), (0, 7), (0, 20), (6, 6)]


def test_probabilities():
    mixed, _, share = apply(mixing(mixup=0.25, cutmix=0.5), examples=4000)
    lowest, highest = mixed.min((1, 2, 3)), mixed.max((1, 2, 3))
    pasted = lowest < highest
    assert pasted.mean() == pytest.approx(0.5, abs=0.04)  # some boxes cover all, or nothing
    blended = (lowest == highest) & (lowest != np.arange(4000))
    assert (blended & ~pasted).mean() == pytest.approx(0.25, abs=0.04)
    np.testing.assert_allclose(share[~pasted & ~blended], 1, atol=1e-3)


def test_the_shares_are_drawn_from_beta():
    _, _, share = apply(mixing(mixup=1.0, mixup_alpha=0.2), examples=4000)
    assert share.mean() == pytest.approx(0.5, abs=0.03)
    assert share.var() == pytest.approx(1 / (4 * (2 * 0.2 + 1)), abs=0.01)


def test_nothing_is_mixed_from_the_given_step_on():
    before, after = apply(mixing(mixup=1.0), step=9), apply(mixing(mixup=1.0), step=10)
    assert (before[2] < 1).any() and (after[2] == 1).all()
    own = np.arange(64)[:, None, None, None]
    np.testing.assert_array_equal(after[0], np.broadcast_to(own, after[0].shape))
    cut = apply(mixing(cutmix=1.0), step=10)
    np.testing.assert_array_equal(cut[0], after[0])


def test_another_key_draws_others():
    shares = [apply(mixing(mixup=1.0), seed=seed)[2] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(shares[0], shares[1])
    assert (shares[0] != shares[2]).mean() > 0.9
