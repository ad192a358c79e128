"""When a run saves by itself: by the clock, and before an error of the data ends it."""

import json
import shutil
import subprocess
import sys

import jobs
import numpy as np
import pytest
import runs
from loop_checks import SignalAt, assert_same_bits, final_state, lines

from convmesh.data.formats.folder.dataset import FolderSource
from convmesh.data.limits import sample_of
from convmesh.data.order import example_at
from convmesh.data.splits import open_train
from convmesh.errors import DataError, Stopped, StoreError
from convmesh.training import loop
from convmesh.workdir.checkpoints import Checkpoints

pytestmark = pytest.mark.usefixtures("tiny_net")


def steps_saved(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


@pytest.fixture
def broken(photos, tmp_path):
    """The photos with one cut short, which is first read for step 3; and its name."""
    root = shutil.copytree(photos, tmp_path / "photos")
    config = runs.photo_config(root)
    source, batch = open_train(config), config.train.batch_size
    at_step_3 = [example_at(2 * batch + i, len(source), config.train.seed)[1] for i in range(batch)]
    # The first sample, which is read before the first step, must not show it.
    index = next(i for i in at_step_3 if i not in set(sample_of(len(source), least=batch)))
    file = root / source.name(index)
    file.write_bytes(file.read_bytes()[:200])
    return root, source.name(index)


def test_an_image_that_cannot_be_read_ends_the_run_after_saving(tmp_path, broken):
    root, name = broken
    config = runs.photo_config(root)
    with pytest.raises(DataError) as ended:
        loop.train(config, tmp_path / "run")
    said = str(ended.value)
    assert said.startswith(f"{root / name}: truncated or damaged")
    assert "skip such images with data.on_bad_example=skip; step 2 is saved, run it again" in said
    assert steps_saved(tmp_path / "run") == [2]
    assert [row["step"] for row in lines(tmp_path / "run")] == [1, 2]

    with pytest.raises(DataError, match="truncated"):  # again, at once
        loop.train(config, tmp_path / "run")
    assert steps_saved(tmp_path / "run") == [2]

    config.data.on_bad_example = "skip"
    loop.train(config, tmp_path / "run")
    loop.train(config, tmp_path / "skipped from the start")
    resumed, whole = (final_state(tmp_path / n)[0] for n in ("run", "skipped from the start"))
    assert int(resumed.step) == 8
    assert_same_bits(resumed, whole)


def test_a_store_that_stays_away_ends_the_run_after_saving(tmp_path, broken, monkeypatch):
    root, name = broken
    original = FolderSource.read

    def read(self, index, shrink):
        if self.name(index) == name:
            raise StoreError("no answer")
        return original(self, index, shrink)

    monkeypatch.setattr(FolderSource, "read", read)
    config = runs.photo_config(root, {"data.cache": "false"})
    with pytest.raises(StoreError, match="no answer; step 2 is saved, run it again to resume"):
        loop.train(config, tmp_path / "run")
    assert steps_saved(tmp_path / "run") == [2]


def test_a_signal_beside_an_error_of_the_data_ends_the_run_as_a_signal_does(
    tmp_path, broken, capsys
):
    root, name = broken
    with pytest.raises(Stopped, match="at step 2"):
        loop.train(runs.photo_config(root), tmp_path / "run", [SignalAt(2)])
    assert f"the data cannot be read on: {root / name}: truncated" in capsys.readouterr().err
    assert steps_saved(tmp_path / "run") == [2]


def convmesh(*arguments):
    return [sys.executable, "-m", "convmesh", *map(str, arguments)]


def train_with_two(folder, config):
    """Two processes on loopback, each with its own log: their statuses and what they said."""
    recipe = runs.write_recipe(folder / "recipe.py", config)
    call = convmesh("train", "--config", recipe, "--workdir", folder / "run", "--cpu-devices", 1)
    address = jobs.free_address()
    started = [
        subprocess.Popen([*call, *jobs.flags_for(i, address)], **jobs.PIPES) for i in range(2)
    ]
    try:
        ended = [jobs.end(process, 120) for process in started]
    finally:
        jobs.kill(started)
    return [status for status, _, _ in ended], [said for _, _, said in ended]


def test_of_two_processes_the_one_that_can_read_saves_too(tmp_path, broken):
    root, name = broken
    config = runs.photo_config(root, {"model.name": "small_cnn"})
    statuses, said = train_with_two(tmp_path, config)
    assert statuses == [1, 1], said
    for one in said:
        assert f"{name}: truncated" in one and "step 2 is saved, run it again to resume" in one
    assert steps_saved(tmp_path / "run") == [2]
    config.data.on_bad_example = "skip"
    statuses, said = train_with_two(tmp_path, config)
    assert statuses == [0, 0], said
    rows = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    assert [row["step"] for row in rows if row["split"] == "train"] == list(range(1, 9))


def test_a_run_saves_by_the_clock(tmp_path, photos):
    changes = {"eval.every_steps": 0, "checkpoint.keep": 20, "train.steps": 3}
    for minutes, saved in ((1e-9, [1, 2, 3]), (0, [3]), (60, [3])):
        workdir = tmp_path / str(minutes)
        changes["checkpoint.every_minutes"] = minutes
        loop.train(runs.photo_config(photos, changes), workdir)
        assert steps_saved(workdir) == saved
    with Checkpoints(tmp_path / "1e-09") as checkpoints:
        assert np.isfinite(checkpoints.newest())


def test_two_processes_save_by_the_clock_of_the_first_at_the_same_step(tmp_path, photos):
    changes = {"eval.every_steps": 0, "checkpoint.keep": 20, "train.steps": 5}
    changes |= {"model.name": "small_cnn", "checkpoint.every_minutes": 1e-9}
    statuses, said = train_with_two(tmp_path, runs.photo_config(photos, changes))
    assert statuses == [0, 0], said
    assert steps_saved(tmp_path / "run") == [2, 4, 5]  # agreed on a step after it is due
