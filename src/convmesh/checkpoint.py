"""Checkpoints: all that a run needs to go on, in one unit, restored onto any mesh.

One step holds three items: `model` (parameters, batch statistics, their running average: all that
prediction reads), `training` (step, optimiser state, counters) and `meta` (the data position, the
config, the class names). Kept are the newest ones and the best one.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from convmesh.errors import ConfigError, DataError
from convmesh.state import TrainState

MODEL = ("params", "batch_stats", "ema")
TRAINING = tuple(f.name for f in dataclasses.fields(TrainState) if f.name not in MODEL)


def _part(state: TrainState, names) -> dict:
    return {name: getattr(state, name) for name in names}


def _copied(tree):
    """`tree` with a copy on the host of each array that is whole on every device.

    Orbax would cut those into a slice for each device, array by array: on two CPU devices three
    times the time that the writing takes.
    """
    leaves, form = jax.tree.flatten(tree)
    whole = [leaf for leaf in leaves if leaf.is_fully_replicated]
    # Copied, since on CPUs what `device_get` gives is the array's own memory, soon donated.
    copies = iter([np.array(leaf) for leaf in jax.device_get(whole)])
    return form.unflatten([next(copies) if leaf.is_fully_replicated else leaf for leaf in leaves])


class Checkpoints:
    """The checkpoints under WORKDIR/checkpoints. Saving is asynchronous; use as a context."""

    def __init__(self, workdir, keep: int = 2, best_metric: str = "", read_only: bool = False):
        """Opens the folder; it is made by the first save.

        `keep` newest steps are kept, and the one with the highest `best_metric`, if one is named.
        `read_only` touches nothing, not even a save of another process that is under way.
        """
        self._best_metric = best_metric
        policies = [preservation_policy.LatestN(keep)]
        if best_metric:
            best = preservation_policy.BestN(
                get_metric_fn=self._rank, n=1, keep_checkpoints_without_metrics=False
            )
            policies.append(best)
        self.workdir = Path(workdir)
        self._directory = self.workdir.absolute() / "checkpoints"
        self._manager = ocp.CheckpointManager(
            self._directory,
            item_names=("model", "training", "meta"),
            options=ocp.CheckpointManagerOptions(
                create=True,
                # Orbax's own `read_only` warns each time that it is read only.
                cleanup_tmp_directories=not read_only,
                best_fn=self._rank if best_metric else None,
                preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
            ),
        )

    def _rank(self, metrics) -> float:
        value = (metrics or {}).get(self._best_metric)
        return -math.inf if value is None or math.isnan(value) else value

    def save(self, state: TrainState, meta: Mapping, metrics: Mapping | None = None) -> None:
        """Saves `state` as its own step; returns once the arrays are copied, before the disk."""
        step = int(state.step)
        if step in self.steps():
            return
        numbers = {k: float(v) for k, v in (metrics or {}).items() if math.isfinite(v)}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardSave(_copied(_part(state, MODEL))),
                training=ocp.args.StandardSave(_copied(_part(state, TRAINING))),
                meta=ocp.args.JsonSave(dict(meta)),
            ),
            metrics=numbers or None,
        )

    def steps(self) -> Sequence[int]:
        """The steps there are, in order."""
        return sorted(self._manager.all_steps())

    def choose(self, step: int | None = None, best: bool = False) -> int:
        """The step asked for, else the best if `best`, else the newest.

        Raises DataError where there is none, ConfigError for a step that is not there.
        """
        steps = self.steps()
        if not steps:
            raise DataError(f"{self._directory}: no checkpoint yet; train first")
        if step is not None and step not in steps:
            raise ConfigError(
                f"--step {step}: no such checkpoint; there are {', '.join(map(str, steps))}"
            )
        if step is None and best:
            step = self._manager.best_step()
            if step is None:
                raise DataError(f"{self._directory}: no checkpoint was evaluated, so none is best")
        return steps[-1] if step is None else step

    def restore(self, step: int, target: TrainState) -> tuple[TrainState, dict]:
        """The state saved at `step`, onto the shardings of the abstract `target`; and its meta."""
        found = self._manager.restore(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardRestore(_part(target, MODEL)),
                training=ocp.args.StandardRestore(_part(target, TRAINING)),
                meta=ocp.args.JsonRestore(),
            ),
        )
        return TrainState(**found.model, **found.training), found.meta

    def restore_variables(self, step: int, target: TrainState) -> dict:
        """What evaluation reads, onto the shardings of `target`: the average if one is kept."""
        found = self._manager.restore(
            step,
            args=ocp.args.Composite(model=ocp.args.StandardRestore(_part(target, MODEL))),
        ).model
        if found["ema"] is not None:
            return found["ema"]
        return {"params": found["params"], "batch_stats": found["batch_stats"]}

    def wait(self) -> None:
        """Waits until what is being saved is on the disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for what is being saved."""
        self._manager.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
