"""Injects faults into tiny runs, each n times, and checks what must hold after each.

    python tests/faults/campaign.py kill=1000 damage=1000 sigterm=200 --seed 0 --table faults.md

One line of the table is one fault: how often it was injected, how often something did not hold,
and the chance of that below which the truth lies with 95% confidence (Clopper and Pearson, one
sided: 1 - 0.05^(1/n) where nothing failed). Without a fault named, all of them, a few times each.
Every random choice follows from the seed, except for how far a process has come when a signal
meets it.
"""

import argparse
import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import meshes
import nasty
import poison
import runs
import trial
from trial import STEPS, Judge, Life, die_in, removed_after

from convmesh.checkpoint import PHASES

LIVES = 5  # times that a run is killed before it is left to finish
_FORK = multiprocessing.get_context("fork")


@dataclass
class Outcome:
    """What came of a fault."""

    n: int = 0
    failures: list[str] = field(default_factory=list)
    notes: dict[str, float] = field(default_factory=dict)

    def count(self, name: str, by: float = 1) -> None:
        """Counts something that is told beside the result."""
        self.notes[name] = self.notes.get(name, 0) + by

    def most(self, name: str, value: float) -> None:
        """Keeps the largest value."""
        self.notes[name] = max(self.notes.get(name, value), value)

    def add(self, other: "Outcome") -> None:
        """Takes in what another process found."""
        self.n += other.n
        self.failures += other.failures
        for name, value in other.notes.items():
            self.most(name, value) if name.startswith("most ") else self.count(name, value)


@dataclass
class Ground:
    """The undisturbed run that all others are compared with, and who compares."""

    folder: Path
    photos: Path
    recipe: str
    states: dict[int, str]  # digest by step
    numbers: list[dict]
    ledger: list[dict]
    seconds: float
    ask: object = None  # a Judge in another process

    def whole(self, workdir: Path) -> tuple[int | None, list[str]]:
        """The newest whole checkpoint, which must be what the undisturbed run was at that step."""
        step, digest, told = self.ask("newest", workdir)
        check(step is None or digest == self.states[step], f"step {step}: other bits")
        return step, told

    def finish(self, workdir: Path, outcome: Outcome) -> None:
        """Lets the run finish; it must be the undisturbed one in every number."""
        life = Life(self.recipe, workdir)
        status = life.wait()
        check(status == 0, f"status {status} at the end: {life.told()}")
        step, _ = self.whole(workdir)
        check(step == STEPS, f"ends at step {step}")
        check(trial.numbers(workdir) == self.numbers, "other metrics")
        check(trial.ledger(workdir) == self.ledger, "another ledger")
        outcome.count("runs finished and compared")


class Failed(Exception):
    """Something did not hold."""


def check(holds: bool, what: str) -> None:
    """Raises Failed unless something holds."""
    if not holds:
        raise Failed(what)


def make_ground(folder: Path) -> Ground:
    """Trains the undisturbed run, with a checkpoint of every step."""
    photos = runs.make_photos(folder / "photos")
    recipe = trial.tiny_recipe(photos, folder)
    every = trial.tiny_recipe(
        photos, folder, {"checkpoint.every_steps": 1, "checkpoint.keep": STEPS}
    )
    for name, given in (("every", every), ("undisturbed", recipe), ("again", recipe)):
        life = Life(given, folder / name)
        if life.wait() != 0:
            raise SystemExit(f"the undisturbed run failed: {life.told()}")
    ground = Ground(
        folder=folder,
        photos=photos,
        recipe=recipe,
        states={},
        numbers=trial.numbers(folder / "undisturbed"),
        ledger=trial.ledger(folder / "undisturbed"),
        seconds=life.seconds,
    )
    states = trial.in_another_process(_states, recipe, folder / "every")
    ground.states = {int(step): digest for step, digest in states.items()}
    for name in ("every", "again"):
        check(trial.numbers(folder / name) == ground.numbers, "two undisturbed runs differ")
    return ground


def _states(recipe, workdir):
    return Judge(recipe).every(workdir)


def _judge(recipe, pipe) -> None:
    judge = Judge(recipe)
    while True:
        name, *arguments = pipe.recv()
        try:
            pipe.send((getattr(judge, name)(*arguments), None))
        except BaseException as error:
            pipe.send((None, f"{type(error).__name__}: {error}"))


def open_judge(recipe: str):
    """A function that asks a Judge in a process of its own."""
    ours, theirs = _FORK.Pipe()
    _FORK.Process(target=_judge, args=(recipe, theirs), daemon=True).start()

    def ask(*question):
        ours.send(question)
        answer, error = ours.recv()
        check(error is None, f"the newest checkpoint does not restore: {error}")
        return answer

    return ask


