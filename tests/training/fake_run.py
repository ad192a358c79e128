"""What a hook sees of a run, without one: the seam that hooks are tested at."""

import types

from convmesh.workdir.layout import Workdir


def fake_run(workdir, start_step=0, nonfinite_steps=0, source=None, setup=None, **more):
    """A run restored at `start_step`; `logged` are the lines, `finished` why it was finished."""
    logged = []
    run = types.SimpleNamespace(
        workdir=Workdir(workdir),
        start_step=start_step,
        state=types.SimpleNamespace(nonfinite_steps=nonfinite_steps),
        data=types.SimpleNamespace(train=source),
        setup=setup,
        logged=logged,
        log=logged.append,
        finish_reason=None,
        **more,
    )
    run.finish = lambda reason: setattr(run, "finish_reason", reason)
    return run
