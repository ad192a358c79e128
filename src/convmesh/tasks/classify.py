"""Classification: loss, probabilities and top-k accuracy."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convmesh.data.placement import Placement
from convmesh.distributed.batch import Batch
from convmesh.ops.losses import cross_entropy
from convmesh.tasks import classification_report
from convmesh.tasks.base import PixelScale, Task
from convmesh.tasks.image_mixing import MixedLabels

# Classes of an image in the predictions of an evaluation: all of them, up to this many; else so few
# that the file for ImageNet's 50,000 images stays small.
ALL_RESULTS, MOST_RESULTS = 100, 10


@dataclasses.dataclass(frozen=True)
class Classify(Task):
    """The classification task: one of `classes` classes for each image."""

    classes: int
    image_size: tuple[int, int]
    pixels: PixelScale = PixelScale()
    smoothing: float = 0.0  # label smoothing
    class_weights: tuple[float, ...] = ()  # of the loss, one for each class; () = 1

    best_metric = "top1"

    def sums(
        self, logits: jax.Array, batch: Batch, mixed: MixedLabels | None = None
    ) -> dict[str, Any]:
        """Sparse cross-entropy and correct predictions, summed over the examples present.

        An example that was mixed of two has the loss of each label times its share; as correct
        counts the share of the label that was predicted. With class weights, `total` is the sum of
        the weights of all labels.
        """
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        present = batch.present.astype(logits.dtype)
        labels = [(batch.label, present)]
        if mixed is not None:
            share = mixed.share.astype(logits.dtype)
            labels = [(batch.label, present * share), (mixed.other, present * (1 - share))]
        best, weights = jnp.argmax(logits, axis=-1), jnp.array(self.class_weights, logits.dtype)
        sums = {name: jnp.zeros((), logits.dtype) for name in ("loss", "top1", "total")}
        for label, share in labels:
            weight = share * weights[label] if self.class_weights else share
            sums["loss"] += jnp.sum(cross_entropy(logits, label, self.smoothing) * weight)
            sums["top1"] += jnp.sum((best == label) * share)
            sums["total"] += weight.sum()
        # Examples, where they differ from `total`.
        return sums | ({"examples": present.sum()} if self.class_weights else {})

    def finish(self, sums: dict[str, Any]) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The mean cross-entropy over the examples present, and their accuracy `top1`."""
        total = self.divisor(sums)
        examples = jnp.maximum(sums.get("examples", total), 1)
        return sums["loss"] / total, {"top1": sums["top1"] / examples}

    @staticmethod
    def divisor(sums: dict[str, Any]) -> jax.Array:
        """The sum of the weights of all labels; 1 for a batch of padding."""
        return jnp.where(sums["total"] > 0, sums["total"], 1)

    def predict(self, logits: jax.Array) -> dict[str, Any]:
        """`probabilities` [batch, classes], at least float32."""
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        return {"probabilities": jax.nn.softmax(logits)}

    # On the host, in numpy:

    def to_host(self, output: dict[str, Any], placement: Placement) -> dict[str, Any]:
        """The classes of one image, best first: `labels` int [classes], `scores` [classes]."""
        p = np.asarray(output["probabilities"])
        order = np.argsort(-p, kind="stable")
        return {"labels": order, "scores": p[order]}

    def kept(self, found: dict[str, Any], truth: Mapping[str, Any]) -> dict[str, Any]:
        """Of more than ALL_RESULTS classes the best MOST_RESULTS, and the true one if it is none.

        All of thousands of classes, for each of a million images, would fill the memory.
        """
        if len(found["labels"]) <= ALL_RESULTS:
            return found
        (place,) = np.flatnonzero(found["labels"] == truth["label"])
        chosen = [*range(MOST_RESULTS), *([int(place)] if place >= MOST_RESULTS else [])]
        return {name: found[name][chosen] for name in ("labels", "scores")}

    def metrics(
        self,
        truth: Sequence[Mapping[str, Any]],
        found: Sequence[Mapping[str, Any]],
        classes: Sequence[str],
    ) -> dict[str, float]:
        """`top1`, `top5`: the fraction of images whose class is among the best one or five.

        Also the numbers of `classification_report.summary`.
        """
        rank = [list(f["labels"]).index(t["label"]) for t, f in zip(truth, found, strict=True)]
        numbers = {f"top{k}": float(np.mean([r < k for r in rank])) for k in (1, 5)}
        more = classification_report.summary(truth, found, len(classes))
        return {**numbers, **more, "images": len(rank)}

    def results(
        self,
        found: Sequence[Mapping[str, Any]],
        classes: Sequence[str],
        category_ids: Sequence[int] | None = None,
    ) -> list[dict[str, Any]]:
        """For each image its best classes with their probabilities, see MOST_RESULTS."""
        shown = MOST_RESULTS if len(classes) > ALL_RESULTS else len(classes)
        return [
            {
                "image_id": f["image_id"],
                "file_name": f["file_name"],
                "classes": ranked(f, classes, shown),
            }
            for f in found
        ]

    def table(self, metrics: Mapping[str, float | None], classes: Sequence[str]) -> str:
        """The metrics as text for the console."""
        lines = [f"{metrics['images']} images"]
        lines += [f"{name} {metrics[name]:.4f}" for name in ("top1", "top5")]
        names = [name for name in ("precision", "recall", "F1", "ECE") if name in metrics]
        means = ", ".join(f"{name} {metrics[name]:.4f}" for name in names if name != "ECE")
        if means:
            lines.append(f"means over the classes: {means}")
        if "ECE" in names:
            lines.append(f"calibration error (ECE) {metrics['ECE']:.4f}")
        return "\n".join(lines)


def ranked(
    found: Mapping[str, Any], classes: Sequence[str], top_k: int | None = None
) -> list[dict[str, Any]]:
    """The `top_k` best classes of one image (of `to_host`) with their probabilities."""
    pairs = list(zip(found["labels"], found["scores"], strict=True))[:top_k]
    return [{"class": classes[i], "probability": float(p)} for i, p in pairs]