# --- the faults -----------------------------------------------------------------------------------


def kill(ground: Ground, rng: random.Random, n: int, outcome: Outcome) -> None:
    """SIGKILL, half of them inside saving: whole checkpoints, and the end is the same."""
    while outcome.n < n:
        with removed_after(ground.folder / f"kill-{os.getpid()}-{outcome.n}") as folder:
            workdir, newest = folder / "run", 0
            for _ in range(min(LIVES, n - outcome.n)):
                inside = rng.random() < 0.5
                phase = rng.choice(PHASES)
                life = Life(
                    ground.recipe, workdir, die_in(phase, rng.randint(1, 3)) if inside else None
                )
                if not inside:
                    life.signal_after(rng.uniform(0, ground.seconds), signal.SIGKILL)
                status = life.wait()
                if status == 0:  # it was quicker
                    break
                check(status == -signal.SIGKILL, f"status {status}: {life.told()}")
                outcome.n += 1
                outcome.count(f"in {phase}" if inside else "at a random time")
                step, told = ground.whole(workdir)
                check(not told, f"killed {phase if inside else 'at a random time'}: {told}")
                check((step or 0) >= newest, f"went back from step {newest} to {step}")
                newest = step or 0
            ground.finish(workdir, outcome)


def sigterm(ground: Ground, rng: random.Random, n: int, outcome: Outcome) -> None:
    """SIGTERM at a random time: status 75, and what is saved is the last finished step."""
    while outcome.n < n:
        with removed_after(ground.folder / f"sigterm-{os.getpid()}-{outcome.n}") as folder:
            workdir = folder / "run"
            for _ in range(min(LIVES, n - outcome.n)):
                life = Life(ground.recipe, workdir)
                # Not before Python has begun to listen: what is forked here has done all imports.
                life.signal_after(rng.uniform(0.02, ground.seconds), signal.SIGTERM)
                sent = time.monotonic()
                status = life.wait()
                if status == 0:
                    break
                if status == -signal.SIGTERM and not life.told():
                    outcome.count("before it listened (not counted)")
                    continue
                outcome.n += 1
                outcome.most("most seconds to end", time.monotonic() - sent)
                check(status == 75, f"status {status}: {life.told()}")
                step, told = ground.whole(workdir)
                check(not told, str(told))
                path = trial.ledger_of(workdir)
                last = (
                    max((row["step"] for row in trial.ledger(workdir)), default=0)
                    if path.exists()
                    else 0
                )
                check((step or 0) == last, f"step {step} is saved, {last} were done: {life.told()}")
                words = f"at step {step}, saved" if step else "before the first step"
                begun = "before it had begun" not in life.told()
                check(not begun or words in life.told(), f"step {step}: {life.told()}")
                outcome.count("while steps were done" if last else "before the first step")
            ground.finish(workdir, outcome)


def damage(ground: Ground, rng: random.Random, n: int, outcome: Outcome) -> None:
    """A bit, a byte, a cut, a file gone, in the newest checkpoint: found, and an older one used."""
    source = ground.folder / "undisturbed" / "checkpoints"
    for _ in range(n):
        with removed_after(ground.folder / f"damage-{os.getpid()}-{outcome.n}") as folder:
            shutil.copytree(source, folder / "checkpoints")
            newest, older = STEPS, STEPS - trial.SAVE_EVERY
            files = [
                p for p in sorted((folder / "checkpoints" / str(newest)).rglob("*")) if p.is_file()
            ]
            # Half by file, half by size: most bytes are arrays, most files are not.
            sizes = [path.stat().st_size + 1 for path in files]
            path = rng.choice(files) if rng.random() < 0.5 else rng.choices(files, sizes)[0]
            data = bytearray(path.read_bytes())
            ways = ["remove"] if not data else ["bit", "byte", "cut", "remove"]
            way = rng.choice(ways)
            if way == "remove":
                path.unlink()
            elif way == "cut":
                path.write_bytes(data[: rng.randrange(len(data))])
            else:
                at = rng.randrange(len(data))
                data[at] ^= 1 << rng.randrange(8) if way == "bit" else rng.randint(1, 255)
                path.write_bytes(data)
            outcome.n += 1
            outcome.count(way)
            step, digest, told = ground.ask("newest", folder, False)
            where = f"{way} in {path.relative_to(folder)}"
            check(step == older, f"{where}: step {step} is used")
            check(digest == ground.states[older], f"{where}: other bits")
            aside = folder / "checkpoints" / f"{newest}.damaged"
            check(
                aside.is_dir() and not aside.with_name(str(newest)).exists(), f"{where}: not aside"
            )
            check(
                len(told) == 1 and f"step {newest} is damaged" in told[0], f"{where}: told {told}"
            )


