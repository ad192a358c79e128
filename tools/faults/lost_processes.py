"""Processes of a run that are killed, stopped, asleep, cut off from the network, or merely slow.

All must end within a bound, with status 76 (lost) or 77 (hung) and a message that names the one;
the same command must then resume, and end with the same bits as an undisturbed run of as many
processes. Those that are only slow must end nothing.
"""

import ctypes
import fcntl
import functools
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import trial
from trial import SAVE_EVERY, STEPS, Process, trial_folder
from undisturbed import Outcome, Reference, check

from convmesh.distributed.launch import free_port
from convmesh.errors import HUNG, PEER_LOST
from convmesh.training.run import Run
from convmesh.workdir import saving

LOST_AFTER, HUNG_AFTER = 6, 5  # seconds, the flags
BOUNDS = ("--lost-after", str(LOST_AFTER), "--hung-after", str(HUNG_AFTER))
# What ends a process may take beyond the flag: an exchange, the confirmation of a verdict, its
# acknowledgements, and what 2 cores with several trials beside each other need for them.
LOST_BOUND = LOST_AFTER + 14.0
HUNG_BOUND = HUNG_AFTER + 35.0  # twice the longest step before, which may have waited for others
STEP_SECONDS = 0.05
FAULTS_PER_RUN = 3
SLOW_SECONDS = 60.0
CHANGES = {
    "train.batch_size": 12,  # divisible by 2 and 4 processes
    "eval.batch_size": 4,
    "eval.every_steps": 6,
    "mesh.data": -1,
}


@dataclass(frozen=True)
class Fault:
    """What happens to process `victim`: `kind` in step `step`, `delay` seconds later."""

    kind: str
    victim: int
    step: int
    delay: float
    phase: str = ""  # of a save
    marker: Path = Path()  # gets the time of the fault

    def install(self) -> None:
        """Patches the process, which is this one."""
        if self.kind == "asleep_in_save":
            self._in_save()
        elif self.kind == "asleep_in_evaluation":
            self._before(Run, "_before_evaluated_batch", lambda run: run.step >= self.step)
        else:
            self._before(Run, "take_step", lambda run: run.step + 1 >= self.step)

    def _before(self, owner: type, name: str, due: Callable) -> None:
        original, done = getattr(owner, name), []

        @functools.wraps(original)
        def method(run, *args):
            if due(run) and not done:
                done.append(True)
                self._happen()
            return original(run, *args)

        setattr(owner, name, method)

    def _in_save(self) -> None:
        count = 0

        def hook(reached: str) -> None:
            nonlocal count
            count += reached == self.phase
            if reached == self.phase and count == 3:  # two saves have been measured
                self._happen()

        saving.at_phase = hook

    def _happen(self) -> None:
        if self.kind.startswith("asleep"):
            time.sleep(self.delay)
            self._mark()
            time.sleep(10_000)
        elif self.kind in ("killed", "coordinator_killed", "stopped", "network_cut"):
            threading.Timer(self.delay, self._strike).start()
        else:
            raise AssertionError(self.kind)

    def _strike(self) -> None:
        self._mark()
        if self.kind == "network_cut":
            return  # the test takes the interface down
        os.kill(os.getpid(), signal.SIGSTOP if self.kind == "stopped" else signal.SIGKILL)

    def _mark(self) -> None:
        self.marker.write_text(str(time.monotonic()))


def inject(kind: str, reference: Reference, rng: random.Random, n: int, outcome: Outcome) -> None:
    """Injects `kind` n times, in turn among two and four processes."""
    while outcome.n < n:
        count = 2 if outcome.n % (2 * FAULTS_PER_RUN) < FAULTS_PER_RUN else 4
        with trial_folder(reference.folder / f"{kind}-{os.getpid()}-{outcome.n}") as folder:
            recipe = trial.tiny_recipe(reference.photos, folder, CHANGES)
            wanted = _undisturbed(reference, recipe, count)
            for round_ in range(min(FAULTS_PER_RUN, n - outcome.n)):
                if kind == "asleep_in_save" and _newest_step(folder) > STEPS - 3 * SAVE_EVERY:
                    break  # no third save is left, and the first two are not bounded yet
                outcome.n += 1
                outcome.count(f"among {count} processes")
                fault = _fault(kind, count, round_, rng, folder)
                _disturb(recipe, folder, count, fault, outcome)
            _finish(recipe, folder, count)
            found = _result(reference, folder / "run")
            check(found == wanted, f"{kind}, {count} processes: resumed to another result")
            outcome.count("runs finished and compared")


