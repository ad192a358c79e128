"""The learning rate schedule and the optimizer."""

from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from convmesh.errors import ConfigError
from convmesh.models.depth import depth_of, is_frozen, path_names, stages_of


def make_schedule(config: ConfigDict, steps: int) -> optax.Schedule:
    """Learning rate by step: a linear warm-up (5% of the run by default), then the schedule.

    `constant` keeps the peak; `cosine` decays from it to `schedule.floor` times the peak at the end
    of the run; `flat_cosine` first keeps it for `schedule.flat` of the run; `steps` multiplies it
    by `schedule.factor` at each of `schedule.milestones`.
    """
    peak, warmup = config.optimizer.learning_rate, count_warmup_steps(config, steps)
    name, floor = config.schedule.name, config.schedule.floor
    flat = round(config.schedule.flat * steps) if name == "flat_cosine" else 0
    flat = min(flat, steps - warmup)
    linear = optax.linear_schedule(peak / max(1, warmup), peak, max(1, warmup - 1))
    constant = optax.constant_schedule(peak)
    if name == "constant":
        return optax.join_schedules([linear, constant], [warmup])
    if name == "steps":
        milestones = sorted(round(m * steps) - warmup for m in config.schedule.milestones)
        scales: dict[int, float] = {}
        for step in milestones:  # of short runs several may fall on one step
            scales[max(0, step)] = scales.get(max(0, step), 1.0) * config.schedule.factor
        stairs = optax.piecewise_constant_schedule(peak, scales)
        return optax.join_schedules([linear, stairs], [warmup])
    cosine = optax.cosine_decay_schedule(peak, max(1, steps - warmup - flat), alpha=floor)
    if not flat:
        return optax.join_schedules([linear, cosine], [warmup])
    return optax.join_schedules([linear, constant, cosine], [warmup, warmup + flat])


def count_warmup_steps(config: ConfigDict, steps: int) -> int:
    """The length of the warm-up of a run of `steps` steps."""
    warmup = config.schedule.warmup_steps
    return min(round(0.05 * steps) if warmup < 0 else warmup, steps)


def make_optimizer(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Clipping by the global norm, then AdamW, SGD, LARS (arXiv 1708.03888) or LAMB (1904.00962).

    Norms and biases are not decayed, and LARS does not scale them by their trust ratio.
    The updates of each backbone stage are multiplied by its `rate_factor`. Frozen stages
    (`train.frozen_stages`) have no update and no optimizer state, and do not count in the norm.
    """
    options, frozen = config.optimizer, config.train.frozen_stages
    decayed = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)  # noqa: E731
    optimizer = _OPTIMIZERS[options.name](options, schedule, decayed)
    if options.clip_norm:
        optimizer = optax.chain(optax.clip_by_global_norm(options.clip_norm), optimizer)
    if has_stage_rates(config):
        scale = _scale_by_depth(options.backbone_rate, options.layer_decay)
        optimizer = optax.chain(optimizer, scale)
    if frozen:
        optimizers = {"trained": optimizer, "frozen": optax.set_to_zero()}
        return optax.partition(optimizers, lambda params: _partition_labels(params, frozen))
    return optimizer


def _adamw(options: ConfigDict, schedule: optax.Schedule, decayed: Any) -> Any:
    return optax.adamw(schedule, weight_decay=options.weight_decay, mask=decayed)


def _sgd(options: ConfigDict, schedule: optax.Schedule, decayed: Any) -> Any:
    decay = optax.add_decayed_weights(options.weight_decay, mask=decayed)
    sgd = optax.sgd(schedule, momentum=options.momentum or None, nesterov=options.nesterov)
    return optax.chain(decay, sgd)


def _lars(options: ConfigDict, schedule: optax.Schedule, decayed: Any) -> Any:
    return optax.lars(
        schedule,
        weight_decay=options.weight_decay,
        weight_decay_mask=decayed,
        trust_coefficient=options.trust,
        trust_ratio_mask=decayed,
        momentum=options.momentum,
        nesterov=options.nesterov,
    )


def _lamb(options: ConfigDict, schedule: optax.Schedule, decayed: Any) -> Any:
    return optax.lamb(schedule, weight_decay=options.weight_decay, mask=decayed)


_OPTIMIZERS = {"adamw": _adamw, "sgd": _sgd, "lars": _lars, "lamb": _lamb}


def has_stage_rates(config: ConfigDict) -> bool:
    """Whether the stages of the backbone have learning rates of their own."""
    return config.optimizer.backbone_rate != 1 or config.optimizer.layer_decay != 1


def rate_factor(depth: int | None, stages: int, backbone_rate: float, layer_decay: float) -> float:
    """Factor on the learning rate of a parameter; `depth` as returned by `depth_of`.

    backbone_rate * layer_decay for the last of the `stages`, and for each earlier stage layer_decay
    times that of the next, so the stem has the smallest. 1 for parameters outside a backbone.
    """
    if depth is None:
        return 1.0
    return backbone_rate * layer_decay ** (stages + 1 - min(depth, stages))


def _scale_by_depth(backbone_rate: float, layer_decay: float) -> optax.GradientTransformation:
    """Multiplies each update by its parameter's `rate_factor`."""

    def scale(updates: Any, params: Any = None) -> Any:
        stages = stages_of(updates)

        def leaf(path: Any, update: Any) -> Any:
            depth = depth_of(path_names(path))
            return update * rate_factor(depth, stages, backbone_rate, layer_decay)

        return jax.tree_util.tree_map_with_path(leaf, updates)

    return optax.stateless(scale)


def _partition_labels(params: Any, frozen_stages: int) -> Any:
    """A label for each parameter: "trained" or "frozen"."""

    def label(path: Any, _: Any) -> str:
        return "frozen" if is_frozen(path_names(path), frozen_stages) else "trained"

    return jax.tree_util.tree_map_with_path(label, params)


def needs_stages(config: ConfigDict) -> bool:
    """Whether the config uses keys that only a model with stages supports."""
    return config.train.frozen_stages > 0 or has_stage_rates(config)


def check_stages(config: ConfigDict, params: Any) -> None:
    """Raises ConfigError if the model of `params` lacks the stages that the config refers to."""
    stages, options, frozen = stages_of(params), config.optimizer, config.train.frozen_stages
    for key, value, default in (
        ("train.frozen_stages", frozen, 0),
        ("optimizer.backbone_rate", options.backbone_rate, 1),
        ("optimizer.layer_decay", options.layer_decay, 1),
    ):
        if value != default and not stages:
            raise ConfigError(
                f"{key}={value}: {config.model.name} has no backbone of stages; leave it at "
                f"{default}"
            )
    if frozen > stages:
        raise ConfigError(f"train.frozen_stages={frozen}: {config.model.name} has {stages} stages")
