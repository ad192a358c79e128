"""`convmesh bench loop`: the training loop compared with its train step alone."""

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from convmesh.config import apply_overrides
from convmesh.data.loading.cache import with_caches
from convmesh.data.record import Subset
from convmesh.data.splits import RunData, open_eval, open_train
from convmesh.distributed import processes
from convmesh.errors import ConfigError
from convmesh.steps.noise import noise_step
from convmesh.steps.setup import Setup, make_run_mesh, make_setup
from convmesh.training.hooks import Hook, RunView
from convmesh.training.loop import run_steps
from convmesh.training.nonfinite import NonFiniteSteps
from convmesh.training.pictures import FirstBatch
from convmesh.training.run import Run
from convmesh.training.signals import listening
from convmesh.training.step_log import StepLog
from convmesh.workdir.layout import Workdir

SAVE_EVERY = 100
FIRST_TURN = SAVE_EVERY // 2  # the bare step is timed half-way between two saves
BARE_STEPS = 20  # in each turn


@dataclasses.dataclass(frozen=True)
class LoopCost:
    """Seconds per step, in the loop and alone, for each turn."""

    loop_seconds: list[float]  # with a save in each turn
    unsaved_seconds: list[float]  # the loop's, in turns without one
    bare_seconds: list[float]
    input_wait_seconds: float
    saves: int

    @property
    def ratio(self) -> float:
        """Seconds per step in the loop, relative to the bare step."""
        return statistics.mean(self.loop_seconds) / statistics.mean(self.bare_seconds)

    @property
    def saving_ratio(self) -> float:
        """Seconds per step in the loop with saves, relative to without."""
        return statistics.mean(self.loop_seconds) / statistics.mean(self.unsaved_seconds)


class _Timed(Hook):
    """Times the steps of the loop, alternating with the bare step."""

    def __init__(self, bare: Callable[[], float]) -> None:
        """`bare`: runs some bare steps and returns the seconds per step."""
        self._bare = bare
        self._since: tuple[int, float] | None = None
        self.loop_seconds: list[float] = []
        self.bare_seconds: list[float] = []
        self.waits: list[float] = []

    def on_metrics(self, run: RunView, step: int, metrics: Mapping[str, Any]) -> None:
        """Records the time; runs the bare step if it is its turn."""
        now = time.perf_counter()
        turn = step % SAVE_EVERY == FIRST_TURN
        if turn and self._since:
            first_step, first_time = self._since
            self.loop_seconds.append((now - first_time) / (step - first_step))
        if turn:
            self.bare_seconds.append(self._bare())
        elif step % SAVE_EVERY == FIRST_TURN + 2:
            # One step ran during the turn; the next one was dispatched after it.
            self._since = step, now
        if step % run.setup.config.train.log_every_steps == 0:
            self.waits.append(run.clock.input_wait_seconds)


def measure_loop(config: ConfigDict, rounds: int) -> LoopCost:
    """Trains in a temporary folder, with metrics and TensorBoard.

    Turns of SAVE_EVERY steps with a save and without one alternate; `rounds` of each are timed.
    Raises as `train` does; ConfigError with several processes.
    """
    if processes.count() > 1:
        raise ConfigError("bench loop: runs in one process only")
    steps = FIRST_TURN + 2 * SAVE_EVERY * rounds + 1
    every = 2 * SAVE_EVERY
    changes = {"train.steps": steps, "checkpoint.every_steps": every, "eval.every_steps": 0}
    config = apply_overrides(config, changes)
    mesh = make_run_mesh(config)
    source, eval_source = open_train(config), open_eval(config)
    one_batch = range(min(len(eval_source), config.train.batch_size))
    eval_source = Subset(eval_source, list(one_batch), eval_source.split)
    setup = make_setup(config, source.classes, mesh, len(source))
    data = with_caches(RunData(source, eval_source), config)
    with tempfile.TemporaryDirectory(prefix="convmesh-loop-") as folder:
        timed = _Timed(_bare_step(setup))
        hooks = [FirstBatch(), NonFiniteSteps(0), timed, StepLog(setup)]
        with listening() as stop, Run(setup, data, Workdir(folder), hooks, stop) as run:
            run.restore_or_create()
            run.start()
            run_steps(run)
    waits = timed.waits[1:]
    return LoopCost(
        loop_seconds=timed.loop_seconds[1::2],
        unsaved_seconds=timed.loop_seconds[::2],
        bare_seconds=timed.bare_seconds,
        input_wait_seconds=statistics.mean(waits) if waits else 0.0,
        saves=rounds,
    )


def _bare_step(setup: Setup) -> Callable[[], float]:
    """A function that runs BARE_STEPS steps on one batch of noise; it returns seconds per step."""
    step, state, batch = noise_step(setup)
    state, metrics = step(state, batch)

    def bare() -> float:
        nonlocal state, metrics
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))
        before = time.perf_counter()
        for _ in range(BARE_STEPS):
            state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))
        return (time.perf_counter() - before) / BARE_STEPS

    return bare


def bench_loop(config: ConfigDict, steps: int = 300, as_json: bool = False) -> LoopCost:
    """Measures and prints the cost of the loop around the step, over about `steps` steps."""
    cost = measure_loop(config, max(1, round(steps / SAVE_EVERY / 2)))
    if as_json:
        ratios = {"ratio": cost.ratio, "saving_ratio": cost.saving_ratio}
        print(json.dumps(dataclasses.asdict(cost) | ratios))
        return cost
    print(f"\n{'seconds a step':24}{'mean':>9}   in each turn")
    for name, turns in (
        ("loop with saves", cost.loop_seconds),
        ("without a save", cost.unsaved_seconds),
        ("bare step", cost.bare_seconds),
    ):
        each = "  ".join(f"{seconds:.4f}" for seconds in turns)
        print(f"{name:24}{statistics.mean(turns):9.4f}   {each}")
    print(f"{'waiting for input':24}{cost.input_wait_seconds:9.4f}")
    print(
        f"the loop takes {cost.ratio:.3f} times as long, a save every {SAVE_EVERY} steps included; "
        f"saving makes it {cost.saving_ratio:.3f} times as long"
    )
    return cost
