"""Processes that are not one run are refused, by real processes on loopback, each with its log."""

import subprocess
import sys

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


@pytest.fixture
def job(tmp_path, folders):
    """`job(*flags of each process, prelude)`: their statuses and what each has printed."""
    started = []

    def run(*flags, preludes=(), devices=None):
        address = jobs.free_address()
        for i, own in enumerate(flags):
            prelude = dict(enumerate(preludes)).get(i, "")
            script = tmp_path / f"process{i}.py"
            script.write_text(SCRIPT.format(prelude=prelude))
            options = {"--workdir": tmp_path / "run", "--config.data.root": folders}
            options |= {"--config.model.name": "small_cnn", "--config.data.image_size": "16,16"}
            options |= {"--config.train.batch_size": 4, "--config.train.steps": 2}
            options |= {"--cpu-devices": (devices or {}).get(i, 1)} | own
            words = [f"{name}={value}" for name, value in options.items()]
            command = [sys.executable, str(script), "train", "--config=classify", *words]
            command += jobs.flags_for(i, address, len(flags))
            started.append(subprocess.Popen(command, **jobs.PIPES))
        ended = [jobs.end(process, 90) for process in started]
        return [status for status, _, _ in ended], [err for _, _, err in ended]

    yield run
    jobs.kill(started)


def test_another_config_is_refused_on_every_process_before_anything_is_written(job, tmp_path):
    seed = {"--config.train.seed": 1}
    statuses, said = job(seed, {}, {})
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
        ("sys.argv += ['--example-log', 'log']", 2, "hooks: process 0 has none, process 1 has Ex"),
        ("sys.argv += ['--cpu-devices', '2']", 2, "devices: process 0 has 1, process 1 has 2"),
    ],
    ids=["jax", "float64", "command", "hooks", "devices"],
)
def test_another_program_or_machine_is_refused(job, tmp_path, change, status, words):
    statuses, said = job({}, {}, preludes=("", change))
    assert statuses == [status] * 2, said
    assert all(words in one for one in said), said
    assert not (tmp_path / "run").exists()


def test_a_workdir_of_each_process_is_refused_and_left_as_it_was(job, tmp_path):
    own = {"--workdir": tmp_path / "other" / "run", "--config.mesh.fsdp": "true"}
    statuses, said = job({"--config.mesh.fsdp": "true"}, own)
    assert statuses == [2, 2], said
    for one in said:
        assert f"--workdir {tmp_path}/run: process 1 cannot see the folder of process 0" in one
        assert "each process saves its own part" in one
    assert not (tmp_path / "run").exists() and not (tmp_path / "other").exists()


def test_a_process_that_opens_its_data_late_is_waited_for(job, tmp_path):
    words_soon = "processes.SECONDS_BETWEEN_WORDS = 3"
    statuses, said = job({}, {}, preludes=(words_soon, SLOW))
    assert statuses == [0, 0], said
    assert "waiting for process 1 to open its data, for 1 s" in said[0]
    assert "waiting for" not in said[1]
    assert (tmp_path / "run/checkpoints/2").is_dir()


def test_but_not_for_ever(job, tmp_path):
    soon = "from convmesh.distributed import same_run; same_run.START_SECONDS = 1"
    statuses, said = job({}, {}, preludes=(soon, SLOW))
    assert statuses == [1, 1], said
    for one in said:
        assert "waited 1 s for process 1 to open its data; --start-timeout waits longer" in one
    assert not (tmp_path / "run").exists()
