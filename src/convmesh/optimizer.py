"""The learning rate over a run, and the rule that turns gradients into updates."""

import jax
import optax

from convmesh.errors import ConfigError
from convmesh.models.depth import depth_of, is_frozen, path_names, stages_of


def make_schedule(config, steps: int):
    """Learning rate by step: a linear warm-up (5% of the run by default), then the schedule.

    `constant` keeps the peak; `cosine` goes down from it to `schedule.floor` times the peak, at the
    end of the run; `flat_cosine` first keeps it for `schedule.flat` of the run.
    """
    peak, warmup = config.optimizer.learning_rate, config.schedule.warmup_steps
    if warmup < 0:
        warmup = round(0.05 * steps)
    warmup = min(warmup, steps)
    name, floor = config.schedule.name, config.schedule.floor
    flat = round(config.schedule.flat * steps) if name == "flat_cosine" else 0
    flat = min(flat, steps - warmup)
    rise = optax.linear_schedule(peak / max(1, warmup), peak, max(1, warmup - 1))
    level = optax.constant_schedule(peak)
    if name == "constant":
        return optax.join_schedules([rise, level], [warmup])
    fall = optax.cosine_decay_schedule(peak, max(1, steps - warmup - flat), alpha=floor)
    if not flat:
        return optax.join_schedules([rise, fall], [warmup])
    return optax.join_schedules([rise, level, fall], [warmup, warmup + flat])


def make_optimizer(config, schedule):
    """Clip by the global norm, then AdamW or SGD; norms and biases are not decayed.

    The update of each stage of a backbone is multiplied by its `rate_factor`. What
    `train.frozen_stages` freezes has no update and no optimiser state, and does not count in the
    norm.
    """
    given, frozen = config.optimizer, config.train.frozen_stages
    decays = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)  # noqa: E731
    if given.name == "adamw":
        rule = optax.adamw(schedule, weight_decay=given.weight_decay, mask=decays)
    else:
        decay = optax.add_decayed_weights(given.weight_decay, mask=decays)
        momentum = given.momentum or None
        rule = optax.chain(decay, optax.sgd(schedule, momentum=momentum, nesterov=given.nesterov))
    if given.clip_norm:
        rule = optax.chain(optax.clip_by_global_norm(given.clip_norm), rule)
    if has_rates(config):
        rule = optax.chain(rule, _scale_by_depth(given.backbone_rate, given.layer_decay))
    if frozen:
        rules = {"trained": rule, "frozen": optax.set_to_zero()}
        return optax.partition(rules, lambda params: _labels(params, frozen))
    return rule


def has_rates(config) -> bool:
    """Whether the stages of the backbone learn at other rates than the rest."""
    return config.optimizer.backbone_rate != 1 or config.optimizer.layer_decay != 1


def rate_factor(depth: int | None, stages: int, backbone_rate: float, layer_decay: float) -> float:
    """What the learning rate of a parameter is multiplied by; `depth` as `depth_of` gives it.

    The last of the `stages` has backbone_rate * layer_decay, each earlier one layer_decay times
    that of the next, the stem the least. What is of no backbone has 1.
    """
    if depth is None:
        return 1.0
    return backbone_rate * layer_decay ** (stages + 1 - min(depth, stages))


def _scale_by_depth(backbone_rate: float, layer_decay: float):
    """Multiplies each update by its parameter's `rate_factor`."""

    def scale(updates, params=None):
        stages = stages_of(updates)

        def leaf(path, update):
            depth = depth_of(path_names(path))
            return update * rate_factor(depth, stages, backbone_rate, layer_decay)

        return jax.tree_util.tree_map_with_path(leaf, updates)

    return optax.stateless(scale)


def _labels(params, frozen_stages: int):
    """For each parameter, which of the two rules it has."""

    def label(path, _):
        return "frozen" if is_frozen(path_names(path), frozen_stages) else "trained"

    return jax.tree_util.tree_map_with_path(label, params)


def needs_stages(config) -> bool:
    """Whether the config asks for something that only a model with stages has."""
    return config.train.frozen_stages > 0 or has_rates(config)


def check_stages(config, params) -> None:
    """Raises ConfigError if the model of `params` lacks the stages that the config speaks of."""
    stages, given, frozen = stages_of(params), config.optimizer, config.train.frozen_stages
    for key, value, off in (
        ("train.frozen_stages", frozen, 0),
        ("optimizer.backbone_rate", given.backbone_rate, 1),
        ("optimizer.layer_decay", given.layer_decay, 1),
    ):
        if value != off and not stages:
            raise ConfigError(
                f"{key}={value}: {config.model.name} has no backbone of stages; leave it at {off}"
            )
    if frozen > stages:
        raise ConfigError(f"train.frozen_stages={frozen}: {config.model.name} has {stages} stages")
