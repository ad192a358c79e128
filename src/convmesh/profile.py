"""`--profile STEPS`: a trace of some steps for xprof, and what took their time, in the terminal."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax

SKIP = 5  # steps of a run that are not traced: the first ones are like no others
SHOWN = 12  # operations in the table
# What JAX and flax put around the names of layers.
_WRAPPER = re.compile(
    r"\(|^(shard_map|checkpoint|rematted_computation|while|body|cond|closed_call|custom_vjp_call)$"
)
_CONTAINERS = ("while", "conditional", "call")


class Operation(NamedTuple):
    """What operations of a compiled program are told apart by."""

    phase: str  # "forward", "backward" or "update"
    layer: str  # path of the module, or nothing
    what: str  # JAX's primitive, or XLA's own name for what it added


class Profile:
    """Traces some steps of a run into WORKDIR/profile; a context manager around its loop.

    The table that `say` gets when they are done names the operations that took the most time.
    """

    def __init__(self, workdir: Path, start: int, steps: int, say: Callable[[str], None] = print):
        """Traces `steps` steps (0: none), after SKIP of those that follow step `start`."""
        self.steps, self._say = steps, say
        self._folder = Path(workdir) / "profile"
        self._first = start + 1 + SKIP
        self._program = ""
        self._since: int | None = None
        self._last = start

    def learn(self, compiled) -> None:
        """Takes the compiled step, whose program tells what the trace's names mean."""
        if self.steps:
            self._program = compiled.as_text()

    def turns_at(self, step: int) -> bool:
        """Whether `turn` has something to do before `step`, when the step before is done."""
        self._last = step
        return self.steps > 0 and step in (self._first, self._first + self.steps)

    def turn(self, step: int) -> None:
        """Starts or ends the trace."""
        if step == self._first:
            self._since = step
            jax.profiler.start_trace(str(self._folder))
        elif self._since is not None:
            self._end(step - self._since)

    def _end(self, steps: int) -> None:
        jax.profiler.stop_trace()
        self._since = None
        spent = time_by_operation(newest_trace(self._folder), self._program)
        self._say(f"traced {steps} steps into {self._folder}, for xprof; what took the time:")
        self._say(table(spent, steps * jax.local_device_count()))

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self._since is not None:  # the run ended first
            if kind is None:
                self._end(self._last + 1 - self._since)
            else:
                jax.profiler.stop_trace()
        elif self.steps and self._program and kind is None and not self._folder.exists():
            self._say(f"--profile: nothing traced; the run had no more than {SKIP} steps left")


def newest_trace(folder: Path) -> Path:
    """The trace that was written last below `folder`."""
    return max(folder.glob("plugins/profile/*/*.xplane.pb"), key=lambda path: path.stat().st_mtime)


def time_by_operation(trace: Path, program: str) -> Counter[Operation]:
    """Seconds of each operation in `trace`, of all devices and steps together.

    `program`: text of the compiled program that ran. On CPUs an operation's seconds are those of
    the thread that waits for it, and several may run at once.
    """
    known = operations(program)
    spent: Counter[Operation] = Counter()
    for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
        lines = list(plane.lines)
        # Some devices write the same operations in several lines, of which this one is complete.
        lines = [line for line in lines if line.name == "XLA Ops"] or lines
        for line in lines:
            for event in line.events:
                name = event.name
                if name not in known:  # a kernel's name, or the whole text of the instruction
                    name = dict(event.stats).get("hlo_op") or name.lstrip("%").partition(" ")[0]
                if name in known:
                    spent[known[name]] += event.duration_ns / 1e9
    return spent


def operations(program: str) -> dict[str, Operation]:
    """The instructions of a compiled program by name, without those that only hold others."""
    found, inside = {}, ""
    names: dict[str, str] = {}  # computation -> where its last instruction that says so comes from
    results: dict[str, str] = {}  # computation -> the opcode of its result
    unnamed: dict[str, str] = {}  # fusion that does not say -> the computation inside
    for line in program.splitlines():
        if header := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            inside = header[1]
        match = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = .*?\s([\w\-]+)\(", line)
        if not match or match[2] in _CONTAINERS:
            continue
        told = re.search(r'op_name="([^"]+)"', line)
        calls = re.search(r"calls=%?([\w.\-]+)", line)
        results[inside] = match[2]
        if told:
            names[inside] = told[1]
        if calls and not told:
            unnamed[match[1]] = calls[1]
        found[match[1]] = describe(told[1] if told else "", match[2])
    for name, computation in unnamed.items():
        found[name] = describe(names.get(computation, ""), results.get(computation, "fusion"))
    return found


def describe(op_name: str, opcode: str) -> Operation:
    """What XLA's metadata say of an instruction: `jit(f)/transpose(jvp(Net))/conv1/mul`."""
    if opcode.startswith(("all-", "reduce-scatter", "collective-")):
        return Operation("", "", opcode.removesuffix("-start").removesuffix("-done"))
    phase = "update"
    if "jvp(" in op_name:
        phase = "backward" if "transpose(" in op_name else "forward"
    if not op_name:
        return Operation("", "", f"{opcode}, XLA does not say whose")
    parts = op_name.split("/")
    layer = [part for part in parts[:-1] if not _WRAPPER.search(part)]
    return Operation(phase, "/".join(layer), parts[-1] or opcode)


def table(spent: Counter[Operation], times: int) -> str:
    """The dearest operations, by kind and by layer; milliseconds are divided by `times`."""
    whole = spent.total()
    if not whole:
        return "the trace names no operation of the step"
    kinds: Counter[tuple[str, str]] = Counter()
    for operation, seconds in spent.items():
        kinds[f"{operation.phase} {operation.what}".strip(), ""] += seconds
    layers = Counter({(f"{o.phase} {o.what}".strip(), o.layer): s for o, s in spent.items()})
    lines = [f"{'ms a step':>10}{'share':>7}"]
    for title, rows in (("by kind", kinds), ("by layer", layers)):
        lines.append(f"{title}:")
        for (what, layer), seconds in rows.most_common(SHOWN):
            where = f"  {layer}" if layer else ""
            lines.append(f"{1e3 * seconds / times:10.2f}{seconds / whole:7.1%}  {what}{where}")
    return "\n".join(lines)
