"""Processes that are to train as one, of which one differs in a config key, its data, program, ...

All must be refused before anything is written, with a message that names what differs and where.
"""

import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import trial
from trial import Process, trial_folder
from undisturbed import Failed, Outcome, Reference, check

import convmesh
from convmesh.distributed.launch import free_port

SECONDS = 60.0  # after the last start, within which all must have ended
BATCH = 12  # divisible by 2, 3 and 4 processes
# Keys, and another value than that of the recipe.
KEYS = {
    "train.seed": "1",
    "train.batch_size": "24",
    "train.steps": "25",
    "train.accumulate": "3",
    "train.patience": "2",
    "train.log_every_steps": "5",
    "train.max_nonfinite_steps": "3",
    "eval.every_steps": "6",
    "eval.batch_size": "24",
    "checkpoint.every_steps": "4",
    "checkpoint.keep": "3",
    "optimizer.name": "sgd",
    "optimizer.learning_rate": "0.002",
    "optimizer.weight_decay": "0.04",
    "optimizer.clip_norm": "1.0",
    "schedule.warmup_steps": "2",
    "ema.decay": "0.9",
    "data.image_size": "16,32",
    "data.first": "12",
    "data.on_bad_example": "skip",
    "data.augment.flip": "0.4",
    "data.augment.color": "0.0",
    "data.augment.crop": "0.5,1.0",
    "model.name": "small_cnn",
    "model.norm_group": "4",
    "model.remat": "true",
    "mesh.fsdp": "true",
    "precision": "bfloat16",
}


@dataclass
class Odd:
    """How the odd one of the processes is started, and what all must say about it."""

    what: str
    named: list[str]  # what the messages must contain
    statuses: tuple[int, ...] = (2,)
    flags: list[str] = field(default_factory=list)
    devices: int = 1
    workdir: Path | None = None  # one of its own
    env: dict[str, str] | None = None  # of a new interpreter; None: a fork will do


def key(folder: Path, photos: Path, rng: random.Random) -> Odd:
    """Another value of a key."""
    name, value = rng.choice(list(KEYS.items()))
    return Odd(f"{name}={value}", [f"{name}: "], flags=[f"--config.{name}={value}"])


def image(folder: Path, photos: Path, rng: random.Random) -> Odd:
    """A file of one split that is missing, added, renamed, in another class, or another one."""
    root = Path(shutil.copytree(photos, folder / "photos"))
    split = rng.choice(["train", "val"])
    path = rng.choice(sorted((root / split).rglob("*.png")))
    names = [f"{path.parent.name}/{path.name}"]
    count = len(list((root / split).rglob("*.png")))
    way = rng.choice(["missing", "added", "renamed", "moved", "replaced"])
    if way == "missing":
        path.unlink()
        names += [str(count), str(count - 1)]
    elif way == "added":
        new = path.with_name("new.png")
        shutil.copy(path, new)
        names = [f"{new.parent.name}/new.png", str(count), str(count + 1)]
    elif way == "renamed":
        path.rename(path.with_name("other.png"))
    elif way == "moved":
        other = rng.choice([p for p in (root / split).iterdir() if p != path.parent])
        path.rename(other / "moved.png")
    else:
        cv2.imwrite(str(path), cv2.imread(str(path))[:-1])
    flags = [f"--config.data.root={root}"]
    return Odd(f"{split}: an image {way}", [f"split {split}", *names], (1, 2), flags)


def class_(folder: Path, photos: Path, rng: random.Random) -> Odd:
    """A class more or less, or another name of one."""
    root = Path(shutil.copytree(photos, folder / "photos"))
    way, names = rng.choice(["more", "less", "renamed"]), ["violet"]
    old = rng.choice(sorted(path.name for path in (root / "train").iterdir()))
    for split in ("train", "val"):
        if way == "more":
            shutil.copytree(root / split / old, root / split / "violet")
        elif way == "less":
            shutil.rmtree(root / split / old)
            names = [old]
        else:
            (root / split / old).rename(root / split / "violet")
    return Odd(f"a class {way}", ["classes", *names], (1, 2), [f"--config.data.root={root}"])


