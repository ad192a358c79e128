"""Injects faults into tiny runs, each n times, and checks what must hold after each.

    python tools/faults/campaign.py kill=1000 damage=1000 sigterm=200 --seed 0 --table faults.md

A row of the table is one fault: how often it was injected, how often a check failed, and the upper
95% confidence bound of the probability of a failure (Clopper and Pearson, one-sided; 1 - 0.05^(1/n)
without failures). Without faults named, each is injected a few times. Every random choice follows
from the seed, except for how far a process has come when it receives a signal.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "tests")]

import injection
import lost_processes
import mismatch
import store_faults
from undisturbed import FORK, Failed, Outcome, Reference, make_reference, open_restorer

FAULTS = {  # and how often each is injected where no number is given
    "kill": (injection.kill, 6),
    "damage": (injection.damage, 40),
    "sigterm": (injection.sigterm, 4),
    "disk_full": (injection.disk_full, 2),
    "no_room": (injection.no_room, 2),
    "second_run": (injection.second_run, 2),
    "mesh": (injection.mesh, 2),
    "processes": (injection.processes, 1),
    "mismatch": (mismatch.mismatch, 4),
    "nonfinite": (injection.nonfinite, 4),
    "hostile": (injection.hostile, 60),
    **{kind: (partial(lost_processes.inject, kind), 3) for kind in lost_processes.KINDS},
    "slow": (lost_processes.slow, 2),
    "store_kill": (store_faults.kill, 2),
    "store_damage": (store_faults.damage, 4),
}
ALL_PAIRS = ("mesh", "processes")  # injected for all pairs of n, in one process


def main() -> int:
    """Runs the campaign of the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("faults", nargs="*", metavar="FAULT=N", help=", ".join(FAULTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--table", help="also write the table to this file")
    args = parser.parse_args()
    named = [fault.partition("=") for fault in args.faults or FAULTS]
    wanted = {name: int(n or FAULTS[name][1]) for name, _, n in named}
    rows = ["| fault | n | failures | 95% bound | took | |", "|---|---|---|---|---|---|"]
    print("\n".join(rows))

    def report(text: str) -> None:
        print(text, flush=True)
        rows.append(text)
        if args.table:
            table = "\n".join(row for row in rows if row.startswith("|"))
            Path(args.table).write_text(f"{table}\n")

    folder = Path(tempfile.mkdtemp(prefix="convmesh-faults-"))
    os.environ["CONVMESH_CACHE"] = str(folder / "cache")
    outcomes = campaign(wanted, args.seed, args.jobs, folder, report)
    if any(outcome.failures for outcome in outcomes.values()):
        print(f"the files of failed trials are kept in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def campaign(wanted: dict[str, int], seed: int, jobs: int, folder: Path, report=print) -> dict:
    """The outcome of each fault in `wanted` (name: how often), over `jobs` processes."""
    reference = make_reference(folder)
    report(f"an undisturbed run takes {reference.seconds:.1f} s")
    outcomes = {}
    for name, n in wanted.items():
        started = time.monotonic()
        outcomes[name] = inject_in_parallel(name, reference, seed, n, jobs)
        report(row(name, outcomes[name], time.monotonic() - started))
        for failure in outcomes[name].failures:
            report(f"  FAILED: {failure}")
    return outcomes


def inject_in_parallel(name: str, reference: Reference, seed: int, n: int, jobs: int) -> Outcome:
    """Injects a fault n times, over `jobs` processes."""
    parts = 1 if name in ALL_PAIRS else min(jobs, n)
    started = []
    for part in range(parts):
        ours, theirs = FORK.Pipe()
        part_n = n // parts + (part < n % parts)
        arguments = (theirs, name, reference, f"{seed}/{name}/{part}", part_n)
        process = FORK.Process(target=_inject_and_send, args=arguments)
        process.start()
        started.append((process, ours))
    total = Outcome()
    for process, ours in started:
        while not ours.poll(1):
            if not process.is_alive():
                raise SystemExit(f"{name}: the process that injects has ended")
        total.add(ours.recv())
        process.join()
    return total


def _inject_and_send(pipe, *arguments) -> None:
    pipe.send(inject(*arguments))


def inject(name: str, reference: Reference, seed: str, n: int) -> Outcome:
    """Injects a fault n times; a failed trial is recorded, and the others go on."""
    outcome, rng = Outcome(), random.Random(seed)
    reference.restorer = open_restorer(reference.recipe)
    function, _ = FAULTS[name]
    while outcome.n < n:
        before = outcome.n
        try:
            function(reference, rng, n, outcome)
        except (Failed, AssertionError) as error:
            outcome.failures.append(str(error))
            outcome.n = max(outcome.n, before + 1)
        if name in ALL_PAIRS:
            break
    return outcome


def bound(n: int, failures: int) -> float:
    """Upper 95% confidence bound of the failure probability (Clopper and Pearson, one-sided)."""
    if failures == 0:
        return 1 - 0.05 ** (1 / n)
    from scipy.stats import beta

    return float(beta.ppf(0.95, failures + 1, n - failures)) if failures < n else 1.0


def row(name: str, outcome: Outcome, seconds: float) -> str:
    """A row of the table."""
    notes = ", ".join(f"{value:.3g} {name}" for name, value in sorted(outcome.notes.items()))
    failed = len(outcome.failures)
    upper = bound(max(1, outcome.n), failed)
    return f"| {name} | {outcome.n} | {failed} | {upper:.2%} | {seconds:.0f} s | {notes} |"


if __name__ == "__main__":
    sys.exit(main())
