"""Pictures of a run: its first batch, and the curves of its metrics."""

from convmesh.data.loading.batches import TrainBatch
from convmesh.distributed import processes
from convmesh.plots import training_curves
from convmesh.plots.grids import draw_batch
from convmesh.plots.png import save_png
from convmesh.training.hooks import Hook, RunView


class FirstBatch(Hook):
    """Draws the first batch as the network gets it."""

    def on_batch(self, run: RunView, step: int, batch: TrainBatch) -> None:
        """Draws this process's part of the batch, on process 0."""
        if step == run.start_step + 1 and processes.is_first():
            picture = draw_batch(batch, run.setup.classes)
            save_png(picture, run.workdir.first_batch_picture)


class Curves(Hook):
    """Draws the logged metrics at the end of the run."""

    def on_restore(self, run: RunView) -> None:
        """Draws the curves of a finished run that has none."""
        if run.finished and not run.workdir.curves_picture.exists():
            self.on_end(run)

    def on_end(self, run: RunView) -> None:
        """Draws the curves."""
        if processes.is_first():
            training_curves.draw_curves(run.workdir.metrics_file, run.workdir.curves_picture)
