"""The depth of a parameter in a backbone, from the names of its layers; and frozen stages.

Models whose stages can be frozen, or have learning rates of their own, name them `stem`,
`stage1...`, `down2`, `stage2...` and so on (`downI` belongs to stage I), either in a module
`backbone` or, in a classifier, at the top. Other layers of a `backbone` count as after all stages.
Everything else (pyramid, head) is not part of a backbone.
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from convmesh.models.layers import BatchNorm

BACKBONE, ALL = "backbone", "all"
AFTER_STAGES = 1_000_000  # the depth of layers after all stages


def path_names(path: Sequence[Any]) -> tuple[str, ...]:
    """The names in the path of a leaf, as returned by `jax.tree_util`."""
    return tuple(str(getattr(key, "key", key)) for key in path)


def in_backbone(names: Sequence[str]) -> tuple[str, ...]:
    """`names` without a leading `backbone`: the same in a classifier and in a detector."""
    return tuple(names[1:] if names and names[0] == BACKBONE else names)


def depth_of(names: Sequence[str]) -> int | None:
    """The stage of a layer or parameter, from 1; 0 for the stem; None outside a backbone.

    `names`: its path in the parameters, such as ("backbone", "stage1_block1", "conv1").
    """
    inside = in_backbone(names)
    top = len(inside) == len(names)
    first = inside[0] if inside else ""
    if first == "stem":
        return 0
    if stage := re.fullmatch(r"(?:stage|down)(\d+)(?:_.*)?", first):
        return int(stage[1])
    return None if top else AFTER_STAGES


def stages_of(params: Any) -> int:
    """The number of stages of the backbone in `params`; 0 without one."""
    depths = [depth_of(path_names(path)) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return max((depth for depth in depths if depth is not None and depth < AFTER_STAGES), default=0)


def is_frozen(names: Sequence[str], frozen_stages: int) -> bool:
    """Whether a layer is in the stem or the first `frozen_stages`; False if these are 0."""
    depth = depth_of(names)
    return frozen_stages > 0 and depth is not None and depth <= frozen_stages


@dataclasses.dataclass(frozen=True)
class Frozen:
    """What a model is not trained in.

    stages: the stem and this many stages of the backbone; 0: none. norms: the batch norms of the
    module `backbone` (BACKBONE), of the whole model (ALL), or none ("").
    """

    stages: int = 0
    norms: str = ""

    def __bool__(self) -> bool:
        return bool(self.stages or self.norms)

    def has_norm(self, names: Sequence[str]) -> bool:
        """Whether the batch norm of this path is frozen."""
        inside = self.norms == ALL or (self.norms == BACKBONE and names[0] == BACKBONE)
        return inside or is_frozen(names, self.stages)

    def replace(self, function: Callable, batch_stats: Any, tree: Any, *rest: Any) -> Any:
        """`tree` with each frozen leaf replaced by `function(leaf, *leaves of rest)`.

        tree: parameters, or something of their structure, or statistics; batch_stats: those of the
        model, which say where its batch norms are.
        """
        if not self:
            return tree
        leaves = jax.tree_util.tree_leaves_with_path(batch_stats)
        norms = {path_names(path)[:-1] for path, _ in leaves}

        def leaf(path: Sequence[Any], value: Any, *others: Any) -> Any:
            names = path_names(path)
            frozen = is_frozen(names, self.stages)
            frozen = frozen or (names[:-1] in norms and self.has_norm(names[:-1]))
            return function(value, *others) if frozen else value

        return jax.tree_util.tree_map_with_path(leaf, tree, *rest)

    def norms_as_in_evaluation(self) -> contextlib.AbstractContextManager:
        """A context in which frozen batch norms work as in evaluation, in any model of `layers`.

        They use their running statistics and do not update them.
        """
        if not self:
            return contextlib.nullcontext()

        def call(next_function: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
            module = context.module
            norm = isinstance(module, BatchNorm) and context.method_name == "__call__"
            if norm and self.has_norm(module.path):
                return next_function(args[0], False)
            return next_function(*args, **kwargs)

        return nn.intercept_methods(call)
