"""Mixup and cutmix: two images of a batch become one, with the labels of both; on the devices.

Sources: arXiv 1710.09412 (mixup), 1905.04899 (cutmix).
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from convmesh import mesh as meshes
from convmesh.ops.randomness import keys_of_examples

TOGETHER = 2  # consecutive examples that are mixed with each other


class MixedLabels(NamedTuple):
    """The second label of each example, int [batch], and the share of the first, float [batch]."""

    other: Any
    share: Any


@dataclasses.dataclass(frozen=True)
class ImageMixing:
    """Mixes each example of a batch with its neighbour: the first with the second, and so on.

    The data order is random, so a neighbour is a random example; no other device's is needed unless
    a device holds an odd number. Each example draws by itself, from its place in the batch.

    Attributes:
      mixup, cutmix: the probability of each for an example; their sum is at most 1.
      mixup_alpha, cutmix_alpha: the shares are drawn from Beta(alpha, alpha).
      ends: the step from which on nothing is mixed.
    """

    mixup: float
    cutmix: float
    mixup_alpha: float
    cutmix_alpha: float
    ends: float

    def __call__(
        self, images: jax.Array, labels: jax.Array, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, MixedLabels]:
        """The mixed `images` [batch, height, width, 3], and what they show.

        `labels`: int [batch]; `key`: of the step; `step`: int []. The batch is even.
        """
        dtype = jnp.promote_types(images.dtype, jnp.float32)
        blended, pasted, share, centre = self._draw(len(labels), key, dtype)
        active = step < self.ends
        blended, pasted = blended & active, pasted & active
        others = _neighbours(images)
        height, width = images.shape[1:3]
        top, bottom = _cut(share, centre[:, 0], height)
        left, right = _cut(share, centre[:, 1], width)
        rows, columns = jnp.arange(height)[:, None], jnp.arange(width)
        by_pixel = lambda edge: edge[:, None, None]  # noqa: E731
        inside = (by_pixel(top) <= rows) & (rows < by_pixel(bottom))
        inside &= (by_pixel(left) <= columns) & (columns < by_pixel(right))
        inside &= by_pixel(pasted)
        shown = jnp.where(blended, share, 1)
        weight = shown.astype(images.dtype)[:, None, None, None]
        mixed = jnp.where(inside[..., None], others, weight * images + (1 - weight) * others)
        # The box was clipped at the image's edges and rounded to pixels.
        area = ((bottom - top) * (right - left)).astype(share.dtype) / (height * width)
        return mixed, MixedLabels(_neighbours(labels), jnp.where(pasted, 1 - area, shown))

    def _draw(self, examples: int, key: jax.Array, dtype: Any) -> tuple[jax.Array, ...]:
        """Whether each example is blended, whether a box is pasted into it, bool [batch]; the
        share of itself, [batch], and the centre of a box, [batch, 2] in [0, 1), of `dtype`.
        """

        def draw(key: jax.Array) -> tuple[jax.Array, ...]:
            which, first, second, where = jax.random.split(key, 4)
            chance = jax.random.uniform(which, (), jnp.float32)
            pasted = (self.mixup <= chance) & (chance < self.mixup + self.cutmix)
            alphas = self.mixup_alpha, self.cutmix_alpha
            mixup, cutmix = (
                jax.random.beta(key, alpha, alpha, (), dtype)
                for key, alpha in zip((first, second), alphas, strict=True)
            )
            share = jnp.where(pasted, cutmix, mixup)
            centre = jax.random.uniform(where, (2,), dtype)
            return chance < self.mixup, pasted, share, centre

        # Drawing from a Beta distribution loops; by shards that needs no collective.
        return meshes.per_example(jax.vmap(draw))(keys_of_examples(key, examples))


def _cut(share: jax.Array, centre: jax.Array, side: int) -> tuple[jax.Array, jax.Array]:
    """The first pixel of a box and the one after its last, int [batch], along a side of an image.

    `share` of the image's area stays outside the box, as far as its edges let it.
    """
    half = jnp.sqrt(1 - share) * side / 2
    place = jnp.floor(centre * side)
    return tuple(
        jnp.clip(jnp.round(edge), 0, side).astype(jnp.int32)
        for edge in (place - half, place + half)
    )  # type: ignore[return-value]


def _neighbours(array: jax.Array) -> jax.Array:
    """`array` [batch, ...] with the two of each pair exchanged."""
    pairs = array.reshape(-1, TOGETHER, *array.shape[1:])
    return pairs[:, ::-1].reshape(array.shape)
