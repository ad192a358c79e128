"""How deep in a backbone a parameter stands: the one place that reads the names of layers.

A model that learns its stages at several rates, or freezes some of them, names them so: `stem`,
then `stage1...`, `down2`, `stage2...` and so on (a `downI` belongs to the stage that it leads to),
either in a `backbone` or, in a classifier, at the top. What stands in a `backbone` under another
name follows all stages. Everything else (pyramid, head) is no part of a backbone.
"""

import contextlib
import re
from collections.abc import Sequence

import flax.linen as nn
import jax

from convmesh.models.layers import BatchNorm

BACKBONE = "backbone"
BEHIND = 1_000_000  # the depth of what follows all stages


def path_names(path) -> tuple[str, ...]:
    """A leaf's path in a tree of variables, as JAX gives it, as names."""
    return tuple(str(getattr(key, "key", key)) for key in path)


def in_backbone(names: Sequence[str]) -> tuple[str, ...]:
    """`names` without a leading `backbone`: the same for a backbone alone and in a detector."""
    return tuple(names[1:] if names and names[0] == BACKBONE else names)


def depth_of(names: Sequence[str]) -> int | None:
    """The stage of a layer or parameter, counted from 1; 0 is the stem; None: of no backbone.

    `names`: the path inside the parameters, as in ("backbone", "stage1_block1", "conv1").
    """
    inside = in_backbone(names)
    top = len(inside) == len(names)
    first = inside[0] if inside else ""
    if first == "stem":
        return 0
    if stage := re.fullmatch(r"(?:stage|down)(\d+)(?:_.*)?", first):
        return int(stage[1])
    return None if top else BEHIND


def stages_of(params) -> int:
    """How many stages the backbone of `params` has; 0 where there is none."""
    depths = [depth_of(path_names(path)) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return max((depth for depth in depths if depth is not None and depth < BEHIND), default=0)


def is_frozen(names: Sequence[str], frozen_stages: int) -> bool:
    """Whether a layer stands in the stem or the first `frozen_stages`; of 0 stages, nothing is."""
    depth = depth_of(names)
    return frozen_stages > 0 and depth is not None and depth <= frozen_stages


def with_frozen(function, frozen_stages: int, tree, *rest):
    """`tree` with `function(leaf, *leaves of rest)` in place of each leaf that is frozen."""

    def leaf(path, first, *others):
        return function(first, *others) if is_frozen(path_names(path), frozen_stages) else first

    return jax.tree_util.tree_map_with_path(leaf, tree, *rest) if frozen_stages else tree


def frozen_norms(frozen_stages: int):
    """A context in which the batch norms of frozen stages act as in evaluation.

    They use their running statistics and leave them as they are, in any model of these layers.
    """
    if not frozen_stages:
        return contextlib.nullcontext()

    def call(next_function, args, kwargs, context):
        module = context.module
        norm = isinstance(module, BatchNorm) and context.method_name == "__call__"
        if norm and is_frozen(module.path, frozen_stages):
            return next_function(args[0], False)
        return next_function(*args, **kwargs)

    return nn.intercept_methods(call)
