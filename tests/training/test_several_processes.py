"""Several real processes on loopback give what one gives: steps, training, stopping, prediction."""

import json
import os
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
import runs

from convmesh import evaluate
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
    changes |= {"data.image_size": (0, 0), "train.batch_size": 0}  # chosen once, by process 0
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
    sizes = "data.image_size=32,32 train.batch_size=32"
    assert said.count(f"{sizes}: chosen for 24 images of about ") == 1

    last = f"--config.train.steps={step + 2}"
    again = ["--cpu-devices", 4, "--config.mesh.model=2", "--config.mesh.fsdp=true", last]
    run(*call, *again)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if r["split"] == "train"] == list(range(1, step + 3))


def broken_scenes(root):
    """A YOLO set: 8 images to train on, 10 to evaluate; 3 of each are unreadable.

    Of those to train on, the 5 others have a bad box each beside a good one.
    """
    rng = np.random.default_rng(0)
    for split, total, broken in (("train", 8, (1, 4, 6)), ("val", 10, (1, 3, 7))):
        images, labels = root / "images" / split, root / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for i in range(total):
            noise = rng.integers(0, 80 + 17 * i, (64, 64, 3), np.uint8)
            cv2.imwrite(str(images / f"{i}.png"), noise)
            if i in broken:
                (images / f"{i}.png").write_bytes(b"no picture")
            bad = "0 0.5 0.5 0 0.2\n" if split == "train" else ""
            (labels / f"{i}.txt").write_text(f"1 0.5 0.5 0.{i + 1:02} 0.4\n{bad}")
    (root / "classes.txt").write_text("cat\ndog\n")
    return root


def test_two_processes_count_and_predict_what_one_does(tmp_path):
    config = apply_overrides(
        defaults("detect"),
        {
            "model.name": "detector_tiny",
            "data.root": str(broken_scenes(tmp_path / "scenes")),
            "data.image_size": (64, 64),
            "data.on_bad_example": "skip",
            "data.on_bad_box": "drop",
            "data.max_bad_boxes": 1.0,
            "data.augment.scale": (1.0, 1.0),
            "train.batch_size": 8,
            "train.steps": 2,
            "eval.batch_size": 4,  # process 0 reads 0, 1, 4, 5, 8, 9; of 1, 3, 7 only the first
            "eval.every_steps": 0,
        },
    )
    workdir = tmp_path / "run"
    call = ["train", "--config", runs.write_recipe(tmp_path / "recipe.py", config)]
    call += ["--workdir", workdir, "--num-processes", 2, "--cpu-devices", 1]
    done = subprocess.run(convmesh(*call), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    # A batch is all 8 images, so each of the 2 steps reads each of them once, 4 in each process.
    assert "\n6 images could not be read and were skipped" in done.stderr
    assert "\n10 bad boxes were dropped" in done.stderr
    assert "\n3 images could not be read and were not counted" in done.stderr
    assert "\n18 of 18 decoded images stay in memory, about 0.2 MB, in one cache" in done.stderr

    predictions = workdir / "eval/val/predictions.json"
    of_two = json.loads(predictions.read_text())
    predictions.unlink()
    assert evaluate(workdir)["images"] == 7  # in this process
    of_one = json.loads(predictions.read_text())
    names = [f"images/val/{i}.png" for i in (0, 2, 4, 5, 6, 8, 9)]
    assert list(dict.fromkeys(row["file_name"] for row in of_two)) == names
    for ours, theirs in zip(of_two, of_one, strict=True):
        assert ours["file_name"] == theirs["file_name"]
        np.testing.assert_allclose(ours["score"], theirs["score"], rtol=1e-5)