def disk_full(ground: Ground, rng: random.Random, n: int, outcome: Outcome) -> None:
    """A disk that is full at some point: told, older steps whole, on it goes when there is room.

    Needs the right to mount a file system in memory (root, or `unshare -rm`).
    """
    while outcome.n < n:
        with removed_after(ground.folder / f"full-{os.getpid()}-{outcome.n}") as folder:
            workdir = folder / "disk"
            workdir.mkdir()
            size = f"size={rng.randint(40, 1400)}k"
            subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", workdir], check=True)
            try:
                run = workdir / "run"
                newest = 0
                life = Life(ground.recipe, run)
                status = life.wait()
                if status == 0:
                    continue
                outcome.n += 1
                lines = [line for line in life.told().splitlines() if "convmesh: error: " in line]
                check(status == 1, f"{size}: status {status}: {life.told()}")
                named = len(lines) == 1 and "No space left on device" in lines[0]
                check(named, f"{size}: {life.told()}")
                step, told = ground.whole(run)
                check(not told, f"{size}: {told}")
                outcome.count("with a checkpoint" if step else "before the first checkpoint")
                status = Life(ground.recipe, run).wait()  # still no room
                check(status == 1, f"{size}: status {status} again")
                newest, step = step or 0, ground.whole(run)[0]
                check((step or 0) >= newest, f"{size}: lost step {newest}")
                remount = ["mount", "-o", "remount,size=64m", workdir]
                subprocess.run(remount, check=True)
                ground.finish(run, outcome)
            finally:
                subprocess.run(["umount", workdir], check=True)


def no_room(ground: Ground, rng: random.Random, n: int, outcome: Outcome) -> None:
    """The system takes no more of a file, as at a quota; unlike a full disk it needs no rights."""
    while outcome.n < n:
        with removed_after(ground.folder / f"room-{os.getpid()}-{outcome.n}") as folder:
            workdir, size = folder / "run", int(10 ** rng.uniform(2, 5))
            life = Life(ground.recipe, workdir, largest_file=size)
            status = life.wait()
            if status == 0:
                continue
            outcome.n += 1
            # Of a log that takes no more nothing can be asked.
            told = life.told()
            check(status == 1, f"{size} bytes: status {status}: {told}")
            check("File too large" in told or len(told) >= size, f"{size} bytes: {told}")
            step, damaged = ground.whole(workdir)
            check(not damaged, f"{size} bytes: {damaged}")
            outcome.count("with a checkpoint" if step else "before the first checkpoint")
            ground.finish(workdir, outcome)


def second_run(ground: Ground, rng: random.Random, n: int, outcome: Outcome) -> None:
    """A second run in the directory: refused within 5 seconds, the first one undisturbed."""
    while outcome.n < n:
        with removed_after(ground.folder / f"second-{os.getpid()}-{outcome.n}") as folder:
            workdir, first = folder / "run", None

            def slow(phase: str) -> None:
                time.sleep(0.6)  # in the thread that saves: the run lasts as long

            first = Life(ground.recipe, workdir, slow)
            while not (workdir / ".lock").exists() or not (workdir / ".lock").read_text():
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 1))
            command = [sys.executable, "-m", "convmesh", "train", "--config", ground.recipe]
            command += ["--workdir", str(workdir), "--cpu-devices", "2"]
            alive = True
            while alive and outcome.n < n:
                began = time.monotonic()
                done = subprocess.run(command, capture_output=True, text=True)
                seconds = time.monotonic() - began
                alive = not os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if not alive:
                    break
                outcome.n += 1
                outcome.most("most seconds to be refused", seconds)
                check(done.returncode == 2, f"status {done.returncode}: {done.stderr}")
                check(f"process {first.pid} on" in done.stderr, f"not named: {done.stderr}")
                check(seconds < 5, f"took {seconds:.1f} s")
            check(first.wait() == 0, f"the first: {first.told()}")
            ground.finish(workdir, outcome)