def _fault(kind: str, count: int, round_: int, rng: random.Random, folder: Path) -> Fault:
    victim = 0 if kind == "coordinator_killed" else rng.randrange(1, count)
    if kind.startswith("asleep"):
        victim = rng.randrange(count)
    phases = saving.PHASES if victim == 0 else saving.PHASES[:1]
    step = 4 + 5 * round_ + rng.randrange(4)
    if kind == "asleep_in_step":
        # Three steps after the one that was compiled have been measured: no fewer bound the next.
        step = _newest_step(folder) + 5 + rng.randrange(4)
    if kind == "asleep_in_evaluation":
        step = 6 * (round_ + 2)  # one evaluation before has been measured
    marker = folder / f"fault-{round_}"
    return Fault(kind, victim, step, rng.uniform(0, STEP_SECONDS), rng.choice(phases), marker)


def _newest_step(folder: Path) -> int:
    """The step that the next start begins with."""
    saved = (folder / "run" / "checkpoints").glob("[0-9]*")
    return max((int(path.name) for path in saved if path.name.isdigit()), default=0)


def _disturb(recipe: str, folder: Path, count: int, fault: Fault, outcome: Outcome) -> None:
    """Raises Failed unless all end in time, with the right status and the name of the victim."""
    cut = fault.kind == "network_cut"
    with Network(count) if cut else Loopback() as network:
        started = _start(recipe, folder, count, network, fault)
        about = f"{fault.kind} of process {fault.victim} of {count} in step {fault.step}"
        try:
            _check_ends(started, fault, network, about, outcome)
        finally:
            for process in started:
                process.kill()


def _check_ends(
    started: list[Process], fault: Fault, network, about: str, outcome: Outcome
) -> None:
    others = [process for i, process in enumerate(started) if i != fault.victim]
    while not fault.marker.exists():
        for process in started:
            check(not process.has_ended(), f"{about}: ended before: {_said(started)}")
        time.sleep(0.01)
    network.cut(fault.victim)
    asleep = fault.kind.startswith("asleep")
    bound = HUNG_BOUND if asleep else LOST_BOUND
    waited = started if asleep or fault.kind == "network_cut" else others
    at = float(fault.marker.read_text() or time.monotonic())
    try:
        statuses = [one.wait(at + bound - one.started) for one in waited]
    except AssertionError:
        check(False, f"{about}: not ended after {bound} s: {_said(started)}")
    outcome.most("most seconds to end", time.monotonic() - at)
    wanted = HUNG if asleep else PEER_LOST
    check(set(statuses) == {wanted}, f"{about}: statuses {statuses}: {_said(started)}")
    named = [f"process {fault.victim} " in one.output() for one in others]
    if fault.kind == "network_cut" and len(started) > 2:
        named = named[:1]  # process 0 judges the others, which name either it or the victim
    check(all(named), f"{about}: not named: {_said(started)}")
    if fault.kind == "stopped":
        os.kill(started[fault.victim].pid, signal.SIGCONT)
        victim, woken = started[fault.victim], time.monotonic()
        status = victim.wait(woken + LOST_BOUND - victim.started)
        check(status == PEER_LOST, f"{about}: woken, it ended with {status}: {victim.output()}")
        outcome.most("most seconds to end once continued", time.monotonic() - woken)


def _said(started: list[Process]) -> str:
    return "\n".join(f"process {i}: {one.output()[-3000:]}" for i, one in enumerate(started))


def _start(
    recipe: str,
    folder: Path,
    count: int,
    network,
    fault: Fault | None,
    bounds: Sequence[str] = BOUNDS,
) -> list[Process]:
    started = []
    for i in range(count):
        flags = ["train", "--config", recipe, "--workdir", str(folder / "run")]
        flags += ["--coordinator", network.coordinator, "--num-processes", str(count)]
        flags += ["--process-id", str(i), "--cpu-devices", "1"]
        flags += bounds
        own = fault if fault and fault.victim == i else None
        program = functools.partial(_participate, flags, own, network.enter, i)
        started.append(Process(folder / f"{i}.log", program))
    return started


def _participate(
    flags: list[str], fault: Fault | None, enter: Callable[[int], None], index: int
) -> int:
    enter(index)
    # Compiling is most of a start, and only the first process of a job fills the cache.
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    take_step = Run.take_step

    def slowly(run, *args):
        time.sleep(STEP_SECONDS)
        return take_step(run, *args)

    Run.take_step = slowly
    if fault:
        fault.install()
    status = trial.main(flags)
    # A forked process skips JAX's own handler at exit, which lets no process end before the others.
    jax.distributed.shutdown()
    return status


