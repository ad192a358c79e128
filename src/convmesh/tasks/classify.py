"""Classification: loss, probabilities and top-k accuracy."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convmesh.ops.losses import cross_entropy
from convmesh.tasks import Loss


@dataclasses.dataclass(frozen=True)
class Classify(Loss):
    """The classification task: one of `classes` for each image."""

    classes: int
    image_size: tuple[int, int]

    best_metric = "top1"

    def sums(self, logits, batch):
        """Sparse cross-entropy and right answers, summed over the examples that are present."""
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        present = batch["present"].astype(logits.dtype)
        right = (jnp.argmax(logits, axis=-1) == batch["label"]) * present
        return {
            "loss": jnp.sum(cross_entropy(logits, batch["label"]) * present),
            "right": right.sum(),
            "total": present.sum(),
        }

    def finish(self, sums):
        """The mean cross-entropy over the examples that were present, and the accuracy."""
        total = self.divisor(sums)
        return sums["loss"] / total, {"top1": sums["right"] / total}

    def predict(self, logits):
        """`probabilities` [batch, classes], at least float32."""
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        return {"probabilities": jax.nn.softmax(logits)}

    # What follows runs on the host, with numpy.

    def to_host(self, one: dict[str, Any], placement: dict[str, Any]) -> dict[str, Any]:
        """The classes of one image, best first: `labels` int [classes], `scores` [classes]."""
        p = np.asarray(one["probabilities"])
        order = np.argsort(-p, kind="stable")
        return {"labels": order, "scores": p[order]}

    def metrics(self, truth, found, classes) -> dict[str, float]:
        """`top1` and `top5`: the share of images whose class is the best, among the best five."""
        rank = [list(f["labels"]).index(t["label"]) for t, f in zip(truth, found, strict=True)]
        numbers = {f"top{k}": float(np.mean([r < k for r in rank])) for k in (1, 5)}
        return {**numbers, "images": len(rank)}

    def results(self, found, classes, category_ids=None) -> list[dict]:
        """For each image its classes with their probabilities, best first."""
        return [
            {
                "image_id": f["image_id"],
                "file_name": f["file_name"],
                "classes": ranked(f, classes),
            }
            for f in found
        ]

    def table(self, metrics, classes) -> str:
        """The metrics for people."""
        return "{images} images\ntop1 {top1:.4f}\ntop5 {top5:.4f}".format(**metrics)


def ranked(found: dict, classes, top_k: int | None = None) -> list[dict]:
    """`to_host`'s classes of one image as names and probabilities, best first."""
    pairs = list(zip(found["labels"], found["scores"], strict=True))[:top_k]
    return [{"class": classes[i], "probability": float(p)} for i, p in pairs]
