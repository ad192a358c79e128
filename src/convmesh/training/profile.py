"""`--profile STEPS`: a trace of some steps for xprof, and a table of the slowest operations."""

from collections import Counter
from pathlib import Path
from typing import Any

import jax

from convmesh.programs.origins import Origin, instruction_origins
from convmesh.training.hooks import Hook, RunView

SKIP = 5  # warm-up steps that are not traced
SHOWN = 12  # operations in the table


class Profile(Hook):
    """Traces `steps` steps of a run into WORKDIR/profile and logs the slowest operations."""

    def __init__(self, steps: int) -> None:
        """Traces `steps` steps, after the first SKIP steps of this call."""
        self.steps = steps
        self._program = ""
        self._since: int | None = None  # the first step of the current trace
        self._traced = False

    def on_compile(self, run: RunView, step: int, compiled: Any) -> None:
        """Stores the first program's HLO text, which maps the names in the trace to operations."""
        self._program = self._program or compiled.as_text()

    def before_step(self, run: RunView, step: int) -> None:
        """Starts or ends the trace after the previous steps have completed."""
        first = run.start_step + 1 + SKIP
        if step not in (first, first + self.steps):
            return
        run.flush()
        if step == first:
            self._since = step
            jax.profiler.start_trace(str(run.workdir.profile_folder))
        elif self._since is not None:
            self._end(run, step)
        run.clock.restart()

    def _end(self, run: RunView, step: int) -> None:
        """Ends the trace before `step` and logs the table."""
        assert self._since is not None
        folder, steps = run.workdir.profile_folder, step - self._since
        jax.profiler.stop_trace()
        self._since, self._traced = None, True
        spent = time_by_operation(newest_trace(folder), self._program)
        run.log(f"traced {steps} steps into {folder}, for xprof; the slowest operations:")
        run.log(table(spent, steps * jax.local_device_count()))

    def on_end(self, run: RunView) -> None:
        """Ends a trace that is still open at the end of the run."""
        if self._since is not None:
            self._end(run, run.step + 1)
        elif not self._traced:
            run.log(f"--profile: nothing traced; the run had no more than {SKIP} steps left")

    def close(self, failed: bool) -> None:
        """Ends the trace of a run that has failed."""
        if self._since is not None:
            jax.profiler.stop_trace()


def newest_trace(folder: Path) -> Path:
    """The newest trace below `folder`."""
    return max(folder.glob("plugins/profile/*/*.xplane.pb"), key=lambda path: path.stat().st_mtime)


def time_by_operation(trace: Path, program: str) -> Counter[Origin]:
    """Seconds of each operation in `trace`, summed over devices and steps.

    `program`: text of the compiled program that ran. On CPUs an operation's seconds are those of
    the thread that waits for it, and several may run at once.
    """
    known = instruction_origins(program)
    spent: Counter[Origin] = Counter()
    for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
        lines = list(plane.lines)
        # Some devices record the same operations in several lines; this one is complete.
        lines = [line for line in lines if line.name == "XLA Ops"] or lines
        for line in lines:
            for event in line.events:
                name = event.name
                if name not in known:  # a kernel's name, or the full text of the instruction
                    name = dict(event.stats).get("hlo_op") or name.lstrip("%").partition(" ")[0]
                if name in known:
                    spent[known[name]] += event.duration_ns / 1e9
    return spent


def table(spent: Counter[Origin], times: int) -> str:
    """The slowest operations, by primitive and by layer; milliseconds are divided by `times`."""
    total = spent.total()
    if not total:
        return "the trace names no operation of the step"
    primitives: Counter[tuple[str, str]] = Counter()
    layers: Counter[tuple[str, str]] = Counter()
    for origin, seconds in spent.items():
        operation = f"{origin.phase} {origin.operation}".strip()
        primitives[operation, ""] += seconds
        layers[operation, origin.layer] += seconds
    lines = [f"{'ms a step':>10}{'time':>7}"]
    for title, rows in (("by operation", primitives), ("by layer", layers)):
        lines.append(f"{title}:")
        for (operation, layer), seconds in rows.most_common(SHOWN):
            where = f"  {layer}" if layer else ""
            lines.append(f"{1e3 * seconds / times:10.2f}{seconds / total:7.1%}  {operation}{where}")
    return "\n".join(lines)
