"""Elementwise losses from logits, in at least float32; the caller sums and divides."""

import jax
import jax.numpy as jnp


def binary_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """-t log p - (1 - t) log(1 - p) for p = sigmoid(logits); `targets` in [0, 1], same shape."""
    # Not with max(x, 0) and |x|: at a logit of 0 their gradients do not add up to p - t.
    log_sigmoid = jax.nn.log_sigmoid
    return -targets * log_sigmoid(logits) - (1 - targets) * log_sigmoid(-logits)


def focal(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """The focal loss (arXiv 1708.02002, eq. 5, gamma = 2, alpha = 0.25) of `targets` 0 or 1.

    `logits` and `targets` have the same shape, which is returned.
    """
    p = jax.nn.sigmoid(logits)
    error = p + targets - 2 * p * targets  # 1 - the probability of the target
    weight = 0.75 - 0.5 * targets
    return weight * error * error * binary_cross_entropy(logits, targets)


def quality_focal(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """|t - p|^2 BCE(p, t): the quality focal loss (arXiv 2006.04388, eq. 3, beta = 2)."""
    error = targets - jax.nn.sigmoid(logits)
    return error * error * binary_cross_entropy(logits, targets)


def distribution_focal(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy with the two bins next to the target (arXiv 2006.04388, eq. 6).

    `logits` [..., bins], `targets` [...] in bins; clipped to [0, bins - 1]. Returns [...].
    """
    bins = logits.shape[-1]
    targets = jnp.clip(targets, 0, bins - 1)
    # The weights of linear interpolation between bins.
    weights = jnp.maximum(0, 1 - jnp.abs(targets[..., None] - jnp.arange(bins)))
    return -jnp.sum(weights * jax.nn.log_softmax(logits), axis=-1)


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Sparse cross-entropy: `logits` [..., classes], integer `labels` [...]. Returns [...].

    `smoothing`: so much of the target is spread evenly over all classes (arXiv 1512.00567,
    section 7).
    """
    log_p = jax.nn.log_softmax(logits)
    loss = -jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]
    return (1 - smoothing) * loss - smoothing * log_p.mean(-1) if smoothing else loss


def smooth_l1(error: jax.Array, beta: float = 1.0) -> jax.Array:
    """|error| - beta / 2, and error^2 / (2 beta) below `beta` (Fast R-CNN, arXiv 1504.08083)."""
    size = jnp.abs(error)
    return jnp.where(size < beta, error * error * (0.5 / beta), size - 0.5 * beta)
