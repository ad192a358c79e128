"""Counts of dropped, skipped and truncated data over the whole run."""

from convmesh.training.hooks import Hook, RunView

# Fields of DataCounts, and the text logged for each.
_REPORTED = {
    "unreadable": "images could not be read and were skipped (data.on_bad_example)",
    "bad_boxes": "bad boxes were dropped or clipped (data.on_bad_box)",
    "bad_partners": "images chosen for mosaic or mixup could not be read and were left out",
    "truncated": "boxes did not fit in data.max_boxes and were left out",
}


class DataReport(Hook):
    """Logs these counts at the end, over all processes."""

    def on_end(self, run: RunView) -> None:
        """Logs a line for each count above 0."""
        for name, text in _REPORTED.items():
            if count := getattr(run.counts, name):
                run.log(f"{count} {text}")
