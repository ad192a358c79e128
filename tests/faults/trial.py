"""A tiny run as a process that may be killed, and a judge of what it left behind.

The process is forked from one that has imported everything and started nothing, so that a life
costs a second. What it runs is the command line, whole: locks, signals, data, devices, saving.
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
from pathlib import Path

import jax

# What lives import late, imported once, before the forks.
import matplotlib.figure  # noqa: F401
import numpy as np
import runs
import tensorboardX  # noqa: F401

import convmesh.training  # noqa: F401
from convmesh import checkpoint, cli
from convmesh.journal import read
from convmesh.models import MODELS

DEVICES = 2
STEPS, SAVE_EVERY, EVAL_EVERY = 24, 3, 12
TIMES = ("images_per_second", "step_seconds", "input_wait_seconds")
LIMIT = 120.0  # seconds that no life takes


def know_the_tiny_net() -> None:
    """Adds the model that these runs train."""
    MODELS["tiny_net"] = ("classify", "runs", "TinyNet")


def tiny_recipe(photos: Path, folder: Path, changes=()) -> str:
    """Writes the recipe: 24 images in batches of 10 (no divisor), AdamW, an average, augmented."""
    know_the_tiny_net()
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


class Life:
    """One process that trains in `workdir`, from its start to its end."""

    def __init__(self, recipe: str, workdir: Path, hook=None, devices=DEVICES, largest_file=0):
        """Forks it; `hook(phase)` is called in each phase of saving.

        `largest_file`: bytes beyond which the system takes no more of a file; 0 for no limit.
        """
        self.workdir = workdir
        self.log = workdir.with_suffix(".log")
        self._began = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid:
            return
        status = 70
        # What the process that forks has started is none of its children.
        multiprocessing.process._children.clear()
        try:
            file = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            if largest_file:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
            if hook:
                checkpoint.at_phase = hook
            call = ["train", "--config", recipe, "--workdir", str(workdir)]
            call += ["--cpu-devices", str(devices), "--debug-ledger", str(ledger_of(workdir))]
            status = cli.main(call)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def wait(self, limit: float = LIMIT) -> int:
        """Its exit status, or minus the signal that ended it; it is an error to take too long."""
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.seconds = time.monotonic() - self._began
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() - self._began > limit:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise AssertionError(f"a run took more than {limit} s: {self.told()}")
            time.sleep(0.002)

    def signal_after(self, seconds: float, number: int) -> None:
        """Sends a signal when it has lived so long, unless it has ended by then."""
        while time.monotonic() - self._began < seconds:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return
            time.sleep(0.002)
        os.kill(self.pid, number)

    def told(self) -> str:
        """What it printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def ledger_of(workdir: Path) -> Path:
    """Where the run in `workdir` writes its ledger."""
    return workdir.with_suffix(".ledger")


def die_in(phase: str, nth: int):
    """A hook that kills the process the `nth` time (from 1) that a save reaches `phase`."""
    seen = 0

    def hook(reached: str) -> None:
        nonlocal seen
        if reached == phase:
            seen += 1
            if seen == nth:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


class Judge:
    """Restores what runs have left, in this process, and compares it bit by bit."""

    def __init__(self, recipe: str, devices: int = DEVICES):
        """Starts JAX, so no more lives can be forked from this process."""
        from convmesh import load_config, simulate_devices
        from convmesh.setup import make_run_mesh, make_setup

        simulate_devices(devices)
        config = load_config(recipe)
        mesh = make_run_mesh(config)
        setup = make_setup(config, runs.CLASSES, mesh, runs.TRAIN_PHOTOS)
        self._target = setup.abstract_state()

    def newest(self, workdir: Path, read_only: bool = True):
        """Step and digest of the newest whole checkpoint, or (None, ""); and what was told."""
        told = []
        with checkpoint.Checkpoints(
            workdir, keep=100, read_only=read_only, say=told.append
        ) as checkpoints:
            step = checkpoints.newest()
            if step is None:
                return None, "", told
            state, _ = checkpoints.restore(step, self._target)
        return step, digest(state), told

    def every(self, workdir: Path) -> dict[int, str]:
        """The digest of each checkpoint of a run."""
        with checkpoint.Checkpoints(workdir, read_only=True) as checkpoints:
            return {
                step: digest(checkpoints.restore(step, self._target)[0])
                for step in checkpoints.steps()
            }


def digest(state) -> str:
    """SHA-256 of all leaves of a state: names, types, shapes and bits."""
    sums = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        leaf = np.asarray(leaf)
        sums.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}\n".encode())
        sums.update(leaf.tobytes())
    return sums.hexdigest()


def numbers(workdir: Path) -> list[dict]:
    """metrics.jsonl without the times, which differ from run to run."""
    rows = [
        {name: row[name] for name in row if name not in TIMES}
        for row in read(workdir / "metrics.jsonl")
    ]
    # Who is stopped before an evaluation makes up for it later.
    return sorted(rows, key=lambda row: (row["step"], row["split"]))


def ledger(workdir: Path) -> list[dict]:
    """The ledger of a run, in the order of its positions."""
    path = ledger_of(workdir)
    return sorted(read(path) if path.exists() else [], key=lambda row: row["position"])


def in_another_process(function, *arguments):
    """What `function` returns, called in a fork, so that JAX starts there and not here."""
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
def removed_after(folder: Path):
    """A folder for the files of a trial, removed if it went well."""
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
