"""Runs whose workdir is in an object store: killed while they write there, and damaged objects.

The servers are those of the tests, in a process of their own.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import object_stores
import trial
from trial import STEPS, Process
from undisturbed import Outcome, Reference, check, open_restorer

from convmesh.data.stores.object_store import ObjectStore

KILLS_PER_RUN = 5
# A save writes about 25 objects, and later as many are deleted.
MOST_REQUESTS = 300
DAMAGES = ("bit", "cut", "empty", "deleted")


@contextlib.contextmanager
def servers(reference: Reference):
    """Both servers, named in the environment, also in that of the reference's restorer."""
    command = [sys.executable, object_stores.__file__]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, stderr=subprocess.DEVNULL, **pipes) as process:
        os.environ |= json.loads(process.stdout.readline())
        reference.restorer = open_restorer(reference.recipe)
        try:
            yield
        finally:
            process.kill()


def kill(reference: Reference, rng: random.Random, n: int, outcome: Outcome) -> None:
    """Kills a run at a random request to the store, n times, each in turn to S3 and to Google's.

    What can be restored must be bit-identical to the undisturbed run; every run must finish with
    the same metrics.
    """
    with servers(reference):
        while outcome.n < n:
            scheme = object_stores.SCHEMES[
                int(outcome.notes.get("runs finished and compared", 0)) % 2
            ]
            address = f"{scheme}://{object_stores.BUCKET}/{uuid.uuid4()}/run"
            for _ in range(min(KILLS_PER_RUN, n - outcome.n)):
                status = _train(reference, address, rng.randint(1, MOST_REQUESTS)).wait()
                if status == 0:  # it had not so many requests left
                    break
                outcome.n += 1
                outcome.count(f"on {scheme}")
                check(status == -signal.SIGKILL, f"{address}: status {status}")
                step, _ = reference.check_newest(address)
                outcome.count("with a checkpoint", step is not None)
            last = _train(reference, address)
            check(last.wait() == 0, f"{address}: does not finish: {last.output()}")
            step, _ = reference.check_newest(address)
            check(step == STEPS, f"{address}: ends at step {step}")
            rows = trial.in_another_process(_metrics, address)
            check(rows == reference.metrics, f"{address}: other metrics")
            outcome.count("runs finished and compared")


def damage(reference: Reference, rng: random.Random, n: int, outcome: Outcome) -> None:
    """Damages an object of the newest checkpoint, n times, and puts it back.

    No other bits than those of the undisturbed run may be restored.
    """
    with servers(reference):
        addresses = []
        for scheme in object_stores.SCHEMES:
            addresses.append(f"{scheme}://{object_stores.BUCKET}/{uuid.uuid4()}/run")
            process = _train(reference, addresses[-1])
            check(process.wait() == 0, process.output())
        while outcome.n < n:
            address, how = rng.choice(addresses), rng.choice(DAMAGES)
            outcome.n += 1
            outcome.count(how)
            name, content = trial.in_another_process(_damage, address, how, rng.random())
            step, messages = reference.check_newest(address)
            newest = step == STEPS
            outcome.count("of no consequence" if newest else "noticed")
            # Only the sign of a complete checkpoint may be missing without a consequence.
            check(
                not newest or name.endswith("commit_success.txt"),
                f"{address}: {how}: {name}: not noticed",
            )
            check(newest or any("damaged" in message for message in messages), f"{messages}")
            trial.in_another_process(_put_back, address, name, content)
            step, _ = reference.check_newest(address)
            check(step == STEPS, f"{address}: put back, but the newest is of step {step}")


def _train(reference: Reference, address: str, requests: int = 0) -> Process:
    """A run in `address`, which is killed at the given request that changes the store."""
    log = reference.folder / f"{address.split('/')[-2]}.log"

    def run() -> int:
        if requests:
            _kill_at(requests)
        flags = ["train", "--config", reference.recipe, "--workdir", address]
        return trial.main([*flags, "--cpu-devices", str(trial.DEVICES)])

    return Process(log, run)


def _kill_at(requests: int) -> None:
    """Kills this process at a request, before it is sent or after it was answered, in turn."""
    count = 0

    def counted(function):
        def call(*arguments):
            nonlocal count
            count += 1
            if count == requests and requests % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments)
            if count == requests:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for name in ("_upload", "_delete", "write"):
        setattr(ObjectStore, name, counted(getattr(ObjectStore, name)))


# In processes of their own: the clients of the stores must not be inherited by a fork.


def _metrics(address: str) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        ObjectStore(address).download(["metrics.jsonl"], Path(folder))
        return trial.metrics(Path(folder))


def _damage(address: str, how: str, where: float) -> tuple[str, str]:
    """Damages an object of the newest checkpoint; returns its name and what it was, in hex."""
    store = ObjectStore(address)
    names = sorted(store.entries(f"checkpoints/{STEPS}"))
    if how in ("bit", "cut"):
        names = [name for name in names if store.read(name)]
    name = names[int(where * len(names))]
    content = store.read(name)
    at = int(where * 1e6) % max(1, len(content))
    flipped = bytes(byte ^ (1 << at % 8) for byte in content[at : at + 1])
    changed = {"bit": content[:at] + flipped + content[at + 1 :], "cut": content[:at], "empty": b""}
    if how == "deleted" or changed[how] == content:  # some are empty
        store.delete([name])
    else:
        store.write(name, changed[how])
    return name, content.hex()


def _put_back(address: str, name: str, content: str) -> None:
    ObjectStore(address).write(name, bytes.fromhex(content))
