"""What is doubtful in the data, before the first step; what of it was left out, at the end."""

from convmesh.data.checks.inspection import warnings_at_start
from convmesh.data.limits import BOXES, IMAGES
from convmesh.data.loading.batches import DataCounts, TrainBatch
from convmesh.distributed import processes
from convmesh.training.hooks import Hook, RunView

# Fields of DataCounts, and the text logged for each.
_REPORTED = {
    "unreadable": "images could not be read and were skipped (data.on_bad_example)",
    "bad_boxes": "bad boxes were dropped or clipped (data.on_bad_box)",
    "bad_partners": "images chosen for mosaic or mixup could not be read and were left out",
    "truncated": "boxes did not fit in data.max_boxes and were left out",
}


class DataReport(Hook):
    """Logs the warnings of `check-data` at the start, and what was skipped at the end.

    After the first epoch, or a shorter run, it also says if more was skipped than
    `data.max_bad_boxes` and `data.max_bad_examples` allow, which not all files show before.
    """

    def __init__(self) -> None:
        self._judged = False

    def on_start(self, run: RunView) -> None:
        """Logs the warnings; process 0 alone looks for them."""
        if run.data.dataset is not None and processes.is_first():
            for line in warnings_at_start(run.data.dataset, run.setup.config):
                run.log(line)

    def on_batch(self, run: RunView, step: int, batch: TrainBatch) -> None:
        """Judges what this process has read of the first epoch of this call."""
        read = (step - run.start_step) * run.setup.config.train.batch_size
        if not self._judged and read >= len(run.data.train):
            self._judge(run, run.own_counts)

    def on_end(self, run: RunView) -> None:
        """Logs a line for each count above 0, over all processes."""
        if not self._judged:
            self._judge(run, run.counts)
        for name, text in _REPORTED.items():
            count = getattr(run.counts, name)
            if name == "bad_boxes":  # what `data.classes` leaves out was said at the start
                count -= run.counts.left_out_boxes
            if count:
                run.log(f"{count} {text}")

    def _judge(self, run: RunView, counts: DataCounts) -> None:
        """Logs a warning for what exceeds its limit in `counts`."""
        self._judged = True
        bad, boxes = (n - counts.left_out_boxes for n in (counts.bad_boxes, counts.source_boxes))
        images = counts.images + counts.unreadable
        for limit, numbers in ((IMAGES, (counts.unreadable, images)), (BOXES, (bad, boxes))):
            what = limit.exceeded(*numbers, limit.of(run.setup.config))
            if what:
                run.log(f"warning: {what}; `convmesh check-data` lists them")
