"""Processes that are not one run are refused, by real processes on loopback, each with its log."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import jobs
import numpy as np
import pytest

# The command line, in a process that first does something to itself.
SCRIPT = """
import sys, time
from convmesh.distributed import processes
{prelude}
from convmesh.__main__ import main
sys.exit(main())
"""
COMMAND = [sys.executable, "-m", "convmesh"]
SLOW = """
from convmesh.training import loop
opened = loop.open_data
loop.open_data = lambda config: time.sleep(3) or opened(config)
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two classes with 6 images to train on and 2 to evaluate, each."""
    root, rng = tmp_path_factory.mktemp("folders"), np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for name in "ab":
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 255, (20, 20, 3), np.uint8)
                cv2.imwrite(str(root / split / name / f"{i}.png"), image)
    return root


def train_flags(root, workdir):
    """The words of a run of two steps."""
    keys = {"data.root": root, "model.name": "small_cnn", "data.image_size": "16,16"}
    keys |= {"train.batch_size": 4, "train.steps": 2}
    words = [f"--config.{name}={value}" for name, value in keys.items()]
    return ["train", "--config=classify", f"--workdir={workdir}", *words]


@pytest.fixture(scope="module")
def trained(folders, tmp_path_factory):
    """The workdir of a run."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    call = [*COMMAND, *train_flags(folders, workdir), "--cpu-devices=1"]
    subprocess.run(call, check=True, capture_output=True)
    return workdir


@pytest.fixture
def job(tmp_path, folders):
    """`job(*words of each process)`: their statuses and what each has printed.

    The words are added to those of a run, or to `command`; `preludes` are code of each process.
    """
    started = []

    def run(*words, preludes=(), command=None):
        address = jobs.free_address()
        for i, own in enumerate(words):
            script = tmp_path / f"process{i}.py"
            script.write_text(SCRIPT.format(prelude=dict(enumerate(preludes)).get(i, "")))
            call = [*(command or train_flags(folders, tmp_path / "run")), "--cpu-devices=1"]
            call += [*map(str, own), *jobs.flags_for(i, address, len(words))]
            call = [sys.executable, str(script), *map(str, call)]
            started.append(subprocess.Popen(call, **jobs.PIPES))
        ended = [jobs.end(process, 90) for process in started]
        return [status for status, _, _ in ended], [err for _, _, err in ended]

    yield run
    jobs.kill(started)


def test_another_config_is_refused_on_every_process_before_anything_is_written(job, tmp_path):
    statuses, said = job(["--config.train.seed=1"], [], [])
    assert statuses == [2, 2, 2]
    for one in said:
        assert "train.seed: process 0 has 1, processes 1 and 2 have 0; start every" in one
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change, status, words",
    [
        ("import jax; jax.__version__ = '9.9'", 2, "jax: process 0 has "),
        ("import jax; jax.config.update('jax_enable_x64', True)", 2, "jax_enable_x64: process 0"),
        ("sys.argv[1] = 'overfit'", 2, "command: process 0 has train, process 1 has overfit"),
        (
            "sys.argv += ['--example-log', 'log']",
            2,
            "--example-log: process 0 has None, process 1 has given",
        ),
        ("sys.argv += ['--cpu-devices', '2']", 2, "devices: process 0 has 1, process 1 has 2"),
    ],
    ids=["jax", "float64", "command", "hooks", "devices"],
)
def test_another_program_or_machine_is_refused(job, tmp_path, change, status, words):
    statuses, said = job([], [], preludes=("", change))
    assert statuses == [status] * 2, said
    assert all(words in one for one in said), said
    assert not (tmp_path / "run").exists()


def test_a_workdir_of_each_process_is_refused_and_left_as_it_was(job, tmp_path):
    fsdp, own = "--config.mesh.fsdp=true", f"--workdir={tmp_path}/other/run"
    statuses, said = job([fsdp], [fsdp, own])
    assert statuses == [2, 2], said
    for one in said:
        assert f"--workdir {tmp_path}/run: process 1 cannot see the folder of process 0" in one
        assert "each process saves its own part" in one
    assert not (tmp_path / "run").exists() and not (tmp_path / "other").exists()


def test_a_process_that_opens_its_data_late_is_waited_for(job, tmp_path):
    words_soon = "processes.SECONDS_BETWEEN_WORDS = 3"
    statuses, said = job([], [], preludes=(words_soon, SLOW))
    assert statuses == [0, 0], said
    assert "waiting for process 1 to open its data, for 1 s" in said[0]
    assert "waiting for" not in said[1]
    assert (tmp_path / "run/checkpoints/2").is_dir()