def _finish(recipe: str, folder: Path, count: int) -> None:
    started = _start(recipe, folder, count, Loopback(), None)
    try:
        statuses = [process.wait() for process in started]
    finally:
        for process in started:
            process.kill()
    check(set(statuses) == {0}, f"resumed with {statuses}: {_said(started)}")


def _undisturbed(reference: Reference, recipe: str, count: int):
    """The result of an undisturbed run of `count` processes, which is made once for all trials."""
    folder = reference.folder / f"undisturbed-{count}"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            _finish(recipe, folder, count)
            (folder / "done").touch()
    return _result(reference, folder / "run")


def _result(reference: Reference, workdir: Path):
    step, digest, _ = reference.restorer("newest", workdir)
    check(step == STEPS, f"ends at step {step}")
    return digest, trial.metrics(workdir)


def slow(reference: Reference, rng: random.Random, n: int, outcome: Outcome) -> None:
    """One process runs a third of the time, for a minute: nothing ends, the result is the same."""
    while outcome.n < n:
        outcome.n += 1
        count = 2 if outcome.n % 2 else 4
        outcome.count(f"among {count} processes")
        with trial_folder(reference.folder / f"slow-{os.getpid()}-{outcome.n}") as folder:
            recipe = trial.tiny_recipe(reference.photos, folder, CHANGES)
            wanted = _undisturbed(reference, recipe, count)
            # With the bounds that a user has who sets none.
            started = _start(recipe, folder, count, Loopback(), None, bounds=[])
            try:
                _slow_down(started[rng.randrange(count)], rng)
                statuses = [process.wait() for process in started]
            finally:
                for process in started:
                    process.kill()
            check(set(statuses) == {0}, f"slow: statuses {statuses}: {_said(started)}")
            check(_result(reference, folder / "run") == wanted, "slow: another result")


def _slow_down(victim: Process, rng: random.Random) -> None:
    """Lets the process run a third of the time, from its first second on."""
    until = time.monotonic() + SLOW_SECONDS
    while time.monotonic() < until and not victim.has_ended():
        run = rng.uniform(0.03, 0.3)
        os.kill(victim.pid, signal.SIGSTOP)
        time.sleep(2 * run)
        os.kill(victim.pid, signal.SIGCONT)
        time.sleep(run)


# Networks.


class Loopback:
    """All processes on this machine's loopback interface."""

    def __init__(self) -> None:
        self.coordinator = f"127.0.0.1:{free_port()}"

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        pass

    def enter(self, index: int) -> None:
        """Nothing to do."""

    def cut(self, index: int) -> None:
        """Nothing is cut."""


class Network:
    """A bridge with a namespace for each process; needs root and iproute2 (Linux)."""

    def __init__(self, count: int) -> None:
        self._names = [f"cm{os.getpid() % 100000}x{i}" for i in range(count)]
        self._bridge = f"cb{os.getpid() % 100000}"
        self._subnet = f"10.{77 + os.getpid() % 100}.{os.getpid() // 100 % 250}"
        self.coordinator = f"{self._subnet}.10:5777"

    def __enter__(self):
        _ip(f"link add {self._bridge} type bridge")
        _ip(f"link set {self._bridge} up")
        for i, name in enumerate(self._names):
            _ip(f"netns add {name}")
            _ip(f"link add {name} type veth peer name eth0 netns {name}")
            _ip(f"link set {name} master {self._bridge} up")
            _ip(f"-n {name} addr add {self._subnet}.{10 + i}/24 dev eth0")
            _ip(f"-n {name} link set eth0 up")
            _ip(f"-n {name} link set lo up")
        return self

    def __exit__(self, *error) -> None:
        for name in self._names:
            # First: a namespace that is deleted gives up its links later, and their names stay.
            _ip(f"link del {name}")
            _ip(f"netns del {name}")
        _ip(f"link del {self._bridge}")

    def enter(self, index: int) -> None:
        """Moves this process into its namespace."""
        with open(f"/run/netns/{self._names[index]}") as file:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(file.fileno(), 0):
                raise OSError(ctypes.get_errno(), "setns")

    def cut(self, index: int) -> None:
        """Takes a process from the network; its own interface stays up."""
        _ip(f"link set {self._names[index]} down")


def _ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True)


KINDS = (
    *("killed", "stopped", "asleep_in_step", "asleep_in_save", "asleep_in_evaluation"),
    *("coordinator_killed", "network_cut"),
)
