"""The faults: each is injected into tiny runs, and what must hold afterwards is checked.

A fault is a function (reference, rng, n, outcome): it injects itself n times, counts in `outcome`,
and raises Failed where something does not hold.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import hostile_inputs
import meshes
import nonfinite_gradients
import trial
from trial import STEPS, TrainingProcess, kill_in_phase, trial_folder
from undisturbed import Failed, Outcome, Reference, check

from convmesh.workdir.saving import PHASES

KILLS = 5  # times that a run is killed before it may finish


def kill(reference: Reference, rng: random.Random, n: int, outcome: Outcome) -> None:
    """SIGKILL, half of them while saving: checkpoints are complete, and the end is the same."""
    while outcome.n < n:
        with trial_folder(reference.folder / f"kill-{os.getpid()}-{outcome.n}") as folder:
            workdir, newest = folder / "run", 0
            for _ in range(min(KILLS, n - outcome.n)):
                phase = rng.choice(PHASES) if rng.random() < 0.5 else None
                hook = kill_in_phase(phase, rng.randint(1, 3)) if phase else None
                process = TrainingProcess(reference.recipe, workdir, hook)
                if not phase:
                    process.signal_after(rng.uniform(0, reference.seconds), signal.SIGKILL)
                status = process.wait()
                if status == 0:  # the run ended before the signal
                    break
                when = f"in {phase}" if phase else "at a random time"
                check(status == -signal.SIGKILL, f"status {status}: {process.output()}")
                outcome.n += 1
                outcome.count(when)
                step, messages = reference.check_newest(workdir)
                check(not messages, f"killed {when}: {messages}")
                check((step or 0) >= newest, f"went back from step {newest} to {step}")
                newest = step or 0
            reference.check_finish(workdir, outcome)


def sigterm(reference: Reference, rng: random.Random, n: int, outcome: Outcome) -> None:
    """A signal, half of them during the steps: status 75, and the last finished step is saved.

    A fifth are two SIGTERMs within a second, a fifth SIGHUP or SIGUSR1, the others one SIGTERM.
    """
    while outcome.n < n:
        with trial_folder(reference.folder / f"sigterm-{os.getpid()}-{outcome.n}") as folder:
            workdir = folder / "run"
            for _ in range(min(KILLS, n - outcome.n)):
                # Of each five one is of the first kind, one of the second.
                kind, number = outcome.n % 5, signal.SIGTERM
                if kind == 1:
                    number = rng.choice([signal.SIGHUP, signal.SIGUSR1])
                process = TrainingProcess(reference.recipe, workdir, _slow if kind == 0 else None)
                _signal_at_random(process, rng, reference.seconds, number)
                sent = time.monotonic()
                sent_in_all = _signal_again(process, rng) if kind == 0 else number.name
                status = process.wait()
                if status == 0:
                    break
                output = process.output()
                if status == -number and not output:
                    outcome.count("before the handlers were installed (not counted)")
                    continue
                outcome.n += 1
                outcome.count(sent_in_all)
                outcome.most("most seconds to end", time.monotonic() - sent)
                check(status == 75, f"{sent_in_all}: status {status}: {output}")
                check(f"stopped by {number.name}" in output, f"{sent_in_all}: {output}")
                outcome.count(_check_last_step(reference, workdir, output))
            reference.check_finish(workdir, outcome)


def _slow(phase: str) -> None:
    time.sleep(0.1)  # in the thread that saves, so that a second signal finds it at work


def _signal_at_random(
    process: TrainingProcess, rng: random.Random, seconds: float, number: int
) -> None:
    """Sends a signal at a random time of a run that takes `seconds`, or after a random step."""
    done = trial.steps_logged(process.workdir)
    if done == STEPS or rng.random() < 0.5:
        # Not before the handlers are installed: the fork has done all imports.
        return process.signal_after(rng.uniform(0.02, seconds), number)
    step = rng.randint(done, min(done + STEPS // 3, STEPS - 1))
    process.signal_when(lambda: trial.steps_logged(process.workdir) > step, number)


def _signal_again(process: TrainingProcess, rng: random.Random) -> str:
    """Sends SIGTERM a second time, up to 0.9 s after the first; returns what was sent in all."""
    sent, gap = time.monotonic(), rng.uniform(0, 0.9)
    while time.monotonic() - sent < gap and not process.has_ended():
        time.sleep(0.002)
    if process.has_ended() or time.monotonic() - sent > 0.97:  # too late to be a repetition
        return "SIGTERM without time for a second"
    os.kill(process.pid, signal.SIGTERM)
    return "SIGTERM twice"


def _check_last_step(reference: Reference, workdir: Path, output: str) -> str:
    """Raises Failed unless the last finished step is saved and named; returns when it was."""
    step, messages = reference.check_newest(workdir)
    check(not messages, str(messages))
    last = trial.steps_logged(workdir)
    check((step or 0) == last, f"step {step} is saved, {last} were done: {output}")
    if "before the run had started" in output:
        return "before the run had started"
    message = f"at step {step}, saved" if step else "before the first step"
    check(message in output, f"step {step}: {output}")
    return "during the steps" if last else "before the first step"


def damage(reference: Reference, rng: random.Random, n: int, outcome: Outcome) -> None:
    """A damaged file in the newest checkpoint: found and named, and an older one is used."""
    source = reference.folder / "undisturbed" / "checkpoints"
    newest, older = STEPS, STEPS - trial.SAVE_EVERY
    while outcome.n < n:
        with trial_folder(reference.folder / f"damage-{os.getpid()}-{outcome.n}") as folder:
            shutil.copytree(source, folder / "checkpoints")
            way, path = _damage_a_file(folder / "checkpoints" / str(newest), rng)
            outcome.n += 1
            outcome.count(way)
            step, digest, messages = reference.restorer("newest", folder, False)
            where = f"{way} in {path.relative_to(folder)}"
            check(step == older, f"{where}: step {step} is used")
            check(digest == reference.states[older], f"{where}: other bits")
            aside = folder / "checkpoints" / f"{newest}.damaged"
            moved = aside.is_dir() and not aside.with_name(str(newest)).exists()
            check(moved, f"{where}: not renamed")
            named = len(messages) == 1 and f"step {newest} is damaged" in messages[0]
            check(named, f"{where}: messages {messages}")


def _damage_a_file(checkpoint: Path, rng: random.Random) -> tuple[str, Path]:
    """Damages one file of a checkpoint; returns how, and which."""
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file()]
    # Half by file, half by size: most bytes belong to arrays, most files do not.
    sizes = [path.stat().st_size + 1 for path in files]
    path = rng.choice(files) if rng.random() < 0.5 else rng.choices(files, sizes)[0]
    data = bytearray(path.read_bytes())
    way = rng.choice(["bit", "byte", "cut", "remove"] if data else ["remove"])
    if way == "remove":
        path.unlink()
    elif way == "cut":
        path.write_bytes(data[: rng.randrange(len(data))])
    else:
        position = rng.randrange(len(data))
        data[position] ^= 1 << rng.randrange(8) if way == "bit" else rng.randint(1, 255)
        path.write_bytes(data)
    return way, path


def disk_full(reference: Reference, rng: random.Random, n: int, outcome: Outcome) -> None:
    """A full disk: reported, older steps are complete, and the run goes on once there is space.

    Needs the right to mount a file system in memory (root, or `unshare -rm`).
    """
    while outcome.n < n:
        with trial_folder(reference.folder / f"full-{os.getpid()}-{outcome.n}") as folder:
            disk = folder / "disk"
            disk.mkdir()
            size = f"size={rng.randint(40, 1400)}k"
            subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", disk], check=True)
            try:
                _fill(reference, disk, size, outcome)
            finally:
                subprocess.run(["umount", disk], check=True)


def _fill(reference: Reference, disk: Path, size: str, outcome: Outcome) -> None:
    """Trains on a disk that is too small, then lets it grow; nothing if it was large enough."""
    workdir = disk / "run"
    process = TrainingProcess(reference.recipe, workdir)
    status, output = process.wait(), process.output()
    if status == 0:
        return
    outcome.n += 1
    errors = [line for line in output.splitlines() if "convmesh: error: " in line]
    check(status == 1, f"{size}: status {status}: {output}")
    check(len(errors) == 1 and "No space left on device" in errors[0], f"{size}: {output}")
    newest, messages = reference.check_newest(workdir)
    check(not messages, f"{size}: {messages}")
    outcome.count("with a checkpoint" if newest else "before the first checkpoint")
    status = TrainingProcess(reference.recipe, workdir).wait()  # still no space
    check(status == 1, f"{size}: status {status} again")
    step, _ = reference.check_newest(workdir)
    check((step or 0) >= (newest or 0), f"{size}: lost step {newest}")
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    reference.check_finish(workdir, outcome)


def no_room(reference: Reference, rng: random.Random, n: int, outcome: Outcome) -> None:
    """A limit on the size of files, as with a quota; unlike a full disk it needs no rights."""
    while outcome.n < n:
        with trial_folder(reference.folder / f"room-{os.getpid()}-{outcome.n}") as folder:
            workdir, size = folder / "run", int(10 ** rng.uniform(2, 5))
            process = TrainingProcess(reference.recipe, workdir, largest_file=size)
            status, output = process.wait(), process.output()
            if status == 0:
                continue
            outcome.n += 1
            check(status == 1, f"{size} bytes: status {status}: {output}")
            # The log of the output has the same limit, and may have ended before the message.
            check("File too large" in output or len(output) >= size, f"{size} bytes: {output}")
            step, messages = reference.check_newest(workdir)
            check(not messages, f"{size} bytes: {messages}")
            outcome.count("with a checkpoint" if step else "before the first checkpoint")
            reference.check_finish(workdir, outcome)


def second_run(reference: Reference, rng: random.Random, n: int, outcome: Outcome) -> None:
    """A second run in the directory: refused within 5 seconds, and the first is undisturbed."""

    def slow(phase: str) -> None:
        time.sleep(0.6)  # in the thread that saves, so that the run takes longer

    while outcome.n < n:
        with trial_folder(reference.folder / f"second-{os.getpid()}-{outcome.n}") as folder:
            workdir = folder / "run"
            first = TrainingProcess(reference.recipe, workdir, slow)
            while not (workdir / ".lock").exists() or not (workdir / ".lock").read_text():
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 1))
            command = [sys.executable, "-m", "convmesh", "train", "--config", reference.recipe]
            command += ["--workdir", str(workdir), "--cpu-devices", "2"]
            while outcome.n < n:
                started = time.monotonic()
                second = subprocess.run(command, capture_output=True, text=True)
                seconds = time.monotonic() - started
                if first.has_ended():
                    break
                outcome.n += 1
                outcome.most("most seconds to be refused", seconds)
                check(second.returncode == 2, f"status {second.returncode}: {second.stderr}")
                named = f"process {first.pid} on" in second.stderr
                check(named, f"not named: {second.stderr}")
                check(seconds < 5, f"took {seconds:.1f} s")
            check(first.wait() == 0, f"the first: {first.output()}")
            reference.check_finish(workdir, outcome)


def mesh(reference: Reference, rng: random.Random, n: int, outcome: Outcome) -> None:
    """Another mesh at resume, every pair once: the same bits restored, the same example log.

    `n`: the number of meshes.
    """
    names = list(meshes.MESHES)[:n]
    recipes = {name: meshes.recipe(name, reference.photos, reference.folder) for name in names}
    half, complete, begun = STEPS // 2, {}, {}
    for name in names:
        complete[name] = reference.folder / f"mesh {name} complete"
        begun[name] = reference.folder / f"mesh {name} begun"
        count = meshes.devices(name)
        check(TrainingProcess(recipes[name], complete[name], devices=count).wait() == 0, name)
        # Killed as soon as the checkpoint of its middle is committed.
        hook = kill_in_phase("committed", half // trial.SAVE_EVERY)
        process = TrainingProcess(recipes[name], begun[name], hook, devices=count)
        check(process.wait() == -signal.SIGKILL, process.output())
    order = trial.example_log(complete[names[0]])
    check_positions(order)
    for first in names:
        step, digest, _ = reference.restorer("newest", begun[first])
        check(step == half, f"{first}: step {step}")
        for second in names:
            outcome.n += 1
            count, recipe = meshes.devices(second), recipes[second]
            restored = trial.in_another_process(meshes.restored, recipe, str(begun[first]), count)
            workdir = reference.folder / f"mesh {first} to {second}"
            trial.copy_run(begun[first], workdir)
            process = TrainingProcess(recipe, workdir, devices=count)
            status = process.wait()
            with collected(outcome, f"{first} to {second}"):
                check(restored == digest, "other bits restored")
                check(status == 0, process.output())
                check(trial.example_log(workdir) == order, "another example log")
                difference = trial.in_another_process(
                    meshes.difference, recipe, str(workdir), str(complete[second]), count
                )
                outcome.most("most relative difference of a parameter at the end", difference)
                check(first != second or difference == 0, "other bits than without the stop")
            shutil.rmtree(workdir)


def processes(reference: Reference, rng: random.Random, n: int, outcome: Outcome) -> None:
    """From 1, 2 or 4 processes to 1, 2 or 4, as with meshes. `n`: how many of these counts."""
    recipe = meshes.recipe("data 4", reference.photos, reference.folder)
    counts, order = (1, 2, 4)[:n], None
    for first in counts:
        begun = reference.folder / f"processes {first}"
        _train_in(first, recipe, begun, [f"--config.train.steps={STEPS // 2}"])
        _, digest, _ = reference.restorer("newest", begun)
        for second in counts:
            outcome.n += 1
            restored = trial.in_another_process(meshes.restored, recipe, str(begun), 4)
            workdir = reference.folder / f"processes {first} to {second}"
            trial.copy_run(begun, workdir)
            with collected(outcome, f"{first} to {second}"):
                _train_in(second, recipe, workdir)
                check(restored == digest, "other bits restored")
                rows = trial.example_log(workdir)
                order = order or rows
                check(rows == order, "another example log")
                check_positions(rows)


def check_positions(rows: list[dict]) -> None:
    """Raises Failed unless the example log has every position of a run once."""
    positions = [row["position"] for row in rows]
    expected = list(range(STEPS * meshes.BATCH["train.batch_size"]))
    check(positions == expected, "rows are missing")


@contextlib.contextmanager
def collected(outcome: Outcome, what: str):
    """Records what does not hold, and goes on."""
    try:
        yield
    except Failed as error:
        outcome.failures.append(f"{what}: {error}")


def _train_in(count: int, recipe: str, workdir: Path, overrides=()) -> None:
    """Trains in `count` processes with four devices in all."""
    flags = ["train", "--config", recipe, "--workdir", workdir, "--cpu-devices", 4 // count]
    flags += ["--example-log", trial.log_path(workdir), *overrides]
    if count > 1:
        flags += ["--num-processes", count]
    command = trial.another_program(list(map(str, flags)))
    done = subprocess.run(command, capture_output=True, text=True)
    check(done.returncode == 0, f"{count} processes: {done.stderr[-2000:]}")


def nonfinite(reference: Reference, rng: random.Random, n: int, outcome: Outcome) -> None:
    """A non-finite gradient on one device: equal to leaving that update out."""
    seed = rng.randrange(2**31)
    outcome.failures += trial.in_another_process(nonfinite_gradients.inject, n, seed)
    outcome.n += n


def hostile(reference: Reference, rng: random.Random, n: int, outcome: Outcome) -> None:
    """Damaged or hostile images, labels and boxes: by policy, counted exactly, memory bounded."""
    folder = reference.folder / f"hostile-{os.getpid()}"
    found = trial.in_another_process(hostile_inputs.feed, str(folder), n, rng.randrange(2**31))
    outcome.n += found["n"]
    outcome.failures += found["failures"]
    outcome.note(found["notes"])
