"""`convmesh bench eval`: a whole evaluation, in turns with its bare prediction step."""

import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from convmesh import compile_cache, processes
from convmesh import mesh as meshes
from convmesh.data import open_eval
from convmesh.data.record import Subset
from convmesh.errors import ConfigError
from convmesh.evaluation import eval_batch_size, evaluate_variables, predict_all
from convmesh.setup import Setup, config_mesh, make_setup
from convmesh.state import create_state
from convmesh.step import jit_predict_step

IMAGES = 512  # of the split, at most
ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class EvalCost:
    """Images a second, the median over the rounds, of ever larger parts of an evaluation."""

    images: int
    bare: float  # the compiled step on one batch, again and again: the ceiling
    predicted: float  # with reading, and with detections taken to the host
    whole: float  # with metrics, files and pictures too

    @property
    def ratio(self) -> float:
        """What the whole evaluation reaches of the ceiling."""
        return self.whole / self.bare


def measure_eval(setup: Setup, source) -> EvalCost:
    """Evaluates fresh weights, which detect as much as can be, on `source`."""
    state = create_state(**setup.state_arguments())
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    speeds: dict[str, list[float]] = {"bare": [], "predicted": [], "whole": []}
    with tempfile.TemporaryDirectory(prefix="convmesh-eval-") as folder:
        parts = {
            "bare": lambda: _bare(setup, variables, len(source)),
            "predicted": lambda: predict_all(setup, variables, source),
            "whole": lambda: evaluate_variables(
                setup, variables, source, Path(folder), lambda text: None
            ),
        }
        for i in range(ROUNDS + 1):
            for name, part in parts.items():
                before = time.perf_counter()
                part()
                if i:  # the first round compiles, and fills the cache of decoded images
                    speeds[name].append(len(source) / (time.perf_counter() - before))
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    return EvalCost(images=len(source), **medians)


def _bare(setup: Setup, variables, images: int) -> None:
    """The prediction step alone, for that many images."""
    size, height = eval_batch_size(setup), setup.config.data.image_size[0]
    share = meshes.share_of(setup.mesh, size, height)
    noise = np.random.default_rng(0).integers(
        0, 256, (size, *setup.config.data.image_size, 3), np.uint8
    )
    image = meshes.place(setup.mesh, share.take({"image": noise}), share)["image"]
    predict = jit_predict_step(setup.mesh, model=setup.model, task=setup.task)
    for _ in range(-(-images // size)):
        # One at a time, as an evaluation goes; and many at once block each other on CPU devices.
        jax.block_until_ready(predict(variables, image))


def bench_eval(config, as_json: bool = False) -> EvalCost:
    """Measures and prints what an evaluation of the recipe costs beside its prediction step.

    Raises as `train` does for its data; ConfigError with several processes.
    """
    if processes.count() > 1:
        raise ConfigError("bench eval: for one process")
    compile_cache.start()
    source = open_eval(config)
    some = Subset(source, range(min(len(source), IMAGES)), source.split)
    setup = make_setup(config, source.classes, config_mesh(config), len(source))
    cost = measure_eval(setup, some)
    if as_json:
        print(json.dumps(dataclasses.asdict(cost) | {"ratio": cost.ratio}))
        return cost
    print(f"{f'{cost.images} images, fresh weights':44}{'images/s':>10}{'of the ceiling':>17}")
    for name, speed in (
        ("prediction step alone: the ceiling", cost.bare),
        ("with reading, and detections on the host", cost.predicted),
        ("with metrics, files and pictures", cost.whole),
    ):
        print(f"{name:44}{speed:10.1f}{speed / cost.bare:17.2f}")
    return cost
