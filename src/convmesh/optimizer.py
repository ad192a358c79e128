"""The learning rate over a run, and the rule that turns gradients into updates."""

import jax
import optax


def make_schedule(config, steps: int):
    """Learning rate by step: a linear warm-up (5% of the run by default), then the schedule."""
    peak, warmup = config.optimizer.learning_rate, config.schedule.warmup_steps
    if warmup < 0:
        warmup = round(0.05 * steps)
    warmup = min(warmup, steps)
    after = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, max(1, steps - warmup), alpha=0.01),
    }[config.schedule.name]()
    rise = optax.linear_schedule(peak / max(1, warmup), peak, max(1, warmup - 1))
    return optax.join_schedules([rise, after], [warmup])


def make_optimizer(config, schedule):
    """Clip by the global norm, then AdamW or SGD; norms and biases are not decayed."""
    given = config.optimizer
    decays = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)  # noqa: E731
    if given.name == "adamw":
        rule = optax.adamw(schedule, weight_decay=given.weight_decay, mask=decays)
    else:
        decay = optax.add_decayed_weights(given.weight_decay, mask=decays)
        momentum = given.momentum or None
        rule = optax.chain(decay, optax.sgd(schedule, momentum=momentum))
    if not given.clip_norm:
        return rule
    return optax.chain(optax.clip_by_global_norm(given.clip_norm), rule)
