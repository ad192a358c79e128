"""Notices that the evaluated data has changed between two calls of one run."""

from __future__ import annotations

from convmesh.data.record import Source, truth_identity
from convmesh.workdir.layout import Workdir


def note_evaluated_split(workdir: Workdir, source: Source, step: int) -> str:
    """Records in the workdir what is evaluated; returns a line for the log if it has changed.

    step: of the restored state. Evaluations of other data are then no longer compared, neither for
    the best checkpoint nor for `train.patience`. Call it on process 0. Raises DataError if a file
    of the workdir is damaged, RunError if it cannot be written.
    """
    before, now = workdir.evaluated_split(), truth_identity(source)
    if before == now:
        return ""
    if before is None:  # a new run, or one of an earlier version
        workdir.note_evaluated_split(now, 0)
        return ""
    # The evaluation of this step may still be due.
    done = workdir.is_evaluated(step, source.split)
    workdir.note_evaluated_split(now, step if done else step - 1)
    change = "its files, boxes or labels differ"
    if now["split"] != before["split"]:
        change = f"it was {before['split']}"
    elif now["examples"] != before["examples"]:
        change = f"it has {now['examples']} images instead of {before['examples']}"
    return (
        f"the evaluated split {source.split} has changed since the last call: {change}; best and "
        f"train.patience compare only evaluations after step {step if done else step - 1}"
    )
