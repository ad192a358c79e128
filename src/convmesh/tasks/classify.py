"""Classification: loss, probabilities and top-k accuracy."""

import dataclasses

import jax
import jax.numpy as jnp

from convmesh.ops.losses import cross_entropy


@dataclasses.dataclass(frozen=True)
class Classify:
    """The classification task: one of `classes` for each image."""

    classes: int
    image_size: tuple[int, int]

    best_metric = "top1"

    def loss(self, logits, batch):
        """Mean sparse cross-entropy over the examples that are present, and the accuracy."""
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        present = batch["present"].astype(logits.dtype)
        total = jnp.maximum(present.sum(), 1)
        loss = jnp.sum(cross_entropy(logits, batch["label"]) * present) / total
        right = (jnp.argmax(logits, axis=-1) == batch["label"]) * present
        return loss, {"top1": right.sum() / total}

    def predict(self, logits):
        """`probabilities` [batch, classes], at least float32."""
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        return {"probabilities": jax.nn.softmax(logits)}