def program(folder: Path, photos: Path, rng: random.Random) -> Odd:
    """Another version or an edited file of this program, or another version or setting of JAX."""
    extra = folder / "path"
    extra.mkdir()
    found = [extra, Path(convmesh.__file__).parents[1], os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, filter(None, found)))}
    way = rng.choice(["version", "edited", "jax", "setting"])
    named = {"version": "convmesh: ", "edited": "convmesh: ", "jax": "jax: "}
    if way == "version":
        info = extra / "convmesh-99.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: convmesh\nVersion: 99.1\n")
    elif way == "edited":
        copied = shutil.copytree(Path(convmesh.__file__).parent, extra / "convmesh")
        file = rng.choice(sorted(Path(copied).rglob("*.py")))
        file.write_text(f"{file.read_text()}\n# edited\n")
    elif way == "jax":
        (extra / "sitecustomize.py").write_text("import jax\n\njax.__version__ = '99.1'\n")
    else:
        env |= {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    name = named.get(way, "jax_default_matmul_precision: ")
    return Odd(f"program: {way}", [name] + ["99.1"] * (way in ("version", "jax")), env=env)


def device(folder: Path, photos: Path, rng: random.Random) -> Odd:
    """Another number of devices."""
    count = rng.choice([2, 3])
    return Odd(f"{count} devices", ["devices: ", " 1", f" has {count}"], devices=count)


def path(folder: Path, photos: Path, rng: random.Random) -> Odd:
    """A workdir of its own."""
    own, shared = folder / "own", folder / "run"
    return Odd("a workdir of its own", ["--workdir", str(own), str(shared)], workdir=own)


KINDS: dict[str, Callable[[Path, Path, random.Random], Odd]] = {
    "key": key,
    "image": image,
    "class": class_,
    "program": program,
    "device": device,
    "path": path,
}


def mismatch(reference: Reference, rng: random.Random, n: int, outcome: Outcome) -> None:
    """One of 2 to 4 processes differs: all are refused within SECONDS, nothing is written."""
    changes = {"train.batch_size": BATCH, "mesh.data": -1}
    while outcome.n < n:
        outcome.n += 1
        with trial_folder(reference.folder / f"mismatch-{os.getpid()}-{outcome.n}") as folder:
            recipe = trial.tiny_recipe(reference.photos, folder, changes)
            kind = rng.choice(list(KINDS))
            odd = KINDS[kind](folder, reference.photos, rng)
            count = rng.randint(2, 4)
            where = rng.randrange(count)
            outcome.count(f"another {kind}")
            outcome.count(f"among {count} processes")
            started = _start(recipe, folder, odd, where, count, rng)
            _check_refused(started, odd, where, outcome)
            written = [p for p in (folder / "run", folder / "own") if p.exists()]
            written = [p for folder in written for p in folder.rglob("*")]
            check(not written, f"{odd.what} in process {where} of {count}: wrote {written}")


def _start(
    recipe: str, folder: Path, odd: Odd, where: int, count: int, rng: random.Random
) -> list[Process]:
    """Starts the processes in a random order, a moment apart; returns them by their number."""
    started: dict[int, Process] = {}
    coordinator = f"127.0.0.1:{free_port()}"
    for i in rng.sample(range(count), count):
        own = odd if i == where else Odd("", [])
        flags = ["train", "--config", recipe, "--workdir", str(own.workdir or folder / "run")]
        flags += ["--coordinator", coordinator, "--num-processes", str(count)]
        flags += ["--process-id", str(i), "--cpu-devices", str(own.devices), *own.flags]
        started[i] = Process(folder / f"{i}.log", _program(flags, own.env))
        time.sleep(rng.uniform(0, 0.5))
    return [started[i] for i in range(count)]


def _program(flags: list[str], env: dict[str, str] | None) -> Callable[[], int]:
    if env is None:
        return lambda: trial.main(flags)
    return lambda: os.execve(sys.executable, trial.another_program(flags), env)


def _check_refused(started: list[Process], odd: Odd, where: int, outcome: Outcome) -> None:
    """Raises Failed unless all end in time, with the right status and message."""
    last = max(process.started for process in started)
    about = f"{odd.what} in process {where} of {len(started)}"
    try:
        statuses = [one.wait(last + SECONDS - one.started) for one in started]
    except AssertionError as error:
        raise Failed(f"{about}: {error}") from error
    finally:
        for process in started:
            process.kill()
    outcome.most("most seconds to be refused", time.monotonic() - last)
    outputs = [process.output() for process in started]
    for i, (status, output) in enumerate(zip(statuses, outputs, strict=True)):
        said = f"{about}: process {i} has status {status} and said: {output}"
        check(status in odd.statuses, said)
        check("Traceback" not in output and output.count("convmesh: error: ") == 1, said)
        missing = [word for word in [*odd.named, f"process {where}"] if word not in output]
        check(not missing, f"not named: {missing}; {said}")