def mesh(ground: Ground, rng: random.Random, n: int, outcome: Outcome) -> None:
    """A change of mesh at resume, every pair once: same bits restored, the same ledger.

    `n`: how many of the meshes.
    """
    names = list(meshes.MESHES)[:n]
    recipes = {name: meshes.recipe(name, ground.photos, ground.folder) for name in names}
    half, places = STEPS // 2, {}
    for name in names:
        whole = ground.folder / f"mesh {name} whole"
        begun = ground.folder / f"mesh {name} begun"
        count = meshes.devices(name)
        check(Life(recipes[name], whole, devices=count).wait() == 0, name)
        # Killed as soon as its middle is committed.
        hook = die_in("committed", half // trial.SAVE_EVERY)
        life = Life(recipes[name], begun, hook, devices=count)
        check(life.wait() == -signal.SIGKILL, life.told())
        places[name] = whole, begun
    order = trial.ledger(places[names[0]][0])
    check([row["position"] for row in order] == list(range(STEPS * 20)), "rows are missing")
    for first in names:
        begun = places[first][1]
        step, digest, _ = ground.ask("newest", begun)
        check(step == half, f"{first}: step {step}")
        for second in names:
            outcome.n += 1
            count, whole = meshes.devices(second), places[second][0]
            there = trial.in_another_process(meshes.restored, recipes[second], str(begun), count)
            workdir = ground.folder / f"mesh {first} to {second}"
            shutil.copytree(begun, workdir)
            shutil.copy(trial.ledger_of(begun), trial.ledger_of(workdir))
            life = Life(recipes[second], workdir, devices=count)
            status = life.wait()
            with collected(outcome, f"{first} to {second}"):
                check(there == digest, "other bits restored")
                check(status == 0, life.told())
                check(trial.ledger(workdir) == order, "another ledger")
                off = trial.in_another_process(
                    meshes.difference, recipes[second], str(workdir), str(whole), count
                )
                outcome.most("most relative difference of a parameter at the end", off)
                check(first != second or off == 0, "not the bits of the run that never stopped")
            shutil.rmtree(workdir)


def processes(ground: Ground, rng: random.Random, n: int, outcome: Outcome) -> None:
    """A change from 1, 2 or 4 processes to 1, 2 or 4, as with meshes. `n`: how many of them."""
    recipe = meshes.recipe("data 4", ground.photos, ground.folder)
    counts, order = (1, 2, 4)[:n], None
    for first in counts:
        begun = ground.folder / f"processes {first}"
        _train_in(first, recipe, begun, [f"--config.train.steps={STEPS // 2}"])
        _, digest, _ = ground.ask("newest", begun)
        for second in counts:
            outcome.n += 1
            there = trial.in_another_process(meshes.restored, recipe, str(begun), 4)
            workdir = ground.folder / f"processes {first} to {second}"
            shutil.copytree(begun, workdir)
            shutil.copy(trial.ledger_of(begun), trial.ledger_of(workdir))
            with collected(outcome, f"{first} to {second}"):
                _train_in(second, recipe, workdir)
                check(there == digest, "other bits restored")
                found = trial.ledger(workdir)
                order = order or found
                check(found == order, "another ledger")
                check([r["position"] for r in found] == list(range(STEPS * 20)), "rows are missing")


@contextlib.contextmanager
def collected(outcome: Outcome, what: str):
    """Notes what does not hold, and lets the others go on."""
    try:
        yield
    except Failed as error:
        outcome.failures.append(f"{what}: {error}")


def _train_in(count: int, recipe: str, workdir: Path, more=()) -> None:
    command = [sys.executable, "-m", "convmesh", "train", "--config", recipe, "--workdir", workdir]
    command += ["--cpu-devices", str(4 // count), "--debug-ledger", trial.ledger_of(workdir), *more]
    if count > 1:
        command += ["--num-processes", str(count)]
    # The tiny net is known to this process alone.
    start = (
        f"import sys; sys.path[:0] = {sys.path[:2]!r}; import trial; trial.know_the_tiny_net()\n"
    )
    command = [str(word) for word in command]
    command[1:3] = ["-c", f"{start}from convmesh.cli import main; sys.exit(main(sys.argv[1:]))"]
    done = subprocess.run(command, capture_output=True, text=True)
    check(done.returncode == 0, f"{count} processes: {done.stderr[-2000:]}")


def nonfinite(ground: Ground, rng: random.Random, n: int, outcome: Outcome) -> None:
    """A gradient that is not finite on one device: as if that update had never been."""
    failures = trial.in_another_process(poison.poisoned, n, rng.randrange(2**31))
    outcome.n += n
    outcome.failures += failures


def hostile(ground: Ground, rng: random.Random, n: int, outcome: Outcome) -> None:
    """Damaged or hostile images, labels and boxes: by policy, counted exactly, memory bounded."""
    folder = ground.folder / f"hostile-{os.getpid()}"
    found = trial.in_another_process(nasty.feed, str(folder), n, rng.randrange(2**31))
    outcome.n += found["n"]
    outcome.failures += found["failures"]
    for name, value in found["notes"].items():
        outcome.most(name, value) if name.startswith("most ") else outcome.count(name, value)


FAULTS = {
    f.__name__: f
    for f in (
        kill,
        damage,
        sigterm,
        disk_full,
        no_room,
        second_run,
        mesh,
        processes,
        nonfinite,
        hostile,
    )
}
SHORT = {  # how often where no number is given
    "kill": 6,
    "damage": 40,
    "sigterm": 4,
    "disk_full": 2,
    "no_room": 2,
    "second_run": 2,
    "mesh": 2,
    "processes": 1,
    "nonfinite": 4,
    "hostile": 60,
}


# --- the table ------------------------------------------------------------------------------------


def bound(n: int, failures: int) -> float:
    """Upper 95% confidence bound of the chance of a failure (Clopper and Pearson, one sided)."""
    if failures == 0:
        return 1 - 0.05 ** (1 / n)
    from scipy.stats import beta

    return float(beta.ppf(0.95, failures + 1, n - failures)) if failures < n else 1.0


def inject(name: str, ground: Ground, seed: str, n: int) -> Outcome:
    """Injects a fault n times; what fails is told and the rest goes on."""
    outcome, rng = Outcome(), random.Random(seed)
    ground.ask = open_judge(ground.recipe)
    while outcome.n < n:
        before = outcome.n
        try:
            FAULTS[name](ground, rng, n, outcome) if name != "damage" else damage(
                ground, rng, n - outcome.n, outcome
            )
        except (Failed, AssertionError) as error:
            outcome.failures.append(str(error))
            outcome.n = max(outcome.n, before + 1)
        if name in ("mesh", "processes"):
            break
    return outcome


def _inject_into(pipe, *arguments) -> None:
    pipe.send(inject(*arguments))


def campaign(wanted: dict[str, int], seed: int, jobs: int, folder: Path, say=print) -> dict:
    """The outcome of each fault in `wanted` (how often, by name), over `jobs` processes."""
    ground = make_ground(folder)
    say(f"an undisturbed run takes {ground.seconds:.1f} s")
    outcomes = {}
    for name, n in wanted.items():
        began = time.monotonic()
        parts = 1 if name in ("mesh", "processes") else min(jobs, n)
        pipes = []
        for part in range(parts):
            ours, theirs = _FORK.Pipe()
            share = n // parts + (part < n % parts)
            args = (theirs, name, ground, f"{seed}/{name}/{part}", share)
            process = _FORK.Process(target=_inject_into, args=args)
            process.start()
            pipes.append((process, ours))
        total = Outcome()
        for process, ours in pipes:
            while not ours.poll(1):
                if not process.is_alive():
                    raise SystemExit(f"{name}: the process that injects has ended")
            total.add(ours.recv())
            process.join()
        outcomes[name] = total
        say(line(name, total, time.monotonic() - began))
        for failure in total.failures:
            say(f"  FAILED: {failure}")
    return outcomes


def line(name: str, outcome: Outcome, seconds: float) -> str:
    """A row of the table."""
    notes = ", ".join(f"{value:.3g} {name}" for name, value in sorted(outcome.notes.items()))
    failed = len(outcome.failures)
    upper = bound(max(1, outcome.n), failed)
    return f"| {name} | {outcome.n} | {failed} | {upper:.2%} | {seconds:.0f} s | {notes} |"


def main() -> int:
    """Runs the campaign of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("faults", nargs="*", metavar="FAULT=N", help=", ".join(FAULTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--table", help="write the table there, too")
    args = parser.parse_args()
    wanted = {name: int(n or SHORT[name]) for name, _, n in (f.partition("=") for f in args.faults)}
    rows = ["| fault | n | failures | 95% bound | took | |", "|---|---|---|---|---|---|"]
    print("\n".join(rows))

    def say(text: str) -> None:
        print(text, flush=True)
        rows.append(text)
        if args.table:
            Path(args.table).write_text(
                "\n".join(row for row in rows if row.startswith("|")) + "\n"
            )

    folder = Path(tempfile.mkdtemp(prefix="convmesh-faults-"))
    os.environ["CONVMESH_CACHE"] = str(folder / "cache")
    outcomes = campaign(wanted or SHORT, args.seed, args.jobs, folder, say)
    if any(outcome.failures for outcome in outcomes.values()):
        print(f"what failed is kept in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
