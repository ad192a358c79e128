"""The undisturbed run that disturbed ones are compared with, and the outcome of the comparison."""

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import runs
import trial
from trial import STEPS, Restorer, TrainingProcess

FORK = multiprocessing.get_context("fork")


class Failed(Exception):
    """A condition did not hold."""


def check(condition: bool, message: str) -> None:
    """Raises Failed unless `condition` holds."""
    if not condition:
        raise Failed(message)


@dataclass
class Outcome:
    """The result of injecting one fault."""

    n: int = 0  # how often it was injected
    failures: list[str] = field(default_factory=list)
    notes: dict[str, float] = field(default_factory=dict)

    def count(self, name: str, by: float = 1) -> None:
        """Adds to a number that is printed beside the result."""
        self.notes[name] = self.notes.get(name, 0) + by

    def most(self, name: str, value: float) -> None:
        """Keeps the largest value; `name` begins with "most "."""
        self.notes[name] = max(self.notes.get(name, value), value)

    def note(self, notes: dict[str, float]) -> None:
        """Adds the notes of another process."""
        for name, value in notes.items():
            self.most(name, value) if name.startswith("most ") else self.count(name, value)

    def add(self, other: "Outcome") -> None:
        """Adds the outcome of another process."""
        self.n += other.n
        self.failures += other.failures
        self.note(other.notes)


@dataclass
class Reference:
    """The undisturbed run, and a Restorer in another process."""

    folder: Path
    photos: Path
    recipe: str
    states: dict[int, str]  # digest by step
    metrics: list[dict]
    example_log: list[dict]
    seconds: float
    restorer: Callable[..., Any] | None = None  # see `open_restorer`

    def check_newest(self, workdir: Path) -> tuple[int | None, list[str]]:
        """The step of the newest good checkpoint, and the messages of restoring it.

        Raises Failed unless it is bit-identical to the reference at that step.
        """
        step, digest, messages = self.restorer("newest", workdir)
        check(step is None or digest == self.states[step], f"step {step}: other bits")
        return step, messages

    def check_finish(self, workdir: Path, outcome: Outcome) -> None:
        """Lets the run finish; raises Failed unless every number is that of the reference."""
        process = TrainingProcess(self.recipe, workdir)
        status = process.wait()
        check(status == 0, f"status {status} at the end: {process.output()}")
        step, _ = self.check_newest(workdir)
        check(step == STEPS, f"ends at step {step}")
        check(trial.metrics(workdir) == self.metrics, "other metrics")
        check(trial.example_log(workdir) == self.example_log, "another example log")
        outcome.count("runs finished and compared")


def make_reference(folder: Path) -> Reference:
    """Trains the undisturbed run twice, and once with a checkpoint of every step."""
    photos = runs.make_photos(folder / "photos")
    recipe = trial.tiny_recipe(photos, folder)
    every = trial.tiny_recipe(
        photos, folder, {"checkpoint.every_steps": 1, "checkpoint.keep": STEPS}
    )
    for name, given in (("every", every), ("undisturbed", recipe), ("again", recipe)):
        process = TrainingProcess(given, folder / name)
        if process.wait() != 0:
            raise SystemExit(f"the undisturbed run failed: {process.output()}")
    states = trial.in_another_process(_states, recipe, folder / "every")
    reference = Reference(
        folder=folder,
        photos=photos,
        recipe=recipe,
        states={int(step): digest for step, digest in states.items()},
        metrics=trial.metrics(folder / "undisturbed"),
        example_log=trial.example_log(folder / "undisturbed"),
        seconds=process.seconds,
    )
    for name in ("every", "again"):
        check(trial.metrics(folder / name) == reference.metrics, "two undisturbed runs differ")
    return reference


def _states(recipe: str, workdir: Path) -> dict[int, str]:
    return Restorer(recipe).every(workdir)


def open_restorer(recipe: str) -> Callable[..., Any]:
    """A function that calls a method, by name, of a Restorer in another process."""
    ours, theirs = FORK.Pipe()
    FORK.Process(target=_serve, args=(recipe, theirs), daemon=True).start()

    def call(*request):
        ours.send(request)
        answer, error = ours.recv()
        check(error is None, f"the newest checkpoint does not restore: {error}")
        return answer

    return call


def _serve(recipe: str, pipe) -> None:
    restorer = Restorer(recipe)
    while True:
        name, *arguments = pipe.recv()
        try:
            pipe.send((getattr(restorer, name)(*arguments), None))
        except BaseException as error:
            pipe.send((None, f"{type(error).__name__}: {error}"))