def test_but_not_for_ever(job, tmp_path):
    wait = ["--start-timeout=15"]
    statuses, said = job(wait, wait, preludes=("", SLOW.replace("sleep(3)", "sleep(99)")))
    assert statuses == [1, 1], said
    for one in said:
        assert "waited 15 s for process 1 to open its data; --start-timeout waits longer" in one
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "own, words",
    [
        (["--split=train"], "--split: process 0 has None, process 1 has train; start every"),
        (["--config.eval.batch_size=2"], "eval.batch_size: process 0 has 0, process 1 has 2; give"),
        (["--config.data.root={other}"], "process 0 has 4 images, process 1 has 3 and lacks val/a"),
    ],
    ids=["split", "key", "data"],
)
def test_an_evaluation_is_one_too(job, trained, folders, tmp_path, own, words):
    other = shutil.copytree(folders, tmp_path / "other")
    (other / "val/a/0.png").unlink()
    own = [word.format(other=other) for word in own]
    statuses, said = job([], own, command=["eval", f"--workdir={trained}"])
    assert statuses[0] in (1, 2) and statuses[1] == statuses[0], said
    assert all(words in one for one in said), said


def test_and_a_check_of_the_mesh(job, folders):
    call = ["check-mesh", *train_flags(folders, "")[1:2], *train_flags(folders, "")[3:]]
    statuses, said = job([], ["--config.train.seed=1"], command=call)
    assert statuses == [2, 2], said
    assert all("train.seed: process 0 has 0, process 1 has 1" in one for one in said), said


def test_and_a_prediction(job, trained, folders, tmp_path):
    call = ["predict", f"--workdir={trained}", f"--output={tmp_path}/out"]
    statuses, said = job([folders / "val"], [folders / "val/a"], command=call)
    assert statuses == [2, 2], said
    assert all("images: process 0 has 4 (names " in one for one in said), said
    assert not (tmp_path / "out").exists()


def test_an_image_that_one_process_cannot_read_is_predicted_by_none(
    job, trained, folders, tmp_path
):
    whole, broken = (shutil.copytree(folders / "train/a", tmp_path / n) for n in ("all", "broken"))
    (broken / "1.png").write_bytes((broken / "1.png").read_bytes()[:60])
    call = ["predict", f"--workdir={trained}", f"--output={tmp_path}/out", "--batch-size=2"]
    statuses, said = job([whole], [broken], command=call)
    assert statuses == [0, 0], said
    found = json.loads((tmp_path / "out/predictions.json").read_text())
    (whole / "1.png").unlink()
    subprocess.run([*COMMAND, *call, whole, "--cpu-devices=1"], check=True, capture_output=True)
    alone = json.loads((tmp_path / "out/predictions.json").read_text())
    names = [[Path(one["file"]).name for one in entries] for entries in (found, alone)]
    assert names == [[f"{i}.png" for i in (0, 2, 3, 4, 5)]] * 2
    for one, other in zip(found, alone, strict=True):
        for a, b in zip(one["classes"], other["classes"], strict=True):
            assert a["class"] == b["class"]
            assert a["probability"] == pytest.approx(b["probability"], abs=1e-5)


def test_of_one_example_two_processes_read_the_same_image(job, folders, tmp_path):
    other = shutil.copytree(folders, tmp_path / "other")
    for file in sorted((other / "train").rglob("*.png"))[3:6]:
        file.write_bytes(bytes(len(file.read_bytes())))
    shared = ["--config.mesh.model=2", "--config.data.on_bad_example=skip"]
    shared += ["--config.data.max_bad_examples=0.5", "--config.train.steps=9"]
    shared += ["--config.data.cache=false"]  # one host would read each image once
    roots = [f"--config.data.root={root}" for root in (folders, other)]
    statuses, said = job([*shared, roots[0]], [*shared, roots[1]])
    assert statuses == [1, 1], said
    assert all("processes 0 and 1 hold the same examples, but one" in one for one in said), said


def test_initial_weights_of_one_process_alone_are_refused(job, trained, tmp_path):
    statuses, said = job([f"--config.init_from={trained}"], [])
    assert statuses == [2, 2], said
    wanted = "init_from: process 0 has given, process 1 has not given; start"
    assert all(wanted in one for one in said), said
    assert not (tmp_path / "run").exists()


def test_and_the_weights_that_it_reads(job, trained, folders, tmp_path):
    other = shutil.copytree(trained, tmp_path / "other")
    sums = other / "checkpoints/2/SHA256SUMS"  # as of weights that were trained apart
    sums.write_text(sums.read_text() + "# another\n")
    call = ["predict", folders / "val", f"--output={tmp_path}/out"]
    statuses, said = job([f"--workdir={trained}"], [f"--workdir={other}"], command=call)
    assert statuses == [2, 2], said
    assert all("checkpoint 2: process 0 has " in one for one in said), said
