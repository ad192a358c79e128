"""A tiny run in a process that may be killed, and the means to compare what it leaves behind.

The process is forked from one that has imported everything and started nothing, so that a start
takes a second. It runs the real command line: locks, signals, data, devices and saving included.
"""

import contextlib
import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

# What training imports late is imported once, before the forks.
import matplotlib.figure  # noqa: F401
import numpy as np
import runs
import tensorboardX  # noqa: F401

import convmesh.training.loop  # noqa: F401
from convmesh import load_config, simulate_devices
from convmesh.__main__ import main
from convmesh.models.registry import MODELS
from convmesh.steps.setup import make_run_mesh, make_setup
from convmesh.workdir import saving
from convmesh.workdir.checkpoints import Checkpoints
from convmesh.workdir.json_lines import read_json_lines

DEVICES = 2
STEPS, SAVE_EVERY, EVAL_EVERY = 24, 3, 12
TIMES = ("images_per_second", "step_seconds", "input_wait_seconds")
TIMEOUT = 120.0  # seconds


def register_tiny_net() -> None:
    """Adds the model that these runs train."""
    MODELS["tiny_net"] = ("classify", "runs", "TinyNet")


def tiny_recipe(photos: Path, folder: Path, changes=()) -> str:
    """Writes the recipe: 24 images in batches of 10 (no divisor), AdamW, EMA, augmentation."""
    register_tiny_net()
    config = runs.photo_config(
        photos,
        {
            "train.batch_size": 10,
            "train.steps": STEPS,
            "eval.every_steps": EVAL_EVERY,
            "checkpoint.every_steps": SAVE_EVERY,
            "checkpoint.keep": 2,
            "mesh.data": 2,
            **dict(changes),
        },
    )
    name = hashlib.sha256(repr(sorted(dict(changes).items())).encode()).hexdigest()[:8]
    return runs.write_recipe(folder / f"recipe-{name}.py", config)


