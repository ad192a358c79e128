"""Several real processes on loopback give what one gives: steps, training, stopping, prediction."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import runs

from convmesh.config import apply_overrides, defaults


def convmesh(*arguments):
    """The command line, as a list."""
    return [sys.executable, "-m", "convmesh", *map(str, arguments)]


def run(*arguments):
    """Runs a command; returns its standard output. Fails with what it said if it fails."""
    done = subprocess.run(convmesh(*arguments), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def noise_recipe(folder):
    """A small_cnn on noise, in float64."""
    config = apply_overrides(
        defaults("classify"),
        {
            "model.name": "small_cnn",
            "data.classes": tuple("abcdefgh"),
            "data.image_size": (16, 16),
            "train.batch_size": 8,
            "precision": "float64",
        },
    )
    return runs.write_recipe(folder / "recipe.py", config)


# In turn an axis lies across the processes; the last mesh has all three, and four processes.
@pytest.mark.parametrize(
    "processes, sizes",
    [
        (2, dict(data=4, fsdp="true")),
        (2, dict(data=1, spatial=4)),
        (2, dict(data=1, model=4)),
        (4, dict(data=2, spatial=2, model=2, fsdp="true")),
    ],
    ids=str,
)
def test_steps_over_processes_equal_one_device(tmp_path, processes, sizes):
    mesh = [f"--config.mesh.{axis}={size}" for axis, size in sizes.items()]
    place = ["--num-processes", processes, "--cpu-devices", 2]
    said = run("check-mesh", "--config", noise_recipe(tmp_path), *mesh, *place)
    assert "equal: this mesh trains as one device does" in said
    assert "gradients: 10 leaves" in said and "state after 3 steps" in said


def photo_recipe(folder, photos, **changes):
    config = runs.photo_config(photos, {"model.name": "small_cnn", **changes})
    return runs.write_recipe(folder / "recipe.py", config)


def probabilities(workdir):
    """{file name: {class: probability}} of an evaluation."""
    results = json.loads((workdir / "eval" / "val" / "predictions.json").read_text())
    return {
        one["file_name"]: {c["class"]: c["probability"] for c in one["classes"]} for one in results
    }


def test_a_model_spread_over_processes_predicts_on_one_device(tmp_path, photos):
    workdir = tmp_path / "run"
    recipe = photo_recipe(tmp_path, photos, **{"mesh.data": 1, "mesh.model": 4})
    place = ["--num-processes", 2, "--cpu-devices", 2]
    run("train", "--config", recipe, "--workdir", workdir, *place)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if r["split"] == "train"] == list(range(1, 9))  # written once
    assert [r["images"] for r in rows if r["split"] == "val"] == [runs.VAL_PHOTOS] * 2

    apart = probabilities(workdir)
    assert len(apart) == runs.VAL_PHOTOS
    out = tmp_path / "predicted"
    call = ["--workdir", workdir, photos / "val", "--output", out]
    run("predict", *call, "--cpu-devices", 1, "--top-k", 4)
    alone = json.loads((out / "predictions.json").read_text())
    assert len(alone) == runs.VAL_PHOTOS
    for one in alone:
        wanted = next(p for name, p in apart.items() if one["file"].endswith(name))
        for c in one["classes"]:
            np.testing.assert_allclose(c["probability"], wanted[c["class"]], rtol=1e-5)


def test_a_signal_stops_all_at_one_step_and_one_process_goes_on(tmp_path, photos):
    workdir = tmp_path / "run"
    changes = {"train.steps": 100_000, "eval.every_steps": 0, "mesh.spatial": 2}
    recipe = photo_recipe(tmp_path, photos, **changes)
    call = ["train", "--config", recipe, "--workdir", workdir]
    place = ["--num-processes", 2, "--cpu-devices", 1]
    with subprocess.Popen(convmesh(*call, *place), stderr=subprocess.PIPE, text=True) as job:
        said = ""
        try:
            for line in job.stderr:
                said += line
                if "compiled" in line:
                    os.kill(job.pid, signal.SIGTERM)
            assert job.wait(120) == 75, said
        finally:
            job.kill()
    (step,) = (int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert said.count("stopped by SIGTERM") == 1 and f"at step {step}, saved" in said

    last = f"--config.train.steps={step + 2}"
    again = ["--cpu-devices", 4, "--config.mesh.model=2", "--config.mesh.fsdp=true", last]
    run(*call, *again)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if r["split"] == "train"] == list(range(1, step + 3))
