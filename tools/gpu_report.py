"""All that is worth measuring on a GPU that is at hand for minutes: JSON and logs into a folder.

    python tools/gpu_report.py OUT [--parts check step ...] [--data FOLDER] [--tiny]

Each step of a part is a process of its own with a limit of its own: one that fails, or takes too
long, stops none of the others. `OUT/report.json` is written anew after each step, so that what was
measured is there whenever the time ends. FOLDER holds the data sets `bccd` (COCO or VOC) and
`clothing160`; without it the parts that need them are left out. `--tiny`: sizes for a trial run on
a CPU, whose figures mean nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
PARTS = ("device", "check", "step", "train", "input", "predict")

# The same forward pass and gradients on the first accelerator and on the CPU, in float32.
AGAINST_CPU = """
import json, sys
import jax, numpy as np
import convmesh
from convmesh import mesh as meshes
from convmesh.steps.mesh_check import SGDSpec, differences, sgd_steps
from convmesh.steps.noise import noise_batch, noise_setup

config = convmesh.load_config(sys.argv[1], [*sys.argv[2:], "precision=float32"])
found = []
for device in (jax.devices()[0], jax.devices("cpu")[0]):
    mesh = meshes.make_mesh(1, 1, 1, devices=[device])
    setup = noise_setup(config, mesh)
    size = tuple(config.data.image_size)
    batch = noise_batch(setup.task, size, config.train.batch_size)
    start = found[0].start if found else None
    found.append(sgd_steps(SGDSpec(setup.model, setup.task, start=start), mesh, [batch]))
there, here = found
worst = {}
for name in ("metrics", "gradients", "batch_stats"):
    each = differences(getattr(there, name), getattr(here, name))
    worst[name] = {d.leaf: d.error for d in each[:3]}
print(json.dumps({"device": str(jax.devices()[0].device_kind), "worst": worst}))
"""
DEVICE = """
import json, jax
print(json.dumps({"jax": jax.__version__, "devices": [d.device_kind for d in jax.devices()],
                  "memory": jax.devices()[0].memory_stats()}))
"""


def command(*words: str) -> list[str]:
    """A command line of convmesh."""
    return [sys.executable, "-m", "convmesh", *words]


def keys(**values: object) -> list[str]:
    """Overrides; `train__steps=3` is --config.train.steps=3."""
    return [f"--config.{name.replace('__', '.')}={value}" for name, value in values.items()]


def bench_steps(tiny: bool) -> dict[str, list[str]]:
    """Steps of three models, each beside the same step in torch, in bfloat16."""
    cases = [
        *(("imagenet_resnet50", batch, {}) for batch in (128, 256, 512)),
        *(("coco", batch, {"mesh.data": -1}) for batch in (32, 64)),
        ("demo", 256, {"mesh.data": -1}),
    ]
    found = {}
    for recipe, batch, more in cases:
        size = {"data.image_size": "64,64"} if tiny and recipe != "demo" else {}
        given = {"train.batch_size": 4 if tiny else batch, "precision": "bfloat16"} | more | size
        given["model.norm_group"] = 0  # torch has no groups
        words = [f"--config.{name}={value}" for name, value in given.items()]
        found[f"step {recipe} {batch}"] = command(
            "bench", "step", "--config", recipe, "--compare", "torch", "--json", *words
        )
    return found


def steps(part: str, out: Path, data: Path | None, tiny: bool) -> dict[str, list[str]]:
    """The commands of a part by their names."""
    python = [sys.executable, "-c"]
    small = keys(data__image_size="64,64", train__batch_size=4) if tiny else []
    if part == "device":
        return {"device": [*python, DEVICE]}
    if part == "check":
        plain = [word.removeprefix("--config.") for word in small]
        return {
            "check-mesh demo": command("check-mesh", "--config", "demo", *small),
            "gpu against cpu: demo": [*python, AGAINST_CPU, "demo", *plain],
            "gpu against cpu: resnet18": [
                *python,
                AGAINST_CPU,
                "small_cnn",
                "model.name=resnet18",
                *plain,
            ],
        }
    if part == "step":
        return bench_steps(tiny)
    if data is None:
        return {}
    bccd, run = str(data / "bccd"), str(out / "bccd")
    if part == "train":
        length = keys(train__steps=3 if tiny else 900, eval__every_steps=1000)
        train = command("train", "--config", "bccd", "--workdir", run, *keys(data__root=bccd))
        return {
            "train bccd": [*train, *length, *small],
            "eval bccd": command("eval", "--workdir", run, "--split", "test"),
        }
    if part == "input":
        words = [*keys(data__root=bccd), *small]
        return {
            "loop bccd": command(
                *("bench", "loop", "--config", "bccd", "--json", "--steps", "4" if tiny else "200"),
                *words,
            ),
            "input bccd": command("bench", "input", "--config", "bccd", "--json", *words),
        }
    return {"predict bccd": command("bench", "predict", "--workdir", run, "--json")}


def run_step(words: list[str], log: Path, limit: float) -> dict:
    """Runs one command: its status, seconds, and what it printed as JSON, if it did."""
    start = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{os.environ.get('PYTHONPATH', '')}"}
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=limit, env=environment, cwd=ROOT
        )
        status, printed, errors = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired as error:
        status = "too long"
        printed, errors = (
            text.decode() if isinstance(text, bytes) else text or ""
            for text in (error.stdout, error.stderr)
        )
    log.write_text(f"{' '.join(words)[:2000]}\n\n{printed}\n{errors}")
    found: dict = {"status": status, "seconds": round(time.perf_counter() - start, 1)}
    for line in reversed(printed.splitlines()):
        if line.startswith("{"):
            found["result"] = json.loads(line)
            break
    else:
        found["last lines"] = (printed + errors).splitlines()[-4:]
    return found


def main() -> None:
    """Runs the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--limit", type=float, default=150, help="seconds of each step")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    report = args.out / "report.json"
    results = json.loads(report.read_text()) if report.exists() else {}
    for part in args.parts:
        for name, words in steps(part, args.out, args.data, args.tiny).items():
            log = args.out / f"{name.replace(' ', '_').replace(':', '')}.log"
            results[name] = run_step(words, log, args.limit)
            report.write_text(json.dumps(results, indent=1))
            print(f"{name}: {results[name]['status']}, {results[name]['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