class Process:
    """A forked process that calls `run`, with its output in the file `log`."""

    def __init__(self, log: Path, run: Callable[[], int]):
        """Forks it; it ends with the status that `run` returns."""
        self.log = log
        self.started = time.monotonic()
        self._waited_for = False
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid:
            return
        status = 70
        # The forked process must not take its parent's children for its own.
        multiprocessing.process._children.clear()
        try:
            file = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            status = run()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def wait(self, timeout: float = TIMEOUT) -> int:
        """Its exit status, or minus the signal that ended it. Raises AssertionError on timeout."""
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.seconds = time.monotonic() - self.started
                self._waited_for = True
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() - self.started > timeout:
                self.kill()
                raise AssertionError(f"a run took more than {timeout} s: {self.output()}")
            time.sleep(0.002)

    def kill(self) -> None:
        """Ends it by SIGKILL, unless it was waited for."""
        if not self._waited_for:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._waited_for = True

    def signal_after(self, seconds: float, number: int) -> None:
        """Sends a signal so long after the start, unless the process has ended by then."""
        self.signal_when(lambda: time.monotonic() - self.started >= seconds, number)

    def signal_when(self, condition: Callable[[], bool], number: int) -> None:
        """Sends a signal once `condition()` holds, unless the process has ended by then."""
        while not condition():
            if self.has_ended():
                return
            time.sleep(0.002)
        os.kill(self.pid, number)

    def has_ended(self) -> bool:
        """Whether the process has ended; `wait` still returns its status."""
        return bool(os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT))

    def output(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class TrainingProcess(Process):
    """One process that trains in `workdir`."""

    def __init__(self, recipe: str, workdir: Path, hook=None, devices=DEVICES, largest_file=0):
        """Forks it; `hook(phase)` is called in each phase of saving a checkpoint.

        `largest_file`: the size in bytes beyond which writing a file fails; 0 for no limit.
        """
        command = ["train", "--config", recipe, "--workdir", str(workdir)]
        command += ["--cpu-devices", str(devices), "--example-log", str(log_path(workdir))]

        def run() -> int:
            if largest_file:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
            if hook:
                saving.at_phase = hook
            return main(command)

        self.workdir = workdir
        super().__init__(workdir.with_suffix(".log"), run)


def another_program(flags: Sequence[str]) -> list[str]:
    """The command of a new interpreter that trains, with the tiny net registered."""
    code = (
        f"import sys; sys.path[:0] = {sys.path[:2]!r}; import trial; trial.register_tiny_net(); "
        "sys.exit(trial.main(sys.argv[1:]))"
    )
    return [sys.executable, "-c", code, *flags]


def kill_in_phase(phase: str, nth: int):
    """A hook that kills the process the `nth` time (from 1) that a save reaches `phase`."""
    count = 0

    def hook(reached: str) -> None:
        nonlocal count
        if reached == phase:
            count += 1
            if count == nth:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


class Restorer:
    """Restores the checkpoints of runs in this process, to compare them bit by bit."""

    def __init__(self, recipe: str, devices: int = DEVICES):
        """Starts JAX, so no more training processes can be forked from this process."""
        self._target = make_target(recipe, devices)

    def newest(self, workdir: Path, read_only: bool = True):
        """Step and digest of the newest good checkpoint, or (None, ""); and what was printed."""
        messages = []
        checkpoints = Checkpoints(workdir, keep=100, read_only=read_only, log=messages.append)
        with checkpoints:
            step = checkpoints.newest()
            if step is None:
                return None, "", messages
            state, _ = checkpoints.restore(step, self._target)
        return step, digest(state), messages

    def every(self, workdir: Path) -> dict[int, str]:
        """The digest of each checkpoint of a run, by step."""
        with Checkpoints(workdir, read_only=True) as checkpoints:
            return {
                step: digest(checkpoints.restore(step, self._target)[0])
                for step in checkpoints.steps()
            }


def make_target(recipe: str, devices: int):
    """Shapes, types and shardings of the recipe's train state, on simulated devices."""
    simulate_devices(devices)
    config = load_config(recipe)
    mesh = make_run_mesh(config)
    return make_setup(config, runs.CLASSES, mesh, runs.TRAIN_PHOTOS).abstract_state()


def digest(state) -> str:
    """SHA-256 of all leaves of a state: names, types, shapes and bits."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        leaf = np.asarray(leaf)
        total.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}\n".encode())
        total.update(leaf.tobytes())
    return total.hexdigest()


def metrics(workdir: Path) -> list[dict]:
    """metrics.jsonl without the times, which differ from run to run."""
    rows = [
        {name: row[name] for name in row if name not in TIMES}
        for row in read_json_lines(workdir / "metrics.jsonl")
    ]
    # A run that is stopped before an evaluation does it later.
    return sorted(rows, key=lambda row: (row["step"], row["split"]))


def log_path(workdir: Path) -> Path:
    """The example log of the run in `workdir`."""
    return workdir.with_suffix(".examples")


def example_log(workdir: Path) -> list[dict]:
    """The rows of a run's example log, by position."""
    path = log_path(workdir)
    return sorted(read_json_lines(path) if path.exists() else [], key=lambda row: row["position"])


def steps_logged(workdir: Path) -> int:
    """The last step in a run's example log; 0 if there is none."""
    return max((row["step"] for row in example_log(workdir)), default=0)


def copy_run(workdir: Path, to: Path) -> None:
    """Copies a run and its example log."""
    shutil.copytree(workdir, to)
    shutil.copy(log_path(workdir), log_path(to))


def in_another_process(function, *arguments):
    """The result of `function`, called in a forked process: JAX starts there and not here."""
    with tempfile.NamedTemporaryFile() as file:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            status = 1
            try:
                result = function(*arguments)
                Path(file.name).write_text(json.dumps(result))
                status = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        assert status == 0, f"{function.__name__} failed"
        return json.loads(Path(file.name).read_text())


@contextlib.contextmanager
def trial_folder(folder: Path):
    """A folder for the files of a trial, deleted if the trial succeeds."""
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
