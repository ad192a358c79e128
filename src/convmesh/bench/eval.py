"""`convmesh bench eval`: the speed of an evaluation compared with its prediction step alone."""

import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from convmesh import mesh as meshes
from convmesh.data.augmentation.eval_view import eval_size
from convmesh.data.loading.cache import cached
from convmesh.data.record import Source, Subset
from convmesh.data.splits import open_eval
from convmesh.distributed import compile_cache, processes
from convmesh.distributed.batch import Batch
from convmesh.errors import ConfigError
from convmesh.inference.evaluation import evaluate_variables
from convmesh.inference.split_predictions import eval_batch_size, predict_all
from convmesh.steps.setup import Setup, config_mesh, make_setup
from convmesh.steps.step import jit_predict_step
from convmesh.workdir.layout import EvaluationFiles

IMAGES = 512  # of the split, at most
ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class EvalCost:
    """Images per second, the median over the rounds, of increasing parts of an evaluation."""

    images: int
    bare: float  # the compiled step on one batch, repeated: the ceiling
    predicted: float  # with reading, and with detections copied to the host
    full: float  # with metrics, files and plots too

    @property
    def ratio(self) -> float:
        """The speed of the complete evaluation, relative to the ceiling."""
        return self.full / self.bare


def measure_eval(setup: Setup, source: Source) -> EvalCost:
    """Times evaluations of initial weights, which give the most detections, on `source`."""
    state = setup.create_state()
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    speeds: dict[str, list[float]] = {"bare": [], "predicted": [], "full": []}
    with tempfile.TemporaryDirectory(prefix="convmesh-eval-") as folder:
        parts = {
            "bare": lambda: _bare(setup, variables, len(source)),
            "predicted": lambda: predict_all(setup, variables, source),
            "full": lambda: evaluate_variables(
                setup, variables, source, EvaluationFiles(Path(folder)), lambda text: None
            ),
        }
        for i in range(ROUNDS + 1):
            for name, part in parts.items():
                before = time.perf_counter()
                part()
                if i:  # the first round compiles, and fills the cache of decoded images
                    speeds[name].append(len(source) / (time.perf_counter() - before))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    return EvalCost(images=len(source), **medians)


def _bare(setup: Setup, variables: dict[str, Any], images: int) -> None:
    """Runs the prediction step alone, for at least `images` images."""
    size, image_size = eval_batch_size(setup), eval_size(setup.config)
    shard = meshes.process_shard(setup.mesh, size, image_size[0])
    noise = np.random.default_rng(0).integers(0, 256, (size, *image_size, 3), np.uint8)
    image = meshes.make_global_batch(setup.mesh, shard.take(Batch(image=noise)), shard).image
    predict = jit_predict_step(setup.mesh, model=setup.model, task=setup.task)
    for _ in range(-(-images // size)):
        # One at a time, as in an evaluation; several at once would block each other on CPU devices.
        jax.block_until_ready(predict(variables, image))


def bench_eval(config: ConfigDict, as_json: bool = False) -> EvalCost:
    """Measures and prints the speed of the recipe's evaluation and of its prediction step.

    Raises the errors of `train` about its data; ConfigError with several processes.
    """
    if processes.count() > 1:
        raise ConfigError("bench eval: runs in one process only")
    compile_cache.start()
    source = open_eval(config)
    subset = Subset(source, range(min(len(source), IMAGES)), source.split)
    (used,), _ = cached([subset], config)
    setup = make_setup(config, source.classes, config_mesh(config), len(source))
    cost = measure_eval(setup, used)
    if as_json:
        print(json.dumps(dataclasses.asdict(cost) | {"ratio": cost.ratio}))
        return cost
    print(f"{f'{cost.images} images, fresh weights':44}{'images/s':>10}{'of the ceiling':>17}")
    for name, speed in (
        ("prediction step alone: the ceiling", cost.bare),
        ("with reading, and detections on the host", cost.predicted),
        ("with metrics, files and plots", cost.full),
    ):
        print(f"{name:44}{speed:10.1f}{speed / cost.bare:17.2f}")
    return cost
