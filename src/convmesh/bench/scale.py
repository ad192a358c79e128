"""`convmesh bench scale`: the speed-up of a second process on a second core."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convmesh.distributed.launch import free_port
from convmesh.errors import ConfigError, DataError
from convmesh.workdir.layout import Workdir

_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"


def bench_scale(
    recipe: str | Path, overrides: Sequence[str], steps: int, as_json: bool = False
) -> dict[str, Any]:
    """Times the same training in one process on one core, and in two processes on two cores.

    Trains `recipe` for `steps` steps both ways, each process with one single-threaded device, and
    evaluates. Raises DataError if one of the runs fails, ConfigError if there are fewer than two
    cores.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        raise ConfigError(f"bench scale: needs two cores to bind processes to; available: {cores}")
    found = {}
    with tempfile.TemporaryDirectory(prefix="convmesh-scale-") as folder:
        for count in (1, 2):
            found[count] = _train_on(cores[:count], recipe, overrides, steps, Path(folder))
    one, two = found[1], found[2]
    metric = next(name for name in ("AP", "top1") if name in one)
    result = {
        "steps": steps,
        "images_per_second": {
            "1 process": one["images_per_second"],
            "2 processes": two["images_per_second"],
        },
        "ratio": two["images_per_second"] / one["images_per_second"],
        metric: {"1 process": one[metric], "2 processes": two[metric]},
    }
    if as_json:
        print(json.dumps(result))
        return result
    print(f"{'':24}{'images/s':>10}{metric:>10}   after {steps} steps")
    for name, row in (("1 process, 1 core", one), ("2 processes, 2 cores", two)):
        print(f"{name:24}{row['images_per_second']:10.1f}{row[metric]:10.4f}")
    print(f"{'speed-up':24}{result['ratio']:10.2f}")
    return result


def _train_on(
    cores: list[int], recipe: str | Path, overrides: Sequence[str], steps: int, folder: Path
) -> dict[str, Any]:
    """The median speed and the last evaluation of a run of one process for each of `cores`."""
    workdir = folder / f"{len(cores)}"
    arguments = [
        *("train", "--config", str(recipe), "--workdir", str(workdir), "--cpu-devices", "1"),
        *overrides,
        *(f"--config.train.steps={steps}", "--config.train.log_every_steps=1"),
    ]
    process_flags: list[list[str]] = [[]]
    if len(cores) > 1:
        address = f"--coordinator=127.0.0.1:{free_port()}"
        count = f"--num-processes={len(cores)}"
        process_flags = [[address, count, f"--process-id={i}"] for i in range(len(cores))]
    xla_flags = f"{os.environ.get('XLA_FLAGS', '')} {_ONE_THREAD}"
    with _bound_to(cores):
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "convmesh", *arguments, *flags],
                stdout=subprocess.DEVNULL,
                env=os.environ | {"XLA_FLAGS": xla_flags},
            )
            for flags in process_flags
        ]
    if any([process.wait() for process in started]):
        raise DataError(f"bench scale: the run of {len(cores)} process(es) failed; see above")
    rows = Workdir(workdir).metrics()
    speeds = [row["images_per_second"] for row in rows if row["split"] == "train"]
    evaluated = [row for row in rows if row["split"] != "train"][-1]
    return evaluated | {"images_per_second": float(np.median(speeds[len(speeds) // 5 :]))}


@contextlib.contextmanager
def _bound_to(cores: list[int]) -> Iterator[None]:
    """A context in which started processes are bound to these cores, each process to all of them.

    With one core per process, gloo's thread, which waits in a busy loop, would block the thread
    that it waits for (3.8 ms for each array of an all-reduce).
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(cores))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
