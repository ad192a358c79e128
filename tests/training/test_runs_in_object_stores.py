"""A run whose workdir is in an object store gives what one on a disk gives, and resumes so."""

import errno
import subprocess
import sys

import numpy as np
import object_stores
import pytest
import runs

from convmesh import Classifier, evaluate
from convmesh.config import apply_overrides
from convmesh.data.stores.object_store import ObjectStore
from convmesh.errors import RunError
from convmesh.training import loop
from convmesh.workdir.layout import Workdir

TIMES = ("images_per_second", "step_seconds", "input_wait_seconds")


@pytest.fixture(autouse=True)
def own_copies(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVMESH_CACHE", str(tmp_path / "cache"))
    runs.register_tiny_net(monkeypatch)


def metrics(workdir):
    rows = Workdir(workdir).metrics()
    return [{name: row[name] for name in row if name not in TIMES} for row in rows]


def in_two_calls(config, workdir):
    loop.train(apply_overrides(config, {"train.steps": 4}), workdir)
    loop.train(config, workdir)
    return metrics(workdir)


def test_a_run_resumes_and_is_read_as_on_a_disk(address, photos, tmp_path, capsys):
    config = runs.photo_config(photos)
    on_disk = in_two_calls(config, tmp_path / "run")
    assert in_two_calls(config, address) == on_disk
    said = capsys.readouterr()
    assert str(tmp_path / "cache") not in said.out + said.err
    names = ObjectStore(address).entries()
    assert {"config.json", "plots/curves.png", "eval/val/predictions.png"} <= names.keys()
    assert {name.split("/")[1] for name in names if name.startswith("checkpoints/")} == {"4", "8"}
    [lock] = [name for name in names if name.startswith(".lock")]
    assert b"released" in ObjectStore(address).read(lock)
    assert evaluate(address) == evaluate(tmp_path / "run")
    images = [np.zeros((20, 24, 3), np.uint8)]
    predicted = [Classifier.load(at)(images)[0] for at in (address, tmp_path / "run")]
    assert str(predicted[0]) == str(predicted[1])
    begun = apply_overrides(config, {"init_from": f"{address}/checkpoints/4", "train.steps": 1})
    loop.train(begun, tmp_path / "begun")
    assert f"weights of {address}, step 4" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_replaced_by_the_one_before(servers, photos, capsys):
    config, address = runs.photo_config(photos), object_stores.new_address("s3")
    wanted = in_two_calls(config, address)
    store = ObjectStore(address)
    [array] = [n for n in store.entries() if n.startswith("checkpoints/8/model/d/")][:1]
    content = bytearray(store.read(array))
    content[len(content) // 2] ^= 1
    store.write(array, bytes(content))
    capsys.readouterr()
    loop.train(config, address)
    said = capsys.readouterr().err
    assert f"the checkpoint of step 8 is damaged ({array.removeprefix('checkpoints/8/')}" in said
    assert "step 4 is used instead" in said
    assert metrics(address) == wanted
    folders = {name.split("/")[1] for name in store.entries("checkpoints")}
    assert folders == {"4", "8", "8.damaged"}


@pytest.mark.parametrize(("number", "status"), [(errno.EACCES, 1), (errno.EIO, 74)])
def test_a_store_that_refuses_a_checkpoint_ends_the_run(
    servers, photos, monkeypatch, number, status
):
    def refuse(self, name, data):
        raise OSError(number, "access denied", f"{self.url}/{name}")

    address = object_stores.new_address("s3")
    monkeypatch.setattr(ObjectStore, "write", refuse)
    with pytest.raises(
        RunError, match="step 4 could not be written: access denied; there"
    ) as ended:
        loop.train(runs.photo_config(photos), address)
    assert ended.value.exit_code == status


def test_processes_that_share_the_state_save_one_checkpoint(servers, photos, tmp_path):
    changes = {
        "model.name": "small_cnn",
        "checkpoint.every_steps": 3,
        "mesh.data": 2,
        "mesh.model": 2,
        "mesh.fsdp": True,
        "schedule.name": "constant",  # the same learning rates however many steps are asked for
        "schedule.warmup_steps": 0,
    }
    recipe = runs.write_recipe(tmp_path / "recipe.py", runs.photo_config(photos, changes))

    def train(workdir, steps):
        command = [sys.executable, "-m", "convmesh", "train", "--config", recipe]
        command += ["--workdir", workdir, "--num-processes", "2", "--cpu-devices", "2"]
        command += [f"--config.train.steps={steps}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr

    address, disk = object_stores.new_address("s3"), str(tmp_path / "run")
    train(address, 4)
    train(address, 8)
    train(disk, 8)
    assert metrics(address) == metrics(disk)
    assert evaluate(address) == evaluate(disk)
