"""Which process this is, and what processes exchange."""

import json
import os
import subprocess
import sys

import jobs


def test_a_single_process_needs_no_jax():
    code = """
import sys
from convmesh.distributed import failure, launch, processes
launch.start()
launch.start(num_processes=1)
assert (processes.count(), processes.index(), processes.is_first()) == (1, 0, True)
assert processes.gather("x") == ["x"] and processes.broadcast("x") == "x"
processes.wait_for_all("x")
failure.finish()
assert not failure.watched()
assert "jax" not in sys.modules
"""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "OMPI", "TPU"))}
    done = subprocess.run([sys.executable, "-c", code], env=env, timeout=60)
    assert done.returncode == 0


EXCHANGE = """
large = bytes([index]) * (9 * 2**20 + 1)
assert [b == bytes([i]) * len(large) for i, b in enumerate(processes.gather(large))] == [True] * 2
assert processes.gather({"index": index}) == [{"index": 0}, {"index": 1}]
assert processes.broadcast(["first"] if first else None) == ["first"]
assert processes.broadcast(large) == bytes(len(large))
processes.wait_for_all("here")
found = {"total": total(), "devices": [jax.device_count(), jax.local_device_count()]}
found["listening"] = processes.gather(listeners())
processes.wait_for_all("deleted")
client = processes.coordination_client()
found["one host"] = [processes.are_on_one_host()]
processes.wait_for_all("asked")
if not first:  # two machines of one name
    client.key_value_delete("convmesh/host/1")
    processes.system_id = lambda: "another"
    processes.introduce()
processes.wait_for_all("introduced")
found["one host"].append(processes.are_on_one_host())
keys = [key for key, _ in client.key_value_dir_get_bytes("convmesh/")]
found["keys"] = [key for key in keys if "/report/" not in key]  # the watchdog's, once a second
if first: print(json.dumps(found))
"""


def test_two_processes_exchange_objects_and_listen_on_one_address_only(job):
    address = jobs.free_address("127.0.0.2")  # loopback, but not the usual default
    both = [job(EXCHANGE, *jobs.flags_for(i, address)) for i in range(2)]
    (status, out, err), (status_1, out_1, err_1) = map(jobs.end, both)
    assert (status, status_1) == (0, 0), err + err_1
    assert "{" not in out_1
    found = json.loads(out.splitlines()[-1])
    assert found["devices"] == [4, 2]
    assert found["total"] == 1 + 2 + 3 + 4
    # Process 0: the coordinator and gloo. Process 1: gloo.
    assert found["listening"] == [["127.0.0.2"] * 2, ["127.0.0.2"]]
    assert found["one host"] == [True, False]
    assert found["keys"] == ["convmesh/host/0", "convmesh/host/1"]  # nothing is left of an exchange


def test_a_slow_reader_gets_what_the_others_have_sent(job):
    # Process 1 has read everything long before process 0 reads its value, which is larger than a
    # chunk.
    body = """
_, large = zip(*processes.gather((SlowToRead(), bytes([7 + index]) * (9 * 2**20))))
print([(len(b), set(b)) for b in large])
"""
    address = jobs.free_address()
    for process in [job(body, *jobs.flags_for(i, address)) for i in range(2)]:
        status, out, err = jobs.end(process)
        assert (status, out) == (0, f"[({9 * 2**20}, {{7}}), ({9 * 2**20}, {{8}})]\n"), err
