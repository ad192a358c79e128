"""`convmesh bench loop`: the whole of training, in turns with its bare step."""

import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path

import jax

from convmesh import mesh as meshes
from convmesh import processes, proof
from convmesh.checkpoint import Checkpoints
from convmesh.config import apply_overrides
from convmesh.data import open_eval, open_train
from convmesh.data.record import Subset
from convmesh.errors import ConfigError
from convmesh.report import Report
from convmesh.setup import make_run_mesh, make_setup
from convmesh.signals import StopSignal
from convmesh.state import create_state
from convmesh.step import jit_train_step
from convmesh.training import run_steps, step_parts, train_share

SAVE_EVERY = 100
FIRST_TURN = SAVE_EVERY // 2  # the bare step's turns stand half-way between two saves
BARE_STEPS = 20  # in each of its turns


@dataclasses.dataclass(frozen=True)
class LoopCost:
    """Seconds of a step, in the whole loop and bare, in each of their turns."""

    loop_seconds: list[float]  # with a save in each turn
    unsaved_seconds: list[float]  # the loop's, in turns without one
    bare_seconds: list[float]
    input_wait_seconds: float
    saves: int

    @property
    def ratio(self) -> float:
        """How many times as long as the bare step the loop takes."""
        return statistics.mean(self.loop_seconds) / statistics.mean(self.bare_seconds)

    @property
    def saving_ratio(self) -> float:
        """How many times as long as without saves the loop takes."""
        return statistics.mean(self.loop_seconds) / statistics.mean(self.unsaved_seconds)


class _Timed(Report):
    """A report that gives a turn to `bare` every SAVE_EVERY steps, and times what lies between."""

    def __init__(self, *args, bare, **kwargs):
        super().__init__(*args, **kwargs)
        self._bare = bare
        self._since: tuple[int, float] | None = None
        self.loop_seconds: list[float] = []
        self.bare_seconds: list[float] = []
        self.waits: list[float] = []

    def progress(self, step, loss=None, images_per_second=None):
        now = time.perf_counter()
        super().progress(step, loss, images_per_second)
        turn = step % SAVE_EVERY == FIRST_TURN
        if turn and self._since:
            began, when = self._since
            self.loop_seconds.append((now - when) / (step - began))
        if turn:
            self.bare_seconds.append(self._bare())
        elif step % SAVE_EVERY == FIRST_TURN + 2:
            # One step was under way during the turn; the first that was not has begun here.
            self._since = step, now

    def log(self, step, split, numbers):
        super().log(step, split, numbers)
        if "input_wait_seconds" in numbers:
            self.waits.append(numbers["input_wait_seconds"])


def measure_loop(config, rounds: int) -> LoopCost:
    """Trains in a temporary folder, with metrics and TensorBoard.

    Turns of SAVE_EVERY steps with a save and without one alternate; `rounds` of each are timed.
    Raises as `train` does; ConfigError with several processes.
    """
    if processes.count() > 1:
        raise ConfigError("bench loop: for one process")
    steps = FIRST_TURN + 2 * SAVE_EVERY * rounds + 1
    every = 2 * SAVE_EVERY
    changes = {"train.steps": steps, "checkpoint.every_steps": every, "eval.every_steps": 0}
    config = apply_overrides(config, changes)
    mesh = make_run_mesh(config)
    source, eval_source = open_train(config), open_eval(config)
    one_batch = range(min(len(eval_source), config.train.batch_size))
    eval_source = Subset(eval_source, list(one_batch), eval_source.split)
    setup = make_setup(config, source.classes, mesh, len(source))
    with tempfile.TemporaryDirectory(prefix="convmesh-loop-") as folder:
        workdir, bare = Path(folder), _bare_step(setup)
        report = _Timed(workdir, steps, 0, config.train.batch_size, bare=bare)
        keep = config.checkpoint.keep
        with StopSignal() as stop, report, Checkpoints(workdir, keep) as checkpoints:
            state = create_state(**setup.state_arguments())
            run_steps(setup, state, source, eval_source, checkpoints, report, stop)
    waits = report.waits[1:]
    return LoopCost(
        loop_seconds=report.loop_seconds[1::2],
        unsaved_seconds=report.loop_seconds[::2],
        bare_seconds=report.bare_seconds,
        input_wait_seconds=statistics.mean(waits) if waits else 0.0,
        saves=rounds,
    )


def _bare_step(setup):
    """A function that takes BARE_STEPS steps on one batch of noise; returns the seconds of one."""
    config = setup.config
    size, share = tuple(config.data.image_size), train_share(setup)
    state = create_state(**setup.state_arguments())
    batch = proof.noise_batch(setup.task, size, config.train.batch_size, config.data.max_boxes)
    batch = meshes.place(setup.mesh, share.take(batch), share)
    step = jit_train_step(setup.mesh, state, batch, **step_parts(setup))
    state, numbers = step(state, batch)

    def bare() -> float:
        nonlocal state, numbers
        state, numbers = step(state, batch)
        jax.block_until_ready((state, numbers))
        before = time.perf_counter()
        for _ in range(BARE_STEPS):
            state, numbers = step(state, batch)
        jax.block_until_ready((state, numbers))
        return (time.perf_counter() - before) / BARE_STEPS

    return bare


def bench_loop(config, steps: int = 300, as_json: bool = False) -> LoopCost:
    """Measures and prints what the loop around the step costs, over about `steps` of them."""
    cost = measure_loop(config, max(1, round(steps / SAVE_EVERY / 2)))
    if as_json:
        ratios = {"ratio": cost.ratio, "saving_ratio": cost.saving_ratio}
        print(json.dumps(dataclasses.asdict(cost) | ratios))
        return cost
    print(f"\n{'seconds a step':24}{'mean':>9}   in each turn")
    for name, turns in (
        ("whole loop", cost.loop_seconds),
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
