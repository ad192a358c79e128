"""What the resumption of a run changes, for the log: what its length decides, and lost steps."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any

from convmesh.data.augmentation.sizes import StepSizes
from convmesh.steps.optimizer import count_warmup_steps, make_schedule
from convmesh.steps.setup import Setup, count_steps, ema_decay_for
from convmesh.steps.state import TrainState
from convmesh.workdir.layout import Workdir
from convmesh.workdir.run_files import trained_config

NOTABLE = 1.1  # factor by which the learning rate must differ to be reported


def notes_on_resume(
    meta: Mapping[str, Any], setup: Setup, state: TrainState, workdir: Workdir, train_images: int
) -> list[str]:
    """Lines about a run whose length differs from that in `meta`, of the restored checkpoint.

    state: as restored. train_images: the number of training examples, of both.
    """
    before, step = trained_config(meta), int(state.step)
    if before is None or step == 0:
        return []
    steps = count_steps(before, train_images)
    if steps == setup.steps:
        return []
    length = f"the run now has {setup.steps} steps instead of {steps}"
    updates = step - int(state.nonfinite_steps)  # the schedule counts these
    lines = _warmup(before, setup, steps, updates) + _mixing(setup, steps, step)
    lines += _sizes(setup, steps, step)
    if setup.config.ema.decay < 0 and before.ema.decay < 0:
        was, becomes = ema_decay_for(steps), setup.ema_decay
        if not math.isclose(was, becomes, rel_tol=1e-6):
            lines.append(f"ema.decay: {length}, so it changes from {was:.6g} to {becomes:.6g}")
    old = make_schedule(before, steps)
    last, planned, now = (
        float(old(max(0, updates - 1))),
        float(old(updates)),
        float(setup.schedule(updates)),
    )
    _, planned_peak = _peak(old, before, steps, updates)
    at, peak = _peak(setup.schedule, setup.config, setup.steps, updates)
    rises = now > NOTABLE * planned or peak > NOTABLE * planned_peak
    if not rises and planned <= NOTABLE * now:
        return lines
    change = f"{'rises' if now > last else 'falls'} from {last:.2g} at step {step} to {now:.2g}"
    if peak > NOTABLE * now:
        change += f", and then rises to {peak:.2g} at step {step + at - updates}"
    if rises:
        checkpoint = shlex.quote(str(workdir.checkpoints_folder / str(step)))
        change += (
            f"; to go on low, stop this run and train in a new --workdir with "
            f"--config.init_from={checkpoint} --config.optimizer.learning_rate={last:.2g} "
            "--config.schedule.name=constant --config.schedule.warmup_steps=0"
        )
    return [*lines, f"learning rate: {length}, so it {change}"]


def _peak(schedule: Any, config: Any, steps: int, updates: int) -> tuple[int, float]:
    """The update at which the learning rate is highest from `updates` on, and that rate."""
    at = max(updates, count_warmup_steps(config, steps))  # after the warm-up it never rises
    return at, float(schedule(at))


def _warmup(before: Any, setup: Setup, steps: int, updates: int) -> list[str]:
    was, now = count_warmup_steps(before, steps), count_warmup_steps(setup.config, setup.steps)
    lengths = f"it takes {now} of {setup.steps} steps now, and took {was} of {steps}"
    if was <= updates < now:
        return [f"warm-up: it begins again, since {lengths}"]
    if now <= updates < was:
        return [f"warm-up: cut short after {updates} steps, since {lengths}"]
    return []


def _mixing(setup: Setup, steps: int, step: int) -> list[str]:
    """What happens to the mixing of images, which ends before the last part of a run."""
    augment = setup.config.data.augment
    names = ("mosaic", "mixup") if setup.config.task == "detect" else ("mixup", "cutmix")
    if not any(augment[name] for name in names):
        return []
    mixing = " and ".join(names)
    was, now = (math.ceil((1 - augment.last_plain) * n) for n in (steps, setup.steps))
    if was <= step < now:
        return [f"{mixing}: they begin again, until step {now}; they had ended at {was}"]
    if now <= step < was:
        return [f"{mixing}: they end now instead of at step {was}"]
    return []


def _sizes(setup: Setup, steps: int, step: int) -> list[str]:
    """What happens to the size of images that grow over a run."""
    config = setup.config
    if config.data.size_order != "growing" or len(config.data.sizes) < 2:
        return []
    last, next_ = StepSizes.of(config, steps)(step), StepSizes.of(config, setup.steps)(step + 1)
    if last == next_ or next_ == StepSizes.of(config, steps)(step + 1):
        return []
    return [
        f"data.sizes: images of {' x '.join(map(str, next_))} from here on, and not of"
        f" {' x '.join(map(str, last))}: they grow over the length of the run"
    ]


def notes_on_restart(workdir: Workdir) -> list[str]:
    """A line about a run that was begun, but has no checkpoint; none for a new one.

    Raises DataError if its log is damaged.
    """
    if not workdir.has_run():
        return []
    logged = max((row["step"] for row in workdir.training_rows()), default=0)
    reached = f"step {logged} was logged" if logged else "no step was logged"
    return [
        f"{workdir}: the run was begun before, but no checkpoint was saved ({reached}): it begins "
        "again at step 1"
    ]
