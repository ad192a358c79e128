"""The metrics of the steps: `metrics.jsonl`, TensorBoard, and the progress bar."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from convmesh.data.augmentation.sizes import input_sizes
from convmesh.steps.cost import ideal_seconds
from convmesh.steps.setup import Setup
from convmesh.training.hooks import Hook, RunView


def peak_memory(mesh: Mesh) -> float | None:
    """The most memory that the program has used on a device of this process, in GiB.

    None where JAX does not tell, as on CPUs.
    """
    stats = [device.memory_stats() or {} for device in mesh.local_devices]
    found = [each["peak_bytes_in_use"] for each in stats if "peak_bytes_in_use" in each]
    return max(found) / 2**30 if found else None


class StepLog(Hook):
    """Logs every `train.log_every_steps`-th step and updates the progress bar."""

    def __init__(self, setup: Setup) -> None:
        """Takes the setup of the run."""
        self._setup = setup
        # With several sizes, or stages without a backward pass, MFU is not defined.
        usual = len(input_sizes(setup.config)) == 1 and not setup.config.train.frozen_stages
        self._ideal_seconds = ideal_seconds(setup) if usual else None
        self._skipped = 0

    def on_restore(self, run: RunView) -> None:
        """Takes the count of steps skipped so far from the state."""
        self._skipped = int(run.state.nonfinite_steps)
        # Of all steps at once: later a device would compute it only after the step that it runs.
        self._rates = np.asarray(jax.jit(self._setup.schedule)(np.arange(self._setup.steps)))

    def on_metrics(self, run: RunView, step: int, metrics: Mapping[str, Any]) -> None:
        """Updates the progress bar; logs the step if it is due."""
        config, seconds = self._setup.config, run.clock.step_seconds
        speed = config.train.batch_size / seconds
        updates = step - 1 - self._skipped  # counted by the schedule before this step
        self._skipped = int(metrics["nonfinite_steps"])
        run.show_progress(step, float(metrics["loss"]), speed)
        if step % config.train.log_every_steps == 0 or step == self._setup.steps:
            row = {name: float(value) for name, value in metrics.items()}
            row["learning_rate"] = float(self._rates[updates])
            row["images_per_second"] = speed
            row["step_seconds"] = seconds
            if self._ideal_seconds:
                row["mfu"] = self._ideal_seconds / seconds
            if peak := peak_memory(self._setup.mesh):
                row["peak_memory_gib"] = peak
            row["input_wait_seconds"] = run.clock.input_wait_seconds
            run.log_metrics(step, "train", row)
        if step == run.start_step + 1:
            run.log(f"compiled and ran the first step in {seconds:.0f} s")

    def on_end(self, run: RunView) -> None:
        """Logs how many steps were skipped."""
        if self._skipped:
            run.log(f"{self._skipped} steps were skipped: their loss or gradient was not finite")
