"""The compiled train steps of a run."""

from typing import Any

from convmesh.distributed.batch import Batch
from convmesh.steps.setup import Setup
from convmesh.steps.state import TrainState
from convmesh.steps.step import jit_train_step


class TrainSteps:
    """The train step of a run, compiled once for each image size."""

    def __init__(self, setup: Setup) -> None:
        """Takes the setup of the run; steps are compiled by `compile`."""
        self._setup = setup
        self._compiled: dict[tuple[int, int], Any] = {}

    def get(self, batch: Batch) -> Any:
        """The program for images of this size, (state, batch) -> (state, metrics), or None."""
        return self._compiled.get(_image_size(batch))

    def compile(self, state: TrainState, batch: Batch) -> Any:
        """Compiles the step for `state` and a global `batch`, and returns the program."""
        size = _image_size(batch)
        step = jit_train_step(self._setup.mesh, state, batch, self._setup.step_parts(size))
        self._compiled[size] = step.lower(state, batch).compile()
        return self._compiled[size]


def _image_size(batch: Batch) -> tuple[int, int]:
    """(height, width) of the images of a batch, with or without micro-batches."""
    height, width = batch.image.shape[-3:-1]
    return height, width
