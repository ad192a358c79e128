"""Real processes for the tests of `convmesh.distributed`: started, waited for, always ended."""

import os
import select
import socket
import subprocess
import sys
import tempfile

# A script that runs the body of `work` instead of `predict`, under the real command line.
SCRIPT = """
import json, os, sys, time
from types import SimpleNamespace
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from convmesh.__main__ import main
from convmesh.distributed import failure, launch, processes, watchdog
from convmesh.distributed.own_progress import MAIN, SAVING, Activity
from convmesh.errors import ConfigError, DataError, Stopped

def total():
    "The sum of 1, 2, ... over the devices of all processes: a collective."
    n = jax.device_count()
    mesh = jax.make_mesh((n,), ("all",))
    ones = np.arange(1, n + 1, dtype=np.float32)
    x = jax.make_array_from_callback((n,), NamedSharding(mesh, P("all")), lambda at: ones[at])
    return float(jax.jit(lambda x: x.sum(), out_shardings=NamedSharding(mesh, P()))(x))

def listeners():
    "The addresses on which this process listens."
    own = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            own.add(os.readlink(f"/proc/self/fd/{{fd}}"))
        except OSError:
            pass
    found = []
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        for row in open(table).read().splitlines()[1:]:
            field = row.split()
            if field[3] == "0A" and f"socket:[{{field[9]}}]" in own:
                last = bytes.fromhex(field[1].partition(":")[0])[-4:]
                found.append(".".join(map(str, reversed(last))))
    return found

class SlowToRead:
    "An object that process 0, and no other, takes a second to unpickle."
    def __reduce__(self):
        return sleep_in_the_first, ()

def sleep_in_the_first():
    if processes.is_first():
        time.sleep(1)

def work(*args, **kwargs):
    index, first = processes.index(), processes.is_first()
    {body}

sys.modules["convmesh.inference.prediction"] = SimpleNamespace(predict_files=work)
sys.exit(main())
"""

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
    "SLURM_NTASKS": "3",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "0",
}
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


def start(folder, body: str, *flags: str, **env: str) -> subprocess.Popen:
    """Starts a process, or with --num-processes alone several, that run `body` with 2 devices."""
    (folder / "config.json").write_text("{}")
    # A script of its own: another process may be reading the last one just now.
    with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".py", delete=False) as script:
        script.write(SCRIPT.format(body=body.strip().replace("\n", "\n    ")))
    command = [sys.executable, script.name, "predict", "--workdir", str(folder), "image"]
    command += ["--output", str(folder), "--cpu-devices", "2", *flags]
    return subprocess.Popen(command, env=os.environ | env, **PIPES)


def flags_for(index: int, address: str, count: int = 2) -> list[str]:
    """The flags of one of `count` processes with the coordinator `address`."""
    return [f"--coordinator={address}", f"--num-processes={count}", f"--process-id={index}"]


def end(process: subprocess.Popen, seconds: float = 180) -> tuple[int, str, str]:
    """Waits; returns exit status, standard output and standard error."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def kill(started) -> None:
    """Kills those that still run, and closes their pipes."""
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def next_line(stream, seconds: float = 180):
    """A line of a pipe; fails if none comes in time."""
    assert select.select([stream], [], [], seconds)[0], "nothing was printed"
    return stream.readline()


def free_address(host: str = "127.0.0.1") -> str:
    """HOST:PORT with a port that is free now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"{host}:{probe.getsockname()[1]}"
